/**
 * Rows and batches: what goes in comes out for every kind, rows never refer to a batch's memory, and a
 * refused row leaves nothing behind.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { BATCH_ROWS_MAX, type Batch, gatherBatch, sliceBatch } from './batch.ts'
import { BatchBuilder, batchOfRows, rowReader } from './rows.ts'
import { describeSchema, fieldIndex, OPAQUE_SCHEMA, type Schema, schema, t } from './schema.ts'
import { StringInterner } from './strings.ts'

const ALL = schema({
  flag: t.boolean(),
  small: t.int32(),
  big: t.int64(),
  real: t.float64(),
  at: t.timestamp(),
  text: t.string(),
  json: t.json(),
  flagOrNull: t.nullable(t.boolean()),
  smallOrNull: t.nullable(t.int32()),
  bigOrNull: t.nullable(t.int64()),
  realOrNull: t.nullable(t.float64()),
  textOrNull: t.nullable(t.string()),
})

const orNull = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: null })
const text = fc.string({ unit: 'grapheme', maxLength: 90 })
const int64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })
const row = fc.record(
  {
    flag: fc.boolean(),
    small: fc.integer(),
    big: int64,
    real: fc.double(),
    at: fc.integer(),
    text,
    json: fc.jsonValue(),
    flagOrNull: orNull(fc.boolean()),
    smallOrNull: orNull(fc.integer()),
    bigOrNull: orNull(int64),
    realOrNull: orNull(fc.double()),
    textOrNull: orNull(text),
  },
  { noNullPrototype: true },
)

function rowsOf(target: Schema, batch: Batch): unknown[] {
  const read = rowReader(target, new StringInterner(), 'test')
  return Array.from({ length: batch.length }, (_, i) => read(batch, i))
}

/** Overwrites every buffer that a batch refers to. */
function poison(batch: Batch): void {
  for (const column of batch.columns) {
    if (column.kind === 'string') column.bytes.fill(0x2a)
    else if (column.kind === 'int64') column.values.fill(-1n)
    else if (column.kind !== 'opaque') column.values.fill(99)
    column.nulls?.fill(1)
  }
  batch.eventTime.fill(-1)
}

describe('round trips', () => {
  test('rows come back equal, and stay so when the buffers are reused', () => {
    fc.assert(
      fc.property(fc.array(row, { maxLength: 20 }), (rows) => {
        const batch = batchOfRows(
          ALL,
          rows,
          rows.map((_, i) => i),
        )
        const read = rowsOf(ALL, batch)
        poison(batch)
        assert.deepEqual(read, rows)
      }),
    )
  })

  test('slices and gathered batches hold the chosen rows', () => {
    fc.assert(
      fc.property(fc.array(row, { minLength: 1, maxLength: 20 }), fc.infiniteStream(fc.nat()), (rows, picks) => {
        const batch = batchOfRows(
          ALL,
          rows,
          rows.map((_, i) => i),
        )
        const chosen = Int32Array.from({ length: 7 }, () => picks.next().value! % rows.length)
        const gathered = gatherBatch(batch, chosen, 7)
        assert.deepEqual(
          rowsOf(ALL, gathered),
          [...chosen].map((i) => rows[i]),
        )
        assert.deepEqual([...gathered.eventTime], [...chosen])
        const from = chosen[0]!
        assert.deepEqual(rowsOf(ALL, sliceBatch(batch, from, rows.length)), rows.slice(from))
      }),
      { numRuns: 50 },
    )
  })

  test('opaque rows are the values themselves', () => {
    const values = [1, null, undefined, { a: 1 }, [2], 'x']
    assert.deepEqual(rowsOf(OPAQUE_SCHEMA, batchOfRows(OPAQUE_SCHEMA, values)), values)
  })

  test('rows have data properties only', () => {
    const target = schema({ 'a "quoted" name': t.string(), 'line\nbreak': t.int32() })
    const value = { 'a "quoted" name': 'x', 'line\nbreak': 1 }
    const [read] = rowsOf(target, batchOfRows(target, [value])) as [object]
    assert.deepEqual({ ...read }, value)
    assert.ok(Object.values(Object.getOwnPropertyDescriptors(read)).every((d) => d.get === undefined))
  })

  test('any id may name a reader', () => {
    const target = schema({ a: t.int32() })
    const read = rowReader(target, new StringInterner(), 'ends */ a comment')
    assert.deepEqual(read(batchOfRows(target, [{ a: 1 }]), 0), { a: 1 })
  })
})

