/**
 * How rows become the bytes of a part file: JSON lines, CSV or Parquet. Called by files-sink.ts.
 *
 * An encoder serves one part, from its first row to `finish`; after that the bytes are a complete file.
 */
import type { ByteWriter, ParquetWriter } from 'hyparquet-writer'
import type { Batch } from '../../engine/core/batch.ts'
import { type CsvDialect, csvBytes } from '../../engine/core/csv/csv-decoder.ts'
import { MillraceError } from '../../engine/core/errors.ts'
import { createJsonRowWriter } from '../../engine/core/json/json-writer.ts'
import { optionalPackage } from '../../engine/core/optional-package.ts'
import { type RowReader, rowReader } from '../../engine/core/rows.ts'
import type { Field, Schema } from '../../engine/core/schema.ts'
import type { ByteArena, StringInterner } from '../../engine/core/strings.ts'
import type { FileFormat } from './file-splits.ts'

export interface PartEncoder {
  /** Bytes of the rows that it keeps, about. */
  readonly heldBytes: number
  /** Appends rows [from, to), or keeps them until it has enough. */
  write(batch: Batch, from: number, to: number, into: ByteArena): void
  /** Appends the rows that it keeps. */
  flush(into: ByteArena): void
  /** Appends what is left of the file. */
  finish(into: ByteArena): void
}

export interface EncoderOptions {
  readonly format: FileFormat
  readonly csv: CsvDialect & { readonly header?: boolean }
  readonly schema: Schema
  readonly interner: StringInterner
  /** Unique in the process. */
  readonly id: string
}

/** Rows of a Parquet row group: what is kept in memory before it is written. */
const ROW_GROUP_ROWS = 50_000

/** A factory of encoders, one a part. Throws `SCHEMA_REQUIRED`, `OPTION_INVALID` and `PACKAGE_MISSING`. */
export async function partEncoders(options: EncoderOptions): Promise<() => PartEncoder> {
  const { format, schema, csv, interner, id } = options
  if (format === 'json') {
    const rows = createJsonRowWriter(schema, id)
    return () => ({
      heldBytes: 0,
      write: (batch, from, to, into) => rows.writeLines(batch, from, to, into),
      flush() {},
      finish() {},
    })
  }
  if (schema.isOpaque) {
    throw new MillraceError('SCHEMA_REQUIRED', `A ${format} file needs rows with declared columns.`, {
      hint: 'Give filesSink a schema, or the step before it, as in map(fn, { schema }).',
    })
  }
  const read = rowReader(schema, interner, id)
  if (format === 'csv') {
    csvBytes(csv)
    return () => new CsvEncoder(schema, csv, read)
  }
  const library = await optionalPackage('hyparquet-writer', 'Writing Parquet files', () => import('hyparquet-writer'))
  return () => new ParquetEncoder(schema, read, library)
}

type FieldRow = Readonly<Record<string, unknown>>

/** RFC 4180 with line feeds; a cell is quoted where it has to be. NULL is empty, and empty text is quoted. */
class CsvEncoder implements PartEncoder {
  readonly heldBytes = 0
  private readonly names: readonly string[]
  private readonly kinds: readonly Field['kind'][]
  private readonly dialect: Required<Pick<CsvDialect, 'delimiter' | 'quote' | 'nullLiteral'>>
  private readonly read: RowReader
  private readonly special: RegExp
  private headerDue: boolean

  constructor(schema: Schema, csv: EncoderOptions['csv'], read: RowReader) {
    this.names = schema.fields.map((field) => field.name)
    this.kinds = schema.fields.map((field) => field.kind)
    this.dialect = { delimiter: csv.delimiter ?? ',', quote: csv.quote ?? '"', nullLiteral: csv.nullLiteral ?? '' }
    this.read = read
    this.special = new RegExp(`[\\r\\n\\u{${code(this.dialect.delimiter)}}\\u{${code(this.dialect.quote)}}]`, 'u')
    this.headerDue = csv.header !== false
  }

