/**
 * Reads Parquet files through the package hyparquet: a split is a row group, its position the next row.
 *
 * Called by files-source.ts. Only the columns of the schema are read. A row group is decoded whole, so memory
 * is bounded by the largest one. A value that its field cannot hold (NULL where that is not allowed, an integer too large,
 * another kind) makes its row a dead letter.
 */

import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { brotliDecompressSync, gunzipSync, zstdDecompressSync } from 'node:zlib'
import type { AsyncBuffer, Compressors, DecodedArray, FileMetaData } from 'hyparquet'
import type { SplitState } from '../../engine/contract/source.ts'
import { BATCH_ROWS_MAX } from '../../engine/core/batch.ts'
import { MillraceError, messageOf } from '../../engine/core/errors.ts'
import { orPackageMissing } from '../../engine/core/optional-package.ts'
import { BatchBuilder } from '../../engine/core/rows.ts'
import type { Field, Schema } from '../../engine/core/schema.ts'
import type { FilePosition } from './file-splits.ts'
import type { RejectRecord, Take } from './split-reader.ts'

type Hyparquet = typeof import('hyparquet')

/** Throws `PACKAGE_MISSING`. */
async function loadHyparquet(): Promise<Hyparquet> {
  return import('hyparquet').catch(orPackageMissing('hyparquet', 'Reading Parquet files'))
}

const COMPRESSORS: Compressors = {
  GZIP: (bytes) => gunzipSync(bytes),
  BROTLI: (bytes) => brotliDecompressSync(bytes),
  ZSTD: (bytes) => zstdDecompressSync(bytes),
}

/** A file that hyparquet reads slices of. */
async function fileOf(path: string): Promise<AsyncBuffer> {
  const { size } = await stat(path)
  return {
    byteLength: size,
    async slice(start, end = size) {
      if (start >= end) return new ArrayBuffer(0)
      const slice = new Uint8Array(end - start)
      let at = 0
      for await (const chunk of createReadStream(path, { start, end: end - 1, highWaterMark: 1 << 20 })) {
        slice.set(chunk as Buffer, at)
        at += (chunk as Buffer).length
      }
      return slice.buffer
    },
  }
}

async function metadataOf(hyparquet: Hyparquet, path: string, file: AsyncBuffer): Promise<FileMetaData> {
  return hyparquet.parquetMetadataAsync(file).catch((cause: unknown) => {
    throw new MillraceError('FILE_READ_FAILED', `${path} is not a readable Parquet file: ${messageOf(cause)}.`, {
      domain: 'external',
      cause,
    })
  })
}

/** One split a row group. Throws `FILE_READ_FAILED` and `PACKAGE_MISSING`. */
export async function splitParquet(path: string): Promise<SplitState[]> {
  const metadata = await metadataOf(await loadHyparquet(), path, await fileOf(path))
  let row = 0
  return metadata.row_groups
    .map((group): FilePosition => {
      const from = row
      row += Number(group.num_rows)
      return { path, form: 'parquet', offset: from, end: row }
    })
    .filter(({ offset, end }) => offset < end!)
    .map((position) => ({ id: `${path}@${position.offset}`, position: { ...position } as SplitState['position'] }))
}

export class ParquetReader {
  /** The next row. */
  offset: number
  private readonly position: FilePosition
  private readonly builder: BatchBuilder
  private readonly schema: Schema
  private readonly reject: RejectRecord
  private readonly offsets = new Float64Array(BATCH_ROWS_MAX)
  /** Of the rows from `base` on, one a field; null until they are read. */
  private columns: readonly DecodedArray[] | null = null
  private readonly base: number
  private error: unknown = null

  constructor(position: FilePosition, schema: Schema, reject: RejectRecord, changed: () => void) {
    this.position = position
    this.schema = schema
    this.builder = new BatchBuilder(schema)
    this.reject = reject
    this.offset = position.offset
    this.base = position.offset
    this.read().then(
      (columns) => {
        this.columns = columns
        changed()
      },
      (error: unknown) => {
        this.error = error
        changed()
      },
    )
  }

