/** Tests of the rolling reduce: every update is emitted as it was, through evictions and restores. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { ReduceFunction } from '../engine/contract/functions.ts'
import type { OpaqueColumn } from '../engine/core/batch.ts'
import { batchOfRows } from '../engine/core/rows.ts'
import { OPAQUE_SCHEMA, schema, t } from '../engine/core/schema.ts'
import { objectCodec } from '../state/value-codec.ts'
import { OperatorRig } from './operator.testkit.ts'
import { reduceOperator } from './reduce.ts'

interface Row {
  key: string
  sum: number
  seen?: { ids: number[] }
}
const ROWS = schema({ key: t.string(), sum: t.float64() })

const fresh: ReduceFunction<Row> = (a, b) => ({ ...a, sum: a.sum + b.sum })
const inPlace: ReduceFunction<Row> = (a, b) => {
  a.sum += b.sum
  a.seen?.ids.push(b.sum)
  return a
}

test('each row emits the sum so far of its key', () => {
  const step = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.array(
        fc.record({ key: fc.constantFrom('a', 'b', 'c', 'd'), sum: fc.integer({ min: -9, max: 9 }) }),
        { maxLength: 12 },
      ),
    },
    { weight: 1, arbitrary: fc.constantFrom(1, 2, 3) },
  )
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 8 }),
      fc.constantFrom(fresh, inPlace),
      fc.constantFrom(ROWS, OPAQUE_SCHEMA),
      fc.constantFrom(300, 1 << 24),
      fc.constantFrom(1, 2, 2_048),
      (steps, reduce, rows, memoryBudgetBytes, batchRows) => {
        const rig = new OperatorRig({
          create: () => reduceOperator(reduce, { codec: objectCodec(), outputSchema: rows }),
          schema: rows,
          keyOf: (row) => (row as Row).key,
          memoryBudgetBytes,
          batchRows,
          capacityOne: true,
        })
        const sums = new Map<string, number>()
        const expected = new Map<string, unknown[]>()
        let time = 0
        for (const s of steps) {
          if (typeof s === 'number') {
            rig.restore(s)
            continue
          }
          const times = s.map(() => time++)
          s.forEach((row, i) => {
            sums.set(row.key, (sums.get(row.key) ?? 0) + row.sum)
            expected.set(row.key, [
              ...(expected.get(row.key) ?? []),
              { row: { key: row.key, sum: sums.get(row.key) }, time: times[i] },
            ])
          })
          rig.push(
            s.map((row) => ({ ...row })),
            times,
          )
        }
        for (const [key, results] of expected) {
          assert.deepEqual(
            rig.output.main.filter(({ row }) => (row as Row).key === key),
            results,
          )
        }
        rig.close()
      },
    ),
  )
})

test('rows emitted earlier in a batch do not change when the function mutates what it is given', () => {
  const rig = new OperatorRig({
    create: () => reduceOperator(inPlace, { codec: objectCodec() }),
    schema: OPAQUE_SCHEMA,
    keyOf: (row) => (row as Row).key,
  })
  rig.push(
    [1, 2, 3].map((sum) => ({ key: 'a', sum, seen: { ids: [] } })),
    [1, 2, 3],
  )
  const column = (rig.output.batches[0].columns[0] as OpaqueColumn).values as Row[]
  assert.deepEqual(
    column.map((row) => [row.sum, row.seen?.ids]),
    [
      [1, []],
      [3, [2]],
      [6, [2, 3]],
    ],
  )
  rig.close()
})

test('needs keys', () => {
  const rig = new OperatorRig({
    create: () => reduceOperator(fresh, { codec: objectCodec() }),
    schema: ROWS,
    keyOf: () => 'k',
  })
  const batch = batchOfRows(ROWS, [{ key: 'a', sum: 1 }])
  assert.throws(() => rig.subtasks[0].operator.process(batch, 0, rig.output, 0), { code: 'STATE_NOT_KEYED' })
  rig.close()
})
