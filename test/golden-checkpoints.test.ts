/**
 * Golden checkpoints: savepoints that earlier versions wrote, kept in test/golden, one folder a manifest format and
 * backend. This version restores each, at its own parallelism and at another, and goes on to exactly the results of
 * a run that was never interrupted.
 */
import assert from 'node:assert/strict'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { MANIFEST_FORMAT } from '../engine/checkpoint/manifest.ts'
import { verifyCheckpoints } from '../engine/checkpoint/verify.ts'
import { nodeIo } from '../engine/runtime/node-io.ts'
import { tryLoadRocksdbAddon } from '../state/rocksdb-addon.ts'
import { startGolden } from './golden/golden-job.ts'

const GOLDEN = fileURLToPath(new URL('./golden', import.meta.url))
const LIMIT = 90
const folder = mkdtempSync(join(tmpdir(), 'millrace-golden-test-'))
after(() => rmSync(folder, { recursive: true, force: true }))

const checkpoints = readdirSync(GOLDEN).filter((name) => /^format-\d+-(memory|rocksdb)$/.test(name))

/** Lines of a run without interruption, sorted. */
const whole = (async () => {
  const directory = join(folder, 'whole')
  const { job, lines } = await startGolden({ directory, stateBackend: 'memory', limit: LIMIT, hold: false })
  await job.done
  return lines.sort()
})()

test('every format that this version may meet has golden checkpoints', () => {
  for (let format = 1; format <= MANIFEST_FORMAT; format++) {
    for (const backend of ['memory', 'rocksdb']) assert.ok(checkpoints.includes(`format-${format}-${backend}`))
  }
})

for (const name of checkpoints) {
  const stateBackend = name.endsWith('memory') ? 'memory' : 'rocksdb'
  for (const parallelism of [1, 3]) {
    const skip = stateBackend === 'rocksdb' && tryLoadRocksdbAddon() === null
    test(`${name} goes on with parallelism ${parallelism}`, { skip }, async () => {
      const directory = join(folder, `${name}-${parallelism}`)
      cpSync(join(GOLDEN, name), directory, { recursive: true })
      assert.deepEqual((await verifyCheckpoints(nodeIo.disk, directory)).problems, [])
      const before = readFileSync(join(directory, 'lines.txt'), 'utf8').trimEnd().split('\n')
      const run = { directory, stateBackend, limit: LIMIT, hold: false, restore: 'latest', parallelism } as const
      const { job, lines } = await startGolden(run)
      await job.done
      assert.deepEqual([...before, ...lines].sort(), await whole)
    })
  }
}

for (const name of checkpoints) {
  const stateBackend = name.endsWith('memory') ? 'memory' : 'rocksdb'
  const skip = stateBackend === 'rocksdb' && tryLoadRocksdbAddon() === null
  test(`${name} with a flipped bit in its state ends the job before it reads a record`, { skip }, async () => {
    const directory = join(folder, `${name}-flipped`)
    cpSync(join(GOLDEN, name), directory, { recursive: true })
    const [manifest] = readdirSync(join(directory, 'manifests'))
    const text = readFileSync(join(directory, 'manifests', manifest!), 'utf8')
    const files = [...text.matchAll(/"name": "([^"]+)",\s+"sha256": "([0-9a-f]{64})"/g)]
    const state = files.find(([, file]) => stateBackend === 'memory' || file!.endsWith('.sst'))!
    const path = join(directory, 'shared', state[2]!)
    const bytes = readFileSync(path)
    bytes[bytes.length >> 2]! ^= 0x10
    writeFileSync(path, bytes)
    const run = { directory, stateBackend, limit: LIMIT, hold: false, restore: 'latest' } as const
    const { job, lines } = await startGolden(run)
    await assert.rejects(job.done, { message: /damaged|[Cc]orrupt/ })
    assert.deepEqual(lines, [])
    const { problems } = await verifyCheckpoints(nodeIo.disk, directory)
    assert.ok(
      problems.some((problem) => problem.includes(state[2]!)),
      problems.join(),
    )
  })
}
