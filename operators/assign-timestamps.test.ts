/** Tests of the operator form of assignTimestampsAndWatermarks. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { WatermarkingOperator } from '../engine/contract/operator.ts'
import type { Batch, Float64Column } from '../engine/core/batch.ts'
import type { WatermarkPlan } from '../engine/core/graph.ts'
import { schema, t } from '../engine/core/schema.ts'
import { assignTimestampsOperator } from './assign-timestamps.ts'
import { OperatorRig } from './operator.testkit.ts'

const ROWS = schema({ at: t.float64() })

function planOf(assigns: boolean): WatermarkPlan {
  return {
    idleAfterMs: null,
    createAssigner: assigns
      ? () => (batch: Batch) => Float64Array.from((batch.columns[0] as Float64Column).values.subarray(0, batch.length))
      : null,
    createGenerator() {
      let current = Number.NEGATIVE_INFINITY
      return {
        onBatch(times, count) {
          for (let i = 0; i < count; i++) current = Math.max(current, times[i] - 10)
        },
        current: () => current,
        restore(watermark) {
          current = watermark
        },
      }
    },
  }
}

const rigOf = (assigns: boolean) =>
  new OperatorRig({ create: () => assignTimestampsOperator(planOf(assigns)), schema: ROWS, batchRows: 2 })
const current = (rig: OperatorRig) => (rig.subtasks[0].operator as WatermarkingOperator).currentWatermark()

test('rows get the assigned times, and watermarks follow them instead of those from upstream', () => {
  const rig = rigOf(true)
  assert.equal(current(rig), Number.NEGATIVE_INFINITY)
  rig.push([{ at: 100 }, { at: 130 }, { at: 90 }], [1, 2, 3])
  assert.deepEqual(
    rig.output.main.map(({ time }) => time),
    [100, 130, 90],
  )
  rig.watermark(5_000)
  assert.equal(current(rig), 120)
  rig.watermark(Number.POSITIVE_INFINITY)
  assert.equal(current(rig), Number.POSITIVE_INFINITY)
  rig.close()
})

test('without an assigner rows keep their times', () => {
  const rig = rigOf(false)
  rig.push([{ at: 100 }], [7])
  assert.deepEqual(
    rig.output.main.map(({ time }) => time),
    [7],
  )
  assert.equal(current(rig), -3)
  rig.close()
})

test('the watermark is taken up again after a restore', () => {
  const rig = rigOf(true)
  rig.push([{ at: 100 }], [0])
  rig.restore(1)
  assert.equal(current(rig), 90)
  rig.close()
})
