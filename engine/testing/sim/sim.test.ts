/**
 * The engine under the simulator: seeds hold, those that once failed too, and a seed is repeatable.
 *
 * The other half of the seeds is in sim-seeds.test.ts, planted bugs in sim-mutants.test.ts, so that both
 * cores have work.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { KNOWN_SEEDS } from './known-seeds.ts'
import { assertSeedsHold, replayOf } from './sim.testkit.ts'
import { runSeed } from './sim-run.ts'

describe('simulated jobs', () => {
  test('seeds keep every invariant', () => assertSeedsHold(1, 250))

  test('seeds that once failed', async () => {
    for (const { seed, draw } of KNOWN_SEEDS) {
      const result = await runSeed(seed, { draw })
      assert.equal(result.violation, null, replayOf(result))
    }
  })

  test('the same seed gives the same trace, another seed another one', async () => {
    const hashes = new Set<string>()
    // With rot, found splits, remote checkpoints, at-least-once, rings, spilling, and what goes by the clock.
    for (const seed of [10, 18, 27, 35]) {
      const first = await runSeed(seed, { draw: 1 })
      const second = await runSeed(seed, { draw: 1 })
      assert.deepEqual(second, first)
      hashes.add(first.traceHash)
    }
    assert.equal(hashes.size, 4)
  })
})
