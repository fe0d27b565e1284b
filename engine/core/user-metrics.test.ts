/** Metrics of user functions: what they say, and what they refuse. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { MetricRegistry } from './user-metrics.ts'

test('counters, gauges, groups; the same name is the same metric', () => {
  const registry = new MetricRegistry(() => 0)
  registry.counter('seen').inc()
  registry.counter('seen').inc(4)
  registry.counter('seen').dec(2)
  registry.addGroup('cache').gauge('size', () => 7)
  registry.gauge('broken', () => {
    throw new Error('no')
  })
  registry.gauge('text', () => 'x' as unknown as number)
  assert.deepEqual(registry.snapshot(), [
    { name: 'seen', kind: 'counter', value: 3 },
    { name: 'cache_size', kind: 'gauge', value: 7 },
  ])
  assert.throws(() => registry.meter('seen'), { code: 'METRIC_EXISTS' })
  assert.throws(() => registry.counter('a b'), { code: 'METRIC_NAME_INVALID' })
  assert.throws(() => registry.addGroup('1'), { code: 'METRIC_NAME_INVALID' })
})

test('a meter shows events a second over the last minute', () => {
  let now = 1_000_000
  const meter = new MetricRegistry(() => now).meter('events')
  const model: { at: number; n: number }[] = []
  fc.assert(
    fc.property(fc.array(fc.record({ pass: fc.integer({ min: 0, max: 20_000 }), n: fc.nat(50) })), (steps) => {
      for (const { pass, n } of steps) {
        now += pass
        meter.markEvent(n)
        model.push({ at: now, n })
      }
      const from = Math.floor(now / 5_000) * 5_000 - 55_000
      const inWindow = model.filter(({ at }) => at >= from).reduce((sum, { n }) => sum + n, 0)
      const spanMs = Math.max(1_000, Math.min(now - from, now - 1_000_000))
      assert.ok(Math.abs(meter.getRate() - (inWindow * 1_000) / spanMs) < 1e-9)
    }),
    { numRuns: 60 },
  )
  now += 70_000
  assert.equal(meter.getRate(), 0)
  assert.equal(
    meter.getCount(),
    model.reduce((sum, { n }) => sum + n, 0),
  )
})

test('quantiles of a histogram are within one percent', () => {
  fc.assert(
    fc.property(
      fc.array(fc.double({ min: -1e6, max: 1e6, noNaN: true }), { minLength: 1, maxLength: 300 }),
      fc.constantFrom(0, 0.5, 0.9, 0.99, 1),
      (values, q) => {
        const histogram = new MetricRegistry(() => 0).histogram('h')
        for (const value of values) histogram.update(value)
        const sorted = values.toSorted((a, b) => a - b)
        const exact = sorted[Math.min(values.length - 1, Math.floor(q * values.length))]!
        assert.ok(Math.abs(histogram.getQuantile(q) - exact) <= Math.abs(exact) * 0.0101)
        assert.equal(histogram.getCount(), values.length)
      },
    ),
    { numRuns: 100 },
  )
  const empty = new MetricRegistry(() => 0)
  assert.ok(Number.isNaN(empty.histogram('h').getQuantile(0.5)))
  empty.histogram('h').update(Number.NaN)
  assert.equal(empty.snapshot()[0]!.value, 0)
})
