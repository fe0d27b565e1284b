/**
 * JSON records to columns, by a function generated from the schema. Used by every source of JSON.
 *
 * Two paths give one answer. The generated path reads plain records in one pass: it expects the keys in
 * the order of the record before, compares key bytes four at a time, writes numbers and string views
 * straight into columns and passes over unknown keys. At anything unusual it gives up on the record,
 * and the checked path (checked-record.ts: `JSON.parse` plus checks) decides about it.
 *
 * Values: string, boolean; int32 and float64 as numbers (float64 also "NaN", "Infinity", "-Infinity");
 * int64 as a number or a text of digits; timestamp as milliseconds or text (timestamp.ts); nullable
 * fields may be null or absent; other fields may not. For duplicate keys the last one counts. Unknown
 * keys are ignored, but must be well-formed. `__proto__` inside a JSON field is refused.
 *
 * Invariants:
 * - The source buffer is never written to; string columns are views of it.
 * - A returned batch is valid until the next call, and only as long as the buffer keeps its content.
 */
import { BATCH_ROWS_MAX, type Batch } from '../batch.ts'
import { DecoderColumns } from '../decoder-columns.ts'
import { MillraceError } from '../errors.ts'
import type { Schema } from '../schema.ts'
import { asBuffer } from '../strings.ts'
import { checkedDecode, type RecordLimits } from './checked-record.ts'
import type { FastRecord } from './fast-record.ts'
import { generateFastRecord } from './generate-decoder.ts'
import { skipSpace } from './scan.ts'

export interface JsonDecoderOptions {
  /** Unique in the process (`worker.uniqueId`): keeps the generated function's inline caches its own. */
  readonly id: string
  /** Nesting levels allowed, the record included. */
  readonly depthMax?: number
  /** Longer records are rejected. */
  readonly recordBytesMax?: number
}

/** Told of each record that cannot be used; bytes[start, end) is the record. */
export type OnReject = (reason: string, start: number, end: number) => void

/** Bytes that a buffer should have after its last record, so that the generated path may be used there. */
export const JSON_PADDING_BYTES = 8

export const JSON_DEPTH_MAX = 64
export const JSON_RECORD_BYTES_MAX = 8 * 1_024 * 1_024

const NEWLINE = 0x0a
const COMMA = 0x2c
const CLOSING_BRACKET = 0x5d

export class JsonDecoder {
  /** Of each row of the last batch: where its record starts. In [0, batch.length). */
  readonly recordStarts = new Int32Array(BATCH_ROWS_MAX)
  /** After `decodeLines` and `decodeElements`: position after the last record looked at; after `decodeRanges`: index after it. */
  next = 0
  private readonly schema: Schema
  private readonly id: string
  private readonly limits: RecordLimits
  private readonly columns: DecoderColumns
  private readonly checked: (bytes: Uint8Array, start: number, end: number, row: number) => string | null
  private fastLines: FastRecord | null = null
  private fastRanges: FastRecord | null = null
  private source: Uint8Array | null = null
  private buffer: Buffer = Buffer.alloc(0)
  private view: DataView = new DataView(new ArrayBuffer(0))

  constructor(schema: Schema, options: JsonDecoderOptions) {
    this.schema = schema
    this.id = options.id
    this.limits = {
      depthMax: options.depthMax ?? JSON_DEPTH_MAX,
      recordBytesMax: options.recordBytesMax ?? JSON_RECORD_BYTES_MAX,
    }
    if (!(this.limits.depthMax >= 1 && this.limits.recordBytesMax >= 2)) {
      throw new MillraceError('OPTION_INVALID', 'depthMax must be at least 1 and recordBytesMax at least 2.')
    }
    this.columns = new DecoderColumns(schema)
    this.checked = checkedDecode(this.columns, this.limits)
  }

  /**
   * Decodes the lines of bytes[from, to) until `rowsMax` rows are filled; bytes[to - 1] must be a newline.
   * Blank lines are passed over. `next` is where to go on.
   */
  decodeLines(bytes: Uint8Array, from: number, to: number, rowsMax: number, onReject: OnReject): Batch {
    this.attach(bytes)
    this.fastLines ??= generateFastRecord(this.schema, this.columns, this.limits.depthMax, false, `${this.id}-lines`)
    const fast = to + JSON_PADDING_BYTES <= bytes.length ? this.fastLines : null
    const rows = Math.min(rowsMax, BATCH_ROWS_MAX)
    const { buffer, view, recordStarts } = this
    const bytesMax = this.limits.recordBytesMax
    this.columns.begin()
    let length = 0
    let start = from
    while (length < rows && start < to) {
      let end = fast === null ? -1 : fast(buffer, view, start, length)
      if (end >= 0 && buffer[end] === NEWLINE && end - start <= bytesMax) {
        recordStarts[length++] = start
        start = end + 1
        continue
      }
      end = buffer.indexOf(NEWLINE, start)
      if (!isBlank(buffer, start, end) && this.takeChecked(buffer, start, end, length, onReject)) {
        recordStarts[length++] = start
      }
      start = end + 1
    }
    this.next = start
    return this.columns.finish(length, buffer, from, start)
  }

