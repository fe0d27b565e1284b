/**
 * Event times and watermarks that strategies give, on real batches.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { batchOfRows } from '../core/rows.ts'
import { OPAQUE_SCHEMA, type Schema, schema, t } from '../core/schema.ts'
import { seconds } from '../core/time.ts'
import { BoundedOutOfOrdernessTimestampExtractor } from './timestamp-extractor.ts'
import { BoundedOutOfOrdernessGenerator } from './watermark-generators.ts'
import { WatermarkStrategy } from './watermark-strategy.ts'

test('a generator of your own sees every row, and watermarks only grow', () => {
  const seen: unknown[] = []
  const strategy = WatermarkStrategy.forGenerator<{ n: number; isMarker: boolean }>(() => ({
    onEvent(event, timestamp, output) {
      seen.push([event.n, timestamp])
      if (event.isMarker) output.emitWatermark(event.n)
    },
    onPeriodicEmit(output) {
      if (seen.length === 0) output.markIdle()
    },
  })).withTimestampAssigner('n')
  const on = schema({ n: t.float64(), isMarker: t.boolean() })
  const plan = strategy.toPlan(on)
  const generator = plan.createGenerator()
  const push = (...rows: { n: number; isMarker: boolean }[]): void => {
    const batch = batchOfRows(on, rows)
    generator.onBatch(plan.createAssigner!()(batch), batch.length, batch)
  }
  assert.deepEqual([generator.current(), generator.isIdle], [Number.NEGATIVE_INFINITY, true])
  push({ n: 5, isMarker: false }, { n: 7, isMarker: true })
  assert.deepEqual([generator.current(), generator.isIdle], [7, false])
  push({ n: 3, isMarker: true })
  assert.equal(generator.current(), 7)
  generator.restore(20)
  assert.equal(generator.current(), 20)
  assert.deepEqual(seen, [
    [5, 5],
    [7, 7],
    [3, 3],
  ])
  assert.notEqual(plan.createGenerator(), generator, 'one for each split')
})

function times(strategy: WatermarkStrategy<never>, on: Schema, rows: readonly unknown[], given?: number[]): number[] {
  const assign = strategy.toPlan(on).createAssigner?.()
  assert.ok(assign)
  return [...assign(batchOfRows(on, rows, given))]
}

describe('timestamp assigners', () => {
  const bounded = WatermarkStrategy.forBoundedOutOfOrderness(seconds(1))
  const iso = '1970-01-01T00:00:00.005Z'

  test('read fields of every kind that holds time', () => {
    const kinds = { ts: t.nullable(t.timestamp()), i: t.int32(), l: t.int64(), s: t.string() }
    const rows = [
      { ts: 1, i: 2, l: 3n, s: iso },
      { ts: null, i: 6, l: 7n, s: 'no time' },
    ]
    const on = schema(kinds)
    assert.deepEqual(times(bounded.withTimestampAssigner('ts'), on, rows), [1, Number.NaN])
    assert.deepEqual(times(bounded.withTimestampAssigner('i'), on, rows), [2, 6])
    assert.deepEqual(times(bounded.withTimestampAssigner('l'), on, rows), [3, 7])
    assert.deepEqual(times(bounded.withTimestampAssigner('s'), on, rows), [5, Number.NaN])
  })

  test('read fields of opaque rows', () => {
    const rows = [{ at: 1 }, { at: new Date(2) }, { at: iso }, {}, null]
    assert.deepEqual(times(bounded.withTimestampAssigner('at'), OPAQUE_SCHEMA, rows), [1, 2, 5, Number.NaN, Number.NaN])
  })

  test('compute from the row and the time that the source gave', () => {
    const strategy = bounded.withTimestampAssigner((row: { n: number }, given) => row.n + given)
    assert.deepEqual(times(strategy, schema({ n: t.float64() }), [{ n: 1 }, { n: 2 }], [10, 20]), [11, 22])
  })

  test('a promise in place of a time is refused', () => {
    const strategy = bounded.withTimestampAssigner((async () => 1) as never)
    assert.throws(() => times(strategy, OPAQUE_SCHEMA, [{}]), { code: 'PROMISE_RETURNED' })
  })

  test('a boolean field is refused', () => {
    assert.throws(() => bounded.withTimestampAssigner('b').toPlan(schema({ b: t.boolean() })), /FIELD_NOT_TIME|no time/)
  })

  test("Flink's extractor takes timestamp, eventTime, or the source's time; a subclass its own", () => {
    const extractor = new BoundedOutOfOrdernessTimestampExtractor(5_000)
    const rows = [{ timestamp: 1, eventTime: 9 }, { eventTime: 2 }, { other: 3 }]
    assert.deepEqual(times(extractor.toStrategy(OPAQUE_SCHEMA), OPAQUE_SCHEMA, rows, [7, 7, 7]), [1, 2, 7])
    class Own extends BoundedOutOfOrdernessTimestampExtractor<{ other: number }> {
      override extractTimestamp(element: { other: number }): number {
        return element.other * 2
      }
    }
    const on = schema({ timestamp: t.timestamp(), other: t.float64() })
    assert.deepEqual(times(new Own(1).toStrategy(on), on, [{ timestamp: 1, other: 4 }]), [8])
    assert.deepEqual(times(extractor.toStrategy(on), on, [{ timestamp: 1, other: 4 }]), [1])
    const bare = schema({ other: t.float64() })
    assert.equal(extractor.toStrategy(bare).toPlan(bare).createAssigner, null)
  })
})

describe('watermarks', () => {
  test('stay the bound and a millisecond behind, and never regress', () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(fc.oneof(fc.integer({ min: -1_000, max: 1_000 }), fc.constant(Number.NaN)))),
        fc.nat(500),
        (batches, bound) => {
          const generator = new BoundedOutOfOrdernessGenerator(bound)
          let greatest = Number.NEGATIVE_INFINITY
          for (const batch of batches) {
            generator.onBatch(Float64Array.from(batch), batch.length)
            for (const time of batch) if (time > greatest) greatest = time
            assert.equal(generator.current(), greatest - bound - 1)
          }
        },
      ),
    )
  })

  test('an endless event time is not the end of input', () => {
    const generator = new BoundedOutOfOrdernessGenerator(0)
    generator.onBatch(Float64Array.of(7, Number.POSITIVE_INFINITY), 2)
    assert.equal(generator.current(), 6)
  })

  test('a restored watermark is not undercut', () => {
    const generator = new BoundedOutOfOrdernessGenerator(0)
    generator.restore(100)
    generator.onBatch(Float64Array.of(50), 1)
    assert.equal(generator.current(), 100)
  })

  test('rows beyond `count` are not looked at', () => {
    const generator = new BoundedOutOfOrdernessGenerator(0)
    generator.onBatch(Float64Array.of(5, 1_000), 1)
    assert.equal(generator.current(), 4)
  })

  test('idleness is on by default, and can be set and turned off', () => {
    const idle = (strategy: WatermarkStrategy) => strategy.toPlan(OPAQUE_SCHEMA).idleAfterMs
    const strategy = WatermarkStrategy.forMonotonousTimestamps()
    assert.equal(idle(strategy), 60_000)
    assert.equal(idle(strategy.withIdleness(seconds(3))), 3_000)
    assert.equal(idle(strategy.withoutIdleness()), null)
    assert.equal(WatermarkStrategy.noWatermarks().toPlan(OPAQUE_SCHEMA).createGenerator().current(), -Infinity)
  })
})
