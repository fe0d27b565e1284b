/**
 * Decodes CSV records straight into columns. RFC 4180, with a delimiter, quote and NULL literal to choose.
 *
 * Called by readers of files. A record without quotes, of plain numbers and well-formed text goes through a
 * function generated for its columns (generate-csv.ts); everything else is read by `checkedRecord`, which alone
 * decides about rejection. Both must agree; the property tests hold them to it.
 *
 * Cells: an empty unquoted cell, or one equal to the NULL literal, is NULL in a nullable column. In a column
 * that is not nullable an empty cell is the empty string, and an error for other kinds. Booleans are true and
 * false in any case; a timestamp is milliseconds or text as timestamp.ts reads it; `t.json()` cells are JSON.
 *
 * Invariants:
 * - `next` never passes over a record that is incomplete: without `isEnd` it stays at its start.
 * - String columns are views of the caller's buffer, or of a copy where a quote had to be taken out.
 */
import { BATCH_ROWS_MAX, type Batch } from '../batch.ts'
import { type ColumnMemory, DecoderColumns } from '../decoder-columns.ts'
import { MillraceError } from '../errors.ts'
import { parseTimestamp } from '../json/timestamp.ts'
import { recordTooLong } from '../record-limit.ts'
import type { Field, Schema } from '../schema.ts'
import { asBuffer } from '../strings.ts'
import { type FastCsvRecord, generateCsvRecord } from './generate-csv.ts'

export interface CsvDialect {
  /** One ASCII character; a comma by default. */
  readonly delimiter?: string
  /** One ASCII character; `"` by default. Doubled inside a quoted cell it stands for itself. */
  readonly quote?: string
  /** Unquoted cells with this text are NULL, besides empty ones. */
  readonly nullLiteral?: string
}

export interface CsvDecoderOptions extends CsvDialect {
  /** Unique in the process (`worker.uniqueId`). */
  readonly id: string
  /** Longer records are rejected. */
  readonly recordBytesMax: number
  /** For each column of the file the index of its field, or -1 for one that is not read. */
  readonly fieldOfColumn: readonly number[]
}

/** Told of each record that cannot be used; bytes[start, end) is the record. */
export type OnRejectCsv = (reason: string, start: number, end: number) => void

const NEWLINE = 0x0a
const RETURN = 0x0d
const INT64_MIN = -(2n ** 63n)
const INT64_MAX = 2n ** 63n - 1n

/** The dialect in bytes. Throws `OPTION_INVALID`. */
export function csvBytes(dialect: CsvDialect): { delimiter: number; quote: number } {
  const { delimiter = ',', quote = '"' } = dialect
  for (const [name, value] of [
    ['delimiter', delimiter],
    ['quote', quote],
  ] as const) {
    if (value.length !== 1 || value.charCodeAt(0) >= 0x80 || /[\r\n0-9+\-.A-Za-z]/.test(value)) {
      throw new MillraceError('OPTION_INVALID', `${JSON.stringify(value)} cannot be the ${name} of CSV.`, {
        hint: 'Give one ASCII character that no number or name is made of.',
      })
    }
  }
  if (delimiter === quote) throw new MillraceError('OPTION_INVALID', 'Delimiter and quote of CSV must differ.')
  return { delimiter: delimiter.charCodeAt(0), quote: quote.charCodeAt(0) }
}

/** A cell of the record under way: text in bytes[start, end), quotes to be undone where `escapes`. */
interface Cell {
  start: number
  end: number
  isQuoted: boolean
  escapes: boolean
}

export class CsvDecoder {
  readonly recordStarts = new Int32Array(BATCH_ROWS_MAX)
  /** Position after the last record looked at. */
  next = 0
  private readonly options: CsvDecoderOptions
  private readonly delimiter: number
  private readonly quote: number
  private readonly columns: DecoderColumns
  private readonly fast: FastCsvRecord
  private readonly utf8 = new TextDecoder('utf-8', { fatal: true })
  private readonly cells: Cell[] = []

