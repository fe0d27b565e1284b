/**
 * The checked path of the JSON decoder: one record at a time through `JSON.parse`.
 *
 * It takes what the generated path does not (escapes in wanted strings, duplicate keys, integers beyond
 * 2^53, a byte order mark) and everything that is wrong, and it alone decides about rejection. Both
 * paths must agree; the property tests hold them to it.
 */

import type { ColumnMemory, DecoderColumns } from '../decoder-columns.ts'
import { messageOf } from '../errors.ts'
import { recordTooLong } from '../record-limit.ts'
import type { Field } from '../schema.ts'
import { asBuffer } from '../strings.ts'
import { utf8Length } from './scan.ts'
import { parseTimestamp } from './timestamp.ts'

export interface RecordLimits {
  /** Nesting levels of containers; the record itself is level 1. */
  readonly depthMax: number
  readonly recordBytesMax: number
}

/** Writes a record to row `row`; returns null, or the reason why it cannot be used. */
export type CheckedDecode = (bytes: Uint8Array, start: number, end: number, row: number) => string | null

const INT64_MIN = -(2n ** 63n)
const INT64_MAX = 2n ** 63n - 1n

/** An integer literal whose digits a double may not hold. */
interface LongInteger {
  readonly holder: unknown
  readonly key: string
  readonly source: string
}

export function checkedDecode(columns: DecoderColumns, limits: RecordLimits): CheckedDecode {
  const schema = columns.schema
  const decoder = new TextDecoder('utf-8', { fatal: true })
  const int64Names = new Set(schema.fields.filter((f) => f.kind === 'int64').map((f) => f.name))
  const parse =
    int64Names.size === 0 ? (text: string) => ({ value: JSON.parse(text) as unknown, longs: [] }) : parseLong
  return (bytes, start, end, row) => {
    if (end - start > limits.recordBytesMax) {
      return recordTooLong(end - start, limits.recordBytesMax)
    }
    let text: string
    try {
      text = decoder.decode(bytes.subarray(start, end))
    } catch {
      return `Invalid UTF-8 at byte ${invalidUtf8At(bytes, start, end)} of the record.`
    }
    const tooDeepAt = depthExceededAt(text, limits.depthMax)
    if (tooDeepAt >= 0) return `Nested deeper than ${limits.depthMax} levels at position ${tooDeepAt}.`
    let parsed: { value: unknown; longs: readonly LongInteger[] }
    try {
      parsed = parse(text, int64Names)
    } catch (error) {
      return `Malformed JSON: ${messageOf(error)}.`
    }
    const value = parsed.value
    if (schema.isOpaque) return setOpaque(columns.memory[0]!, value, row, 'the value')
    if (value === null || typeof value !== 'object' || Array.isArray(value)) {
      return `The record must be a JSON object, got ${shown(value)}.`
    }
    for (const column of columns.memory) {
      const reason = setField(columns, column, value as Record<string, unknown>, parsed.longs, row)
      if (reason !== null) return reason
    }
    return null
  }
}

/** JSON.parse that remembers the digits of integers beyond 2^53 under the names given. */
function parseLong(text: string, names: ReadonlySet<string>): { value: unknown; longs: LongInteger[] } {
  const longs: LongInteger[] = []
  const value: unknown = JSON.parse(text, function (
    this: unknown,
    key: string,
    v: unknown,
    context?: { source?: string },
  ) {
    if (typeof v === 'number' && !Number.isSafeInteger(v) && names.has(key) && context?.source !== undefined) {
      longs.push({ holder: this, key, source: context.source })
    }
    return v
  } as (this: unknown, key: string, value: unknown) => unknown)
  return { value, longs }
}

