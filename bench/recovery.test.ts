/** The recovery benchmark on a tiny state, so that it cannot rot; the job checks the state that it reads. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { tryLoadRocksdbAddon } from '../state/rocksdb-addon.ts'
import { measureRecovery } from './recovery.ts'

test('a job comes back to its first new record', { skip: tryLoadRocksdbAddon() === null }, async () => {
  const lines: string[] = []
  const result = await measureRecovery({ stateMb: 1, parallelism: 1, runs: 1 }, (line) => lines.push(line))
  assert.ok(result.stateBytes > 500_000, `${result.stateBytes} bytes`)
  assert.ok(result.firstRecordMs[0]! > 0 && result.emptyMs[0]! > 0)
  assert.deepEqual([result.transferMs, result.restMs], [[0], result.firstRecordMs])
  assert.equal(result.passed, result.restMsMedian < 5_000)
  assert.equal(lines.length, 2)
})
