/**
 * The engine under the simulator: many seeds hold, a seed is repeatable, and planted bugs are found.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { KNOWN_SEEDS } from './known-seeds.ts'
import { PLANTED_BUGS, runSeed, type SimResult } from './sim-run.ts'

const SEEDS = 200

function replay(result: SimResult): string {
  const { violation, seed } = result
  return `${violation?.invariant}: ${violation?.message}\nreplay: npm run sim -- --seed ${seed} --trace`
}

describe('simulated jobs', () => {
  test(`${SEEDS} seeds keep every invariant`, async () => {
    let checkpoints = 0
    let crashes = 0
    let restarts = 0
    for (let seed = 1; seed <= SEEDS; seed++) {
      const result = await runSeed(seed)
      assert.equal(result.violation, null, replay(result))
      checkpoints += result.checkpoints
      crashes += result.processes - 1
      restarts += result.restarts
    }
    // A simulation in which nothing happens would pass as well.
    assert.ok(checkpoints > SEEDS, `only ${checkpoints} checkpoints`)
    assert.ok(crashes > SEEDS, `only ${crashes} further processes`)
    assert.ok(restarts > SEEDS / 2, `only ${restarts} restarts`)
  })

  test('seeds that once failed', async () => {
    for (const { seed } of KNOWN_SEEDS) {
      const result = await runSeed(seed)
      assert.equal(result.violation, null, replay(result))
    }
  })

  test('the same seed gives the same trace, another seed another one', async () => {
    const hashes = new Set<string>()
    for (const seed of [5, 17, 58, 123]) {
      const first = await runSeed(seed)
      const second = await runSeed(seed)
      assert.deepEqual(second, first)
      hashes.add(first.traceHash)
    }
    assert.equal(hashes.size, 4)
  })

  for (const plant of PLANTED_BUGS) {
    test(`finds a planted bug: ${plant}`, async () => {
      for (let seed = 1; seed <= SEEDS; seed++) {
        const { violation } = await runSeed(seed, { plant })
        if (violation !== null) return
      }
      assert.fail(`${SEEDS} seeds did not find it`)
    })
  }
})
