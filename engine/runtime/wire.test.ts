/**
 * The wire format: what is decoded equals what was encoded, for any schema, selection and kind of memory;
 * copies share nothing.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { type Batch, type Column, gatherBatch, type KeyColumn, withKeys, withKinds } from '../core/batch.ts'
import { valueKeyExtractor } from '../core/keys.ts'
import { batchOfRows, rowReader } from '../core/rows.ts'
import { type ColumnKind, type FieldType, OPAQUE_SCHEMA, type Schema, schema, t } from '../core/schema.ts'
import { StringInterner } from '../core/strings.ts'
import { BatchEncoder, copyBatch, decodeBatch, WireBlock } from './wire.ts'

const VALUES: Record<ColumnKind, fc.Arbitrary<unknown>> = {
  boolean: fc.boolean(),
  int32: fc.integer(),
  int64: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  float64: fc.double(),
  timestamp: fc.integer(),
  string: fc.oneof(fc.string({ unit: 'grapheme', maxLength: 100 }), fc.constant('')),
  opaque: fc.oneof(fc.jsonValue(), fc.bigInt(), fc.constant(undefined)),
}

interface Case {
  readonly schema: Schema
  readonly batch: Batch
  /** Null for the whole batch. */
  readonly rows: Int32Array | null
}

const fieldOf = (kind: ColumnKind, nullable: boolean): FieldType => ({ kind, nullable })

const anyCase: fc.Arbitrary<Case> = fc
  .array(fc.tuple(fc.constantFrom(...(Object.keys(VALUES) as ColumnKind[])), fc.boolean()), {
    minLength: 1,
    maxLength: 5,
  })
  .chain((kinds) => {
    const target = schema(Object.fromEntries(kinds.map(([kind, nullable], k) => [`f${k}`, fieldOf(kind, nullable)])))
    const cells = kinds.map(([kind, nullable]) =>
      nullable && kind !== 'opaque' ? fc.option(VALUES[kind], { nil: null }) : VALUES[kind],
    )
    const toRow = (values: readonly unknown[]) => Object.fromEntries(values.map((value, k) => [`f${k}`, value]))
    return fc
      .record({
        rows: fc.array(fc.tuple(...cells).map(toRow), { maxLength: 25 }),
        keyed: fc.boolean(),
        kinds: fc.option(fc.array(fc.nat(3), { minLength: 25, maxLength: 25 })),
        selected: fc.boolean(),
        picks: fc.array(fc.nat(), { maxLength: 25 }),
      })
      .map(({ rows, keyed, kinds, selected, picks }) => {
        const plain = batchOfRows(
          target,
          rows,
          rows.map((_, i) => (i % 3 === 0 ? Number.NaN : i)),
        )
        const changes = kinds === null ? plain : withKinds(plain, Uint8Array.from(kinds.slice(0, rows.length)))
        const batch = keyed ? withKeys(changes, valueKeyExtractor((_, i) => `key ${i % 3}`)(plain)) : changes
        const chosen = rows.length === 0 ? [] : picks.slice(0, rows.length).map((pick) => pick % rows.length)
        return { schema: target, batch, rows: selected ? Int32Array.from(chosen) : null }
      })
  })

function rowsOf(target: Schema, batch: Batch): unknown[] {
  const read = rowReader(target, new StringInterner(), 'test')
  return Array.from({ length: batch.length }, (_, i) => read(batch, i))
}

function keysOf(keys: KeyColumn | null, count: number): unknown {
  if (keys === null) return null
  return Array.from({ length: count }, (_, i) => [
    Buffer.from(keys.bytes.subarray(keys.starts[i], keys.ends[i])).toString('hex'),
    keys.hashes[i],
  ])
}

function contents(target: Schema, batch: Batch): unknown {
  return {
    rows: rowsOf(target, batch),
    times: [...batch.eventTime.subarray(0, batch.length)],
    keys: keysOf(batch.keys, batch.length),
    kinds: batch.kinds === null ? null : [...batch.kinds],
  }
}

function expected({ schema: target, batch, rows }: Case): unknown {
  return contents(target, rows === null ? batch : gatherBatch(batch, rows, rows.length))
}

