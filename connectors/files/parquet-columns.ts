/**
 * The columns of a Parquet row group: values as they lie in batches until there are enough of them, then pages. Used by
 * parquet-writer.ts.
 *
 * Values are kept in Parquet's plain encoding and without NULLs, so that most pages are copies of memory. Texts are looked
 * up in a dictionary by their bytes; a column whose texts are mostly different goes on without one. No string and no row
 * is made. The format is https://parquet.apache.org/docs/file-format/, data pages of version 2.
 */
import { assert } from '../../engine/core/assert.ts'
import type {
  BooleanColumn,
  Column,
  Float64Column,
  Int32Column,
  Int64Column,
  OpaqueColumn,
  StringColumn,
} from '../../engine/core/batch.ts'
import { MillraceError } from '../../engine/core/errors.ts'
import { writeJsonValue } from '../../engine/core/json/json-writer.ts'
import type { Field } from '../../engine/core/schema.ts'
import { asBuffer, ByteArena } from '../../engine/core/strings.ts'

/** Names of parquet.thrift. */
export type PhysicalType = 'BOOLEAN' | 'INT32' | 'INT64' | 'DOUBLE' | 'BYTE_ARRAY'
export type ValueEncoding = 'PLAIN' | 'RLE_DICTIONARY'

/** Bounds of a column's values, as hyparquet-writer takes them; undefined where none is known. */
export interface ColumnBounds {
  readonly min_value?: number | bigint | string | boolean
  readonly max_value?: number | bigint | string | boolean
}

/** The values of one field in the row group under way. */
export interface ColumnValues {
  readonly type: PhysicalType
  /** Memory taken, about. */
  readonly heldBytes: number
  /** Appends rows [from, to) of a batch's column. */
  append(column: Column, from: number, to: number): void
  /** The dictionary in plain encoding; null without one. Called once, before the pages. */
  dictionary(): { readonly bytes: Uint8Array; readonly count: number } | null
  readonly encoding: ValueEncoding
  /** Bytes of a page of values [from, to), NULLs not counted; used before the next call. Pages come in order. */
  page(from: number, to: number): Uint8Array
  bounds(): ColumnBounds
  clear(): void
}

const CAPACITY_MIN = 1_024

/** Which rows are NULL. */
export class NullRows {
  private nulls = new Uint8Array(CAPACITY_MIN)
  private rows = 0
  /** NULLs so far. */
  count = 0

  get heldBytes(): number {
    return this.rows
  }

  append(column: Column, from: number, to: number): void {
    this.nulls = withRoom(this.nulls, this.rows, to - from)
    for (let i = from; i < to; i++) {
      const isNull =
        column.kind === 'opaque' ? column.values[i] == null : column.nulls !== null && column.nulls[i] === 1
      this.nulls[this.rows++] = isNull ? 1 : 0
      if (isNull) this.count++
    }
  }

  countIn(from: number, to: number): number {
    if (this.count === 0) return 0
    let count = 0
    for (let i = from; i < to; i++) count += this.nulls[i]!
    return count
  }

  /** Definition levels of rows [from, to): one run where they are all alike, else a bit for each. */
  levels(from: number, to: number): Uint8Array {
    const nulls = this.countIn(from, to)
    const rows = to - from
    const into = new ByteArena(16 + (rows >> 3))
    if (nulls === 0 || nulls === rows) {
      writeVarInt(into, rows << 1)
      into.writeByte(nulls === 0 ? 1 : 0)
    } else {
      writeBitPacked(into, rows, 1, (i) => 1 - this.nulls[from + i]!)
    }
    return into.view()
  }

  clear(): void {
    this.rows = 0
    this.count = 0
  }
}

/** The values of a field. */
export function columnValues(field: Field): ColumnValues {
  switch (field.kind) {
    case 'boolean':
      return new Booleans()
    case 'int32':
      return new Numbers('INT32', new Int32Array(CAPACITY_MIN))
    case 'int64':
      return new Numbers('INT64', new BigInt64Array(CAPACITY_MIN))
    case 'float64':
      return new Numbers('DOUBLE', new Float64Array(CAPACITY_MIN))
    case 'timestamp':
      return new Timestamps()
    case 'string':
    case 'opaque':
      return new Texts(field.kind)
  }
}

/** Numbers that Parquet has as they lie in memory. */
class Numbers<A extends Int32Array | BigInt64Array | Float64Array> implements ColumnValues {
  readonly type: PhysicalType
  readonly encoding = 'PLAIN'
  private values: A
  private length = 0

  constructor(type: PhysicalType, values: A) {
    this.type = type
    this.values = values
  }

  get heldBytes(): number {
    return this.length * this.values.BYTES_PER_ELEMENT
  }

