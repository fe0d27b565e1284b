/**
 * What `currentWatermark` is while windows fire: the watermark that caused it, in each of the three window operators.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EventTimeTrigger, SlidingEventTimeWindows } from '../engine/api/index.ts'
import type { AggregateFunction, ProcessWindowCallback } from '../engine/contract/functions.ts'
import type { Operator } from '../engine/contract/operator.ts'
import { stateCodec } from '../state/schema-codec.ts'
import { objectCodec } from '../state/value-codec.ts'
import { OperatorRig } from './operator.testkit.ts'
import { windowOperator } from './window-aggregate.ts'
import { slidingWindows } from './window-assigner.ts'
import { listContents } from './window-contents.ts'
import { aggregateKernel, processKernel } from './window-kernels.ts'
import { ROWS } from './window-model.testkit.ts'
import { slidingSlices } from './window-slices.ts'
import { isMerging, slicedWindowOperator } from './window-slices-operator.ts'
import { triggeredWindowOperator } from './window-triggered.ts'

const LATENESS_MS = 20

const show: ProcessWindowCallback<unknown, unknown, unknown> = (
  { key, window, currentWatermark },
  _elements,
  collect,
) => collect(`${key} ${window.end} at ${currentWatermark}`)

const count: AggregateFunction<unknown, { n: number }, number> = {
  createAccumulator: () => ({ n: 0 }),
  add: (_row, { n }) => ({ n: n + 1 }),
  merge: (a, b) => ({ n: a.n + b.n }),
  getResult: ({ n }) => n,
  mergesInAnyOrder: true,
}

/** Each with windows of 10 that slide by 5. */
const OPERATORS: Record<string, () => Operator> = {
  aligned: () =>
    windowOperator({
      assigner: slidingWindows(10, 5, 0),
      kernel: processKernel(show, { codec: objectCodec() }),
      allowedLatenessMs: LATENESS_MS,
    }),
  sliced() {
    const slices = slidingSlices(10, 5, 0)
    const kernel = aggregateKernel(count, { codec: objectCodec(() => ({ n: 0 })) }, show)
    assert.ok(slices !== null && isMerging(kernel))
    return slicedWindowOperator({ slices, kernel, allowedLatenessMs: LATENESS_MS, lateTag: null })
  },
  triggered: () =>
    triggeredWindowOperator({
      assigner: SlidingEventTimeWindows.of(10, 5),
      trigger: EventTimeTrigger.create(),
      evictor: null,
      kept: { kind: 'elements', contents: listContents(), codec: objectCodec() },
      elementCodec: objectCodec(),
      createFunction: () => ({ process: show }),
      codecOf: stateCodec,
      allowedLatenessMs: LATENESS_MS,
    }),
}

for (const [name, create] of Object.entries(OPERATORS)) {
  test(`functions of ${name} windows see the watermark that made them fire`, () => {
    // With room for one batch at a time a firing is left and gone on with.
    const rig = new OperatorRig({
      schema: ROWS,
      keyOf: (row) => (row as { key: string }).key,
      create,
      capacityOne: true,
    })
    const rowsOf = (...keys: readonly string[]) => keys.map((key, id) => ({ key, id, delay: null }))
    const fired = (): unknown[] => rig.output.main.splice(0).map(({ row }) => row)
    rig.watermark(3)
    rig.push(rowsOf('a', 'b', 'a'), [5, 6, 15])
    assert.deepEqual(fired(), [])
    rig.watermark(9)
    assert.deepEqual(fired().sort(), ['a 10 at 9', 'b 10 at 9'])
    rig.watermark(17)
    assert.deepEqual(fired().sort(), ['a 15 at 17', 'b 15 at 17'])
    // Within the allowed lateness a row makes its windows fire again, at the watermark of now.
    rig.push(rowsOf('b'), [7])
    assert.deepEqual(fired().sort(), ['b 10 at 17', 'b 15 at 17'])
    rig.push(rowsOf('a', 'b'), [27, 38])
    // Past six windows at once: each is fired by this watermark, not by its own end.
    rig.watermark(45)
    const ends = ['a 20', 'a 25', 'a 30', 'a 35', 'b 40', 'b 45']
    assert.deepEqual(
      fired().sort(),
      ends.map((end) => `${end} at 45`),
    )
    rig.watermark(Number.POSITIVE_INFINITY)
    assert.deepEqual(fired(), [])
    rig.close()
  })
}
