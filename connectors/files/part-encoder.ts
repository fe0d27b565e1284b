/**
 * How batches become the bytes of a part file: JSON lines, CSV, text or Parquet, straight from columns. Called by files-writer.ts.
 *
 * An encoder serves one part, from its first row to `finish`; after that the bytes are a complete file.
 */
import type { Batch } from '../../engine/core/batch.ts'
import type { CsvDialect } from '../../engine/core/csv/csv-decoder.ts'
import { type CsvWriter, createCsvWriter } from '../../engine/core/csv/csv-writer.ts'
import { MillraceError } from '../../engine/core/errors.ts'
import { createJsonRowWriter } from '../../engine/core/json/json-writer.ts'
import { orPackageMissing } from '../../engine/core/optional-package.ts'
import type { Schema } from '../../engine/core/schema.ts'
import type { ByteArena } from '../../engine/core/strings.ts'
import { lineWriter, type TextOf, type WriteLines } from '../../engine/core/text/line-writer.ts'
import { type FileFormat, markBytes } from './file-splits.ts'
import { ParquetEncoder } from './parquet-writer.ts'

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
  /** Of text; null where the rows are the lines. */
  readonly textOf?: TextOf | null
  readonly schema: Schema
  /** Unique in the process. */
  readonly id: string
}

/** A factory of encoders, one a part. Throws `SCHEMA_REQUIRED`, `SCHEMA_INVALID`, `OPTION_INVALID` and `PACKAGE_MISSING`. */
export async function partEncoders(options: EncoderOptions): Promise<() => PartEncoder> {
  const { format, schema, csv, id } = options
  if (format === 'json') {
    const rows = createJsonRowWriter(schema, id)
    return () => ({
      heldBytes: 0,
      write: (batch, from, to, into) => rows.writeLines(batch, from, to, into),
      flush() {},
      finish() {},
    })
  }
  if (format === 'text') return textEncoders(lineWriter(schema, options.textOf ?? null))
  if (schema.isOpaque) {
    throw new MillraceError('SCHEMA_REQUIRED', `A ${format} file needs rows with declared columns.`, {
      hint: 'Give filesSink a schema, or the step before it, as in map(fn, { schema }).',
    })
  }
  if (format === 'csv') return csvEncoders(createCsvWriter(schema, csv, id), csv.header !== false)
  const missing = orPackageMissing('hyparquet-writer', 'Writing Parquet files')
  const library = await import('hyparquet-writer').catch(missing)
  return () => new ParquetEncoder(schema, library)
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

function textEncoders(writeLines: WriteLines): () => PartEncoder {
  return () => {
    let isFirst = true
    return {
      heldBytes: 0,
      write(batch, from, to, into) {
        const at = into.length
        writeLines(batch, from, to, into)
        if (isFirst) keepMark(into, at)
        isFirst = false
      },
      flush() {},
      finish() {},
    }
  }
}

/** A reader takes a mark at the beginning of a file for the encoding's: a line that begins with one gets a second. */
function keepMark(into: ByteArena, at: number): void {
  const bytes = markBytes(into.bytes.subarray(at, into.length))
  into.reserve(bytes)
  into.bytes.copyWithin(at + bytes, at, into.length)
  into.length += bytes
}
