/**
 * Rows as bytes: what changelog operators keep in state, compare, and send again when they take a row back.
 *
 * Used by operators/group-aggregate.ts, streaming-join.ts and their like. A row is its cells in the schema's order; a
 * nullable one begins with a byte, 1 for NULL.
 *   boolean u8 | int32 i32 | int64 i64 | float64, timestamp f64 | string and opaque u32 length, bytes; little-endian
 *
 * Invariants:
 * - Equal rows have equal bytes and the other way round, by value and bit: 0 and -0 are different rows, NaN is one value.
 * - A row that was written and appended again is the same, cell by cell: nothing is computed anew.
 */
import { assert } from './assert.ts'
import { BATCH_ROWS_MAX, type Batch, type Column, type Nulls } from './batch.ts'
import type { RowKinds } from './row-kinds.ts'
import type { Field, Schema } from './schema.ts'
import { asBuffer, ByteArena } from './strings.ts'

/** Turns the values of opaque columns into bytes; the same value must give the same bytes. */
export interface OpaqueCodec {
  encode(value: unknown): Uint8Array
  decode(bytes: Uint8Array, start: number, end: number): unknown
}

/** Where a reader is in encoded rows. */
export class ByteCursor {
  bytes: Uint8Array = new Uint8Array(0)
  view = new DataView(this.bytes.buffer)
  at = 0

  /** Begins at `start` of `bytes`. */
  set(bytes: Uint8Array, start: number): void {
    if (bytes !== this.bytes) {
      this.bytes = bytes
      this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    }
    this.at = start
  }
}

/** Writes cells of one field. */
export class CellWriter {
  readonly field: Field
  private readonly opaque: OpaqueCodec

  constructor(field: Field, opaque: OpaqueCodec) {
    this.field = field
    this.opaque = opaque
  }

  /** Row `i` of a column. */
  writeCell(column: Column, i: number, arena: ByteArena): void {
    if (column.kind === 'string') {
      if (this.writeFlag(column.nulls !== null && column.nulls[i] === 1, arena)) return
      writeText(column.bytes, column.starts[i]!, column.ends[i]!, arena)
    } else if (column.kind === 'boolean') {
      this.writeValue(column.nulls?.[i] === 1 ? null : column.values[i] === 1, arena)
    } else this.writeValue(column.nulls?.[i] === 1 ? null : column.values[i], arena)
  }

  /** A value as rows have it; null and undefined are NULL. */
  writeValue(value: unknown, arena: ByteArena): void {
    if (this.writeFlag(value === null || value === undefined, arena)) return
    arena.reserve(8)
    const { bytes, length } = arena
    switch (this.field.kind) {
      case 'float64':
      case 'timestamp':
        arena.length = bytes.writeDoubleLE(Number.isNaN(value) ? Number.NaN : (value as number), length)
        return
      case 'int32':
        arena.length = bytes.writeInt32LE(value as number, length)
        return
      case 'int64':
        arena.length = bytes.writeBigInt64LE(value as bigint, length)
        return
      case 'boolean':
        bytes[length] = value === true ? 1 : 0
        arena.length = length + 1
        return
      case 'string': {
        arena.length = length + 4
        const start = arena.writeString(value as string)
        arena.bytes.writeUInt32LE(arena.length - start, length)
        return
      }
      case 'opaque': {
        const encoded = this.opaque.encode(value)
        writeText(encoded, 0, encoded.length, arena)
      }
    }
  }

  /** True for NULL, of which nothing follows. An opaque column has its own NULL. */
  private writeFlag(isNull: boolean, arena: ByteArena): boolean {
    const { field } = this
    if (!field.nullable && field.kind !== 'opaque') {
      assert(!isNull, 'a field that is not nullable has a value')
      return false
    }
    arena.writeByte(isNull ? 1 : 0)
    return isNull
  }
}

function writeText(bytes: Uint8Array, start: number, end: number, arena: ByteArena): void {
  arena.reserve(4)
  arena.length = arena.bytes.writeUInt32LE(end - start, arena.length)
  arena.writeBytes(bytes, start, end)
}

/** Whether cells of a field begin with a byte that says that they are NULL. */
function isFlagged({ nullable, kind }: Field): boolean {
  return nullable || kind === 'opaque'
}