  /** Throws `OPTION_INVALID`. */
  constructor(schema: Schema, options: CsvDecoderOptions) {
    const { delimiter, quote } = csvBytes(options)
    this.options = options
    this.delimiter = delimiter
    this.quote = quote
    this.columns = new DecoderColumns(schema)
    this.fast = generateCsvRecord({
      id: options.id,
      columns: this.columns,
      fieldOfColumn: options.fieldOfColumn,
      delimiter,
      quote,
      nullLiteral: options.nullLiteral ?? '',
    })
  }

  /**
   * Decodes records of bytes[from, to) until `rowsMax` rows are filled; bytes[to - 1] must be a newline. Blank
   * lines are passed over. `isEnd`: nothing follows, so an unclosed quote is an error and not unfinished.
   */
  decodeLines(
    bytes: Uint8Array,
    from: number,
    to: number,
    rowsMax: number,
    onReject: OnRejectCsv,
    isEnd: boolean,
  ): Batch {
    const buffer = asBuffer(bytes)
    const rows = Math.min(rowsMax, BATCH_ROWS_MAX)
    this.columns.begin()
    let length = 0
    let start = from
    while (length < rows && start < to) {
      let end = this.fast(buffer, start, length)
      if (end >= 0 && end <= to && end - start <= this.options.recordBytesMax) {
        this.recordStarts[length++] = start
        start = end
        continue
      }
      end = this.split(buffer, start, to)
      if (end < 0) {
        if (!isEnd) break
        onReject('A quote is never closed.', start, lineEnd(buffer, start, to))
        start = to
        continue
      }
      const textEnd = lineEnd(buffer, start, end)
      if (textEnd > start) {
        const reason = this.checkedRecord(buffer, start, textEnd, length)
        if (reason === null) this.recordStarts[length++] = start
        else onReject(reason, start, textEnd)
      }
      start = end
    }
    this.next = start
    return this.columns.finish(length, buffer, from, start)
  }

  /** Finds the cells of the record at `start`; the position after its newline, or -1 when it does not end before `to`. */
  private split(buffer: Buffer, start: number, to: number): number {
    const { delimiter, quote, cells } = this
    cells.length = 0
    let p = start
    for (;;) {
      const cell: Cell = { start: p, end: p, isQuoted: buffer[p] === quote, escapes: false }
      if (cell.isQuoted) {
        cell.start = ++p
        for (;;) {
          p = buffer.indexOf(quote, p)
          if (p < 0 || p >= to) return -1
          if (buffer[p + 1] !== quote) break
          cell.escapes = true
          p += 2
        }
        cell.end = p++
      }
      // Behind a closing quote only a delimiter may follow; what else does is found by `checkedRecord`.
      const restAt = p
      while (p < to && buffer[p] !== delimiter && buffer[p] !== NEWLINE) p++
      if (p >= to) return -1
      if (!cell.isQuoted) cell.end = buffer[p] === NEWLINE && buffer[p - 1] === RETURN && p - 1 >= restAt ? p - 1 : p
      else if (p > restAt && !(p === restAt + 1 && buffer[restAt] === RETURN)) cell.end = -1
      cells.push(cell)
      if (buffer[p++] === NEWLINE) return p
    }
  }

  /** Writes the record whose cells were found to row `row`; null, or the reason why it cannot be used. */
  private checkedRecord(buffer: Buffer, start: number, end: number, row: number): string | null {
    const { fieldOfColumn, recordBytesMax } = this.options
    if (end - start > recordBytesMax) return recordTooLong(end - start, recordBytesMax)
    if (this.cells.length !== fieldOfColumn.length) {
      return `The record has ${this.cells.length} cells, not ${fieldOfColumn.length}.`
    }
    for (let i = 0; i < fieldOfColumn.length; i++) {
      const cell = this.cells[i]!
      if (cell.end < 0) return `Cell ${i + 1} goes on behind its closing quote.`
      const field = fieldOfColumn[i]!
      if (field < 0) continue
      const reason = this.setCell(buffer, cell, this.columns.memory[field]!, row)
      if (reason !== null) return reason
    }
    return null
  }

