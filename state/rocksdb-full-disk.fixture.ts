/**
 * Run by keyed-store.test.ts in a process whose soft limit on file sizes is small: writes beyond it fail
 * like writes to a full disk. The limit is then lifted, which is the room that comes back.
 *
 * Prints `recovered` when every failure was a retryable STORE_IO and nothing was lost.
 */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { MillraceError } from '../engine/core/errors.ts'
import { batchOf, type Change, lookUp, scanAll } from './keyed-store-conformance.ts'
import { rocksdbStoreFactory } from './rocksdb-store.ts'

const root = process.argv[2]!
const factory = rocksdbStoreFactory()
let seed = 1
/** Text that compression cannot shrink much. */
function noise(length: number): string {
  const bytes = Buffer.allocUnsafe(length)
  for (let i = 0; i < length; i++) {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0
    bytes[i] = seed >>> 24
  }
  return bytes.toString('latin1')
}

function isDiskFull(error: unknown): boolean {
  return error instanceof MillraceError && error.code === 'STORE_IO' && error.domain === 'external' && error.retryable
}

/** `writeFirst`: the flush of earlier writes fails; otherwise the table file made of the batch does. */
async function scenario(name: string, writeFirst: boolean): Promise<void> {
  const store = factory.create(join(root, name))
  const early: Change[] = [['early', 'kept']]
  store.write(batchOf(early))
  const rows: Change[] = Array.from({ length: 3000 }, (_, i) => [`row ${i}`, noise(1000)])
  if (writeFirst) store.write(batchOf(rows))
  const batch = batchOf(writeFirst ? [['row 0', rows[0][1]]] : rows)
  const image = join(root, `${name}-image`)
  await assert.rejects(store.writeAndCheckpoint(batch, image), isDiskFull)
  await assert.rejects(store.writeAndCheckpoint(batch, image), isDiskFull)
  assert.ok(!existsSync(image) && !existsSync(`${image}.tmp`))
  assert.deepEqual(lookUp(store, ['early']), ['kept'])
  execFileSync('prlimit', ['--pid', String(process.pid), '--fsize=unlimited:'])
  store.write(batchOf([['after', 'x']]))
  await store.writeAndCheckpoint(batch, image)
  const restored = factory.restore(image, join(root, `${name}-restored`))
  for (const one of [store, restored]) {
    assert.deepEqual(lookUp(one, ['early', 'after', rows[0][0], rows.at(-1)![0]]), [
      'kept',
      'x',
      rows[0][1],
      rows.at(-1)![1],
    ])
    assert.equal(scanAll(one).length, rows.length + 2)
    one.close()
  }
  execFileSync('prlimit', ['--pid', String(process.pid), '--fsize=2097152:'])
}

await scenario('flush', true)
await scenario('tables', false)
console.log('recovered')
