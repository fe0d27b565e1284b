/**
 * Bounded source of JSON files: lines, or one top-level array a file.
 *
 * A split is a range of a file (file-splits.ts), its position the next byte to read. A split's id is the
 * path and the range's start, so `splitBytes` and the files must stay the same while a job is restored.
 * A dead letter's offset is the record's byte position in its file.
 *
 * Invariant: `poll` never waits. Splits are read one after the other; positions of finished splits stay
 * in the snapshot, so that a restore does not read them again.
 */
import { open } from 'node:fs/promises'
import type { Source, SourcePoll, SourceReader, SourceReaderContext, SplitState } from '../../engine/contract/source.ts'
import { MillraceError } from '../../engine/core/errors.ts'
import { createJsonDecoder, JSON_RECORD_BYTES_MAX, type JsonDecoder } from '../../engine/core/json/json-decoder.ts'
import type { Schema } from '../../engine/core/schema.ts'
import { type FilePosition, findFiles, splitFile } from './file-splits.ts'
import { SplitReader } from './split-reader.ts'

export interface FilesSourceOptions<T> {
  /** Files, directories (their visible files) or paths with `*`. */
  readonly path: string | readonly string[]
  readonly schema: Schema<T>
  /** JSON lines, or one JSON array of records; told apart by the file's first character. */
  readonly format?: 'json'
  /** Longer JSON lines files are cut into ranges of about this many bytes. */
  readonly splitBytes?: number
  /** Longer records are dead-lettered. */
  readonly recordBytesMax?: number
}

const SPLIT_BYTES = 64 * 1_024 * 1_024

/** A bounded source of the records in files. Throws `FILE_NOT_FOUND` when the job starts. */
export function filesSource<T>(options: FilesSourceOptions<T>): Source<T> {
  const splitBytes = options.splitBytes ?? SPLIT_BYTES
  if (!(splitBytes >= 1)) throw new MillraceError('OPTION_INVALID', 'splitBytes must be at least 1.')
  const paths = typeof options.path === 'string' ? [options.path] : options.path
  return {
    kind: 'files',
    schema: options.schema,
    boundedness: 'bounded',
    async splits() {
      const splits: SplitState[] = []
      const files = new Set((await Promise.all(paths.map(findFiles))).flat())
      for (const file of files) splits.push(...(await splitFile(file, splitBytes)))
      return splits
    },
    createReader: (context) => new FilesReader(options, context),
  }
}

class FilesReader<T> implements SourceReader {
  private readonly context: SourceReaderContext
  private readonly decoder: JsonDecoder
  private readonly recordBytesMax: number
  private readonly positions = new Map<string, FilePosition>()
  private waiting: SplitState[] = []
  private current: { readonly id: string; readonly reader: SplitReader } | null = null
  private opening = false
  private closed = false
  private readonly closing = new Set<Promise<void>>()

  constructor(options: FilesSourceOptions<T>, context: SourceReaderContext) {
    this.context = context
    this.recordBytesMax = options.recordBytesMax ?? JSON_RECORD_BYTES_MAX
    this.decoder = createJsonDecoder(options.schema, {
      id: context.worker.uniqueId('files'),
      recordBytesMax: this.recordBytesMax,
    })
  }

  async open(splits: readonly SplitState[]): Promise<void> {
    for (const { id, position } of splits) this.positions.set(id, position as unknown as FilePosition)
    this.waiting = splits.filter(({ id }) => this.positions.get(id)!.offset < this.positions.get(id)!.end)
    await this.startNext()
  }

  poll(rowsMax: number): SourcePoll {
    for (;;) {
      if (this.current === null) {
        if (this.opening) return { kind: 'pending' }
        if (this.waiting.length === 0) return { kind: 'end' }
        this.startNext().then(
          () => this.context.wake(),
          (error: unknown) => this.context.fail(error),
        )
        return { kind: 'pending' }
      }
      const { id, reader } = this.current
      const taken = reader.take(rowsMax)
      this.positions.set(id, { ...this.positions.get(id)!, offset: reader.offset })
      if (taken === 'starved') return { kind: 'pending' }
      if (taken !== 'done') return { kind: 'batch', split: id, batch: taken.batch, offsets: taken.offsets }
      const closing = reader.close().finally(() => this.closing.delete(closing))
      this.closing.add(closing)
      this.current = null
    }
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
    const handle = await open(position.path, 'r').catch((error: unknown) => {
      throw new MillraceError('FILE_READ_FAILED', `Cannot open ${position.path}.`, { domain: 'external', cause: error })
    })
    this.opening = false
    if (this.closed) return handle.close()
    const reader = new SplitReader(
      position,
      handle,
      this.decoder,
      this.recordBytesMax,
      (reason, offset, bytes) =>
        this.context.deadLetter({ source: 'files', partition: split.id, offset, reason, bytes }),
      () => this.context.wake(),
    )
    this.current = { id: split.id, reader }
  }
}