  /**
   * Decodes records bytes[starts[i], ends[i]) for i in [from, to) until `rowsMax` rows are filled. Ranges
   * ascend. Quick for a record that is followed by a zero byte and `JSON_PADDING_BYTES` more in the buffer.
   */
  decodeRanges(
    bytes: Uint8Array,
    starts: Int32Array,
    ends: Int32Array,
    from: number,
    to: number,
    rowsMax: number,
    onReject: OnReject,
  ): Batch {
    this.attach(bytes)
    this.fastRanges ??= generateFastRecord(this.schema, this.columns, this.limits.depthMax, true, `${this.id}-ranges`)
    const fast = this.fastRanges
    const rows = Math.min(rowsMax, BATCH_ROWS_MAX)
    const { buffer, view, recordStarts } = this
    const bytesMax = this.limits.recordBytesMax
    const lastFast = bytes.length - JSON_PADDING_BYTES - 1
    this.columns.begin()
    let length = 0
    let i = from
    for (; i < to && length < rows; i++) {
      const start = starts[i]!
      const end = ends[i]!
      const usable = fast !== null && end <= lastFast && buffer[end] === 0 && end - start <= bytesMax
      if (
        (usable && fast(buffer, view, start, length) === end) ||
        this.takeChecked(buffer, start, end, length, onReject)
      ) {
        recordStarts[length++] = start
      }
    }
    this.next = i
    return this.columns.finish(length, buffer, from < i ? starts[from]! : 0, from < i ? ends[i - 1]! : 0)
  }

  /**
   * Decodes elements of a JSON array, each with the comma or bracket behind it, as long as they are plain and all of one is
   * below `to`. `next` is where the first element begins that was not taken; after the array's last one it is behind the
   * bracket, which then is bytes[next - 1]. No rows: the element at `from` has to be found and given to `decodeRanges`.
   */
  decodeElements(bytes: Uint8Array, from: number, to: number, rowsMax: number): Batch {
    this.attach(bytes)
    this.fastRanges ??= generateFastRecord(this.schema, this.columns, this.limits.depthMax, true, `${this.id}-ranges`)
    const fast = to + JSON_PADDING_BYTES <= bytes.length ? this.fastRanges : null
    const rows = Math.min(rowsMax, BATCH_ROWS_MAX)
    const { buffer, view, recordStarts } = this
    const bytesMax = this.limits.recordBytesMax
    this.columns.begin()
    let length = 0
    let next = from
    while (fast !== null && length < rows && next < to) {
      const start = skipSpace(buffer, next, true)
      const end = fast(buffer, view, start, length)
      if (end < 0 || end >= to || end - start > bytesMax) break
      const isLast = buffer[end] === CLOSING_BRACKET
      if (!isLast && buffer[end] !== COMMA) break
      recordStarts[length++] = start
      next = end + 1
      if (isLast) break
    }
    this.next = next
    return this.columns.finish(length, buffer, from, next)
  }

  private takeChecked(buffer: Buffer, start: number, end: number, row: number, onReject: OnReject): boolean {
    const reason = this.checked(buffer, start, end, row)
    if (reason !== null) onReject(reason, start, end)
    return reason === null
  }

  private attach(bytes: Uint8Array): void {
    if (this.source === bytes) return
    this.source = bytes
    this.buffer = asBuffer(bytes)
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }
}

function isBlank(buffer: Buffer, start: number, end: number): boolean {
  while (start < end && (buffer[start] === 0x20 || buffer[start] === 0x09 || buffer[start] === 0x0d)) start++
  return start === end
}

/** Makes a decoder for records of `schema`. One a subtask: its columns are used again for every batch. */
export function createJsonDecoder(schema: Schema, options: JsonDecoderOptions): JsonDecoder {
  return new JsonDecoder(schema, options)
}