describe('encode and decode', () => {
  test('give back the chosen rows', () => {
    const encoder = new BatchEncoder()
    fc.assert(
      fc.property(anyCase, (example) => {
        const { schema: target, batch, rows } = example
        const message = encoder.encode(batch, rows, rows === null ? batch.length : rows.length)
        assert.equal(message.length % 8, 0)
        assert.deepEqual(contents(target, decodeBatch(target, message)), expected(example))
      }),
    )
  })

  test('work in shared memory at any aligned place', () => {
    const encoder = new BatchEncoder()
    const shared = new SharedArrayBuffer(1 << 18)
    fc.assert(
      fc.property(anyCase, fc.nat(100), (example, eighths) => {
        const { schema: target, batch, rows } = example
        const message = encoder.encode(batch, rows, rows === null ? batch.length : rows.length)
        const place = new Uint8Array(shared, eighths * 8, message.length)
        place.set(message)
        const decoded = decodeBatch(target, place)
        assert.deepEqual(contents(target, decoded), expected(example))
        // And onwards from there: views into shared memory are encoded and copied like any others.
        const again = decodeBatch(target, new BatchEncoder().encode(decoded, null, decoded.length).slice())
        const copied = copyBatch(decoded)
        place.fill(0x2a)
        assert.deepEqual(contents(target, again), expected(example))
        assert.deepEqual(contents(target, copied), expected(example))
      }),
    )
  })

  test('write into a block of the caller, or say that it is too small and touch nothing beyond it', () => {
    const encoder = new BatchEncoder()
    fc.assert(
      fc.property(anyCase, fc.nat(40), fc.double({ min: 0, max: 1, noNaN: true }), (example, eighths, share) => {
        const { schema: target, batch, rows } = example
        const count = rows === null ? batch.length : rows.length
        const message = encoder.encode(batch, rows, count).slice()
        const room = message.length + 8
        const around = new Uint8Array(eighths * 8 + room + 64).fill(0x2a)
        const small = new WireBlock(around.buffer, eighths * 8, ((share * (room - 8)) >>> 3) << 3)
        assert.equal(encoder.encodeInto(small, batch, rows, count), -1)
        const beyond = eighths * 8 + small.u8.length
        assert.ok(around.subarray(0, eighths * 8).every((byte) => byte === 0x2a))
        assert.ok(around.subarray(beyond).every((byte) => byte === 0x2a))
        const block = new WireBlock(around.buffer, eighths * 8, room)
        const bytes = encoder.encodeInto(block, batch, rows, count)
        assert.equal(bytes, message.length)
        assert.deepEqual(contents(target, decodeBatch(target, block.u8.subarray(0, bytes))), expected(example))
        // The encoder's own block is unharmed.
        assert.deepEqual(contents(target, decodeBatch(target, encoder.encode(batch, rows, count))), expected(example))
      }),
    )
  })

  test('carry batches without columns, rows or keys', () => {
    const none: Schema = { fields: [], isOpaque: false }
    const batch: Batch = {
      schema: none,
      length: 2,
      columns: [],
      eventTime: Float64Array.of(1, 2),
      keys: null,
      kinds: null,
    }
    const decoded = decodeBatch(none, new BatchEncoder().encode(batch, null, 2))
    assert.deepEqual([...decoded.eventTime], [1, 2])
    assert.equal(decodeBatch(none, new BatchEncoder().encode(batch, null, 0)).length, 0)
  })

  test('refuse instances that would lose their methods, and take those that have fields alone', () => {
    class Point {
      x = 1
    }
    class Total {
      sum = 1
      get double() {
        return this.sum * 2
      }
    }
    class Subtotal extends Total {}
    const encode = (...rows: readonly unknown[]) => {
      const batch = batchOfRows(OPAQUE_SCHEMA, rows)
      return new BatchEncoder().encode(batch, null, batch.length)
    }
    const taken = [new Point(), new Date(0), new Map([[1, new Set([/x/])]]), new Error('x'), Buffer.from('x'), [null]]
    assert.ok(encode(...taken).length > 0)
    for (const rows of [
      [new Total()],
      [{}, new Subtotal()],
      [{ a: [new Map([[1, new Total()]])] }],
      [new URL('a:b')],
    ]) {
      assert.throws(() => encode(...rows), {
        code: 'ROW_NOT_SERIALIZABLE',
        message: /of (Total|Subtotal|URL) would lose/,
      })
    }
  })

  test('grow for large values', () => {
    const target = schema({ s: t.string(), n: t.int32() })
    const rows = Array.from({ length: 20 }, (_, n) => ({ s: String(n % 10).repeat(n * 40_000), n }))
    const encoder = new BatchEncoder()
    assert.deepEqual(rowsOf(target, decodeBatch(target, encoder.encode(batchOfRows(target, rows), null, 20))), rows)
  })
})

/** Memory of a batch, opaque values left out. */
function buffersOf(batch: Batch): ArrayBufferLike[] {
  const ofColumn = (column: Column): ArrayBufferView[] =>
    column.kind === 'opaque'
      ? []
      : column.kind === 'string'
        ? [column.bytes, column.starts, column.ends]
        : [column.values]
  const nulls = batch.columns.flatMap((column) => (column.nulls === null ? [] : [column.nulls]))
  const keys = batch.keys === null ? [] : [batch.keys.bytes, batch.keys.starts, batch.keys.ends, batch.keys.hashes]
  return [...batch.columns.flatMap(ofColumn), ...nulls, ...keys, batch.eventTime].map((view) => view.buffer)
}

describe('copyBatch', () => {
  test('copies the chosen rows and shares no memory', () => {
    fc.assert(
      fc.property(anyCase, (example) => {
        const { schema: target, batch, rows } = example
        const before = contents(target, batch)
        const copy = rows === null ? copyBatch(batch) : copyBatch(batch, rows, rows.length)
        assert.deepEqual(contents(target, copy), expected(example))
        assert.deepEqual(contents(target, batch), before, 'the original is untouched')
        const own = new Set(buffersOf(copy))
        for (const buffer of buffersOf(batch)) assert.ok(!own.has(buffer))
      }),
    )
  })

  test('copies columns whose bytes are Buffers, whose own slice shares memory', () => {
    const target = schema({ b: t.nullable(t.boolean()) })
    const values = Buffer.from([1, 0, 1])
    const nulls = Buffer.from([0, 0, 1])
    const eventTime = Float64Array.of(1, 2, 3)
    const batch: Batch = {
      schema: target,
      length: 3,
      columns: [{ kind: 'boolean', values, nulls }],
      eventTime,
      keys: null,
      kinds: null,
    }
    const whole = copyBatch(batch)
    const picked = copyBatch(batch, Int32Array.of(2, 1), 2)
    assert.deepEqual([...values], [1, 0, 1], 'the original is untouched')
    values.fill(9)
    nulls.fill(9)
    assert.deepEqual(rowsOf(target, whole), [{ b: true }, { b: false }, { b: null }])
    assert.deepEqual(rowsOf(target, picked), [{ b: null }, { b: false }])
  })
})
