/**
 * Rows of a batch to CSV lines (RFC 4180, with line feeds), by a function generated from the schema. Used by sinks that
 * write CSV.
 *
 * A cell is quoted where it has to be, and text that is empty or looks like the literal of NULL, too. Text is copied as
 * bytes: no string is made of it. Numbers are as JavaScript writes them, timestamps milliseconds, opaque values JSON. What
 * csv-decoder.ts reads back is the same row.
 */
import { writeAscii, writeDigits } from '../ascii.ts'
import type { Batch } from '../batch.ts'
import { compile, inFunctions } from '../generated-source.ts'
import type { Field, Schema } from '../schema.ts'
import { ByteArena } from '../strings.ts'
import { type CsvDialect, csvBytes } from './csv-decoder.ts'

export interface CsvWriter {
  /** Appends the line of names. */
  writeHeader(arena: ByteArena): void
  /** Appends rows [from, to), each with a line feed. */
  writeLines(batch: Batch, from: number, to: number, arena: ByteArena): void
}

type WriteLine = (batch: Batch, i: number, arena: ByteArena) => void

const LINE_FEED = 0x0a

/** Makes a writer; `id` keeps the generated function's inline caches its own. Throws `OPTION_INVALID`. */
export function createCsvWriter(schema: Schema, dialect: CsvDialect, id = 'csv-writer'): CsvWriter {
  const { delimiter, quote } = csvBytes(dialect)
  const nullBytes = Buffer.from(dialect.nullLiteral ?? '')
  const writeText = textWriter(delimiter, quote, nullBytes)
  const writeLine = generate(schema.fields, { delimiter, nullBytes, writeText }, id)
  return {
    writeHeader: (arena) => {
      schema.fields.forEach(({ name }, k) => {
        if (k > 0) arena.writeByte(delimiter)
        const bytes = Buffer.from(name)
        writeText(arena, bytes, 0, bytes.length)
      })
      arena.writeByte(LINE_FEED)
    },
    writeLines: (batch, from, to, arena) => {
      for (let i = from; i < to; i++) writeLine(batch, i, arena)
    },
  }
}

interface Cells {
  readonly delimiter: number
  readonly nullBytes: Uint8Array
  readonly writeText: WriteText
}

function generate(fields: readonly Field[], { delimiter, nullBytes, writeText }: Cells, id: string): WriteLine {
  const bind = inFunctions({
    name: 'bind',
    params: 'batch',
    steps: fields.map((_, k) => `c${k} = batch.columns[${k}]`),
  })
  const writing = inFunctions({
    name: 'write',
    params: 'i, arena',
    steps: fields.map(
      (field, k) => `${cellStatement(field, k)}\narena.writeByte(${k + 1 < fields.length ? delimiter : LINE_FEED})`,
    ),
  })
  return compile<WriteLine>({
    what: 'CSV writer',
    id,
    helpers: { nullBytes, writeText, writeAscii, writeNumber, writeJson: jsonWriter(writeText) },
    declarations: `let bound = null, ${fields.map((_, k) => `c${k} = null`).join(', ')}`,
    functions: [
      ...bind.functions,
      ...writing.functions,
      {
        name: 'writeLine',
        params: 'batch, i, arena',
        body: `if (batch !== bound) { bound = batch; ${bind.body} }\n${writing.body}`,
      },
    ],
    result: 'writeLine',
  })
}

function cellStatement(field: Field, k: number): string {
  const writeNull = 'arena.writeBytes(nullBytes, 0, nullBytes.length)'
  const write = {
    string: `writeText(arena, c${k}.bytes, c${k}.starts[i], c${k}.ends[i])`,
    boolean: `writeAscii(arena, c${k}.values[i] === 1 ? 'true' : 'false')`,
    int32: `writeNumber(arena, c${k}.values[i])`,
    float64: `writeNumber(arena, c${k}.values[i])`,
    timestamp: `writeNumber(arena, c${k}.values[i])`,
    int64: `writeAscii(arena, String(c${k}.values[i]))`,
    opaque: `writeJson(arena, c${k}.values[i])`,
  }[field.kind]
  if (field.kind === 'opaque') return `if (c${k}.values[i] == null) ${writeNull}; else ${write}`
  return field.nullable ? `if (c${k}.nulls !== null && c${k}.nulls[i] === 1) ${writeNull}; else ${write}` : write
}

function writeNumber(arena: ByteArena, value: number): void {
  if (value > 0 && (value | 0) === value) writeDigits(arena, value)
  else writeAscii(arena, String(value))
}

type WriteText = (arena: ByteArena, bytes: Uint8Array, start: number, end: number) => void

/** Appends UTF-8 bytes[start, end) as a cell; most need no quotes and are copied while they are looked at. */
function textWriter(delimiter: number, quote: number, nullBytes: Uint8Array): WriteText {
  const special = new Uint8Array(256)
  for (const byte of [delimiter, quote, 0x0a, 0x0d]) special[byte] = 1
  return (arena, bytes, start, end) => {
    arena.reserve(end - start)
    const to = arena.bytes
    let at = arena.length
    let i = start
    for (; i < end; i++) {
      const c = bytes[i]!
      if (special[c] === 1) break
      to[at++] = c
    }
    if (i < end || start === end || isSame(bytes, start, end, nullBytes)) writeQuoted(arena, bytes, start, end, quote)
    else arena.length = at
  }
}

function isSame(bytes: Uint8Array, start: number, end: number, other: Uint8Array): boolean {
  if (end - start !== other.length) return false
  for (let i = 0; i < other.length; i++) if (bytes[start + i] !== other[i]) return false
  return true
}

function writeQuoted(arena: ByteArena, bytes: Uint8Array, start: number, end: number, quote: number): void {
  arena.reserve(2 * (end - start) + 2)
  const to = arena.bytes
  let at = arena.length
  to[at++] = quote
  for (let i = start; i < end; i++) {
    const c = bytes[i]!
    if (c === quote) to[at++] = quote
    to[at++] = c
  }
  to[at++] = quote
  arena.length = at
}

function jsonWriter(writeText: WriteText): (arena: ByteArena, value: unknown) => void {
  const text = new ByteArena()
  return (arena, value) => {
    text.clear()
    // Functions have no JSON text.
    text.writeString(JSON.stringify(value) ?? 'null')
    writeText(arena, text.bytes, 0, text.length)
  }
}
