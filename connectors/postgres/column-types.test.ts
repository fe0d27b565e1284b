/** Which values a column takes, how they are written, and which are refused before they reach a checkpoint. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { schema, t } from '../../engine/core/schema.ts'
import { columnsOfSchema, quoteIdentifier, Refusal, rowEncoder, targetColumn } from './column-types.ts'

function encode(type: string, value: unknown): string {
  return rowEncoder([targetColumn('c', type)])({ c: value })
}

function refuses(type: string, value: unknown, reason: RegExp): void {
  assert.throws(
    () => encode(type, value),
    (error: unknown) => error instanceof Refusal && error.column === 'c' && reason.test(error.message),
    `${type} took ${String(value)}`,
  )
}

describe('identifiers and types', () => {
  test('take plain names only', () => {
    assert.equal(quoteIdentifier('app.rows', 'table', 2), '"app"."rows"')
    for (const name of ['', 'a b', '1a', 'a"b', "a'b", 'a;b', 'a.b.c', 'ä', 'a.', '.a']) {
      assert.throws(() => quoteIdentifier(name, 'table', 2), { code: 'IDENTIFIER_INVALID' })
    }
    assert.throws(() => quoteIdentifier('a.b', 'column', 1), { code: 'IDENTIFIER_INVALID' })
  })

  test('take types and not null, and no other SQL', () => {
    for (const type of ['text', 'varchar(10)', 'numeric(10, 2)', 'text[]', 'timestamp with time zone', 'vector(512)']) {
      assert.equal(targetColumn('c', `${type.toUpperCase()} NOT  NULL`).type, type)
      assert.equal(targetColumn('c', `${type} not null`).nullable, false)
      assert.equal(targetColumn('c', type).nullable, true)
    }
    for (const type of [
      '',
      'text); drop table x; --',
      'text default 1',
      "text collate 'x'",
      'text primary key',
      'serial',
    ]) {
      assert.throws(() => targetColumn('c', type), { code: 'COLUMN_TYPE_INVALID' }, type)
    }
  })

  test('follow from a schema', () => {
    const fields = schema({ a: t.int32(), b: t.nullable(t.string()), c: t.timestamp(), d: t.json() })
    assert.deepEqual(columnsOfSchema(fields), {
      a: 'integer not null',
      b: 'text',
      c: 'timestamptz not null',
      d: 'jsonb',
    })
  })
})

describe('values', () => {
  test('integers keep all their digits', () => {
    assert.equal(encode('bigint', 2n ** 63n - 1n), '{"c":9223372036854775807}')
    assert.equal(encode('bigint', -(2n ** 63n)), '{"c":-9223372036854775808}')
    assert.equal(encode('bigint', 1e18), '{"c":1000000000000000000}')
    assert.equal(encode('smallint', -32_768), '{"c":-32768}')
    refuses('bigint', 2n ** 63n, /does not fit 64 bits/)
    refuses('bigint', 2 ** 63, /does not fit 64 bits/)
    refuses('integer', 2_147_483_648, /does not fit 32 bits/)
    refuses('smallint', 1.5, /integer is needed/)
    refuses('integer', '1', /integer is needed, got string/)
    refuses('integer', Number.NaN, /integer is needed/)
  })

  test('floats keep NaN, infinities and the sign of zero', () => {
    assert.equal(encode('double precision', Number.NaN), '{"c":"NaN"}')
    assert.equal(encode('float8', Number.NEGATIVE_INFINITY), '{"c":"-Infinity"}')
    assert.equal(encode('float8', -0), '{"c":-0}')
    assert.equal(encode('float8', 5e-324), '{"c":5e-324}')
    refuses('real', 1e39, /does not fit/)
    refuses('real', 1e-50, /does not fit/)
    refuses('double precision', 1n, /number is needed, got bigint/)
  })

  test('times are milliseconds, kept to the microsecond', () => {
    assert.equal(encode('timestamptz', 0), '{"c":"1970-01-01T00:00:00.000Z"}')
    assert.equal(encode('timestamptz', 1_700_000_000_123.25), '{"c":"2023-11-14T22:13:20.123250Z"}')
    assert.equal(encode('timestamptz', -0.5), '{"c":"1969-12-31T23:59:59.999500Z"}')
    assert.equal(encode('timestamp', new Date(5)), '{"c":"1970-01-01T00:00:00.005Z"}')
    assert.equal(encode('date', 86_399_999), '{"c":"1970-01-01"}')
    assert.equal(encode('timestamptz', Number.POSITIVE_INFINITY), '{"c":"infinity"}')
    refuses('timestamptz', Number.NaN, /no time/)
    refuses('timestamptz', 253_402_300_800_000, /no time/)
    refuses('timestamptz', true, /got boolean/)
  })

  test('texts that Postgres cannot store are refused', () => {
    assert.equal(encode('text', 'it\'s "\\u0000" 🙂'), JSON.stringify({ c: 'it\'s "\\u0000" 🙂' }))
    refuses('text', 'a\0b', /U\+0000/)
    refuses('text', '\ud800', /surrogate/)
    refuses('text', 5, /got number/)
    assert.equal(encode('varchar(2)', '🙂🙂'), '{"c":"🙂🙂"}')
    refuses('varchar(2)', 'abc', /longer than 2/)
    refuses('char', 'ab', /longer than 1/)
    refuses('uuid', 'x', /UUID/)
    assert.equal(encode('bytea', Uint8Array.of(0, 255)), '{"c":"\\\\x00ff"}')
    refuses('inet', 'a\0b', /U\+0000/)
  })

  test('JSON is checked to its depth', () => {
    assert.equal(encode('jsonb', { a: [1n, { b: 'x' }] }), '{"c":{"a":[1,{"b":"x"}]}}')
    refuses('jsonb', { a: ['\0'] }, /U\+0000/)
    refuses('jsonb', { 'a\0': 1 }, /U\+0000/)
    refuses('jsonb', { a: Number.NaN }, /cannot hold NaN/)
    refuses('jsonb', new Map(), /cannot hold a Map/)
    refuses('jsonb', () => 1, /cannot hold a function/)
    refuses('text[]', ['a\0'], /U\+0000/)
  })

  test('missing values are NULL, or refused by a not null column', () => {
    assert.equal(encode('text', undefined), '{}')
    assert.equal(encode('text', null), '{}')
    refuses('text not null', null, /not null/)
    assert.throws(() => rowEncoder([targetColumn('c', 'text')])('row'), /must be an object/)
  })
})
