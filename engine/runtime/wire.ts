/**
 * Batches as bytes, for channels between threads, and deep copies for channels within one.
 *
 * A message is one contiguous, 8-byte-aligned block that a reader turns back into a batch of views
 * without copying:
 *   u32 rows | u32 has keys (1), has kinds (2) | f64 event times | [i32 hashes, key offsets, key bytes] | [u8 kinds] | columns...
 *   column:  u32 has nulls | u32 unused | [u8 nulls] | values
 *   strings: i32 offsets (rows + 1) | u32 length | bytes.  opaque: u32 length | v8-serialised array.
 * Every part starts at a multiple of 8. Byte order is the machine's: messages never leave it.
 */
import { deserialize, serialize } from 'node:v8'
import { classThatLoses } from '../../state/value-codec.ts'
import type { Batch, Column, KeyColumn, Nulls } from '../core/batch.ts'
import { MillraceError, messageOf } from '../core/errors.ts'
import { gatherKinds, selectedKinds } from '../core/row-kinds.ts'
import type { ColumnKind, Schema } from '../core/schema.ts'
import { gatherStrings } from '../core/strings.ts'

const HAS_KEYS = 1
const HAS_KINDS = 2

const align8 = (n: number): number => (n + 7) & ~7

/** Memory for one message, seen in every width that the format has. */
export class WireBlock {
  readonly u8: Uint8Array
  readonly i32: Int32Array
  readonly f64: Float64Array
  readonly i64: BigInt64Array

  /** `start` and `bytes` are multiples of 8. */
  constructor(buffer: ArrayBufferLike, start = 0, bytes = buffer.byteLength) {
    this.u8 = new Uint8Array(buffer, start, bytes)
    this.i32 = new Int32Array(buffer, start, bytes >>> 2)
    this.f64 = new Float64Array(buffer, start, bytes >>> 3)
    this.i64 = new BigInt64Array(buffer, start, bytes >>> 3)
  }
}

/** What an encoder keeps for the next message. */
const OWN_BYTES_KEPT_MAX = 8 << 20
const OWN_BYTES_MIN = 256 * 1_024

/** Thrown within `encodeInto` only: the message is larger than the block. */
const BLOCK_FULL = new Error('the block is full')

/** Encodes selected rows of batches, into memory of the caller or into a reused block of its own that grows. */
export class BatchEncoder {
  private own = new WireBlock(new ArrayBuffer(OWN_BYTES_MIN))
  private u8 = this.own.u8
  private i32 = this.own.i32
  private f64 = this.own.f64
  private i64 = this.own.i64
  private at = 0
  private mayGrow = true

  /** Rows `rows[0..count)` of `batch` (or its first `count` rows); the view is valid until the next call. */
  encode(batch: Batch, rows: Int32Array | null, count: number): Uint8Array {
    // The message before was huge, and has been copied by now.
    if (this.own.u8.length > OWN_BYTES_KEPT_MAX) this.own = new WireBlock(new ArrayBuffer(OWN_BYTES_MIN))
    this.use(this.own)
    this.mayGrow = true
    this.writeBatch(batch, rows, count)
    return this.u8.subarray(0, this.at)
  }

  /** The same into `block`. Returns the bytes written, or -1 when there is no room for it. */
  encodeInto(block: WireBlock, batch: Batch, rows: Int32Array | null, count: number): number {
    this.use(block)
    this.mayGrow = false
    try {
      this.writeBatch(batch, rows, count)
      return this.at
    } catch (error) {
      if (error !== BLOCK_FULL) throw error
      return -1
    }
  }

  private use({ u8, i32, f64, i64 }: WireBlock): void {
    this.u8 = u8
    this.i32 = i32
    this.f64 = f64
    this.i64 = i64
  }