function setField(
  columns: DecoderColumns,
  column: ColumnMemory,
  record: Record<string, unknown>,
  longs: readonly LongInteger[],
  row: number,
): string | null {
  const field = column.field
  const present = Object.hasOwn(record, field.name)
  const value = present ? record[field.name] : undefined
  if (field.kind === 'opaque' && present) return setOpaque(column, value, row, `field ${JSON.stringify(field.name)}`)
  if (value === undefined || value === null) {
    if (!field.nullable) return `Field ${JSON.stringify(field.name)} is ${present ? 'null' : 'missing'}.`
    column.setNull(row)
    return null
  }
  if (field.nullable) column.nulls[row] = 0
  switch (field.kind) {
    case 'string':
      if (typeof value !== 'string') return wrongType(field, value)
      column.starts[row] = -1 - columns.arena.writeString(value)
      column.ends[row] = -1 - columns.arena.length
      return null
    case 'boolean':
      if (typeof value !== 'boolean') return wrongType(field, value)
      column.booleans[row] = value ? 1 : 0
      return null
    case 'int32':
      if (typeof value !== 'number' || (value | 0) !== value) return wrongType(field, value)
      column.int32s[row] = value
      return null
    case 'int64': {
      const long = longs.find((l) => l.holder === record && l.key === field.name)
      const integer = toInt64(value, long?.source)
      if (integer === null) return wrongType(field, value)
      column.int64s[row] = integer
      return null
    }
    default: {
      const number = field.kind === 'timestamp' ? toTimestamp(value) : toFloat64(value)
      if (number === null) return wrongType(field, value)
      column.doubles[row] = number
      return null
    }
  }
}

function setOpaque(column: ColumnMemory, value: unknown, row: number, where: string): string | null {
  if (hasProtoKey(value)) return `A key "__proto__" in ${where} is refused.`
  column.objects[row] = value
  return null
}

/** Whether a parsed value holds an own key `__proto__` at any depth. The depth is bounded already. */
export function hasProtoKey(value: unknown): boolean {
  if (value === null || typeof value !== 'object') return false
  if (Array.isArray(value)) return value.some(hasProtoKey)
  return Object.hasOwn(value, '__proto__') || Object.values(value).some(hasProtoKey)
}

/** Also reads integers written as text, which is how bigints beyond 2^53 are written. */
function toInt64(value: unknown, source: string | undefined): bigint | null {
  if (typeof value === 'number' && Number.isSafeInteger(value)) return BigInt(value)
  const text = typeof value === 'string' ? value : source
  if (text === undefined || !/^-?(0|[1-9][0-9]{0,18})$/.test(text)) return null
  const integer = BigInt(text)
  return integer >= INT64_MIN && integer <= INT64_MAX ? integer : null
}

/** Also reads the three numbers that JSON cannot write, as text. */
function toFloat64(value: unknown): number | null {
  if (typeof value === 'number') return value
  return value === 'NaN' || value === 'Infinity' || value === '-Infinity' ? Number(value) : null
}

function toTimestamp(value: unknown): number | null {
  if (typeof value === 'number') return Number.isFinite(value) ? value : null
  if (typeof value !== 'string') return null
  const bytes = Buffer.from(value)
  const ms = parseTimestamp(bytes, 0, bytes.length)
  return Number.isNaN(ms) ? null : ms
}

function shown(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'an array'
  if (typeof value === 'object') return 'an object'
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value)
  return text.length > 60 ? `${text.slice(0, 60)}...` : text
}

function wrongType(field: Field, value: unknown): string {
  return `Field ${JSON.stringify(field.name)} must be ${field.kind}, got ${shown(value)}.`
}

/** Position of the first bracket that opens a level above `depthMax`, or -1. */
function depthExceededAt(text: string, depthMax: number): number {
  let depth = 0
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i)
    if (c === 0x22) {
      for (i++; i < text.length && text.charCodeAt(i) !== 0x22; i++) if (text.charCodeAt(i) === 0x5c) i++
    } else if (c === 0x7b || c === 0x5b) {
      if (++depth > depthMax) return i
    } else if (c === 0x7d || c === 0x5d) depth--
  }
  return -1
}

function invalidUtf8At(bytes: Uint8Array, start: number, end: number): number {
  // A copy with zeros behind it: a sequence cut off by the record's end must not read on.
  const copy = Buffer.alloc(end - start + 4)
  asBuffer(bytes).copy(copy, 0, start, end)
  let p = 0
  while (p < end - start) {
    const length = copy[p]! < 0x80 ? 1 : utf8Length(copy, p)
    if (length === 0) return p
    p += length
  }
  return p
}
