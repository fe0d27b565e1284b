/** The micro benchmark runs, along each path. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { benchWide, PATH_NAMES } from './wide-rows.ts'

test('the benchmark of wide rows runs', async () => {
  for (const path of PATH_NAMES) {
    const [nanoseconds] = await benchWide(path, { fields: 200, rounds: 2, values: 400 })
    assert.ok(nanoseconds! > 0, path)
  }
})