  private async read(): Promise<DecodedArray[]> {
    const { path, offset, end } = this.position
    const hyparquet = await loadHyparquet()
    const file = await fileOf(path)
    const metadata = await metadataOf(hyparquet, path, file)
    const present = new Set(hyparquet.parquetSchema(metadata).children.map((child) => child.element.name))
    const missing = this.schema.fields.find((field) => !field.nullable && !present.has(field.name))
    if (missing !== undefined) {
      throw new MillraceError('PARQUET_COLUMN_MISSING', `${path} has no column ${JSON.stringify(missing.name)}.`, {
        hint: `It has ${[...present].join(', ')}.`,
      })
    }
    const names = this.schema.fields.map((field) => field.name).filter((name) => present.has(name))
    const scan = await hyparquet.parquetScan({ file, metadata, columns: names, compressors: COMPRESSORS })
    const absent = new Array<null>(end! - offset).fill(null)
    const columns: DecodedArray[] = []
    for (const { name } of this.schema.fields) {
      columns.push(present.has(name) ? await scan.readColumn({ column: name, rowStart: offset, rowEnd: end! }) : absent)
    }
    return columns
  }

  take(rowsMax: number): Take {
    if (this.error !== null) throw this.error
    const { columns, builder } = this
    if (this.offset >= this.position.end!) return 'done'
    if (columns === null) return 'starved'
    const { fields } = this.schema
    const rows = Math.min(rowsMax, BATCH_ROWS_MAX)
    while (builder.length < rows && this.offset < this.position.end!) {
      const at = this.offset - this.base
      const row: Record<string, unknown> = {}
      let reason: string | null = null
      for (let k = 0; k < fields.length && reason === null; k++) {
        const value = cellOf(fields[k]!, columns[k]![at])
        if (value === REFUSED) reason = refusal(fields[k]!, columns[k]![at])
        else row[fields[k]!.name] = value
      }
      if (reason === null) {
        this.offsets[builder.length] = this.offset
        builder.append(row, Number.NaN)
      } else this.rejectRow(reason, at)
      this.offset++
    }
    if (builder.length === 0) return this.take(rowsMax)
    const batch = builder.build()
    return { kind: 'batch', batch, offsets: this.offsets.subarray(0, batch.length) }
  }

  private rejectRow(reason: string, at: number): void {
    const row = Object.fromEntries(this.schema.fields.map(({ name }, k) => [name, this.columns![k]![at]]))
    const text = JSON.stringify(row, (_, value) => (typeof value === 'bigint' ? String(value) : value))
    this.reject(reason, this.offset, Buffer.from(text))
  }

  async close(): Promise<void> {
    this.columns = null
  }
}

const REFUSED = Symbol('no value of the field')

/** What the row gets for what hyparquet decoded, or `REFUSED`. */
function cellOf(field: Field, value: unknown): unknown {
  if (value === null || value === undefined) return field.nullable ? null : REFUSED
  switch (field.kind) {
    case 'int32':
      return typeof value === 'bigint' || typeof value === 'number' ? asInt32(Number(value)) : REFUSED
    case 'int64':
      if (typeof value === 'bigint') return value
      return typeof value === 'number' && Number.isSafeInteger(value) ? BigInt(value) : REFUSED
    case 'float64':
      return typeof value === 'bigint' || typeof value === 'number' ? Number(value) : REFUSED
    case 'timestamp':
      if (value instanceof Date) return value.getTime()
      return typeof value === 'bigint' || typeof value === 'number' ? Number(value) : REFUSED
    case 'string':
      return typeof value === 'string' ? value : REFUSED
    case 'boolean':
      return typeof value === 'boolean' ? value : REFUSED
    case 'opaque':
      return value
  }
}

function asInt32(value: number): number | typeof REFUSED {
  return (value | 0) === value ? value : REFUSED
}

function refusal(field: Field, value: unknown): string {
  const got = value === null || value === undefined ? 'NULL' : `${typeof value} ${String(value).slice(0, 60)}`
  return `Field ${JSON.stringify(field.name)} must be ${field.kind}, got ${got}.`
}
