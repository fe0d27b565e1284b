/**
 * Bounded source of files: JSON lines, one top-level JSON array a file, CSV or plain text, compressed or not; Parquet.
 *
 * A split is a range of a file (file-splits.ts), its position the next byte to read. A split's id is the
 * path and the range's start, so `splitBytes` and the files must stay the same while a job is restored.
 * A dead letter's offset is the record's byte position in its file.
 *
 * Invariant: `poll` never waits. Splits are read one after the other; positions of finished splits stay
 * in the snapshot, so that a restore does not read them again.
 */
import { stat } from 'node:fs/promises'
import type { Source, SourcePoll, SourceReader, SourceReaderContext, SplitState } from '../../engine/contract/source.ts'
import { CsvDecoder, type CsvDialect, csvBytes } from '../../engine/core/csv/csv-decoder.ts'
import { MillraceError } from '../../engine/core/errors.ts'
import { createJsonDecoder, JSON_RECORD_BYTES_MAX } from '../../engine/core/json/json-decoder.ts'
import type { Schema } from '../../engine/core/schema.ts'
import { checkLineSchema, LineDecoder, TEXT_LINE, type TextLine } from '../../engine/core/text/line-decoder.ts'
import { type Duration, toMs } from '../../engine/core/time.ts'
import { type Compression, openBytes } from './byte-stream.ts'
import { type FileFormat, type FilePosition, findFiles, type SplitOptions, splitFile } from './file-splits.ts'
import { ParquetReader } from './parquet-reader.ts'
import { type RecordDecoder, type RejectRecord, SplitReader } from './split-reader.ts'

export interface FilesSourceOptions<T> {
  /**
   * Files, directories or paths with `*`. Of a directory all files in it and below count whose names, and whose folders',
   * begin with neither "." nor "_".
   */
  readonly path: string | readonly string[]
  readonly schema: Schema<T>
  /**
   * `json`, the default: JSON lines, or one JSON array of records; told apart by the file's first character. `text`: each line,
   * an empty one too, is a row; it ends with LF or CRLF, and must be UTF-8. Its schema has one column, of strings.
   */
  readonly format?: FileFormat
  /** Of CSV. Fields are found by the names in the header, or by position when there is none. */
  readonly csv?: CsvDialect & {
    /** False when the first line is a record. */
    readonly header?: boolean
  }
  /** By the file's extension unless given: .gz, .zst, .br, .deflate. A compressed file is read by one subtask. */
  readonly compression?: Compression
  /** Longer files of JSON lines or text are cut into ranges of about this many bytes. */
  readonly splitBytes?: number
  /**
   * Never ends, and looks for new files this often. A file must appear whole (move it in, or write it under a
   * name that begins with a dot): what is appended to a file that was found is not read. Files are taken in the
   * order of their modification; each is read by one subtask.
   */
  readonly monitorContinuously?: Duration | number
  /** Longer records are dead-lettered. */
  readonly recordBytesMax?: number
}

/** Of files of text whose lines come as `{ line }`. */
export interface TextFilesSourceOptions extends Omit<FilesSourceOptions<TextLine>, 'format' | 'schema' | 'csv'> {
  readonly format: 'text'
  readonly schema?: never
}

const SPLIT_BYTES = 64 * 1_024 * 1_024

/**
 * A bounded source of the records in files. Files of text need no schema: a line is a row `{ line: string }`. Throws
 * `OPTION_INVALID` and `SCHEMA_INVALID`, and `FILE_NOT_FOUND` when the job starts.
 */
export function filesSource(options: TextFilesSourceOptions): Source<TextLine>
export function filesSource<T>(options: FilesSourceOptions<T>): Source<T>
export function filesSource(options: TextFilesSourceOptions | FilesSourceOptions<unknown>): Source<unknown> {
  const schema = options.schema ?? (options.format === 'text' ? TEXT_LINE : null)
  if (schema !== null) return sourceOf({ ...options, schema })
  throw new MillraceError('SCHEMA_REQUIRED', 'filesSource needs the schema of the records.', {
    hint: 'Give it one, as in schema({ id: t.int32(), name: t.string() }); only lines of text come without.',
  })
}