  append(column: Column, from: number, to: number): void {
    const { nulls } = column
    const values = (column as Int32Column | Int64Column | Float64Column).values as A
    this.values = withRoom(this.values, this.length, to - from)
    if (nulls === null) {
      this.values.set(values.subarray(from, to) as never, this.length)
      this.length += to - from
      return
    }
    for (let i = from; i < to; i++) if (nulls[i] === 0) this.values[this.length++] = values[i] as never
  }

  dictionary(): null {
    return null
  }

  page(from: number, to: number): Uint8Array {
    const { buffer, BYTES_PER_ELEMENT: width } = this.values
    return new Uint8Array(buffer, from * width, (to - from) * width)
  }

  bounds(): ColumnBounds {
    let min: number | bigint | undefined
    let max: number | bigint | undefined
    for (let i = 0; i < this.length; i++) {
      const value = this.values[i]!
      if (min === undefined || value < min) min = Number.isNaN(value) ? min : value
      if (max === undefined || value > max) max = Number.isNaN(value) ? max : value
    }
    if (min === undefined || max === undefined) return {}
    // Readers may take zeros of either sign for equal.
    return { min_value: min === 0 ? -0 : min, max_value: max === 0 ? 0 : max }
  }

  clear(): void {
    this.length = 0
  }
}

const TWO_32 = 2 ** 32

/** Milliseconds in 64 bits, as two halves of which the lower comes first. */
class Timestamps implements ColumnValues {
  readonly type = 'INT64'
  readonly encoding = 'PLAIN'
  private halves = new Int32Array(2 * CAPACITY_MIN)
  private length = 0
  private min = Number.POSITIVE_INFINITY
  private max = Number.NEGATIVE_INFINITY

  get heldBytes(): number {
    return this.length * 8
  }

  append(column: Column, from: number, to: number): void {
    const { values, nulls } = column as Float64Column
    this.halves = withRoom(this.halves, 2 * this.length, 2 * (to - from))
    for (let i = from; i < to; i++) {
      if (nulls !== null && nulls[i] === 1) continue
      const timeMs = Math.trunc(values[i]!)
      if (!Number.isSafeInteger(timeMs)) {
        throw new MillraceError('ROW_NOT_SERIALIZABLE', `The timestamp ${values[i]} cannot be written to Parquet.`, {
          hint: 'Make the field nullable and give NULL where there is no time.',
        })
      }
      const high = Math.floor(timeMs / TWO_32)
      this.halves[2 * this.length] = timeMs - high * TWO_32
      this.halves[2 * this.length + 1] = high
      this.length++
      if (timeMs < this.min) this.min = timeMs
      if (timeMs > this.max) this.max = timeMs
    }
  }

  dictionary(): null {
    return null
  }

  page(from: number, to: number): Uint8Array {
    return new Uint8Array(this.halves.buffer, from * 8, (to - from) * 8)
  }

  bounds(): ColumnBounds {
    return this.length === 0 ? {} : { min_value: BigInt(this.min), max_value: BigInt(this.max) }
  }

  clear(): void {
    this.length = 0
    this.min = Number.POSITIVE_INFINITY
    this.max = Number.NEGATIVE_INFINITY
  }
}

class Booleans implements ColumnValues {
  readonly type = 'BOOLEAN'
  readonly encoding = 'PLAIN'
  private values = new Uint8Array(CAPACITY_MIN)
  private length = 0
  private trues = 0

  get heldBytes(): number {
    return this.length
  }

  append(column: Column, from: number, to: number): void {
    const { values, nulls } = column as BooleanColumn
    this.values = withRoom(this.values, this.length, to - from)
    for (let i = from; i < to; i++) {
      if (nulls !== null && nulls[i] === 1) continue
      this.values[this.length++] = values[i]!
      this.trues += values[i]!
    }
  }

  dictionary(): null {
    return null
  }

  page(from: number, to: number): Uint8Array {
    const bytes = new Uint8Array((to - from + 7) >> 3)
    for (let i = from; i < to; i++) bytes[(i - from) >> 3]! |= this.values[i]! << ((i - from) & 7)
    return bytes
  }

  bounds(): ColumnBounds {
    return this.length === 0 ? {} : { min_value: this.trues === this.length, max_value: this.trues > 0 }
  }

  clear(): void {
    this.length = 0
    this.trues = 0
  }
}

const SLOTS_MIN = 256
/** After so many values it is looked whether a dictionary may come to pay; and again each time that they have doubled. */
const FIRST_LOOK = 8_192
/** A dictionary that is more than this share of all text by then is given up. */
const HOPELESS_SHARE = 0.9
/** Of an entry's length before its bytes. */
const LENGTH_BYTES = 4

