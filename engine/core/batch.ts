/**
 * The batch: up to `BATCH_ROWS_MAX` rows of one schema, in columns. The one unit that flows.
 *
 * Invariants:
 * - Columns are positional, one per schema field, each with at least `length` entries.
 * - A batch is read-only once emitted. Its string columns may be views into a page or a source's read
 *   buffer that is reused after the chain call returns: whoever keeps bytes longer copies them.
 * - `eventTime[i]` is NaN while no timestamp is assigned.
 * - `keys` is set between a keyBy and the operator that consumes it, and only there.
 * - `kinds` is null, and every row an insert, but in changelogs; row-kinds.ts has what holds there.
 */
import { type RowKinds, selectedKinds } from './row-kinds.ts'
import type { Schema } from './schema.ts'

/** Rows per batch at most; throughput is flat between 256 and 4,096 rows. */
export const BATCH_ROWS_MAX = 2_048

/** One byte a row, 1 = NULL; `null` when the column has none. Bytes, not bits: half the cost to test. */
export type Nulls = Uint8Array | null

export interface BooleanColumn {
  readonly kind: 'boolean'
  readonly values: Uint8Array
  readonly nulls: Nulls
}
export interface Int32Column {
  readonly kind: 'int32'
  readonly values: Int32Array
  readonly nulls: Nulls
}
export interface Int64Column {
  readonly kind: 'int64'
  readonly values: BigInt64Array
  readonly nulls: Nulls
}
export interface Float64Column {
  readonly kind: 'float64' | 'timestamp'
  readonly values: Float64Array
  readonly nulls: Nulls
}
/** UTF-8; row i is bytes[starts[i], ends[i]). Rows may overlap, repeat and lie in any order. */
export interface StringColumn {
  readonly kind: 'string'
  readonly bytes: Uint8Array
  readonly starts: Int32Array
  readonly ends: Int32Array
  readonly nulls: Nulls
}
/** JavaScript values; `undefined` and `null` are themselves, so `nulls` is always null. */
export interface OpaqueColumn {
  readonly kind: 'opaque'
  readonly values: readonly unknown[]
  readonly nulls: null
}

export type Column = BooleanColumn | Int32Column | Int64Column | Float64Column | StringColumn | OpaqueColumn

/**
 * Encoded keys (key-encoding.ts), one a row, with the murmur3 hash of each. Key group =
 * (hashes[i] >>> 0) % key groups.
 */
export interface KeyColumn {
  readonly bytes: Uint8Array
  readonly starts: Int32Array
  readonly ends: Int32Array
  readonly hashes: Int32Array
}

export interface Batch {
  readonly schema: Schema
  readonly length: number
  readonly columns: readonly Column[]
  /** Milliseconds since 1970 UTC a row. */
  readonly eventTime: Float64Array
  readonly keys: KeyColumn | null
  /** Change kind of each row; null where all are inserts. */
  readonly kinds: RowKinds
}

function gatherNulls(nulls: Nulls, rows: Int32Array, count: number): Nulls {
  if (nulls === null) return null
  const out = new Uint8Array(count)
  for (let i = 0; i < count; i++) out[i] = nulls[rows[i]]!
  return out
}

function gatherInto<A extends Int32Array | Float64Array | Uint8Array | BigInt64Array>(
  from: A,
  rows: Int32Array,
  count: number,
  to: A,
): A {
  for (let i = 0; i < count; i++) to[i] = from[rows[i]!]!
  return to
}

/** Rows `rows[0..count)` of a column; string bytes are shared, not copied. */
export function gatherColumn(column: Column, rows: Int32Array, count: number): Column {
  const nulls = gatherNulls(column.nulls, rows, count)
  switch (column.kind) {
    case 'boolean':
      return { kind: 'boolean', values: gatherInto(column.values, rows, count, new Uint8Array(count)), nulls }
    case 'int32':
      return { kind: 'int32', values: gatherInto(column.values, rows, count, new Int32Array(count)), nulls }
    case 'int64':
      return { kind: 'int64', values: gatherInto(column.values, rows, count, new BigInt64Array(count)), nulls }
    case 'float64':
    case 'timestamp':
      return { kind: column.kind, values: gatherInto(column.values, rows, count, new Float64Array(count)), nulls }
    case 'string':
      return {
        kind: 'string',
        bytes: column.bytes,
        starts: gatherInto(column.starts, rows, count, new Int32Array(count)),
        ends: gatherInto(column.ends, rows, count, new Int32Array(count)),
        nulls,
      }
    case 'opaque': {
      const values = new Array<unknown>(count)
      for (let i = 0; i < count; i++) values[i] = column.values[rows[i]!]
      return { kind: 'opaque', values, nulls: null }
    }
  }
}

