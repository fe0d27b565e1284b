/** The benchmark runs, on tiny inputs. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { benchUpsert, benchWindow } from './keyed-state.ts'

test('keyed state benchmark', () => {
  const upsert = benchUpsert(100, 2)
  assert.equal(upsert.entries, 100)
  const window = benchWindow(100, 2)
  assert.equal(window.firedRows, 100)
})