function sourceOf<T>(options: FilesSourceOptions<T>): Source<T> {
  if (options.format === 'text') checkLineSchema(options.schema)
  const splitBytes = options.splitBytes ?? SPLIT_BYTES
  if (!(splitBytes >= 1)) throw new MillraceError('OPTION_INVALID', 'splitBytes must be at least 1.')
  csvBytes(options.csv ?? {})
  const splitOptions = {
    format: options.format ?? 'json',
    splitBytes,
    compression: options.compression ?? null,
    csv: options.csv ?? {},
  }
  const monitor = options.monitorContinuously
  const intervalMs = monitor === undefined ? null : toMs(monitor)
  if (intervalMs !== null && !(intervalMs > 0)) {
    throw new MillraceError('OPTION_INVALID', 'monitorContinuously must be more than 0 ms.')
  }
  const paths = typeof options.path === 'string' ? [options.path] : options.path
  return {
    kind: 'files',
    schema: options.schema,
    boundedness: intervalMs === null ? 'bounded' : 'unbounded',
    discoveryIntervalMs: intervalMs,
    splits: intervalMs === null ? () => splitsOf(paths, splitOptions) : folderWatch(paths, splitOptions),
    createReader: (context) => new FilesReader(options, context),
  }
}

async function splitsOf(paths: readonly string[], options: SplitOptions): Promise<SplitState[]> {
  const splits: SplitState[] = []
  const files = new Set((await Promise.all(paths.map((path) => findFiles(path)))).flat())
  for (const file of files) splits.push(...(await splitFile(file, options)))
  return splits
}

/** The splits of all files so far at each call; a file is opened once. */
function folderWatch(paths: readonly string[], options: SplitOptions): () => Promise<SplitState[]> {
  const known = new Map<string, readonly SplitState[]>()
  return async () => {
    const found = (await Promise.all(paths.map((path) => findFiles(path, true)))).flat()
    const fresh = [...new Set(found)].filter((file) => !known.has(file))
    const aged = await Promise.all(fresh.map(async (file) => ({ file, changedMs: (await stat(file)).mtimeMs })))
    aged.sort((a, b) => a.changedMs - b.changedMs || (a.file < b.file ? -1 : 1))
    for (const { file } of aged) {
      const splits = await splitFile(file, { ...options, splitBytes: Number.POSITIVE_INFINITY })
      // An empty file may be about to be written.
      if (splits.length > 0) known.set(file, splits)
    }
    return [...known.values()].flat()
  }
}

class FilesReader<T> implements SourceReader {
  private readonly context: SourceReaderContext
  private readonly options: FilesSourceOptions<T>
  private readonly decoders = new Map<string, RecordDecoder>()
  private readonly recordBytesMax: number
  private readonly positions = new Map<string, FilePosition>()
  private waiting: SplitState[] = []
  private current: { readonly id: string; readonly reader: SplitReader | ParquetReader } | null = null
  private opening = false
  private closed = false
  private readonly closing = new Set<Promise<void>>()

  constructor(options: FilesSourceOptions<T>, context: SourceReaderContext) {
    this.options = options
    this.context = context
    this.recordBytesMax = options.recordBytesMax ?? JSON_RECORD_BYTES_MAX
  }

  async open(splits: readonly SplitState[]): Promise<void> {
    for (const { id, position } of splits) this.positions.set(id, position as unknown as FilePosition)
    this.waiting = splits.filter(({ id }) => {
      const { offset, end } = this.positions.get(id)!
      return end === null || offset < end
    })
    await this.startNext()
  }

