/** The benchmark of cold keys on tiny inputs; it checks the values that it reads. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { tryLoadRocksdbAddon } from '../../state/rocksdb-addon.ts'
import { measureColdKeys } from './cold-keys.ts'

const skip = tryLoadRocksdbAddon() === null && 'the RocksDB addon is not built'

test('cold keys benchmark', { skip }, () => {
  assert.equal(measureColdKeys({ keys: 500, batches: 1 }).keys, 500)
})
