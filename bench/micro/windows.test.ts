/** The benchmark runs, on tiny inputs, and every kind of window sees every event. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { inputOf, KINDS, runKind } from './windows.ts'

test('windows benchmark', () => {
  const input = inputOf(100, 2)
  const results = Object.fromEntries(Object.keys(KINDS).map((name) => [name, runKind(name, input).results]))
  for (const name of ['event time trigger', 'purging event time', 'aligned process', 'process with evictor']) {
    assert.equal(results[name], results['aligned aggregate'], name)
  }
  assert.ok(Object.entries(results).every(([name, count]) => count > 0 || name.includes('100')))
})
