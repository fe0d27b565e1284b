/**
 * Subtasks at different watermarks whose key groups come together in one, and part again: each key goes on from the
 * watermark that it had. Windows are compared with their models in tests of their own.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { KeyedProcessFunction } from '../engine/contract/functions.ts'
import { schema, t } from '../engine/core/schema.ts'
import { schemaCodec, stateCodec } from '../state/schema-codec.ts'
import { intervalJoinOperator } from './interval-join.ts'
import { OperatorRig, type RigOptions } from './operator.testkit.ts'
import { keyedProcessOperator } from './process.ts'

interface Row {
  readonly key: string
}

const ROWS = schema({ key: t.string() })
const KEYED: Pick<RigOptions, 'schema' | 'keyOf'> = { schema: ROWS, keyOf: (row) => (row as Row).key }

/** One row of each of two subtasks. */
function rowsOf(rig: OperatorRig): [behind: Row, ahead: Row] {
  const rows = Array.from({ length: 50 }, (_, i) => ({ key: `key-${i}` }))
  return [0, 1].map((subtask) => rows.find((row) => rig.subtaskWith(row) === subtask)!) as [Row, Row]
}

test('rows of an interval join are late by the watermark that their key had', () => {
  const rig = new OperatorRig({
    ...KEYED,
    create: () =>
      intervalJoinOperator(
        () => ({
          processElement: (left: Row, _, context, collect) => collect(`${left.key} ${context.rightTimestamp}`),
        }),
        {
          lowerMs: -50,
          upperMs: 50,
          leftCodec: schemaCodec(ROWS),
          rightCodec: schemaCodec(ROWS),
          leftLateTag: 'late',
          codecOf: stateCodec,
        },
      ),
    moreInputs: [KEYED],
    parallelism: 2,
  })
  const rows = rowsOf(rig)
  const [behind, ahead] = rows
  rig.watermark(210, 0)
  rig.watermark(227, 1)
  rig.push(rows, [230, 230], 1)
  const late = (): string[] => (rig.output.sides.get('late') ?? []).map(({ row }) => (row as Row).key)
  for (const parallelism of [1, 3, 1]) {
    rig.restore(parallelism)
    rig.push(rows, [215, 215])
  }
  assert.deepEqual(late(), [ahead.key, ahead.key, ahead.key])
  assert.deepEqual(
    rig.output.main.map(({ row }) => row),
    Array(3).fill(`${behind.key} 230`),
  )
  rig.watermark(220)
  rig.push(rows, [222, 222])
  assert.deepEqual(late(), Array(4).fill(ahead.key))
  rig.watermark(228)
  rig.push(rows, [227, 228])
  assert.deepEqual(late(), [...Array(4).fill(ahead.key), behind.key])
  rig.close()
})

test('functions see the watermark that their key had, in elements and in timers', () => {
  const fn: KeyedProcessFunction<string, Row, unknown> = {
    processElement(row, context, collect) {
      const { timerService } = context
      collect(`${row.key} ${timerService.currentWatermark()}`)
      timerService.registerEventTimeTimer(215)
    },
    onTimer(_, context, collect) {
      collect(`${context.currentKey} fired at ${context.timerService.currentWatermark()}`)
    },
  }
  const rig = new OperatorRig({
    ...KEYED,
    create: () => keyedProcessOperator(() => fn, { codecOf: stateCodec }),
    parallelism: 2,
  })
  const rows = rowsOf(rig)
  const [behind, ahead] = rows
  const seen = (): unknown[] => rig.output.main.splice(0).map(({ row }) => row)
  rig.watermark(210, 0)
  rig.watermark(227, 1)
  rig.restore(1)
  rig.push(rows, [220, 220])
  assert.deepEqual(seen(), [`${behind.key} 210`, `${ahead.key} 227`])
  rig.watermark(216)
  assert.deepEqual(seen().sort(), [`${behind.key} fired at 216`, `${ahead.key} fired at 227`].sort())
  rig.restore(2)
  rig.push(rows, [220, 220])
  assert.deepEqual(seen().sort(), [`${behind.key} 216`, `${ahead.key} 227`].sort())
  rig.close()
})
