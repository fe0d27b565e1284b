/**
 * The files sink's writer: rows into part files of their buckets, in `.pending`, cut at every barrier. Made by files-sink.ts.
 *
 * A bucket is open from its first row until its part is finished: at the barrier, when it has its size or its age, when
 * nothing came for a while, or when there are too many and it is the one that was written to longest ago. Each has a buffer of bytes;
 * full ones go to the disk one after the other, and parts are made durable beside that.
 *
 * Invariants:
 * - Open buckets, bytes in buffers, rows that encoders keep, bytes on their way to the disk and parts that are being
 *   finished are all bounded: beyond that the writer is blocked, or writes the largest out.
 * - Parts of one bucket hold its rows in the order in which they came.
 * - While a bucket is open whose part time will finish, a timer is set, and for no later than the first such part is due.
 */
import { randomUUID } from 'node:crypto'
import { type FileHandle, mkdir, open } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { crc32, gzip, zstdCompress } from 'node:zlib'
import type { SinkWriter, SinkWriterContext } from '../../engine/contract/sink.ts'
import type { Batch } from '../../engine/core/batch.ts'
import { MillraceError, messageOf } from '../../engine/core/errors.ts'
import type { JsonValue } from '../../engine/core/json-value.ts'
import { type RowReader, rowReader } from '../../engine/core/rows.ts'
import { ByteArena } from '../../engine/core/strings.ts'
import { syncDirectory } from '../owner-directory.ts'
import { type BucketAssigner, checkBucketId, DateTimeBuckets } from './buckets.ts'
import type { Compression } from './byte-stream.ts'
import type { FileFormat } from './file-splits.ts'
import { type EncoderOptions, type PartEncoder, partEncoders } from './part-encoder.ts'

export interface WriterOptions {
  readonly path: string
  readonly format: FileFormat
  readonly csv: EncoderOptions['csv']
  /** Of text; null where the rows are the lines. */
  readonly encoder: ((element: unknown) => string) | null
  readonly compression: Extract<Compression, 'none' | 'gzip' | 'zstd'>
  /** Infinity for parts of any size. */
  readonly rollBytes: number
  /** Null for one bucket, the sink's own folder. */
  readonly bucketAssigner: BucketAssigner<unknown> | null
  readonly openBucketsMax: number
  /** A part is finished this long after its first row at the latest; Infinity for any age. */
  readonly rolloverMs: number
  /** A part is finished when nothing was written to it for this long; Infinity for any time. */
  readonly inactiveMs: number
}

/** Where parts are until their epoch is committed. */
export const PENDING_DIRECTORY = '.pending'

/** A finished part, as the manifest names it. A type, so that it is a JsonValue. */
export type PartCommittable = {
  readonly temp: string
  readonly subtask: number
  readonly attempt: number
  readonly bytes: number
  readonly crc32: number
  /** `jsonl` when absent. */
  readonly extension?: string
  /** The sink's own folder when absent. */
  readonly bucket?: string
}

/** All parts that a writer finished between two barriers. */
export type PartCommittables = { readonly parts: readonly PartCommittable[] }

/** A full buffer is handed to the disk. */
const BUFFER_BYTES = 1_024 * 1_024
/** What a bucket begins with, when there may be many. */
const SMALL_BUFFER_BYTES = 4_096
/** In the buffers of all buckets: beyond it the fullest is written. */
const BUFFERED_BYTES_MAX = 16 * 1_024 * 1_024
/** In encoders that keep rows: beyond it the one with most writes them. */
const HELD_BYTES_MAX = 64 * 1_024 * 1_024
/** On their way to the disk: beyond it the writer is blocked. While one buffer is written, another may fill. */
const IN_FLIGHT_BYTES_MAX = 2 * BUFFER_BYTES
/** Parts that are being finished: beyond it the writer is blocked. */
const FINISHING_PARTS_MAX = 64
/** After this many rows the buffer is looked at; after fewer, while rows are huge. */
const ROWS_BETWEEN_CHECKS = 64
const SPARE_BUFFERS_MAX = 2