  private writeBatch(batch: Batch, rows: Int32Array | null, count: number): void {
    this.at = 0
    this.reserve(8)
    this.i32[0] = count
    this.i32[1] = (batch.keys === null ? 0 : HAS_KEYS) | (batch.kinds === null ? 0 : HAS_KINDS)
    this.at = 8
    this.writeFloats(batch.eventTime, rows, count)
    if (batch.keys !== null) this.writeKeys(batch.keys, rows, count)
    if (batch.kinds !== null) this.writeKinds(batch.kinds, rows, count)
    for (const column of batch.columns) this.writeColumn(column, rows, count)
  }

  /** Room for `extra` more bytes, and for the word that copying strings may write beyond them. */
  private reserve(extra: number): void {
    const needed = align8(this.at + extra) + 8
    if (needed <= this.u8.length) return
    if (!this.mayGrow) throw BLOCK_FULL
    const grown = new WireBlock(new ArrayBuffer(Math.max(align8(needed), this.u8.length * 2)))
    grown.u8.set(this.u8.subarray(0, this.at))
    this.own = grown
    this.use(grown)
  }

  private writeFloats(values: Float64Array, rows: Int32Array | null, count: number): void {
    this.reserve(count * 8)
    copyNumbers(values, rows, count, this.f64, this.at >>> 3)
    this.at += count * 8
  }

  private writeInts(values: Int32Array, rows: Int32Array | null, count: number): void {
    this.reserve(count * 4)
    copyNumbers(values, rows, count, this.i32, this.at >>> 2)
    this.at = align8(this.at + count * 4)
  }

  private writeKeys(keys: KeyColumn, rows: Int32Array | null, count: number): void {
    this.writeInts(keys.hashes, rows, count)
    this.writeStrings(keys.bytes, keys.starts, keys.ends, rows, count)
  }

  private writeKinds(kinds: Uint8Array, rows: Int32Array | null, count: number): void {
    this.reserve(count)
    if (rows === null) copyNumbers(kinds, null, count, this.u8, this.at)
    else gatherKinds(kinds, rows, count, this.u8, this.at)
    this.at = align8(this.at + count)
  }

  private writeStrings(
    bytes: Uint8Array,
    starts: Int32Array,
    ends: Int32Array,
    rows: Int32Array | null,
    count: number,
  ): void {
    this.reserve((count + 1) * 4)
    const offsetsAt = this.at >>> 2
    let i32 = this.i32
    let total = 0
    for (let i = 0; i < count; i++) {
      const row = rows === null ? i : rows[i]!
      i32[offsetsAt + i] = total
      total += ends[row]! - starts[row]!
    }
    i32[offsetsAt + count] = total
    this.at = align8(this.at + (count + 1) * 4)
    this.reserve(8 + total)
    i32 = this.i32
    i32[this.at >>> 2] = total
    const to = gatherStrings(bytes, starts, ends, rows, count, this.u8, this.at + 8)
    this.at = align8(to)
  }

  private writeNulls(nulls: Nulls, rows: Int32Array | null, count: number): void {
    this.reserve(8 + count)
    this.i32[this.at >>> 2] = nulls === null ? 0 : 1
    this.at += 8
    if (nulls === null) return
    copyNumbers(nulls, rows, count, this.u8, this.at)
    this.at = align8(this.at + count)
  }

  private writeColumn(column: Column, rows: Int32Array | null, count: number): void {
    this.writeNulls(column.nulls, rows, count)
    switch (column.kind) {
      case 'float64':
      case 'timestamp':
        this.writeFloats(column.values, rows, count)
        return
      case 'int32':
        this.writeInts(column.values, rows, count)
        return
      case 'int64': {
        this.reserve(count * 8)
        const base = this.at >>> 3
        for (let i = 0; i < count; i++) this.i64[base + i] = column.values[rows === null ? i : rows[i]!]!
        this.at += count * 8
        return
      }
      case 'boolean':
        this.reserve(count)
        copyNumbers(column.values, rows, count, this.u8, this.at)
        this.at = align8(this.at + count)
        return
      case 'string':
        this.writeStrings(column.bytes, column.starts, column.ends, rows, count)
        return
      case 'opaque': {
        const values = new Array<unknown>(count)
        for (let i = 0; i < count; i++) values[i] = column.values[rows === null ? i : rows[i]!]
        const bytes = serialized(values)
        this.reserve(8 + bytes.length)
        this.i32[this.at >>> 2] = bytes.length
        this.u8.set(bytes, this.at + 8)
        this.at = align8(this.at + 8 + bytes.length)
        return
      }
    }
  }
}

