/**
 * A worker thread of rocksdb-addon.test.ts: fills a store of its own and checkpoints it over and over.
 *
 * workerData: { directory, rounds, rows }. Posts `running` when the first checkpoint is on its way and
 * `done` after the last, having read everything back from the last image.
 */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { parentPort, workerData } from 'node:worker_threads'
import { batchOf, type Change, lookUp, scanAll } from '../state/keyed-store-conformance.ts'
import { rocksdbStoreFactory } from '../state/rocksdb-store.ts'

const { directory, rounds, rows } = workerData as { directory: string; rounds: number; rows: number }
const factory = rocksdbStoreFactory()
const store = factory.create(join(directory, 'store'))
store.scan(new Uint8Array(), null)
for (let round = 0; round < rounds; round++) {
  const changes: Change[] = Array.from({ length: rows }, (_, i) => [
    `key ${(i * 7919) % rows}`,
    `${round} ${'v'.repeat(300)}`,
  ])
  const running = store.writeAndCheckpoint(batchOf(changes), join(directory, `image-${round}`))
  if (round === 0) parentPort!.postMessage('running')
  store.write(batchOf([['during', String(round)]]))
  assert.deepEqual(lookUp(store, ['during', 'key 1']), [String(round), `${round} ${'v'.repeat(300)}`])
  await running
}
const restored = factory.restore(join(directory, `image-${rounds - 1}`), join(directory, 'restored'))
assert.equal(scanAll(restored).length, rows + (rounds > 1 ? 1 : 0))
parentPort!.postMessage('done')