  private setCell(buffer: Buffer, cell: Cell, column: ColumnMemory, row: number): string | null {
    const { field } = column
    let text: string
    try {
      text = this.utf8.decode(buffer.subarray(cell.start, cell.end))
    } catch {
      return `Field ${JSON.stringify(field.name)} is no valid UTF-8.`
    }
    if (cell.escapes) {
      const quote = String.fromCharCode(this.quote)
      text = text.replaceAll(quote + quote, quote)
    }
    const isNull = !cell.isQuoted && (text === '' || text === this.options.nullLiteral)
    if (isNull && field.nullable) {
      column.setNull(row)
      return null
    }
    if (field.nullable && column.nulls.length > 0) column.nulls[row] = 0
    if (field.kind === 'string') {
      column.starts[row] = -1 - this.columns.arena.writeString(text)
      column.ends[row] = -1 - this.columns.arena.length
      return null
    }
    if (isNull) return `Field ${JSON.stringify(field.name)} is empty.`
    return setValue(column, text, row) ? null : wrongCell(field, text)
  }
}

/** Without its line break. */
function lineEnd(buffer: Buffer, start: number, end: number): number {
  const newline = end - 1
  return newline > start && buffer[newline - 1] === RETURN ? newline - 1 : newline
}

/** False when the text is no value of the column's kind. */
function setValue(column: ColumnMemory, text: string, row: number): boolean {
  switch (column.field.kind) {
    case 'boolean': {
      const lower = text.toLowerCase()
      if (lower !== 'true' && lower !== 'false') return false
      column.booleans[row] = lower === 'true' ? 1 : 0
      return true
    }
    case 'int32': {
      if (!/^[+-]?\d{1,10}$/.test(text)) return false
      column.int32s[row] = Number(text)
      return column.int32s[row] === Number(text)
    }
    case 'int64': {
      if (!/^[+-]?\d{1,19}$/.test(text)) return false
      const integer = BigInt(text.replace('+', ''))
      column.int64s[row] = integer
      return integer >= INT64_MIN && integer <= INT64_MAX
    }
    case 'timestamp': {
      const bytes = Buffer.from(text)
      const ms = parseTimestamp(bytes, 0, bytes.length)
      column.doubles[row] = Number.isNaN(ms) && isNumber(text) ? Number(text) : ms
      return Number.isFinite(column.doubles[row])
    }
    case 'opaque':
      try {
        column.objects[row] = JSON.parse(text)
        return true
      } catch {
        return false
      }
    default:
      column.doubles[row] = /^(NaN|-?Infinity)$/.test(text) || isNumber(text) ? Number(text) : Number.NaN
      return text === 'NaN' || !Number.isNaN(column.doubles[row])
  }
}

function isNumber(text: string): boolean {
  return /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/.test(text)
}

function wrongCell(field: Field, text: string): string {
  const shown = text.length > 60 ? `${text.slice(0, 60)}...` : text
  return `Field ${JSON.stringify(field.name)} must be ${field.kind}, got ${JSON.stringify(shown)}.`
}

/** The cells of a header line, as text. `bytes` is the line without its break. Throws `CSV_HEADER_INVALID`. */
export function csvHeader(line: string, dialect: CsvDialect): string[] {
  const { delimiter = ',', quote = '"' } = dialect
  const names: string[] = []
  let p = line.charCodeAt(0) === 0xfeff ? 1 : 0
  for (;;) {
    let name = ''
    if (line[p] === quote) {
      for (p++; ; p++) {
        if (p >= line.length) throw new MillraceError('CSV_HEADER_INVALID', 'A quote in the header is never closed.')
        if (line[p] !== quote) name += line[p]
        else if (line[p + 1] === quote) name += line[p++]
        else break
      }
      p++
    } else {
      const end = line.indexOf(delimiter, p)
      name = line.slice(p, end < 0 ? line.length : end)
      p = end < 0 ? line.length : end
    }
    names.push(name.trim())
    if (line[p] !== delimiter) return names
    p++
  }
}
