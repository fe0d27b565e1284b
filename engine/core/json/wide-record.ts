/**
 * The quick path of a JSON decoder for schemas of many fields, by tables instead of generated code.
 *
 * generate-decoder.ts uses it where a function with a case for each field would be larger than the compiler takes. It answers as the
 * generated function does: the position after the record and the spaces behind it, or -1 when the record is not plain.
 *
 * `order` says which field stood at which place of the record before, as there. A key that does not stand where it is expected is
 * found by its hash.
 */
import type { ColumnMemory } from '../decoder-columns.ts'
import type { ColumnKind, Field } from '../schema.ts'
import { type FastRecord, parseOpaque } from './fast-record.ts'
import { int32Reader, int64Reader, literalEnd, plainString, readNumber, skipSpace, skipValue } from './scan.ts'
import { parseTimestamp } from './timestamp.ts'

/** The keys of a schema as they stand in a record. */
class KeyTable {
  private readonly unknown: number
  /** `"name":` of every field in words of four bytes, the last of which begins where the key ends in it; none for a name with escapes. */
  private readonly words: Int32Array
  private readonly starts: Int32Array
  private readonly lengths: Int32Array
  /** The names, for look-ups; open addressing by hash, -1 is a free place. */
  private readonly names: readonly Buffer[]
  private readonly places: Int32Array

  constructor(fields: readonly Field[]) {
    this.unknown = fields.length
    const keys = fields.map(({ name }) => {
      const key = JSON.stringify(name)
      return Buffer.from(key === `"${name}"` ? `${key}:` : '')
    })
    this.lengths = Int32Array.from(keys, (key) => key.length)
    const words = keys.map((key) =>
      Array.from({ length: Math.ceil(key.length / 4) }, (_, i) => key.readInt32LE(Math.min(4 * i, key.length - 4))),
    )
    this.words = Int32Array.from(words.flat())
    this.starts = new Int32Array(fields.length)
    for (let k = 1; k < fields.length; k++) this.starts[k] = this.starts[k - 1]! + words[k - 1]!.length
    this.names = fields.map(({ name }) => Buffer.from(name))
    let size = 2
    while (size < 2 * fields.length) size *= 2
    this.places = new Int32Array(size).fill(-1)
    for (const [k, name] of this.names.entries()) {
      let place = hash(name, 0, name.length) & (size - 1)
      while (this.places[place]! >= 0) place = (place + 1) & (size - 1)
      this.places[place] = k
    }
  }

  /** The position after `"name":` of field `k` when exactly that stands at `p`, otherwise -1. Reads at most 3 bytes too far. */
  after(view: DataView, p: number, k: number): number {
    const length = this.lengths[k]!
    if (length === 0) return -1
    const { words } = this
    const last = p + length - 4
    let i = this.starts[k]!
    for (; p < last; p += 4) if (view.getInt32(p, true) !== words[i++]) return -1
    return view.getInt32(last, true) === words[i] ? last + 4 : -1
  }

  /** The field whose name is b[from, to), or the number of fields. */
  find(b: Uint8Array, from: number, to: number): number {
    const { places, names } = this
    const mask = places.length - 1
    for (let place = hash(b, from, to) & mask; ; place = (place + 1) & mask) {
      const k = places[place]!
      if (k < 0) return this.unknown
      const name = names[k]!
      if (name.length !== to - from) continue
      let i = 0
      while (i < name.length && b[from + i] === name[i]) i++
      if (i === name.length) return k
    }
  }
}

/** FNV-1a. */
function hash(b: Uint8Array, from: number, to: number): number {
  let h = 0x811c9dc5
  for (let i = from; i < to; i++) h = Math.imul(h ^ b[i]!, 0x01000193)
  return h ^ (h >>> 15)
}

/** Reads the value at `p` (not whitespace) of field `k` into row `row`; the position after it, or -1. */
type ReadValue = (b: Buffer, p: number, k: number, row: number) => number

const STRING = 0
const BOOLEAN = 1
const INT32 = 2
const INT64 = 3
const FLOAT64 = 4
const TIMESTAMP = 5
const OPAQUE = 6
const CODES: Readonly<Record<ColumnKind, number>> = {
  string: STRING,
  boolean: BOOLEAN,
  int32: INT32,
  int64: INT64,
  float64: FLOAT64,
  timestamp: TIMESTAMP,
  opaque: OPAQUE,
}

