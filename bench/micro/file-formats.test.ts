/** The micro benchmark runs, and CSV is the same bytes either way. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { benchFileFormats } from './file-formats.ts'

test('the benchmark of file formats runs', async () => {
  const [csv, parquet] = await benchFileFormats(1, 2)
  assert.deepEqual(Buffer.from(csv!.fromColumns), Buffer.from(csv!.fromRows))
  assert.ok(parquet!.fromColumns.length > 0 && parquet!.fromRowsNs > 0)
})
