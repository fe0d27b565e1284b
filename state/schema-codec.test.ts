/** Rows of any schema come back as they were; what does not fit is refused by name. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { ColumnKind, Field, Schema } from '../engine/core/schema.ts'
import { schema, t } from '../engine/core/schema.ts'
import { describedSchemaCodec, schemaCodec } from './schema-codec.ts'

const valuesOf: Record<ColumnKind, fc.Arbitrary<unknown>> = {
  boolean: fc.boolean(),
  int32: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
  int64: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  float64: fc.double(),
  timestamp: fc.integer(),
  string: fc.string({ unit: 'grapheme', maxLength: 300 }),
  opaque: fc.oneof(fc.jsonValue(), fc.constant(new Map([['k', new Uint8Array(3)]])), fc.constant(undefined)),
}

const fieldsAndRows = fc
  .uniqueArray(
    fc.record({
      name: fc.oneof(fc.string({ minLength: 1 }), fc.constantFrom('a b', 'x:int32,', '"', '*/')),
      kind: fc.constantFrom(...(Object.keys(valuesOf) as ColumnKind[])),
      nullable: fc.boolean(),
    }),
    { selector: (field) => field.name, minLength: 1, maxLength: 6 },
  )
  .filter((fields) => fields.every(({ name }) => name !== '__proto__'))
  .chain((fields) => {
    const row = fc.record(
      Object.fromEntries(
        fields.map(({ name, kind, nullable }) => [name, nullable ? fc.option(valuesOf[kind]) : valuesOf[kind]]),
      ),
    )
    return fc.record({ fields: fc.constant(fields as Field[]), rows: fc.array(row, { minLength: 1, maxLength: 4 }) })
  })

test('rows come back, also through a reader made from the description', () => {
  fc.assert(
    fc.property(fieldsAndRows, ({ fields, rows }) => {
      const codec = schemaCodec({ fields, isOpaque: false })
      const reader = describedSchemaCodec(codec.description)!
      assert.equal(reader.description, codec.description)
      for (const row of rows) {
        // Back to back with other bytes, as in an arena.
        const bytes = Buffer.concat([Buffer.from('before'), codec.encode(row), Buffer.from('after')])
        // An opaque null of a nullable field may have been undefined.
        const expected = Object.fromEntries(
          fields.map(({ name, nullable }) => [name, row[name] === undefined && nullable ? null : row[name]]),
        )
        assert.deepEqual(codec.decode(bytes, 6, bytes.length - 5), expected)
        assert.deepEqual(reader.decode(bytes, 6, bytes.length - 5), expected)
      }
    }),
    { numRuns: 150 },
  )
})

test('what does not fit is refused by name', () => {
  const wanted: readonly [Schema, unknown, RegExp][] = [
    [schema({ n: t.int32() }), { n: 1.5 }, /"n" must be int32/],
    [schema({ n: t.int64() }), { n: 2n ** 63n }, /"n" must be int64/],
    [schema({ s: t.string() }), { s: null }, /"s" must be string/],
    [schema({ s: t.nullable(t.string()) }), { s: 1 }, /"s" must be string/],
    [schema({ at: t.timestamp() }), { at: '2020' }, /"at" must be timestamp/],
    [schema({ b: t.boolean() }), 7, /must be a row/],
  ]
  for (const [rows, value, message] of wanted) {
    assert.throws(() => schemaCodec(rows).encode(value), { code: 'STATE_VALUE_INVALID', message })
  }
  const dates = schemaCodec(schema({ at: t.timestamp() }))
  const bytes = dates.encode({ at: new Date(5), more: 'dropped' })
  assert.deepEqual(dates.decode(bytes, 0, bytes.length), { at: 5 })
  assert.equal(describedSchemaCodec('object'), null)
  assert.equal(describedSchemaCodec('row(a:int32)'), null)
})