/** Writes rows of one schema. */
export class RowWriter {
  readonly cells: readonly CellWriter[]

  constructor(schema: Schema, opaque: OpaqueCodec) {
    this.cells = schema.fields.map((field) => new CellWriter(field, opaque))
  }

  /** Appends row `i` and returns where it begins. */
  write(batch: Batch, i: number, arena: ByteArena): number {
    const start = arena.length
    const { columns } = batch
    const { cells } = this
    for (let k = 0; k < cells.length; k++) cells[k]!.writeCell(columns[k]!, i, arena)
    return start
  }
}

/** Makes plain objects of encoded rows, for functions that look at them. */
export function rowBytesReader(schema: Schema, opaque: OpaqueCodec): (bytes: Uint8Array, start: number) => unknown {
  const cursor = new ByteCursor()
  const { fields } = schema
  return (bytes, start) => {
    cursor.set(bytes, start)
    const row: Record<string, unknown> = {}
    for (const field of fields) row[field.name] = readCell(cursor, field, opaque)
    return row
  }
}

/** The next cell as rows have it; written by a `CellWriter` of the field. */
export function readCell(cursor: ByteCursor, field: Field, opaque: OpaqueCodec): unknown {
  if (isFlagged(field) && cursor.view.getUint8(cursor.at++) === 1) return null
  const { at, view } = cursor
  switch (field.kind) {
    case 'float64':
    case 'timestamp':
      cursor.at += 8
      return view.getFloat64(at, true)
    case 'int32':
      cursor.at += 4
      return view.getInt32(at, true)
    case 'int64':
      cursor.at += 8
      return view.getBigInt64(at, true)
    case 'boolean':
      cursor.at += 1
      return view.getUint8(at) === 1
    default: {
      const end = at + 4 + view.getUint32(at, true)
      cursor.at = end
      if (field.kind === 'opaque') return opaque.decode(cursor.bytes, at + 4, end)
      return asBuffer(cursor.bytes).utf8Slice(at + 4, end)
    }
  }
}

/** Values of one column of rows under way. */
class ColumnBuffer {
  readonly field: Field
  private readonly opaque: OpaqueCodec
  private readonly values: Float64Array | Int32Array | BigInt64Array | Uint8Array
  private objects: unknown[] = []
  private text = new ByteArena(256)
  private readonly starts: Int32Array
  private readonly ends: Int32Array
  private nulls: Uint8Array | null = null

  constructor(field: Field, opaque: OpaqueCodec, rows: number) {
    this.field = field
    this.opaque = opaque
    this.values = valuesOf(field.kind, rows)
    const strings = field.kind === 'string' ? rows : 0
    this.starts = new Int32Array(strings)
    this.ends = new Int32Array(strings)
  }

  setNull(at: number): void {
    if (this.field.kind === 'opaque') {
      this.objects[at] = null
      return
    }
    assert(this.field.nullable, 'only a nullable field is NULL')
    this.nulls ??= new Uint8Array(BATCH_ROWS_MAX)
    this.nulls[at] = 1
    if (this.field.kind === 'string') this.starts[at] = this.ends[at] = this.text.length
  }

  /** Row `i` of a column of the same kind. */
  copy(column: Column, i: number, at: number): void {
    if (column.nulls !== null && column.nulls[i] === 1) {
      this.setNull(at)
      return
    }
    if (column.kind === 'string') {
      this.starts[at] = this.text.writeBytes(column.bytes, column.starts[i]!, column.ends[i]!)
      this.ends[at] = this.text.length
    } else if (column.kind === 'opaque') this.objects[at] = column.values[i]
    else this.values[at] = column.values[i] as never
  }