function valueReader(columns: readonly ColumnMemory[], depthMax: number, newlines: boolean): ReadValue {
  const readInt32 = int32Reader()
  const readInt64 = int64Reader()
  const codes = Uint8Array.from(columns, ({ field }) => CODES[field.kind])
  // A value of an opaque column is its own NULL.
  const nullables = Uint8Array.from(columns, ({ field }) => (field.nullable && field.kind !== 'opaque' ? 1 : 0))
  return (b, p, k, row) => {
    const c = b[p]!
    const column = columns[k]!
    if (nullables[k] === 1) {
      if (c === 0x6e) {
        const end = literalEnd(b, p)
        if (end !== -1) column.setNull(row)
        return end
      }
      column.nulls[row] = 0
    }
    switch (codes[k]) {
      case STRING: {
        if (c !== 0x22) return -1
        const end = plainString(b, p)
        column.starts[row] = p + 1
        column.ends[row] = end - 1
        return end
      }
      case BOOLEAN:
        if (c !== 0x74 && c !== 0x66) return -1
        column.booleans[row] = c === 0x74 ? 1 : 0
        return literalEnd(b, p)
      case INT32:
        return readInt32(b, p, column.int32s, row)
      case INT64:
        return readInt64(b, p, column.words, row)
      case FLOAT64:
        return readNumber(b, p, column.doubles, row)
      case TIMESTAMP:
        return readTime(b, p, column.doubles, row)
      default: {
        const end = skipValue(b, p, 2, depthMax, newlines)
        if (end === -1) return -1
        const value = parseOpaque(b, p, end)
        column.objects[row] = value
        return value === undefined ? -1 : end
      }
    }
  }
}

function readTime(b: Buffer, p: number, out: Float64Array, row: number): number {
  const isText = b[p] === 0x22
  const end = isText ? plainString(b, p) : readNumber(b, p, out, row)
  if (end === -1) return -1
  if (isText) out[row] = parseTimestamp(b, p + 1, end - 1)
  return Number.isFinite(out[row]) ? end : -1
}

/** As `generateFastRecord`. */
export function wideRecord(
  fields: readonly Field[],
  columns: readonly ColumnMemory[],
  depthMax: number,
  newlines: boolean,
): FastRecord {
  const keys = new KeyTable(fields)
  const readValue = valueReader(columns, depthMax, newlines)
  const unknown = fields.length
  const order = Int32Array.from({ length: 2 * fields.length }, (_, place) => Math.min(place, unknown))
  /** The record in which a field came last. */
  const seenIn = new Int32Array(fields.length)
  let record = 0

  const missing = (row: number): boolean => {
    for (let k = 0; k < unknown; k++) {
      if (seenIn[k] === record) continue
      if (!fields[k]!.nullable) return false
      columns[k]!.setNull(row)
    }
    return true
  }
  const spaces = (b: Buffer, p: number): number => (b[p]! <= 32 ? skipSpace(b, p, newlines) : p)
  const members = (b: Buffer, view: DataView, p: number, row: number): number => {
    let seen = 0
    for (let place = 0; ; place++) {
      let k = place < order.length ? order[place]! : unknown
      let end = k === unknown ? -1 : keys.after(view, p, k)
      if (end === -1) {
        if (b[p] !== 0x22) return -1
        end = plainString(b, p)
        if (end === -1) return -1
        k = keys.find(b, p + 1, end - 1)
        if (place < order.length) order[place] = k
        p = spaces(b, end)
        if (b[p] !== 0x3a) return -1
        end = p + 1
      }
      p = spaces(b, end)
      if (k === unknown) p = skipValue(b, p, 2, depthMax, newlines)
      else {
        // The checked path knows which of two counts.
        if (seenIn[k] === record) return -1
        seenIn[k] = record
        seen++
        p = readValue(b, p, k, row)
      }
      if (p === -1) return -1
      p = spaces(b, p)
      if (b[p] === 0x2c) {
        p = spaces(b, p + 1)
        continue
      }
      if (b[p] !== 0x7d) return -1
      return seen === unknown || missing(row) ? spaces(b, p + 1) : -1
    }
  }
  return (b, view, start, row) => {
    record = (record + 1) | 0
    let p = spaces(b, start)
    if (b[p] !== 0x7b) return -1
    p = spaces(b, p + 1)
    if (b[p] === 0x7d) return missing(row) ? spaces(b, p + 1) : -1
    return members(b, view, p, row)
  }
}
