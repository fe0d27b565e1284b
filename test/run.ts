/**
 * `npm test`: every *.test.ts of the project under Node's own runner, without any server.
 *
 * Arguments narrow the run to files whose path contains one of them: `npm test -- state operators`.
 */
import { spawnSync } from 'node:child_process'
import { globSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { useCompileCache } from '../cli/compile-cache.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const wanted = process.argv.slice(2)
const files = globSync('**/*.test.ts', { cwd: root, exclude: ['node_modules/**', 'dist/**', '.millrace/**'] })
  .filter((file) => wanted.length === 0 || wanted.some((part) => file.includes(part)))
  .sort()
if (files.length === 0) {
  process.stderr.write(`No test file matches ${wanted.join(', ')}.\n`)
  process.exit(2)
}
// Each file is a process of its own. One that hangs is ended, far later than the slowest takes on a busy machine.
useCompileCache()
const result = spawnSync(process.execPath, ['--test', '--test-concurrency=2', '--test-timeout=900000', ...files], {
  cwd: root,
  stdio: 'inherit',
})
process.exit(result.status ?? 1)