  /** Reads a cell that `from`, a field of the same kind, has written. */
  decode(cursor: ByteCursor, from: Field, at: number): void {
    if (isFlagged(from) && cursor.view.getUint8(cursor.at++) === 1) {
      this.setNull(at)
      return
    }
    const { view } = cursor
    switch (from.kind) {
      case 'float64':
      case 'timestamp':
        this.values[at] = view.getFloat64(cursor.at, true)
        cursor.at += 8
        return
      case 'int32':
        this.values[at] = view.getInt32(cursor.at, true)
        cursor.at += 4
        return
      case 'int64':
        ;(this.values as BigInt64Array)[at] = view.getBigInt64(cursor.at, true)
        cursor.at += 8
        return
      case 'boolean':
        this.values[at] = view.getUint8(cursor.at++)
        return
      default: {
        const start = cursor.at + 4
        const end = start + view.getUint32(cursor.at, true)
        cursor.at = end
        if (from.kind === 'opaque') this.objects[at] = this.opaque.decode(cursor.bytes, start, end)
        else {
          this.starts[at] = this.text.writeBytes(cursor.bytes, start, end)
          this.ends[at] = this.text.length
        }
      }
    }
  }

  /** The column of the rows so far, in memory of its own; starts afresh. */
  build(length: number): Column {
    const { kind } = this.field
    const nulls: Nulls = this.nulls === null ? null : this.nulls.slice(0, length)
    this.nulls = null
    if (kind === 'opaque') {
      const { objects } = this
      this.objects = []
      return { kind, values: objects, nulls: null }
    }
    if (kind === 'string') {
      const bytes = this.text.view()
      this.text = new ByteArena(Math.max(256, bytes.length + (bytes.length >> 3)))
      return { kind, bytes, starts: this.starts.slice(0, length), ends: this.ends.slice(0, length), nulls }
    }
    return { kind, values: this.values.slice(0, length), nulls } as Column
  }
}

function valuesOf(kind: Field['kind'], rows: number): Float64Array | Int32Array | BigInt64Array | Uint8Array {
  switch (kind) {
    case 'float64':
    case 'timestamp':
      return new Float64Array(rows)
    case 'int32':
      return new Int32Array(rows)
    case 'int64':
      return new BigInt64Array(rows)
    default:
      return new Uint8Array(kind === 'boolean' ? rows : 0)
  }
}

/** A batch under way: rows are begun, then filled cell by cell from batches and from bytes. */
export class RowBuffer {
  readonly schema: Schema
  private readonly columns: readonly ColumnBuffer[]
  /** Rows begun. */
  length = 0
  private readonly eventTime = new Float64Array(BATCH_ROWS_MAX)
  /** One for each of the two arrays that rows come from in turn, so that neither is looked at anew. */
  private cursor = new ByteCursor()
  private otherCursor = new ByteCursor()

  constructor(schema: Schema, opaque: OpaqueCodec) {
    this.schema = schema
    this.columns = schema.fields.map((field) => new ColumnBuffer(field, opaque, BATCH_ROWS_MAX))
  }

  begin(eventTime: number): void {
    assert(this.length < BATCH_ROWS_MAX, 'a row buffer is built before it overflows')
    this.eventTime[this.length++] = eventTime
  }

  /** Fills cells from column `offset` on with row `i` of a batch. */
  appendRow(offset: number, batch: Batch, i: number): void {
    const at = this.length - 1
    const { columns } = batch
    for (let k = 0; k < columns.length; k++) this.columns[offset + k]!.copy(columns[k]!, i, at)
  }

  /** Fills cells from column `offset` on with a row that a `RowWriter` of `fields` wrote at `start`; returns its end. */
  appendBytes(offset: number, fields: readonly Field[], bytes: Uint8Array, start: number): number {
    const at = this.length - 1
    if (bytes !== this.cursor.bytes) {
      const { cursor } = this
      this.cursor = this.otherCursor
      this.otherCursor = cursor
    }
    const { cursor } = this
    cursor.set(bytes, start)
    for (let k = 0; k < fields.length; k++) this.columns[offset + k]!.decode(cursor, fields[k]!, at)
    return cursor.at
  }

  /** Fills `count` cells from column `offset` on with NULL. */
  appendNulls(offset: number, count: number): void {
    for (let k = 0; k < count; k++) this.columns[offset + k]!.setNull(this.length - 1)
  }

  /** The batch of the rows so far; starts afresh. */
  build(kinds: RowKinds): Batch {
    const { length } = this
    this.length = 0
    return {
      schema: this.schema,
      length,
      columns: this.columns.map((column) => column.build(length)),
      eventTime: this.eventTime.slice(0, length),
      keys: null,
      kinds,
    }
  }
}
