/** Rolling aggregates against a plain loop, over rows with and without a schema, and tuples. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { rowReader } from '../engine/core/rows.ts'
import { OPAQUE_SCHEMA, type Schema, schema, t } from '../engine/core/schema.ts'
import { StringInterner } from '../engine/core/strings.ts'
import { schemaCodec } from '../state/schema-codec.ts'
import { OperatorRig } from './operator.testkit.ts'
import { reduceOperator } from './reduce.ts'
import { type RollingKind, rollingReduce } from './rolling-aggregate.ts'

interface Row {
  readonly key: string
  readonly n: number | null
  readonly id: number
}
const ROWS = schema({ key: t.string(), n: t.nullable(t.float64()), id: t.int32() })

/** What the aggregate of `rows` is, from Flink's documentation. */
function expectedOf(kind: RollingKind, first: boolean, rows: readonly Row[]): Row {
  const counted = rows.filter((row) => row.n !== null)
  if (counted.length === 0) return rows[0]!
  const values = counted.map((row) => row.n!)
  const least = Math.min(...values)
  const greatest = Math.max(...values)
  switch (kind) {
    case 'sum':
      return { ...rows[0]!, n: values.reduce((a, b) => a + b) }
    case 'min':
      return { ...rows[0]!, n: least }
    case 'max':
      return { ...rows[0]!, n: greatest }
    default: {
      const best = counted.filter((row) => row.n === (kind === 'minBy' ? least : greatest))
      return first ? best[0]! : best.at(-1)!
    }
  }
}

function rigOf(kind: RollingKind, first: boolean, rows: Schema, batchRows: number, field: string | number = 'n') {
  const inPlace = !rows.isOpaque && kind !== 'minBy' && kind !== 'maxBy'
  return new OperatorRig({
    create: () =>
      reduceOperator(rollingReduce({ kind, field, inPlace, first }), {
        codec: schemaCodec(rows),
        outputSchema: rows,
        isPure: true,
      }),
    schema: rows,
    keyOf: (row) => (Array.isArray(row) ? row[0] : (row as Row).key),
    memoryBudgetBytes: 500,
    batchRows,
    capacityOne: true,
  })
}

test('each element emits the aggregate so far of its key', () => {
  const rows = fc.array(
    fc.record({
      key: fc.constantFrom('a', 'b', 'c'),
      n: fc.option(fc.integer({ min: -5, max: 5 }), { freq: 5 }),
    }),
    { minLength: 1, maxLength: 30 },
  )
  fc.assert(
    fc.property(
      rows,
      fc.constantFrom<RollingKind>('sum', 'min', 'max', 'minBy', 'maxBy'),
      fc.boolean(),
      fc.constantFrom(ROWS, OPAQUE_SCHEMA),
      fc.integer({ min: 1, max: 7 }),
      (made, kind, first, rowSchema, batchRows) => {
        const all = made.map((row, id): Row => ({ ...row, id }))
        const rig = rigOf(kind, first, rowSchema, batchRows)
        const half = Math.floor(all.length / 2)
        const times = all.map((_, i) => i)
        rig.push(all.slice(0, half), times.slice(0, half))
        rig.restore(2)
        rig.push(all.slice(half), times.slice(half))
        const byTime = rig.output.main.toSorted((a, b) => a.time - b.time).map(({ row }) => row)
        const seen = new Map<string, Row[]>()
        const expected = all.map((row) => {
          seen.set(row.key, [...(seen.get(row.key) ?? []), row])
          return expectedOf(kind, first, seen.get(row.key)!)
        })
        assert.deepEqual(byTime, expected)
        // What was emitted did not change later.
        const read = rowReader(rowSchema, new StringInterner(), 'check')
        const late = rig.output.batches.flatMap((batch) =>
          Array.from({ length: batch.length }, (_, i) => read(batch, i)),
        )
        assert.deepEqual(
          late,
          rig.output.main.map(({ row }) => row),
        )
        rig.close()
      },
    ),
    { numRuns: 80 },
  )
})

test('tuples by position, bigints, and class instances', () => {
  const tuples = rigOf('sum', true, OPAQUE_SCHEMA, 1, 1)
  tuples.push(
    [
      ['a', 1],
      ['a', 2],
    ],
    [0, 1],
  )
  assert.deepEqual(
    tuples.output.main.map(({ row }) => row),
    [
      ['a', 1],
      ['a', 3],
    ],
  )
  tuples.close()
  const bigints = rigOf('sum', true, OPAQUE_SCHEMA, 1)
  const row = (n: unknown) => ({ key: 'a', n })
  bigints.push([row(2n ** 60n), row(2n ** 60n)], [0, 1])
  assert.deepEqual(bigints.output.main[1]!.row, row(2n ** 61n))
  assert.throws(() => bigints.push([row('x')], [2]), { code: 'SUM_INVALID' })
  bigints.close()
  class Reading {
    key = 'a'
    n = 1
    get double(): number {
      return this.n * 2
    }
  }
  const max = rollingReduce({ kind: 'max', field: 'n', inPlace: false })
  const reduced = max(new Reading(), Object.assign(new Reading(), { n: 4 })) as Reading
  assert.equal(reduced.double, 8)
})
