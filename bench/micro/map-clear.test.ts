/** The benchmark runs, on a small map that is larger than its memory. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { tryLoadRocksdbAddon } from '../../state/rocksdb-addon.ts'
import { clearMap } from './map-clear.ts'

test('benchmark of clearing a map', { skip: tryLoadRocksdbAddon() === null }, () => {
  const { clearMs, settledMs, checkpointRows } = clearMap(4_000, 64 << 10)
  assert.ok(clearMs > 0 && settledMs >= clearMs)
  assert.ok(checkpointRows < 4_000, `what is in the store only goes as a range, not in ${checkpointRows} rows`)
})
