/**
 * Makes the golden checkpoints of the manifest format that this version writes: `node test/golden/make.ts`.
 *
 * Run once a format, when it is new; what it made stays in the repository for ever, and test/golden-checkpoints.test.ts
 * restores all of it. It refuses to replace what is there.
 */
import { existsSync } from 'node:fs'
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { MANIFEST_FORMAT } from '../../engine/checkpoint/manifest.ts'
import { startGolden } from './golden-job.ts'

/** Rows before the savepoint. */
const ROWS_BEFORE = 40

for (const stateBackend of ['memory', 'rocksdb'] as const) {
  const target = fileURLToPath(new URL(`./format-${MANIFEST_FORMAT}-${stateBackend}`, import.meta.url))
  if (existsSync(target)) throw new Error(`${target} is there already`)
  const directory = await mkdtemp(join(tmpdir(), 'millrace-golden-'))
  const { job, lines } = await startGolden({ directory, stateBackend, limit: ROWS_BEFORE, hold: true })
  while (lines.filter((line) => line.startsWith('k')).length < ROWS_BEFORE) await new Promise((r) => setTimeout(r, 10))
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