/** The batch made of rows `rows[0..count)`, in that order. Shares string bytes with `batch`. Of a changelog `rows` is ascending. */
export function gatherBatch(batch: Batch, rows: Int32Array, count: number): Batch {
  const keys = batch.keys
  return {
    schema: batch.schema,
    length: count,
    columns: batch.columns.map((column) => gatherColumn(column, rows, count)),
    eventTime: gatherInto(batch.eventTime, rows, count, new Float64Array(count)),
    keys:
      keys === null
        ? null
        : {
            bytes: keys.bytes,
            starts: gatherInto(keys.starts, rows, count, new Int32Array(count)),
            ends: gatherInto(keys.ends, rows, count, new Int32Array(count)),
            hashes: gatherInto(keys.hashes, rows, count, new Int32Array(count)),
          },
    kinds: batch.kinds === null ? null : selectedKinds(batch.kinds, rows, count),
  }
}

/** Rows [from, to) without copying. Where a changelog may be cut says `cutBetweenPairs`. */
export function sliceBatch(batch: Batch, from: number, to: number): Batch {
  if (from === 0 && to === batch.length) return batch
  const keys = batch.keys
  return {
    schema: batch.schema,
    length: to - from,
    columns: batch.columns.map((column) => sliceColumn(column, from, to)),
    eventTime: batch.eventTime.subarray(from, to),
    keys:
      keys === null
        ? null
        : {
            bytes: keys.bytes,
            starts: keys.starts.subarray(from, to),
            ends: keys.ends.subarray(from, to),
            hashes: keys.hashes.subarray(from, to),
          },
    kinds: batch.kinds === null ? null : batch.kinds.subarray(from, to),
  }
}

function sliceColumn(column: Column, from: number, to: number): Column {
  const nulls = column.nulls === null ? null : column.nulls.subarray(from, to)
  switch (column.kind) {
    case 'string':
      return {
        kind: 'string',
        bytes: column.bytes,
        starts: column.starts.subarray(from, to),
        ends: column.ends.subarray(from, to),
        nulls,
      }
    case 'opaque':
      return { kind: 'opaque', values: column.values.slice(from, to), nulls: null }
    case 'boolean':
      return { kind: 'boolean', values: column.values.subarray(from, to), nulls }
    case 'int32':
      return { kind: 'int32', values: column.values.subarray(from, to), nulls }
    case 'int64':
      return { kind: 'int64', values: column.values.subarray(from, to), nulls }
    case 'float64':
    case 'timestamp':
      return { kind: column.kind, values: column.values.subarray(from, to), nulls }
  }
}

/** The columns that a reader wants, in its order, with the schema they make. */
export interface Projection {
  readonly indices: readonly number[]
  readonly schema: Schema
}

/** Same rows with only the projected columns; nothing is copied. */
export function projectBatch(batch: Batch, projection: Projection): Batch {
  return {
    schema: projection.schema,
    length: batch.length,
    columns: projection.indices.map((index) => batch.columns[index]!),
    eventTime: batch.eventTime,
    keys: batch.keys,
    kinds: batch.kinds,
  }
}

/** Same rows with other event times. */
export function withEventTime({ schema, length, columns, keys, kinds }: Batch, eventTime: Float64Array): Batch {
  return { schema, length, columns, eventTime, keys, kinds }
}

/** Same rows with keys attached, or detached by null. */
export function withKeys({ schema, length, columns, eventTime, kinds }: Batch, keys: KeyColumn | null): Batch {
  return { schema, length, columns, eventTime, keys, kinds }
}

/** Same rows with change kinds, one a row. */
export function withKinds({ schema, length, columns, eventTime, keys }: Batch, kinds: RowKinds): Batch {
  return { schema, length, columns, eventTime, keys, kinds }
}