/** How deep the first value of a column is searched for instances of classes; of the others only what they are. */
const INSTANCE_DEPTH = 8

/** Throws `ROW_NOT_SERIALIZABLE`. */
function serialized(values: readonly unknown[]): Uint8Array {
  for (let i = 0; i < values.length; i++) refuseLoss(values[i], i === 0 ? INSTANCE_DEPTH : 0)
  try {
    return serialize(values)
  } catch (error) {
    const isDeep = error instanceof RangeError
    throw new MillraceError(
      'ROW_NOT_SERIALIZABLE',
      isDeep
        ? 'A row is nested too deeply, or is too large, to be handed to another subtask.'
        : `A row cannot be handed to another subtask: ${messageOf(error).replace(/\.$/, '')}.`,
      {
        hint: isDeep
          ? 'Flatten the value, or carry it as a string of JSON.'
          : 'Rows that are exchanged are plain data: no functions, promises, symbols or handles.',
        cause: error,
      },
    )
  }
}

/** Another thread would get the fields alone, and rows that stay in this one would keep their methods. */
function refuseLoss(value: unknown, depth: number): void {
  const lost = classThatLoses(value, depth)
  if (lost === null) return
  throw new MillraceError(
    'ROW_NOT_SERIALIZABLE',
    `A row with an instance of ${lost} would lose its methods on the way to another subtask.`,
    { hint: 'Hand on plain objects, for example ({ ...row }), and make instances where their methods are called.' },
  )
}

function copyNumbers<A extends Float64Array | Int32Array | Uint8Array>(
  from: A,
  rows: Int32Array | null,
  count: number,
  to: A,
  at: number,
): void {
  if (rows === null) for (let i = 0; i < count; i++) to[at + i] = from[i]!
  else for (let i = 0; i < count; i++) to[at + i] = from[rows[i]!]!
}

/** Walks a message; its methods return views. */
class MessageReader {
  private readonly bytes: Uint8Array
  private at = 0

  constructor(bytes: Uint8Array) {
    this.bytes = bytes
  }

  ints(count: number): Int32Array {
    const view = new Int32Array(this.bytes.buffer, this.bytes.byteOffset + this.at, count)
    this.at = align8(this.at + count * 4)
    return view
  }

  floats(count: number): Float64Array {
    const view = new Float64Array(this.bytes.buffer, this.bytes.byteOffset + this.at, count)
    this.at += count * 8
    return view
  }

  longs(count: number): BigInt64Array {
    const view = new BigInt64Array(this.bytes.buffer, this.bytes.byteOffset + this.at, count)
    this.at += count * 8
    return view
  }

  octets(count: number): Uint8Array {
    const view = this.bytes.subarray(this.at, this.at + count)
    this.at = align8(this.at + count)
    return view
  }

  strings(count: number): { bytes: Uint8Array; starts: Int32Array; ends: Int32Array } {
    const offsets = this.ints(count + 1)
    const length = this.ints(2)[0]!
    return { bytes: this.octets(length), starts: offsets.subarray(0, count), ends: offsets.subarray(1) }
  }
}

