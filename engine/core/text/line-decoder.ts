/**
 * Lines of text to a column of strings. Called by readers of files.
 *
 * A line ends with a line feed, or with a carriage return and one; a lone carriage return is a character like others. Empty
 * lines are rows. A line that is no UTF-8, or is too long, is rejected.
 *
 * Invariants: no string is made and no byte is copied, the column's values are views of the caller's buffer. A returned batch
 * is valid until the next call, and only as long as the buffer keeps its content.
 */
import { isUtf8 } from 'node:buffer'
import { BATCH_ROWS_MAX, type Batch } from '../batch.ts'
import { DecoderColumns } from '../decoder-columns.ts'
import { MillraceError } from '../errors.ts'
import { recordTooLong } from '../record-limit.ts'
import { describeSchema, type Schema, schema, t } from '../schema.ts'
import { asBuffer } from '../strings.ts'

/** A line of text, without its end. */
export interface TextLine {
  readonly line: string
}

/** The schema of lines, unless another name is wanted for the column. */
export const TEXT_LINE: Schema<TextLine> = schema({ line: t.string() })

/** Throws `SCHEMA_INVALID` unless the schema has one column, and that of strings. */
export function checkLineSchema({ fields, isOpaque }: Schema): void {
  if (fields.length === 1 && fields[0]!.kind === 'string') return
  const columns = isOpaque ? 'no declared columns' : describeSchema({ fields, isOpaque })
  throw new MillraceError('SCHEMA_INVALID', `A line of text is one column of strings; this schema has ${columns}.`, {
    hint: 'Leave the schema out for rows of { line: string }, or give one such as schema({ message: t.string() }).',
  })
}

/** Told of each line that cannot be used; bytes[start, end) is the line. */
export type OnRejectLine = (reason: string, start: number, end: number) => void

const NEWLINE = 0x0a
const RETURN = 0x0d

export class LineDecoder {
  /** Of each row of the last batch: where its line starts. In [0, batch.length). */
  readonly recordStarts = new Int32Array(BATCH_ROWS_MAX)
  /** Position after the last line looked at. */
  next = 0
  private readonly recordBytesMax: number
  private readonly columns: DecoderColumns
  private readonly starts: Int32Array
  private readonly ends: Int32Array

  /** `schema` as `checkLineSchema` wants it. */
  constructor(schema: Schema, recordBytesMax: number) {
    this.recordBytesMax = recordBytesMax
    this.columns = new DecoderColumns(schema)
    const { starts, ends } = this.columns.memory[0]!
    this.starts = starts
    this.ends = ends
  }

  /** Decodes the lines of bytes[from, to) until `rowsMax` rows are filled; bytes[to - 1] must be a newline. */
  decodeLines(bytes: Uint8Array, from: number, to: number, rowsMax: number, onReject: OnRejectLine): Batch {
    const buffer = asBuffer(bytes)
    const rows = Math.min(rowsMax, BATCH_ROWS_MAX)
    const { starts, ends } = this
    this.columns.begin()
    let length = 0
    let longest = 0
    let start = from
    while (length < rows && start < to) {
      const end = buffer.indexOf(NEWLINE, start)
      starts[length] = start
      ends[length++] = end > start && buffer[end - 1] === RETURN ? end - 1 : end
      if (end - start > longest) longest = end - start
      start = end + 1
    }
    this.next = start
    // No character spans a line feed, so all lines are UTF-8 when what holds them is.
    const areGood = longest <= this.recordBytesMax && isUtf8(buffer.subarray(from, start))
    if (!areGood) length = this.removeBad(buffer, length, onReject)
    this.recordStarts.set(starts.subarray(0, length))
    return this.columns.finish(length, buffer, from, start)
  }

  /** Rejects lines that cannot be used and closes their gaps. Returns how many are left. */
  private removeBad(buffer: Buffer, length: number, onReject: OnRejectLine): number {
    const { starts, ends, recordBytesMax } = this
    let kept = 0
    for (let i = 0; i < length; i++) {
      const start = starts[i]!
      const end = ends[i]!
      // A carriage return counts, as it does while the rest of the line is still to be read.
      const bytes = (buffer[end] === RETURN ? end + 1 : end) - start
      if (bytes > recordBytesMax) onReject(recordTooLong(bytes, recordBytesMax), start, end)
      else if (!isUtf8(buffer.subarray(start, end))) onReject('The line is no valid UTF-8.', start, end)
      else {
        starts[kept] = start
        ends[kept++] = end
      }
    }
    return kept
  }
}
