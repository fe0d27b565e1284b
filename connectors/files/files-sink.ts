/**
 * Exactly-once sink of files: JSON lines, CSV or Parquet, compressed or not.
 *
 * Each writer writes a file in `<path>/.pending` and cuts it at every barrier. The committable names the
 * file with its size and checksum. The committer renames the files of an epoch to
 * `<prefix>-<epoch>-<subtask>.jsonl` (or .csv, .parquet) and then replaces the marker file `.millrace-marker`, which holds the
 * epoch. Both steps may be repeated: a file that is in place already with the right size is done. A part that is gone
 * or does not match its checksum is not shown, and ends the job.
 * A reader that must not see half of an epoch reads only files with an epoch up to the marker's.
 * Only the committer that opened last can replace the marker (owner-directory.ts).
 *
 * Left-over pending files of earlier attempts are removed after a commit, when a newer attempt's file was
 * committed: everything that a manifest still names from older attempts was committed before it.
 */
import { randomUUID } from 'node:crypto'
import { type FileHandle, mkdir, open, readdir, readFile, rename, stat, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { crc32, gzip, zstdCompress } from 'node:zlib'
import {
  outputLost,
  type Sink,
  type SinkCommitter,
  type SinkCommitterContext,
  type SinkWriter,
  type SinkWriterContext,
} from '../../engine/contract/sink.ts'
import type { Batch } from '../../engine/core/batch.ts'
import { MillraceError } from '../../engine/core/errors.ts'
import type { JsonValue } from '../../engine/core/json-value.ts'
import type { Schema } from '../../engine/core/schema.ts'
import { ByteArena } from '../../engine/core/strings.ts'
import { OwnerDirectory, syncDirectory } from '../owner-directory.ts'
import type { Compression } from './byte-stream.ts'
import type { FileFormat } from './file-splits.ts'
import { type EncoderOptions, type PartEncoder, partEncoders } from './part-encoder.ts'

export interface FilesSinkOptions<T> {
  /** Directory of the finished files; made when absent. One sink a directory. */
  readonly path: string
  /** JSON lines by default. CSV and Parquet need a schema. */
  readonly format?: FileFormat
  readonly csv?: EncoderOptions['csv']
  /**
   * Of JSON lines and CSV; each buffer of about a MiB is compressed by itself, which gzip and zstd read as one
   * stream. Parquet pages are compressed with Snappy already.
   */
  readonly compression?: Extract<Compression, 'none' | 'gzip' | 'zstd'>
  /** A part that has reached this many bytes is finished before the checkpoint; null, the default, is never. */
  readonly rollBytes?: number | null
  /** First part of file names, `part` by default. */
  readonly prefix?: string
  readonly schema?: Schema<T>
}

export const MARKER_FILE = '.millrace-marker'
const PENDING_DIRECTORY = '.pending'
/** A full buffer is handed to the disk; while that runs, a second one may fill. */
const BUFFER_BYTES = 1_024 * 1_024
/** After this many rows the buffer is looked at; after fewer, while rows are huge. */
const ROWS_BETWEEN_CHECKS = 64

interface Committable {
  readonly temp: string
  readonly subtask: number
  readonly attempt: number
  readonly bytes: number
  readonly crc32: number
  /** `jsonl` when absent. */
  readonly extension?: string
}

/** All parts that a writer finished between two barriers. */
interface Committables {
  readonly parts: readonly Committable[]
}

const COMPRESSORS = { gzip: promisify(gzip), zstd: promisify(zstdCompress) }
const EXTENSIONS = { json: 'jsonl', csv: 'csv', parquet: 'parquet' } as const
const COMPRESSION_EXTENSIONS = { none: '', gzip: '.gz', zstd: '.zst' } as const

/** Writes rows to files, visible exactly once. Throws `OPTION_INVALID`. */
export function filesSink<T>(options: FilesSinkOptions<T>): Sink<T> {
  if (options.format === 'parquet' && (options.compression ?? 'none') !== 'none') {
    throw new MillraceError('OPTION_INVALID', 'Parquet files are compressed inside; leave compression out.')
  }
  if (options.rollBytes != null && !(options.rollBytes >= 1)) {
    throw new MillraceError('OPTION_INVALID', 'rollBytes must be at least 1.')
  }
  return {
    kind: 'files',
    guarantee: 'exactly-once',
    ...(options.schema === undefined ? {} : { schema: options.schema }),
    createWriter: (context) => new FilesWriter(options, context),
    createCommitter: (context) => new FilesCommitter(options.path, options.prefix ?? 'part', context),
  }
}

/** The file being written. */
interface Part {
  readonly name: string
  readonly handle: Promise<FileHandle>
  bytes: number
  crc32: number
}

type WriterOptions = Omit<FilesSinkOptions<unknown>, 'schema'>

class FilesWriter implements SinkWriter {
  private readonly options: WriterOptions
  private readonly pending: string
  private readonly context: SinkWriterContext
  private createEncoder!: () => PartEncoder
  private encoder: PartEncoder | null = null
  private filling = new ByteArena(BUFFER_BYTES + 64 * 1_024)
  private idle: ByteArena | null = new ByteArena(BUFFER_BYTES + 64 * 1_024)
  private part: Part | null = null
  /** Parts finished since the last barrier. */
  private finished: Promise<Committable>[] = []
  private blocked = false
  /** Disk work in order; a failure makes all later work fail with it. */
  private work: Promise<void> = Promise.resolve()

  constructor(options: WriterOptions, context: SinkWriterContext) {
    this.options = options
    this.pending = join(options.path, PENDING_DIRECTORY)
    this.context = context
  }

  async open(): Promise<void> {
    const { schema, worker } = this.context
    const { format = 'json', csv = {} } = this.options
    const id = worker.uniqueId('files-sink')
    this.createEncoder = await partEncoders({ format, csv, schema, interner: worker.interner, id })
    await mkdir(this.pending, { recursive: true })
  }

  write(batch: Batch, from: number): number {
    let i = from
    let step = 1
    while (i < batch.length) {
      if (this.filling.length >= BUFFER_BYTES && !this.handOff()) {
        this.blocked = true
        return i
      }
      this.encoder ??= this.createEncoder()
      const to = Math.min(batch.length, i + step)
      const before = this.filling.length
      this.encoder.write(batch, i, to, this.filling)
      i = to
      step = this.filling.length - before > BUFFER_BYTES / 8 ? 1 : Math.min(2 * step, ROWS_BETWEEN_CHECKS)
      const { rollBytes } = this.options
      if (rollBytes != null && (this.part?.bytes ?? 0) + this.filling.length >= rollBytes) this.finishPart()
    }
    return i
  }

  prepareCommit(): Promise<JsonValue | null> {
    this.finishPart()
    const parts = this.finished
    this.finished = []
    const sealed = Promise.all(parts).then(async (done): Promise<JsonValue | null> => {
      if (done.length === 0) return null
      await syncDirectory(this.pending)
      return { parts: done } satisfies Committables as unknown as JsonValue
    })
    this.work = this.work.then(() => sealed).then(() => {})
    this.work.catch(() => {})
    return sealed
  }

  async close(): Promise<void> {
    await this.work.catch(() => {})
    await this.part?.handle.then((handle) => handle.close()).catch(() => {})
    this.part = null
  }

  /** Ends the part under way, if there is one; its place on disk is durable when its promise resolves. */
  private finishPart(): void {
    this.encoder?.finish(this.filling)
    this.encoder = null
    if (this.filling.length > 0) this.handOff(true)
    const part = this.part
    this.part = null
    if (part === null) return
    const { format = 'json', compression = 'none' } = this.options
    const extension = `${EXTENSIONS[format]}${COMPRESSION_EXTENSIONS[compression]}`
    const closed = this.work.then(async (): Promise<Committable> => {
      const handle = await part.handle
      await handle.sync()
      await handle.close()
      const { subtask, attempt } = this.context
      return { temp: part.name, subtask, attempt, bytes: part.bytes, crc32: part.crc32, extension }
    })
    closed.catch(() => {})
    this.finished.push(closed)
    this.work = closed.then(() => {})
    this.work.catch(() => {})
  }

  /** Gives the full buffer to the disk. False when the other buffer is still being written, unless forced. */
  private handOff(forced = false): boolean {
    if (this.idle === null && !forced) return false
    const full = this.filling
    this.filling = this.idle ?? new ByteArena(BUFFER_BYTES + 64 * 1_024)
    this.idle = null
    this.part ??= this.newPart()
    const part = this.part
    const { compression = 'none' } = this.options
    this.work = this.work.then(async () => {
      const bytes = compression === 'none' ? full.view() : await COMPRESSORS[compression](full.view())
      part.bytes += bytes.length
      part.crc32 = crc32(bytes, part.crc32)
      await (await part.handle).writeFile(bytes)
      full.clear()
      this.idle = full
      if (this.blocked) {
        this.blocked = false
        this.context.wake()
      }
    })
    this.work.catch((error: unknown) =>
      this.context.fail(
        new MillraceError('FILE_WRITE_FAILED', `Writing to ${this.pending} failed.`, {
          domain: 'external',
          retryable: true,
          cause: error,
        }),
      ),
    )
    return true
  }

  private newPart(): Part {
    const { sinkId, attempt, subtask } = this.context
    const name = `${attempt}-${subtask}-${Buffer.from(sinkId).toString('hex').slice(0, 32)}-${randomUUID()}.inprogress`
    const handle = open(join(this.pending, name), 'wx')
    handle.catch(() => {})
    return { name, handle, bytes: 0, crc32: 0 }
  }
}

class FilesCommitter implements SinkCommitter {
  private readonly path: string
  private readonly prefix: string
  private readonly context: SinkCommitterContext
  private readonly owner: OwnerDirectory

  constructor(path: string, prefix: string, context: SinkCommitterContext) {
    this.path = path
    this.owner = new OwnerDirectory(path)
    this.prefix = prefix
    this.context = context
  }

  async open(): Promise<void> {
    await mkdir(join(this.path, PENDING_DIRECTORY), { recursive: true })
    await this.owner.take()
  }

  async readMarker(): Promise<number> {
    let text: string
    try {
      text = await readFile(join(this.path, MARKER_FILE), 'utf8')
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0
      throw error
    }
    const marker = JSON.parse(text) as { sink: string; epoch: number }
    if (marker.sink !== this.context.sinkId) {
      throw new MillraceError(
        'SINK_DIRECTORY_TAKEN',
        `${this.path} belongs to the sink ${JSON.stringify(marker.sink)}.`,
        {
          hint: 'Give each files sink its own directory.',
        },
      )
    }
    return marker.epoch
  }

  peekMarker(): Promise<number> {
    return this.readMarker()
  }

  async commit(epoch: number, committables: readonly JsonValue[]): Promise<void> {
    if (epoch <= (await this.readMarker())) return
    const { io } = this.context
    // A part by itself is how earlier versions wrote it.
    const parts = (committables as unknown as readonly (Committable | Committables)[]).flatMap((committable) =>
      'parts' in committable ? committable.parts : [committable],
    )
    const perSubtask = new Map<number, number>()
    for (const part of parts) {
      const nth = perSubtask.get(part.subtask) ?? 0
      perSubtask.set(part.subtask, nth + 1)
      await this.owner.check()
      const suffix = nth === 0 ? '' : `-${nth}`
      await this.finish(
        part,
        `${this.prefix}-${String(epoch).padStart(8, '0')}-${part.subtask}${suffix}.${part.extension ?? 'jsonl'}`,
      )
      io.failpoint?.('sink-part-renamed')
    }
    await syncDirectory(this.path)
    io.failpoint?.('sink-parts-in-place')
    await this.owner.replace(MARKER_FILE, JSON.stringify({ sink: this.context.sinkId, epoch }))
    io.failpoint?.('sink-marker-moved')
    if (parts.length > 0) await this.sweep(Math.max(...parts.map((part) => part.attempt)))
  }

  async close(): Promise<void> {
    await this.owner.release()
  }

  private async finish(part: Committable, name: string): Promise<void> {
    const temp = join(this.path, PENDING_DIRECTORY, part.temp)
    const final = join(this.path, name)
    const size = await sizeOf(temp)
    if (size === null && (await sizeOf(final)) === part.bytes) return
    if (size === null) throw outputLost(temp, 'is gone')
    if (size !== part.bytes) throw outputLost(temp, `has ${size} bytes instead of ${part.bytes}`)
    // Read once more before it is called damaged: bytes can also be hurt on the way.
    const isSound = (await checksumOf(temp)) === part.crc32 || (await checksumOf(temp)) === part.crc32
    if (!isSound) throw outputLost(temp, 'does not match its checksum')
    await rename(temp, final)
  }

  /** Removes pending files of attempts before `attempt`. */
  private async sweep(attempt: number): Promise<void> {
    const directory = join(this.path, PENDING_DIRECTORY)
    for (const name of await readdir(directory)) {
      const older = /^(\d+)-.*\.inprogress$/.exec(name)
      if (older !== null && Number(older[1]) < attempt) await unlink(join(directory, name))
    }
  }
}

/** CRC-32 of a file; reading and this cost a small part of what writing it did. */
async function checksumOf(path: string): Promise<number> {
  const handle = await open(path, 'r')
  try {
    const buffer = Buffer.allocUnsafe(BUFFER_BYTES)
    let checksum = 0
    for (;;) {
      const { bytesRead } = await handle.read(buffer)
      if (bytesRead === 0) return checksum
      checksum = crc32(buffer.subarray(0, bytesRead), checksum)
    }
  } finally {
    await handle.close()
  }
}

async function sizeOf(path: string): Promise<number | null> {
  try {
    return (await stat(path)).size
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}