/** Texts, and JSON of opaque values. Entries are a length of four bytes and the text, each once while there is a dictionary. */
class Texts implements ColumnValues {
  readonly type = 'BYTE_ARRAY'
  private readonly kind: 'string' | 'opaque'
  private readonly json = new ByteArena(256)
  private entries = new ByteArena(CAPACITY_MIN)
  private hasDictionary = true
  /** Of the dictionary: where entries start, their hashes, and slots that hold entry numbers + 1. */
  private starts = new Int32Array(SLOTS_MIN)
  private hashes = new Int32Array(SLOTS_MIN)
  private slots = new Int32Array(2 * SLOTS_MIN)
  private distinct = 0
  /** For each value its entry. */
  private indices = new Int32Array(CAPACITY_MIN)
  private length = 0
  /** Of all values, in plain encoding. */
  private plainBytes = 0
  private nextLook = FIRST_LOOK
  /** Where the next page begins, without a dictionary. */
  private pageStart = 0

  constructor(kind: 'string' | 'opaque') {
    this.kind = kind
  }

  get heldBytes(): number {
    return this.entries.length + (this.hasDictionary ? 4 * this.length : 0)
  }

  get encoding(): ValueEncoding {
    return this.hasDictionary ? 'RLE_DICTIONARY' : 'PLAIN'
  }

  append(column: Column, from: number, to: number): void {
    this.indices = withRoom(this.indices, this.length, to - from)
    if (this.kind === 'opaque') this.appendJson(column as OpaqueColumn, from, to)
    else this.appendTexts(column as StringColumn, from, to)
  }

  private appendTexts({ bytes, starts, ends, nulls }: StringColumn, from: number, to: number): void {
    for (let i = from; i < to; i++) {
      if (nulls === null || nulls[i] === 0) this.add(bytes, starts[i]!, ends[i]!)
    }
  }

  private appendJson({ values }: OpaqueColumn, from: number, to: number): void {
    const { json } = this
    for (let i = from; i < to; i++) {
      if (values[i] == null) continue
      json.clear()
      writeJsonValue(json, values[i])
      this.add(json.bytes, 0, json.length)
    }
  }

  private add(bytes: Uint8Array, start: number, end: number): void {
    this.plainBytes += LENGTH_BYTES + end - start
    if (this.hasDictionary) this.indices[this.length] = this.entryOf(bytes, start, end)
    else this.writeEntry(bytes, start, end)
    this.length++
    if (this.length !== this.nextLook || !this.hasDictionary) return
    this.nextLook *= 2
    if (this.entries.length > HOPELESS_SHARE * this.plainBytes) this.dropDictionary()
  }

  private writeEntry(bytes: Uint8Array, start: number, end: number): void {
    const { entries } = this
    entries.reserve(LENGTH_BYTES)
    entries.length = entries.bytes.writeUInt32LE(end - start, entries.length)
    entries.writeBytes(bytes, start, end)
  }

  /** The entry of a text, a new one perhaps. */
  private entryOf(bytes: Uint8Array, start: number, end: number): number {
    let hash = (end - start) | 0
    for (let i = start; i < end; i++) hash = Math.imul(hash ^ bytes[i]!, 0x01000193)
    hash ^= hash >>> 15
    const mask = this.slots.length - 1
    let slot = hash & mask
    for (let entry = this.slots[slot]!; entry !== 0; entry = this.slots[slot]!) {
      if (this.hashes[entry - 1] === hash && this.isEntry(entry - 1, bytes, start, end)) return entry - 1
      slot = (slot + 1) & mask
    }
    const entry = this.distinct++
    this.starts = withRoom(this.starts, entry, 1)
    this.hashes = withRoom(this.hashes, entry, 1)
    this.starts[entry] = this.entries.length
    this.hashes[entry] = hash
    this.writeEntry(bytes, start, end)
    this.slots[slot] = entry + 1
    if (2 * this.distinct > mask) this.growSlots()
    return entry
  }

  private isEntry(entry: number, bytes: Uint8Array, start: number, end: number): boolean {
    const held = this.entries.bytes
    const from = this.starts[entry]!
    if (held.readUInt32LE(from) !== end - start) return false
    for (let i = start, at = from + LENGTH_BYTES; i < end; i++, at++) if (bytes[i] !== held[at]) return false
    return true
  }

  private growSlots(): void {
    this.slots = new Int32Array(2 * this.slots.length)
    const mask = this.slots.length - 1
    for (let entry = 0; entry < this.distinct; entry++) {
      let slot = this.hashes[entry]! & mask
      while (this.slots[slot] !== 0) slot = (slot + 1) & mask
      this.slots[slot] = entry + 1
    }
  }

