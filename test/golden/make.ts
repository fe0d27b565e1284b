/**
 * Makes golden checkpoints as this version writes them: `node test/golden/make.ts JOB NUMBER`, with a job of JOBS. Of the
 * job `format` NUMBER is the manifest format.
 *
 * Run once a format, when it is new; what it made stays in the repository for ever, and test/golden-checkpoints.test.ts
 * restores all of it. It refuses to replace what is there.
 */
import { existsSync } from 'node:fs'
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { GOLDEN_JOBS } from './golden-jobs.ts'

const [name, number] = process.argv.slice(2)
const golden = GOLDEN_JOBS[name ?? '']
if (golden === undefined || number === undefined)
  throw new Error(`Give a job of ${Object.keys(GOLDEN_JOBS)} and a number`)

for (const stateBackend of ['memory', 'rocksdb'] as const) {
  const target = fileURLToPath(new URL(`./${name}-${number}-${stateBackend}`, import.meta.url))
  if (existsSync(target)) throw new Error(`${target} is there already`)
  const directory = await mkdtemp(join(tmpdir(), 'millrace-golden-'))
  const { job, lines } = await golden.start({ directory, stateBackend, limit: golden.rowsBefore, hold: true })
  while (!golden.isReady(lines)) await new Promise((r) => setTimeout(r, 10))
  const savepoint = await job.savepoint({ stop: true })
  await job.done
  for (const folder of ['manifests', 'shared']) {
    const keep = (path: string): boolean => !path.endsWith('.json') || path === savepoint
    await cp(join(directory, folder), join(target, folder), { recursive: true, filter: keep })
  }
  await writeFile(join(target, 'lines.txt'), `${lines.join('\n')}\n`)
  await rm(directory, { recursive: true, force: true })
  console.log(`${target}: ${lines.length} lines before the savepoint`)
}