const COMPRESSORS = { gzip: promisify(gzip), zstd: promisify(zstdCompress) }
const EXTENSIONS = { json: 'jsonl', csv: 'csv', text: 'txt', parquet: 'parquet' } as const
const COMPRESSION_EXTENSIONS = { none: '', gzip: '.gz', zstd: '.zst' } as const

/** The file being written. */
interface Part {
  readonly name: string
  readonly handle: Promise<FileHandle>
  /** On disk, and their checksum. */
  bytes: number
  crc32: number
  /** On their way there, before compression. */
  bytesInFlight: number
}

interface Bucket {
  readonly id: string
  readonly encoder: PartEncoder
  buffer: ByteArena
  part: Part | null
  /** Counts up over all buckets. */
  lastUse: number
  readonly openedMs: number
  lastWrittenMs: number
}

export class FilesWriter implements SinkWriter {
  private readonly options: WriterOptions
  private readonly pending: string
  private readonly context: SinkWriterContext
  private createEncoder!: () => PartEncoder
  private bucketOf: (batch: Batch, i: number) => string = () => ''
  private readonly buckets = new Map<string, Bucket>()
  private uses = 0
  /** In all buckets. */
  private bufferedBytes = 0
  private heldBytes = 0
  private readonly spareBuffers: ByteArena[] = []
  private bytesInFlight = 0
  /** Parts whose rows are all on their way. */
  private readonly finishing = new Set<Promise<PartCommittable>>()
  /** Parts finished since the last barrier. */
  private finished: Promise<PartCommittable>[] = []
  private blocked = false
  private cancelTimer: (() => void) | null = null
  /** Disk work in order; a failure makes all later work fail with it. */
  private work: Promise<void> = Promise.resolve()

  constructor(options: WriterOptions, context: SinkWriterContext) {
    this.options = options
    this.pending = join(options.path, PENDING_DIRECTORY)
    this.context = context
  }

  async open(): Promise<void> {
    const { schema, worker } = this.context
    const { format, csv, encoder, bucketAssigner } = this.options
    const id = worker.uniqueId('files-sink')
    const textOf = encoder === null ? null : this.textReader(encoder)
    this.createEncoder = await partEncoders({ format, csv, textOf, schema, id })
    if (bucketAssigner !== null) this.bucketOf = this.bucketReader(bucketAssigner)
    await mkdir(this.pending, { recursive: true })
  }

  private textReader(encoder: (element: unknown) => string): (batch: Batch, i: number) => string {
    const { worker, schema } = this.context
    const read: RowReader = rowReader(schema, worker.interner, worker.uniqueId('files-sink encoder'))
    return (batch, i) => encoder(read(batch, i))
  }

  private bucketReader(assigner: BucketAssigner<unknown>): (batch: Batch, i: number) => string {
    const { worker, schema } = this.context
    if (assigner instanceof DateTimeBuckets) return (batch, i) => assigner.idAt(batch.eventTime[i]!, worker.nowMs())
    const read: RowReader = rowReader(schema, worker.interner, worker.uniqueId('files-sink buckets'))
    return (batch, i) => {
      const context = {
        timestamp: batch.eventTime[i]!,
        currentWatermark: this.context.currentWatermark(),
        currentProcessingTime: worker.nowMs(),
      }
      const value = read(batch, i)
      return typeof assigner === 'function' ? assigner(value, context) : assigner.getBucketId(value, context)
    }
  }

  write(batch: Batch, from: number): number {
    const nowMs = this.context.worker.io.clock.monotonicMs()
    let i = from
    let step = 1
    let id = i < batch.length ? this.bucketOf(batch, i) : ''
    while (i < batch.length) {
      if (this.isBehind) {
        this.blocked = true
        return i
      }
      const bucket = this.buckets.get(id) ?? this.openBucket(id, nowMs)
      bucket.lastUse = ++this.uses
      bucket.lastWrittenMs = nowMs
      const most = Math.min(batch.length, i + step)
      let to = i + 1
      while (to < batch.length) {
        id = this.bucketOf(batch, to)
        if (id !== bucket.id || to === most) break
        to++
      }
      const before = sizeOf(bucket)
      this.addSizeOf(bucket, -1)
      bucket.encoder.write(batch, i, to, bucket.buffer)
      this.addSizeOf(bucket, 1)
      i = to
      step = sizeOf(bucket) - before > BUFFER_BYTES / 8 ? 1 : Math.min(2 * step, ROWS_BETWEEN_CHECKS)
      this.relieve(bucket)
    }
    return i
  }