  poll(rowsMax: number): SourcePoll {
    for (;;) {
      if (this.current === null) {
        if (this.opening) return { kind: 'pending' }
        if (this.waiting.length === 0) return { kind: this.isMonitoring ? 'pending' : 'end' }
        this.startNext().then(
          () => this.context.wake(),
          (error: unknown) => this.context.fail(error),
        )
        return { kind: 'pending' }
      }
      const { id, reader } = this.current
      const taken = reader.take(rowsMax)
      const end = taken === 'done' ? reader.offset : this.positions.get(id)!.end
      this.positions.set(id, { ...this.positions.get(id)!, offset: reader.offset, end })
      if (taken === 'starved') return { kind: 'pending' }
      if (taken !== 'done') return { kind: 'batch', split: id, batch: taken.batch, offsets: taken.offsets }
      const closing = reader.close().finally(() => this.closing.delete(closing))
      this.closing.add(closing)
      this.current = null
      return { kind: 'finished', split: id }
    }
  }

  addSplits(splits: readonly SplitState[]): void {
    for (const split of splits) {
      this.positions.set(split.id, split.position as unknown as FilePosition)
      this.waiting.push(split)
    }
  }

  private get isMonitoring(): boolean {
    return this.options.monitorContinuously !== undefined
  }

  snapshot(): readonly SplitState[] {
    return [...this.positions].map(([id, position]) => ({ id, position: { ...position } }))
  }

  async close(): Promise<void> {
    this.closed = true
    const current = this.current
    this.current = null
    this.waiting = []
    await current?.reader.close()
    await Promise.all(this.closing)
  }

  private async startNext(): Promise<void> {
    const split = this.waiting.shift()
    if (split === undefined) return
    this.opening = true
    const position = this.positions.get(split.id)!
    const changed = (): void => this.context.wake()
    const reject: RejectRecord = (reason, offset, bytes) =>
      this.context.deadLetter({ source: 'files', partition: split.id, offset, reason, bytes })
    if (position.form === 'parquet') {
      this.opening = false
      this.current = { id: split.id, reader: new ParquetReader(position, this.options.schema, reject, changed) }
      return
    }
    const decoder = this.decoderOf(position)
    const stream = await openBytes(position.path, position.compression ?? 'none', position.offset)
    this.opening = false
    if (this.closed) return stream.close()
    const reader = new SplitReader(position, stream, decoder, this.recordBytesMax, reject, changed)
    this.current = { id: split.id, reader }
  }

  /** Files with the same columns share a decoder. */
  private decoderOf(position: FilePosition): RecordDecoder {
    const kind = position.form === 'csv' || position.form === 'text' ? position.form : 'json'
    const key = JSON.stringify([kind, position.header ?? null])
    let decoder = this.decoders.get(key)
    if (decoder === undefined) {
      decoder = this.createDecoder(kind, position)
      this.decoders.set(key, decoder)
    }
    return decoder
  }

  private createDecoder(kind: 'json' | 'csv' | 'text', position: FilePosition): RecordDecoder {
    const { schema, csv = {} } = this.options
    const options = { id: this.context.worker.uniqueId('files'), recordBytesMax: this.recordBytesMax }
    switch (kind) {
      case 'json':
        return createJsonDecoder(schema, options)
      case 'csv':
        return new CsvDecoder(schema, { ...options, ...csv, fieldOfColumn: fieldsOfColumns(schema, position) })
      case 'text':
        return new LineDecoder(schema, this.recordBytesMax)
    }
  }
}

/** For each column of a CSV file its field, or -1. Throws `CSV_COLUMN_MISSING`. */
function fieldsOfColumns(schema: Schema, { header, path }: FilePosition): number[] {
  if (header === undefined) return schema.fields.map((_, k) => k)
  const missing = schema.fields.find((field) => !field.nullable && !header.includes(field.name))
  if (missing !== undefined) {
    throw new MillraceError('CSV_COLUMN_MISSING', `${path} has no column ${JSON.stringify(missing.name)}.`, {
      hint: `Its header names ${header.join(', ')}. Make the field nullable, or set csv.header to false.`,
    })
  }
  return header.map((name) => schema.fields.findIndex((field) => field.name === name))
}