function readColumn(reader: MessageReader, kind: ColumnKind, count: number): Column {
  const nulls = reader.ints(2)[0] === 1 ? reader.octets(count) : null
  switch (kind) {
    case 'float64':
    case 'timestamp':
      return { kind, values: reader.floats(count), nulls }
    case 'int32':
      return { kind, values: reader.ints(count), nulls }
    case 'int64':
      return { kind, values: reader.longs(count), nulls }
    case 'boolean':
      return { kind, values: reader.octets(count), nulls }
    case 'string':
      return { kind, ...reader.strings(count), nulls }
    case 'opaque': {
      const length = reader.ints(2)[0]!
      // Copied first: deserialising reads asynchronously reused page memory otherwise.
      return { kind, values: deserialize(Buffer.from(reader.octets(length))) as unknown[], nulls: null }
    }
  }
}

/** The batch in a message; columns are views into `bytes`, which must be 8-byte aligned. */
export function decodeBatch(schema: Schema, bytes: Uint8Array): Batch {
  const reader = new MessageReader(bytes)
  const header = reader.ints(2)
  const count = header[0]!
  const eventTime = reader.floats(count)
  const has = header[1]!
  const keys = (has & HAS_KEYS) !== 0 ? { hashes: reader.ints(count), ...reader.strings(count) } : null
  const kinds = (has & HAS_KINDS) !== 0 ? reader.octets(count) : null
  const columns = schema.fields.map((field) => readColumn(reader, field.kind, count))
  return { schema, length: count, columns, eventTime, keys, kinds }
}

function copyStrings<C extends { bytes: Uint8Array; starts: Int32Array; ends: Int32Array }>(
  column: C,
  rows: Int32Array | null,
  count: number,
): { bytes: Uint8Array; starts: Int32Array; ends: Int32Array } {
  const starts = new Int32Array(count)
  const ends = new Int32Array(count)
  let total = 0
  for (let i = 0; i < count; i++) {
    const row = rows === null ? i : rows[i]!
    starts[i] = total
    total += column.ends[row]! - column.starts[row]!
    ends[i] = total
  }
  const bytes = new Uint8Array(total)
  gatherStrings(column.bytes, column.starts, column.ends, rows, count, bytes, 0)
  return { bytes, starts, ends }
}

function pick<A extends Float64Array | Int32Array | Uint8Array | BigInt64Array>(
  from: A,
  rows: Int32Array | null,
  count: number,
): A {
  // Not `from.slice`: a Buffer's slice shares memory.
  const out = (from instanceof Uint8Array ? new Uint8Array(from.subarray(0, count)) : from.slice(0, count)) as A
  if (rows !== null) for (let i = 0; i < count; i++) out[i] = from[rows[i]!]!
  return out
}

function copyColumn(column: Column, rows: Int32Array | null, count: number): Column {
  const nulls = column.nulls === null ? null : pick(column.nulls, rows, count)
  switch (column.kind) {
    case 'string':
      return { kind: 'string', ...copyStrings(column, rows, count), nulls }
    case 'opaque': {
      const values = new Array<unknown>(count)
      for (let i = 0; i < count; i++) values[i] = column.values[rows === null ? i : rows[i]!]
      return { kind: 'opaque', values, nulls: null }
    }
    default:
      return { kind: column.kind, values: pick(column.values, rows, count), nulls } as Column
  }
}

function copyKinds(kinds: Uint8Array, rows: Int32Array | null, count: number): Uint8Array {
  return rows === null ? pick(kinds, null, count) : selectedKinds(kinds, rows, count)
}

/** Selected rows as a batch of its own memory, sharing nothing with `batch` but opaque values. */
export function copyBatch(batch: Batch, rows: Int32Array | null = null, count: number = batch.length): Batch {
  const keys = batch.keys
  return {
    schema: batch.schema,
    length: count,
    columns: batch.columns.map((column) => copyColumn(column, rows, count)),
    eventTime: pick(batch.eventTime, rows, count),
    keys: keys === null ? null : { ...copyStrings(keys, rows, count), hashes: pick(keys.hashes, rows, count) },
    kinds: batch.kinds === null ? null : copyKinds(batch.kinds, rows, count),
  }
}
