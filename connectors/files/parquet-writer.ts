/**
 * Column batches as a Parquet file, in row groups. Called by part-encoder.ts, one for each part.
 *
 * The package hyparquet-writer does header, footer and compression; pages are made here from the columns
 * (parquet-columns.ts), because it takes arrays of JavaScript values. Invariant: what the writer keeps is one row group.
 */
import type { ByteWriter, ParquetWriter } from 'hyparquet-writer'
import type { Batch, Column } from '../../engine/core/batch.ts'
import type { Field, Schema } from '../../engine/core/schema.ts'
import { ByteArena } from '../../engine/core/strings.ts'
import { type ColumnValues, columnValues, NullRows, type ValueEncoding, writeVarInt } from './parquet-columns.ts'
import type { PartEncoder } from './part-encoder.ts'

/** A row group is written once it has this many rows or bytes. */
const ROW_GROUP_ROWS = 50_000
const ROW_GROUP_BYTES = 32 * 1_024 * 1_024
const PAGE_ROWS = 10_000

type ColumnChunk = ParquetWriter['row_groups'][number]['columns'][number]

const NO_LEVELS = new Uint8Array(0)

interface ParquetColumn {
  readonly field: Field
  readonly values: ColumnValues
  /** Null where the field always has a value. */
  readonly nulls: NullRows | null
}

export class ParquetEncoder implements PartEncoder {
  private readonly columns: readonly ParquetColumn[]
  private readonly bytes: ByteWriter
  private readonly writer: ParquetWriter
  private rows = 0

  constructor(schema: Schema, library: typeof import('hyparquet-writer')) {
    this.columns = schema.fields.map((field) => ({
      field,
      values: columnValues(field),
      nulls: field.nullable || field.kind === 'opaque' ? new NullRows() : null,
    }))
    this.bytes = new library.ByteWriter()
    this.writer = new library.ParquetWriter({
      writer: this.bytes,
      createdBy: 'millrace',
      schema: [{ name: 'root', num_children: schema.fields.length }, ...schema.fields.map(schemaElement)],
    })
  }

  get heldBytes(): number {
    return this.columns.reduce((sum, { values, nulls }) => sum + values.heldBytes + (nulls?.heldBytes ?? 0), 0)
  }

  write(batch: Batch, from: number, to: number, into: ByteArena): void {
    this.columns.forEach(({ values, nulls }, k) => {
      const column = batch.columns[k]!
      nulls?.append(column, from, to)
      values.append(nulls === null ? withoutNulls(column) : column, from, to)
    })
    this.rows += to - from
    if (this.rows >= ROW_GROUP_ROWS || this.heldBytes >= ROW_GROUP_BYTES) this.flush(into)
  }

  flush(into: ByteArena): void {
    if (this.rows === 0) return
    const { writer, bytes, rows } = this
    const start = bytes.offset
    const columns = this.columns.map((column) => this.writeColumn(column))
    writer.row_groups.push({
      columns,
      num_rows: BigInt(rows),
      total_byte_size: columns.reduce((sum, { meta_data }) => sum + meta_data!.total_uncompressed_size, 0n),
      total_compressed_size: BigInt(bytes.offset - start),
    })
    writer.num_rows += BigInt(rows)
    this.rows = 0
    this.hand(into)
  }

  finish(into: ByteArena): void {
    this.flush(into)
    this.writer.finish()
    this.hand(into)
  }

