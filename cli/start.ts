/**
 * `npm start`: the main job (main-job.ts), after the compile cache is on.
 */
import { useCompileCache } from './compile-cache.ts'

useCompileCache()
const { exitCodeForError, printFailure } = await import('./failure.ts')
const { exitProcess } = await import('./exit-process.ts')
try {
  const { startMainJob } = await import('./main-job.ts')
  await startMainJob(process.argv.slice(2))
  await exitProcess(0)
} catch (error) {
  printFailure(error)
  await exitProcess(exitCodeForError(error))
}
