/** The micro benchmark runs. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { benchRowWriting } from './rows.ts'

test('the benchmark of row writing runs', () => {
  assert.ok(benchRowWriting(1, 1) > 0)
})
