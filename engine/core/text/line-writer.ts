/**
 * Rows of a batch to lines of text, each with a line feed. Used by sinks that write text.
 *
 * A line is the row's only column where that holds strings, what an encoder makes of the row, or the row itself where it is
 * a string, a number, a bigint or a boolean. What line-decoder.ts reads back is the same text: what could not be told from
 * two lines, or has no text, is refused.
 */
import type { Batch, Column } from '../batch.ts'
import { MillraceError } from '../errors.ts'
import { describeSchema, type Schema } from '../schema.ts'
import type { ByteArena } from '../strings.ts'

/** Appends rows [from, to). Throws `ROW_NOT_SERIALIZABLE`. */
export type WriteLines = (batch: Batch, from: number, to: number, arena: ByteArena) => void

/** What is to be the line of row `i`; a function of the user's may give anything. */
export type TextOf = (batch: Batch, i: number) => unknown

type Strings = Extract<Column, { kind: 'string' }>

const LINE_FEED = 0x0a
const RETURN = 0x0d

/** Makes a writer for rows of `schema`; `encoder` is null for rows that are texts. Throws `SCHEMA_INVALID`. */
export function lineWriter(schema: Schema, encoder: TextOf | null): WriteLines {
  if (encoder !== null) return writerOf((batch, i) => textFrom(encoder(batch, i)))
  if (schema.isOpaque) return writerOf((batch, i) => textOfRow((batch.columns[0] as OpaqueColumn).values[i]))
  if (schema.fields.length === 1 && schema.fields[0]!.kind === 'string') return writeStrings
  throw new MillraceError('SCHEMA_INVALID', `A line of text is one string; the rows have ${describeSchema(schema)}.`, {
    hint: 'Give filesSink an encoder, a function of a row that returns its line, or map the rows to strings before it.',
  })
}

type OpaqueColumn = { readonly values: readonly unknown[] }

function writerOf(textOf: (batch: Batch, i: number) => string): WriteLines {
  return (batch, from, to, arena) => {
    for (let i = from; i < to; i++) {
      const start = arena.writeString(textOf(batch, i))
      endLine(arena, start)
    }
  }
}

/** No string is made of them. */
function writeStrings(batch: Batch, from: number, to: number, arena: ByteArena): void {
  const { bytes, starts, ends, nulls } = batch.columns[0] as Strings
  for (let i = from; i < to; i++) {
    if (nulls !== null && nulls[i] === 1) throw noText(null)
    const start = arena.writeBytes(bytes, starts[i]!, ends[i]!)
    endLine(arena, start)
  }
}

/** Ends the line that begins at `start`. */
function endLine(arena: ByteArena, start: number): void {
  const end = arena.length
  arena.writeByte(LINE_FEED)
  if (arena.bytes.indexOf(LINE_FEED, start) === end && (end === start || arena.bytes[end - 1] !== RETURN)) return
  const shown = JSON.stringify(arena.bytes.toString('utf8', start, Math.min(end, start + 60)))
  arena.length = start
  throw new MillraceError('ROW_NOT_SERIALIZABLE', `A text with a line break in it cannot be one line: ${shown}.`, {
    hint: 'Let the encoder of filesSink write it otherwise, as JSON.stringify does, or take JSON lines or CSV as the format.',
  })
}

function textFrom(value: unknown): string {
  if (typeof value === 'string') return value
  throw new MillraceError('ROW_NOT_SERIALIZABLE', `The encoder of filesSink returned ${nameOf(value)}, not a string.`, {
    hint: 'Return the line of the row, without a line break.',
  })
}

function textOfRow(value: unknown): string {
  if (typeof value === 'string') return value
  if (typeof value === 'number' || typeof value === 'bigint' || typeof value === 'boolean') return String(value)
  throw noText(value)
}

function noText(value: unknown): MillraceError {
  return new MillraceError('ROW_NOT_SERIALIZABLE', `A line of text is a string; a row is ${nameOf(value)}.`, {
    hint: 'Give filesSink an encoder, a function of a row that returns its line, or filter such rows before it.',
  })
}

function nameOf(value: unknown): string {
  if (value === null) return 'NULL'
  return Array.isArray(value) ? 'an array' : value === undefined ? 'undefined' : `of type ${typeof value}`
}
