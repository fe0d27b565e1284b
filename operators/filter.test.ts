/** Tests of filter: columns and times are kept as they are, removed rows are counted. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { schema, t } from '../engine/core/schema.ts'
import { filterOperator } from './filter.ts'
import { OperatorRig } from './operator.testkit.ts'

const ROWS = schema({ name: t.nullable(t.string()), n: t.int32(), big: t.int64(), yes: t.boolean() })
interface Row {
  readonly name: string | null
  readonly n: number
  readonly big: bigint
  readonly yes: boolean
}

test('keeps exactly the rows that the predicate wants', () => {
  const row = fc.record({
    name: fc.option(fc.string()),
    n: fc.integer({ min: 0, max: 9 }),
    big: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
    yes: fc.boolean(),
  })
  fc.assert(
    fc.property(
      fc.array(row, { maxLength: 40 }),
      fc.integer({ min: 0, max: 10 }),
      fc.constantFrom(1, 7, 2_048),
      (rows, limit, batchRows) => {
        const rig = new OperatorRig({
          create: () => filterOperator((r: Row) => r.n < limit),
          schema: ROWS,
          batchRows,
          capacityOne: true,
        })
        rig.push(
          rows,
          rows.map((_, i) => i),
        )
        const kept = rows
          .map((r, i) => ({ row: { ...r, name: r.name?.toWellFormed() ?? null }, time: i }))
          .filter(({ row: r }) => r.n < limit)
        assert.deepEqual(rig.output.main, kept)
        assert.equal(rig.counters.filtered, rows.length - kept.length)
        for (const batch of rig.output.batches) assert.equal(batch.schema, ROWS)
        rig.close()
      },
    ),
  )
})

test('a promise is not taken for true', () => {
  const rig = new OperatorRig({
    create: () => filterOperator((async () => false) as unknown as () => boolean),
    schema: ROWS,
  })
  assert.throws(() => rig.push([{ name: '', n: 1, big: 0n, yes: true }], [1]), { code: 'ASYNC_FUNCTION' })
  rig.close()
})