  prepareCommit(): Promise<JsonValue | null> {
    for (const bucket of this.buckets.values()) this.finishPart(bucket)
    const parts = this.finished
    this.finished = []
    const sealed = Promise.all(parts).then(async (done): Promise<JsonValue | null> => {
      if (done.length === 0) return null
      await syncDirectory(this.pending)
      return { parts: done } satisfies PartCommittables
    })
    this.work = this.work.then(() => sealed).then(() => {})
    this.work.catch(() => {})
    return sealed
  }

  async close(): Promise<void> {
    this.cancelTimer?.()
    await this.work.catch(() => {})
    await Promise.allSettled(this.finishing)
    for (const { part } of this.buckets.values()) await part?.handle.then((handle) => handle.close()).catch(() => {})
    this.buckets.clear()
  }

  /** True while the disk has more to do than may wait for it. */
  private get isBehind(): boolean {
    return this.bytesInFlight > IN_FLIGHT_BYTES_MAX || this.finishing.size > FINISHING_PARTS_MAX
  }

  private openBucket(id: unknown, nowMs: number): Bucket {
    checkBucketId(id)
    if (this.buckets.size >= this.options.openBucketsMax) {
      const [first, ...others] = this.buckets.values()
      this.finishPart(others.reduce((oldest, other) => (other.lastUse < oldest.lastUse ? other : oldest), first!))
    }
    const bucket: Bucket = {
      id,
      encoder: this.createEncoder(),
      buffer: this.newBuffer(),
      part: null,
      lastUse: 0,
      openedMs: nowMs,
      lastWrittenMs: nowMs,
    }
    this.buckets.set(id, bucket)
    this.cancelTimer ??= this.timerFor(this.dueMs(bucket), nowMs)
    return bucket
  }

  private newBuffer(): ByteArena {
    const bytes = this.options.bucketAssigner === null ? BUFFER_BYTES + 64 * 1_024 : SMALL_BUFFER_BYTES
    return this.spareBuffers.pop() ?? new ByteArena(bytes)
  }

  /** When the bucket's part is old enough, or was left alone for long enough. */
  private dueMs({ openedMs, lastWrittenMs }: Bucket): number {
    const { rolloverMs, inactiveMs } = this.options
    return Math.min(openedMs + rolloverMs, lastWrittenMs + inactiveMs)
  }

  private timerFor(dueMs: number, nowMs: number): (() => void) | null {
    if (dueMs === Number.POSITIVE_INFINITY) return null
    return this.context.worker.io.timers.schedule(Math.max(1, Math.ceil(dueMs - nowMs)), () => {
      this.cancelTimer = null
      try {
        this.finishDue()
      } catch (error) {
        this.context.fail(error)
      }
    })
  }

  /** Finishes the parts that are due, so that they do not wait for a rare checkpoint. */
  private finishDue(): void {
    const nowMs = this.context.worker.io.clock.monotonicMs()
    let nextMs = Number.POSITIVE_INFINITY
    for (const bucket of this.buckets.values()) {
      const dueMs = this.dueMs(bucket)
      if (dueMs <= nowMs) this.finishPart(bucket)
      else nextMs = Math.min(nextMs, dueMs)
    }
    this.cancelTimer = this.timerFor(nextMs, nowMs)
  }

  /** What is full after a write goes on to where there is room for it. */
  private relieve(written: Bucket): void {
    const { part } = written
    const partBytes = (part?.bytes ?? 0) + (part?.bytesInFlight ?? 0) + sizeOf(written)
    if (partBytes >= this.options.rollBytes) this.finishPart(written)
    else if (written.buffer.length >= BUFFER_BYTES) this.handOff(written)
    if (this.heldBytes > HELD_BYTES_MAX) this.flush(this.largest((bucket) => bucket.encoder.heldBytes))
    if (this.bufferedBytes > BUFFERED_BYTES_MAX) this.handOff(this.largest((bucket) => bucket.buffer.length))
  }

