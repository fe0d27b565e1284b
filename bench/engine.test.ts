/** The engine benchmark on a tiny input, so that it cannot rot; it checks its own sums. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { measureEngine } from './engine.ts'

for (const parallelism of [1, 2]) {
  test(`counts every event once with parallelism ${parallelism}`, async () => {
    const result = await measureEngine({ events: 50_000, parallelism, keys: 1_000, checkpointIntervalMs: 50 })
    assert.ok(result.rowsOut >= 4_000, 'a row for each key and window')
    assert.ok(result.eventsPerCpuSecond > 0)
  })
}
