/** Tests of flatMap: returned and collected results, resumption when output blocks, large fan-out. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BATCH_ROWS_MAX } from '../engine/core/batch.ts'
import { batchOfRows } from '../engine/core/rows.ts'
import { schema, t } from '../engine/core/schema.ts'
import { flatMapOperator } from './flat-map.ts'
import { OperatorRig } from './operator.testkit.ts'

const ROWS = schema({ n: t.int32() })
interface Row {
  readonly n: number
}

test('results are returned or collected, and keep the time of their row', () => {
  for (const capacityOne of [false, true]) {
    const rig = new OperatorRig({
      create: () =>
        flatMapOperator<Row, number>((row, collect) => {
          collect(row.n)
          return row.n > 1 ? [row.n * 10, row.n * 100] : undefined
        }),
      schema: ROWS,
      capacityOne,
      batchRows: 2,
    })
    rig.push([{ n: 1 }, { n: 2 }, { n: 3 }], [5, 6, 7])
    assert.deepEqual(
      rig.output.main.map(({ row, time }) => [row, time]),
      [
        [1, 5],
        [2, 6],
        [20, 6],
        [200, 6],
        [3, 7],
        [30, 7],
        [300, 7],
      ],
    )
    rig.close()
  }
})

test('one row to many results leaves in full batches, then the operator stops while blocked', () => {
  const rig = new OperatorRig({
    create: () => flatMapOperator<Row, number>((row) => Array.from({ length: row.n }, (_, i) => i)),
    schema: ROWS,
    capacityOne: true,
  })
  const { operator } = rig.subtasks[0]
  const batch = batchOfRows(ROWS, [{ n: 5_000 }, { n: 1 }, { n: 1 }])
  assert.equal(operator.process(batch, 0, rig.output, 0), 1)
  assert.deepEqual(
    rig.output.batches.map((b) => b.length),
    [BATCH_ROWS_MAX, BATCH_ROWS_MAX, 5_000 - 2 * BATCH_ROWS_MAX],
  )
  assert.equal(operator.process(batch, 1, rig.output, 0), 1, 'blocked: nothing is taken')
  rig.output.drain()
  assert.equal(operator.process(batch, 1, rig.output, 0), 3)
  assert.equal(rig.output.main.length, 5_002)
  rig.close()
})

test('promises are refused, returned or collected', () => {
  for (const fn of [async () => [1], (_: Row, collect: (value: unknown) => void) => collect(Promise.resolve(1))]) {
    const rig = new OperatorRig({ create: () => flatMapOperator(fn as () => Iterable<unknown>), schema: ROWS })
    assert.throws(() => rig.push([{ n: 1 }], [1]), { code: 'ASYNC_FUNCTION' })
    rig.close()
  }
})
