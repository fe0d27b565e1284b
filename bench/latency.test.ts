/** The latency benchmark on a tiny input, and the histogram against sorting. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { measureLatency } from './latency.ts'
import { LatencyHistogram } from './latency-histogram.ts'

test('measures every result', async () => {
  const result = await measureLatency({
    rate: 2_000,
    seconds: 1,
    warmUpSeconds: 0,
    keys: 50,
    parallelism: 2,
    checkpointIntervalMs: 200,
  })
  assert.equal(result.measured, 2_000)
  assert.ok(result.sinceReadMs.p50 > 0 && result.sinceReadMs.p50 <= result.sinceReadMs.max)
  assert.ok(result.sinceDueMs.max >= result.sinceReadMs.p50)
})

test('quantiles are at most 1.1 % above the true ones', () => {
  fc.assert(
    fc.property(
      fc.array(fc.double({ min: 0.002, max: 60_000, noNaN: true }), { minLength: 1, maxLength: 50 }),
      fc.constantFrom(0.5, 0.9, 0.99, 1),
      (latencies, share) => {
        const histogram = new LatencyHistogram()
        for (const ms of latencies) histogram.add(ms)
        const sorted = latencies.toSorted((a, b) => a - b)
        const exact = sorted[Math.ceil(share * sorted.length) - 1]!
        const shown = histogram.quantileMs(share)
        assert.ok(shown >= exact * 0.999_999 && shown <= exact * 1.011, `${shown} for ${exact}`)
      },
    ),
  )
})