describe('building', () => {
  test('refuses what a column cannot hold, naming the field', () => {
    const wrong: [object, string][] = [
      [{ small: 1.5 }, 'small'],
      [{ small: 2 ** 31 }, 'small'],
      [{ big: 2n ** 63n }, 'big'],
      [{ big: 1.5 }, 'big'],
      [{ text: 1 }, 'text'],
      [{ text: null }, 'text'],
      [{ flag: 'yes' }, 'flag'],
      [{ real: '1' }, 'real'],
    ]
    const [valid] = fc.sample(row, 1)
    for (const [change, name] of wrong) {
      assert.throws(() => batchOfRows(ALL, [{ ...valid, ...change }]), {
        code: 'ROW_INVALID',
        message: new RegExp(`"${name}"`),
      })
    }
    assert.throws(() => batchOfRows(ALL, [null]), { code: 'ROW_INVALID' })
  })

  test('a refused row leaves no trace in the next one', () => {
    const target = schema({ a: t.nullable(t.int32()), j: t.json(), s: t.nullable(t.string()), last: t.int32() })
    const builder = new BatchBuilder(target)
    builder.append({ a: 1, j: 'first', s: 'x', last: 1 }, 0)
    assert.throws(() => builder.append({ a: null, j: 'refused', s: null, last: 'x' }, 0), { code: 'ROW_INVALID' })
    builder.append({ a: 2, j: 'second', s: 'y', last: 2 }, 0)
    assert.throws(() => builder.append({ a: null, j: 'refused', s: null, last: 'x' }, 0), { code: 'ROW_INVALID' })
    assert.deepEqual(rowsOf(target, builder.build()), [
      { a: 1, j: 'first', s: 'x', last: 1 },
      { a: 2, j: 'second', s: 'y', last: 2 },
    ])
  })

  test('a built batch keeps its rows while the builder goes on', () => {
    const target = schema({ n: t.int32(), s: t.string() })
    const builder = new BatchBuilder(target)
    builder.append({ n: 1, s: 'one' }, 1)
    const first = builder.build()
    builder.append({ n: 2, s: 'two' }, 2)
    builder.build()
    assert.deepEqual(rowsOf(target, first), [{ n: 1, s: 'one' }])
    assert.deepEqual([...first.eventTime], [1])
  })

  test('batches of one builder share nothing, NULLs included', () => {
    const target = schema({ n: t.nullable(t.int32()), s: t.nullable(t.string()), j: t.json() })
    const builder = new BatchBuilder(target)
    const rounds = [
      [
        { n: null, s: 'x', j: 1 },
        { n: 7, s: null, j: 2 },
      ],
      [
        { n: 8, s: 'a longer text than before', j: 3 },
        { n: null, s: 'y', j: 4 },
        { n: 9, s: 'z', j: 5 },
      ],
      [{ n: 1, s: null, j: 6 }],
    ]
    const batches = rounds.map((rows) => {
      for (const row of rows) builder.append(row, 0)
      return builder.build()
    })
    for (const [i, batch] of batches.entries()) assert.deepEqual(rowsOf(target, batch), rounds[i])
  })

  test('refuses more rows than a batch may have', () => {
    const target = schema({ n: t.int32() })
    const rows = Array.from({ length: BATCH_ROWS_MAX + 1 }, (_, n) => ({ n }))
    assert.throws(() => batchOfRows(target, rows), { code: 'BATCH_TOO_LARGE' })
    assert.equal(batchOfRows(target, rows.slice(1)).length, BATCH_ROWS_MAX)
  })
})

describe('schemas', () => {
  test('describe themselves and find fields', () => {
    const target = schema({ id: t.string(), delay: t.nullable(t.float64()) })
    assert.equal(describeSchema(target), 'id:string,delay:float64?')
    assert.equal(describeSchema(OPAQUE_SCHEMA), 'opaque')
    assert.equal(fieldIndex(target, 'delay'), 1)
    assert.throws(() => fieldIndex(target, 'nope'), { code: 'FIELD_UNKNOWN', message: /id, delay/ })
  })

  test('refuse names that rows cannot carry', () => {
    assert.throws(() => schema({}), { code: 'SCHEMA_INVALID' })
    assert.throws(() => schema({ '': t.string() }), { code: 'SCHEMA_INVALID' })
    assert.throws(() => schema({ ['__proto__']: t.string() }), { code: 'SCHEMA_INVALID' })
  })
})