  private writeColumn({ field, values, nulls }: ParquetColumn): ColumnChunk {
    const { bytes, rows } = this
    const start = bytes.offset
    let uncompressed = 0
    const dictionary = values.dictionary()
    if (dictionary !== null) uncompressed += this.writeDictionaryPage(dictionary)
    const firstPage = bytes.offset
    let pages = 0
    let value = 0
    for (let row = 0; row < rows; row += PAGE_ROWS, pages++) {
      const end = Math.min(rows, row + PAGE_ROWS)
      const nullCount = nulls?.countIn(row, end) ?? 0
      const next = value + end - row - nullCount
      const levels = nulls?.levels(row, end) ?? NO_LEVELS
      uncompressed += this.writeDataPage(values.page(value, next), levels, end - row, nullCount, values.encoding)
      value = next
    }
    const { encoding } = values
    const chunk: ColumnChunk = {
      file_offset: BigInt(start),
      meta_data: {
        type: values.type,
        encodings: dictionary === null ? [encoding] : ['PLAIN', encoding],
        path_in_schema: [field.name],
        codec: 'SNAPPY',
        num_values: BigInt(rows),
        total_compressed_size: BigInt(bytes.offset - start),
        total_uncompressed_size: BigInt(uncompressed),
        data_page_offset: BigInt(firstPage),
        ...(dictionary === null ? {} : { dictionary_page_offset: BigInt(start) }),
        statistics: { null_count: BigInt(nulls?.count ?? 0), ...values.bounds() },
        encoding_stats: [
          ...(dictionary === null
            ? []
            : [{ page_type: 'DICTIONARY_PAGE' as const, encoding: 'PLAIN' as const, count: 1 }]),
          { page_type: 'DATA_PAGE_V2', encoding, count: pages },
        ],
      },
    }
    values.clear()
    nulls?.clear()
    return chunk
  }

  private writeDictionaryPage(dictionary: { readonly bytes: Uint8Array; readonly count: number }): number {
    const body = this.compressed(dictionary.bytes)
    const header = new ThriftHeader(PAGE_TYPES.dictionary, dictionary.bytes.length, body.length)
    header.struct(7, [dictionary.count, ENCODINGS.PLAIN])
    return this.writePage(header.end(), NO_LEVELS, body) + dictionary.bytes.length
  }

  /** Returns the bytes that it would take without compression. */
  private writeDataPage(
    plain: Uint8Array,
    levels: Uint8Array,
    rows: number,
    nullCount: number,
    encoding: ValueEncoding,
  ): number {
    const body = this.compressed(plain)
    const header = new ThriftHeader(PAGE_TYPES.data, levels.length + plain.length, levels.length + body.length)
    header.struct(8, [rows, nullCount, rows, ENCODINGS[encoding], levels.length, 0])
    return this.writePage(header.end(), levels, body) + levels.length + plain.length
  }

  private compressed(bytes: Uint8Array): Uint8Array {
    return this.writer.compressors.SNAPPY(bytes)
  }

  private writePage(header: Uint8Array, levels: Uint8Array, body: Uint8Array): number {
    for (const part of [header, levels, body]) this.bytes.appendBytes(part)
    return header.length
  }

  /** Moves what was written on; the writer goes on counting offsets from the start of the file. */
  private hand(into: ByteArena): void {
    const bytes = this.bytes.getBytes()
    into.writeBytes(bytes, 0, bytes.length)
    this.bytes.index = 0
  }
}

/** What a field that always has a value is taken for, whatever its column says. */
function withoutNulls(column: Column): Column {
  return column.nulls === null ? column : { ...column, nulls: null }
}

/** As parquet.thrift numbers them. */
const PAGE_TYPES = { dictionary: 2, data: 3 } as const
const ENCODINGS = { PLAIN: 0, RLE_DICTIONARY: 8 } as const

const I32 = 5
const STRUCT = 12

/** A page header in Thrift's compact protocol: numbers of 32 bits, and one struct of such numbers. */
class ThriftHeader {
  private readonly bytes = new ByteArena(64)
  private lastField = 0

  constructor(pageType: number, uncompressedBytes: number, compressedBytes: number) {
    for (const value of [pageType, uncompressedBytes, compressedBytes]) this.field(value)
  }

  /** Fields 1, 2, ... of the struct in `field`. */
  struct(field: number, values: readonly number[]): void {
    this.bytes.writeByte(((field - this.lastField) << 4) | STRUCT)
    this.lastField = 0
    for (const value of values) this.field(value)
    this.bytes.writeByte(0)
  }

  end(): Uint8Array {
    this.bytes.writeByte(0)
    return this.bytes.view()
  }

  private field(value: number): void {
    this.bytes.writeByte((1 << 4) | I32)
    this.lastField++
    // Zigzag, of what is never negative.
    writeVarInt(this.bytes, 2 * value)
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