  private largest(bytesOf: (bucket: Bucket) => number): Bucket {
    const [first, ...others] = this.buckets.values()
    return others.reduce((largest, other) => (bytesOf(other) > bytesOf(largest) ? other : largest), first!)
  }

  /** Writes what the encoder keeps to the bucket's buffer. */
  private flush(bucket: Bucket): void {
    this.addSizeOf(bucket, -1)
    bucket.encoder.flush(bucket.buffer)
    this.addSizeOf(bucket, 1)
    if (bucket.buffer.length >= BUFFER_BYTES) this.handOff(bucket)
  }

  private addSizeOf({ buffer, encoder }: Bucket, sign: 1 | -1): void {
    this.bufferedBytes += sign * buffer.length
    this.heldBytes += sign * encoder.heldBytes
  }

  /** Ends a bucket's part and closes the bucket; its place on disk is durable when the promise in `finished` resolves. */
  private finishPart(bucket: Bucket): void {
    this.buckets.delete(bucket.id)
    this.addSizeOf(bucket, -1)
    bucket.encoder.finish(bucket.buffer)
    this.addSizeOf(bucket, 1)
    this.handOff(bucket)
    const part = bucket.part!
    const { format, compression } = this.options
    const { subtask, attempt } = this.context
    const extension = `${EXTENSIONS[format]}${COMPRESSION_EXTENSIONS[compression]}`
    const place = bucket.id === '' ? {} : { bucket: bucket.id }
    // Made durable beside what other parts write: waiting for the disk is most of a small part's time.
    const closed = this.work.then(async (): Promise<PartCommittable> => {
      const handle = await part.handle
      await handle.sync()
      await handle.close()
      return { temp: part.name, subtask, attempt, bytes: part.bytes, crc32: part.crc32, extension, ...place }
    })
    this.finished.push(closed)
    this.finishing.add(closed)
    closed.then(
      () => {
        this.finishing.delete(closed)
        this.wakeIfBlocked()
      },
      (error: unknown) => this.fail(error),
    )
  }

  /** Gives what is in a bucket's buffer to the disk. */
  private handOff(bucket: Bucket): void {
    const full = bucket.buffer
    const { length } = full
    if (length === 0 && bucket.part !== null) return
    bucket.buffer = this.newBuffer()
    this.bufferedBytes -= length
    bucket.part ??= this.newPart()
    const { part } = bucket
    const { compression } = this.options
    this.bytesInFlight += length
    part.bytesInFlight += length
    this.afterwards(
      this.work.then(async () => {
        const bytes = compression === 'none' ? full.view() : await COMPRESSORS[compression](full.view())
        await (await part.handle).writeFile(bytes)
        part.crc32 = crc32(bytes, part.crc32)
        part.bytes += bytes.length
        part.bytesInFlight -= length
        this.bytesInFlight -= length
        full.clear()
        if (this.spareBuffers.length < SPARE_BUFFERS_MAX) this.spareBuffers.push(full)
        this.wakeIfBlocked()
      }),
    )
  }

  /** The next disk work waits for this; its failure is the job's. */
  private afterwards(work: Promise<void>): void {
    this.work = work
    work.catch((error: unknown) => this.fail(error))
  }

  private fail(cause: unknown): void {
    this.context.fail(
      new MillraceError('FILE_WRITE_FAILED', `Writing to ${this.pending} failed: ${messageOf(cause)}.`, {
        domain: 'external',
        retryable: true,
        cause,
        hint: 'Check free space, limits and permissions there; a restart goes on from the newest checkpoint.',
      }),
    )
  }

  private wakeIfBlocked(): void {
    if (!this.blocked || this.isBehind) return
    this.blocked = false
    this.context.wake()
  }

  private newPart(): Part {
    const { sinkId, attempt, subtask } = this.context
    const name = `${attempt}-${subtask}-${Buffer.from(sinkId).toString('hex').slice(0, 32)}-${randomUUID()}.inprogress`
    const handle = open(join(this.pending, name), 'wx')
    handle.catch(() => {})
    return { name, handle, bytes: 0, crc32: 0, bytesInFlight: 0 }
  }
}

/** Bytes that a bucket keeps in memory. */
function sizeOf({ buffer, encoder }: Bucket): number {
  return buffer.length + encoder.heldBytes
}
