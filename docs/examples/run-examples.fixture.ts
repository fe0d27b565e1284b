/**
 * Runs example files one after the other in one process, as `millrace run FILE --workers 0` would each: for
 * examples.test.ts, where a process each would take too long. Before each file's output comes a line `=== FILE`.
 */
import { launchContext } from '../../engine/api/launch-context.ts'

interface Startable {
  start(args: readonly string[], moduleUrl: string): Promise<number | null>
}

const args = ['--workers', '0', '--port', '0']
for (const file of process.argv.slice(2)) {
  process.stdout.write(`=== ${file}\n`)
  const moduleUrl = new URL(file, import.meta.url).href
  launchContext().cli = { args, moduleUrl }
  // A job is exported, or the module has run it by the time it is loaded.
  const { default: job } = (await import(moduleUrl)) as { readonly default?: Startable }
  const code = (await job?.start(args, moduleUrl)) ?? 0
  if (code !== 0) process.exit(code)
}
