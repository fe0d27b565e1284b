/**
 * How rows become the bytes of a part file: JSON lines, CSV or Parquet. Called by files-sink.ts.
 *
 * An encoder serves one part, from its first row to `finish`; after that the bytes are a complete file.
 */
import type { ByteWriter, ParquetWriter } from 'hyparquet-writer'
import type { Batch } from '../../engine/core/batch.ts'
import type { CsvDialect } from '../../engine/core/csv/csv-decoder.ts'
import { type CsvWriter, createCsvWriter } from '../../engine/core/csv/csv-writer.ts'
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
  if (format === 'csv') return csvEncoders(createCsvWriter(schema, csv, id), csv.header !== false)
  const read = rowReader(schema, interner, id)
  const library = await optionalPackage('hyparquet-writer', 'Writing Parquet files', () => import('hyparquet-writer'))
  return () => new ParquetEncoder(schema, read, library)
}

function csvEncoders(writer: CsvWriter, hasHeader: boolean): () => PartEncoder {
  return () => {
    let headerDue = hasHeader
    return {
      heldBytes: 0,
      write(batch, from, to, into) {
        if (headerDue) writer.writeHeader(into)
        headerDue = false
        writer.writeLines(batch, from, to, into)
      },
      flush() {},
      finish() {},
    }
  }
}

type FieldRow = Readonly<Record<string, unknown>>

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
