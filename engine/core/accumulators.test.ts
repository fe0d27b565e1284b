/** Merged over any number of subtasks, accumulators are what one would have been. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  type Accumulator,
  AccumulatorRegistry,
  AverageAccumulator,
  DoubleCounter,
  DoubleMaximum,
  DoubleMinimum,
  HistogramAccumulator,
  IntCounter,
  LongCounter,
  mergeAccumulators,
} from './accumulators.ts'

test('merging gives what one accumulator would have', () => {
  const kinds: readonly (new () => Accumulator)[] = [
    IntCounter,
    LongCounter,
    DoubleCounter,
    DoubleMinimum,
    DoubleMaximum,
    AverageAccumulator,
    HistogramAccumulator,
  ]
  fc.assert(
    fc.property(
      fc.constantFrom(...kinds),
      fc.array(fc.array(fc.integer({ min: -100, max: 100 })), { minLength: 1 }),
      (Kind, subtasks) => {
        const whole = new Kind()
        const parts = subtasks.map((values) => {
          const part = new Kind()
          part.add(12)
          part.resetLocal()
          for (const value of values) {
            part.add(value)
            whole.add(value)
          }
          return structuredClone(part.snapshot())
        })
        assert.deepEqual(mergeAccumulators('a', parts), whole.getLocalValue())
      },
    ),
  )
})

test('what cannot be merged or added says so', () => {
  const registry = new AccumulatorRegistry()
  registry.add('n', new IntCounter())
  assert.throws(() => registry.add('n', new IntCounter()), { code: 'ACCUMULATOR_EXISTS' })
  assert.throws(() => new IntCounter().add(0.5), { code: 'ACCUMULATOR_VALUE_INVALID' })
  const values = [new IntCounter().snapshot(), new AverageAccumulator().snapshot()]
  assert.throws(() => mergeAccumulators('n', values), { code: 'ACCUMULATOR_MISMATCH' })
  assert.deepEqual(Object.keys(registry.snapshot()), ['n'])
})