  /** Where it spares half of the bytes. */
  private get dictionaryPays(): boolean {
    return 2 * this.entries.length <= this.plainBytes
  }

  private dropDictionary(): void {
    const { bytes } = this.entries
    this.entries = new ByteArena(this.plainBytes + CAPACITY_MIN)
    this.hasDictionary = false
    for (let i = 0; i < this.length; i++) {
      const start = this.starts[this.indices[i]!]!
      this.entries.writeBytes(bytes, start, start + LENGTH_BYTES + bytes.readUInt32LE(start))
    }
  }

  dictionary(): { readonly bytes: Uint8Array; readonly count: number } | null {
    if (this.hasDictionary && !this.dictionaryPays) this.dropDictionary()
    this.pageStart = 0
    return this.hasDictionary ? { bytes: this.entries.view(), count: this.distinct } : null
  }

  page(from: number, to: number): Uint8Array {
    if (!this.hasDictionary) {
      const start = this.pageStart
      const { bytes } = this.entries
      for (let i = from; i < to; i++) this.pageStart += LENGTH_BYTES + bytes.readUInt32LE(this.pageStart)
      return bytes.subarray(start, this.pageStart)
    }
    const width = Math.max(1, 32 - Math.clz32(this.distinct - 1))
    const into = new ByteArena(16 + (((to - from) * width) >> 3))
    into.writeByte(width)
    writeBitPacked(into, to - from, width, (i) => this.indices[from + i]!)
    return into.view()
  }

  /** JSON has no order that readers could use. */
  bounds(): ColumnBounds {
    if (this.kind === 'opaque' || this.length === 0) return {}
    const { bytes, length } = this.entries
    let min = -1
    let max = -1
    for (let at = 0; at < length; at += LENGTH_BYTES + bytes.readUInt32LE(at)) {
      if (min < 0 || compareEntries(bytes, at, min) < 0) min = at
      if (max < 0 || compareEntries(bytes, at, max) > 0) max = at
    }
    const textAt = (at: number): string =>
      asBuffer(bytes).utf8Slice(at + LENGTH_BYTES, at + LENGTH_BYTES + bytes.readUInt32LE(at))
    return { min_value: textAt(min), max_value: textAt(max) }
  }

  clear(): void {
    this.entries.clear()
    this.hasDictionary = true
    this.slots.fill(0)
    this.distinct = 0
    this.length = 0
    this.plainBytes = 0
    this.nextLook = FIRST_LOOK
  }
}

/** Order of the texts of two entries, by their bytes. */
function compareEntries(bytes: Buffer, a: number, b: number): number {
  const lengthOfA = bytes.readUInt32LE(a)
  const lengthOfB = bytes.readUInt32LE(b)
  const shared = Math.min(lengthOfA, lengthOfB)
  for (let i = LENGTH_BYTES; i < LENGTH_BYTES + shared; i++) {
    const difference = bytes[a + i]! - bytes[b + i]!
    if (difference !== 0) return difference
  }
  return lengthOfA - lengthOfB
}

/** The array, or a larger one with the same first `length` elements, that has room for `more`. */
function withRoom<A extends Uint8Array | Int32Array | BigInt64Array | Float64Array>(
  array: A,
  length: number,
  more: number,
): A {
  if (length + more <= array.length) return array
  const make = array.constructor as new (length: number) => A
  const grown = new make(Math.max(length + more, 2 * array.length))
  grown.set(array.subarray(0, length) as never)
  return grown
}

/** Appends an unsigned number, seven bits a byte, the lowest first. */
export function writeVarInt(into: ByteArena, value: number): void {
  assert(value >= 0, 'sizes and counts are not negative')
  for (; value > 0x7f; value = Math.floor(value / 128)) into.writeByte((value & 0x7f) | 0x80)
  into.writeByte(value)
}

/** Appends one run of Parquet's hybrid encoding: `count` values of `width` bits, packed from the lowest bit on. */
function writeBitPacked(into: ByteArena, count: number, width: number, valueAt: (i: number) => number): void {
  const groups = (count + 7) >> 3
  writeVarInt(into, groups * 2 + 1)
  into.reserve(groups * width)
  const { bytes } = into
  const end = into.length + groups * width
  let at = into.length
  let bits = 0
  let held = 0
  for (let i = 0; i < count; i++) {
    held |= valueAt(i) << bits
    bits += width
    for (; bits >= 8; bits -= 8, held >>>= 8) bytes[at++] = held
  }
  if (bits > 0) bytes[at++] = held
  bytes.fill(0, at, end)
  into.length = end
}
