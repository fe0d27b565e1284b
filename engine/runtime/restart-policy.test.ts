/**
 * Restart decisions against naive models over random failure times.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { decideRestart, NO_FAILURES, type RestartStrategy } from './restart-policy.ts'

/** Delays of the failures at these times; stops at the first null. `random` is 0.5: no jitter. */
function delays(strategy: RestartStrategy, failuresMs: readonly number[], random = 0.5): (number | null)[] {
  const decided: (number | null)[] = []
  let history = NO_FAILURES
  for (const nowMs of failuresMs) {
    const decision = decideRestart(strategy, history, nowMs, random)
    decided.push(decision.delayMs)
    if (decision.delayMs === null) break
    history = decision.history
  }
  return decided
}

const gaps = fc.array(fc.integer({ min: 1, max: 500 }), { minLength: 1, maxLength: 40 })
const timesOf = (between: readonly number[]): number[] => {
  let at = 0
  return between.map((gap) => {
    at += gap
    return at
  })
}

const EXPONENTIAL = {
  kind: 'exponential-delay',
  initialBackoffMs: 100,
  maxBackoffMs: 1_000,
  backoffMultiplier: 2,
  resetBackoffThresholdMs: 5_000,
  jitterFactor: 0,
  attempts: Number.POSITIVE_INFINITY,
} as const

describe('restart strategies', () => {
  test('none gives up at once', () => {
    assert.deepEqual(delays({ kind: 'none' }, [1, 2]), [null])
  })

  test('fixed delay counts over the whole life of the job', () => {
    assert.deepEqual(delays({ kind: 'fixed-delay', attempts: 2, delayMs: 7 }, [0, 1, 9_999_999]), [7, 7, null])
    const endless = { kind: 'fixed-delay', attempts: Number.POSITIVE_INFINITY, delayMs: 1 } as const
    assert.equal(delays(endless, timesOf(new Array(100).fill(1))).length, 100)
  })

  test('exponential delay grows to its maximum, and starts anew after a good run', () => {
    assert.deepEqual(
      delays(EXPONENTIAL, [0, 200, 500, 1_000, 2_000, 3_500, 3_500 + 1_000 + 5_000]),
      [100, 200, 400, 800, 1_000, 1_000, 100],
    )
    assert.deepEqual(delays({ ...EXPONENTIAL, attempts: 2 }, [0, 200, 500]), [100, 200, null])
    assert.deepEqual(delays({ ...EXPONENTIAL, attempts: 2 }, [0, 200, 9_000, 9_200, 9_500]), [100, 200, 100, 200, null])
  })

  test('jitter moves a delay by its share at most, and never above the maximum', () => {
    fc.assert(
      fc.property(gaps, fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }), (between, random) => {
        const plain = delays(EXPONENTIAL, timesOf(between))
        const moved = delays({ ...EXPONENTIAL, jitterFactor: 0.2 }, timesOf(between), random)
        moved.forEach((delay, i) => {
          assert.ok(Math.abs(delay! - plain[i]!) <= plain[i]! * 0.2 + 1e-9 && delay! <= 1_000)
        })
      }),
    )
  })

  test('failure rate gives up exactly when an interval holds too many', () => {
    fc.assert(
      fc.property(gaps, fc.integer({ min: 1, max: 5 }), (between, failuresMax) => {
        const times = timesOf(between)
        const decided = delays({ kind: 'failure-rate', failuresMax, intervalMs: 600, delayMs: 3 }, times)
        const tooMany = times.findIndex(
          (now, i) => times.slice(0, i + 1).filter((atMs) => atMs > now - 600).length > failuresMax,
        )
        const expected = tooMany < 0 ? times.map(() => 3) : [...new Array<number>(tooMany).fill(3), null]
        assert.deepEqual(decided, expected)
      }),
    )
  })
})
