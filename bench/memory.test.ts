/** The memory benchmarks on tiny inputs; they check their own sums. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { growthOf, measureMemory } from './memory.ts'

test('short-lived keys, and keys that stay', async () => {
  const common = { parallelism: 1, checkpointIntervalMs: 50, budgetMiB: 4_096, stateMiB: 64 }
  const flat = await measureMemory({ ...common, shape: 'flat', events: 50_000, keys: 500 })
  assert.equal(flat.passed, true)
  const keys = await measureMemory({ ...common, shape: 'keys', events: 20_000, keys: 10_000 })
  assert.equal(keys.passed, true)
  const tight = await measureMemory({ ...common, shape: 'keys', events: 1_000, keys: 10, budgetMiB: 8 })
  assert.equal(tight.passed, false, 'a process takes more than 8 MiB')
})

test('growth is of the last quarter over the second', () => {
  assert.equal(growthOf([1, 1, 10, 10, 11, 11, 15, 15]), 0.5)
  assert.equal(growthOf([1, 2]), 0)
})