  write(batch: Batch, from: number, to: number, into: ByteArena): void {
    const { delimiter } = this.dialect
    let text = this.headerDue ? `${this.names.map((name) => this.quoted(name)).join(delimiter)}\n` : ''
    this.headerDue = false
    for (let i = from; i < to; i++) {
      const row = this.read(batch, i) as FieldRow
      for (let k = 0; k < this.names.length; k++) {
        if (k > 0) text += delimiter
        text += this.cell(row[this.names[k]!], this.kinds[k]!)
      }
      text += '\n'
    }
    into.writeString(text)
  }

  flush(): void {}

  finish(): void {}

  private cell(value: unknown, kind: Field['kind']): string {
    if (value === null || value === undefined) return this.dialect.nullLiteral
    if (kind === 'string') return this.quoted(value as string)
    return kind === 'opaque' ? this.quoted(JSON.stringify(value)) : String(value)
  }

  private quoted(text: string): string {
    const { quote, nullLiteral } = this.dialect
    if (text !== '' && text !== nullLiteral && !this.special.test(text)) return text
    return `${quote}${text.replaceAll(quote, quote + quote)}${quote}`
  }
}

function code(character: string): string {
  return character.charCodeAt(0).toString(16)
}

class ParquetEncoder implements PartEncoder {
  heldBytes = 0
  private readonly schema: Schema
  private readonly read: RowReader
  private readonly bytes: ByteWriter
  private readonly writer: ParquetWriter
  private columns: unknown[][]

  constructor(schema: Schema, read: RowReader, library: typeof import('hyparquet-writer')) {
    this.schema = schema
    this.read = read
    this.bytes = new library.ByteWriter()
    this.writer = new library.ParquetWriter({
      writer: this.bytes,
      createdBy: 'millrace',
      schema: [{ name: 'root', num_children: schema.fields.length }, ...schema.fields.map(schemaElement)],
    })
    this.columns = schema.fields.map(() => [])
  }

  write(batch: Batch, from: number, to: number, into: ByteArena): void {
    const { fields } = this.schema
    for (let i = from; i < to; i++) {
      const row = this.read(batch, i) as FieldRow
      for (let k = 0; k < fields.length; k++) this.columns[k]!.push(parquetValue(fields[k]!, row[fields[k]!.name]))
    }
    this.heldBytes += (to - from) * fields.length * 16
    if (this.columns[0]!.length >= ROW_GROUP_ROWS) this.flush(into)
  }

  finish(into: ByteArena): void {
    this.flush(into)
    this.writer.finish()
    this.hand(into)
  }

  flush(into: ByteArena): void {
    if (this.columns[0]!.length === 0) return
    const columnData = this.schema.fields.map(({ name }, k) => ({ name, data: this.columns[k]! }))
    this.writer.write({ columnData, rowGroupSize: ROW_GROUP_ROWS * 2 })
    this.columns = this.schema.fields.map(() => [])
    this.heldBytes = 0
    this.hand(into)
  }

  /** Moves what was written on; the writer goes on counting offsets from the start of the file. */
  private hand(into: ByteArena): void {
    const bytes = this.bytes.getBytes()
    into.writeBytes(bytes, 0, bytes.length)
    this.bytes.index = 0
  }
}

function schemaElement(field: Field) {
  const repetition_type = field.nullable || field.kind === 'opaque' ? ('OPTIONAL' as const) : ('REQUIRED' as const)
  const base = { name: field.name, repetition_type }
  switch (field.kind) {
    case 'boolean':
      return { ...base, type: 'BOOLEAN' as const }
    case 'int32':
      return { ...base, type: 'INT32' as const }
    case 'int64':
      return { ...base, type: 'INT64' as const }
    case 'float64':
      return { ...base, type: 'DOUBLE' as const }
    case 'timestamp':
      return { ...base, type: 'INT64' as const, converted_type: 'TIMESTAMP_MILLIS' as const }
    case 'string':
      return { ...base, type: 'BYTE_ARRAY' as const, converted_type: 'UTF8' as const }
    case 'opaque':
      return { ...base, type: 'BYTE_ARRAY' as const, converted_type: 'JSON' as const }
  }
}

function parquetValue(field: Field, value: unknown): unknown {
  if (value === null || value === undefined) return null
  // The writer's own timestamps are dates.
  return field.kind === 'timestamp' ? new Date(value as number) : value
}
