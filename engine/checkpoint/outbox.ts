/**
 * Outbox segments: output that is durable but not yet visible.
 *
 * A sink's writer appends records as they appear; at a barrier it seals the segment, which the manifest
 * then names. After the manifest exists the sink's committer reads the segment and applies it. A segment
 * that no manifest names is garbage of a crashed attempt.
 *
 * Format: per record u32 little-endian length and the bytes; the CRC-32 of the whole file travels in the
 * manifest. File names carry generation, sink, subtask and a sequence number, so they are never reused.
 *
 * A remote checkpoint directory takes whole objects: there a segment grows in the local live directory and is
 * sent when it is sealed.
 */
import { crc32 } from 'node:zlib'
import { isObjectUrl } from '../contract/object-store.ts'
import { type OutboxSegment, type OutboxWriter, outputLost } from '../contract/sink.ts'
import type { Disk, DiskFile } from '../core/io.ts'
import { ByteArena } from '../core/strings.ts'
import { layout } from './layout.ts'
import type { PendingCommit } from './manifest.ts'

const FLUSH_BYTES = 256 * 1_024
/** Many sinks see few rows between two checkpoints. */
const ROOM_BYTES_MIN = 1_024

/** One file being written; its disk operations run one after the other. */
class Segment {
  records = 0
  bytes = 0
  /** Handed to the disk, but not yet taken by it. */
  inFlight = 0
  buffered: ByteArena
  private crc = 0
  private readonly disk: Disk
  private readonly directory: string
  /** Where the segment grows. */
  private readonly path: string
  private readonly name: string
  private file: DiskFile | null = null
  private tail: Promise<void> = Promise.resolve()

  /** `roomBytes` is what the segment before it needed at once. */
  constructor({ disk, directory, liveDirectory }: OutboxOptions, name: string, roomBytes: number) {
    this.buffered = new ByteArena(roomBytes)
    this.disk = disk
    this.directory = directory
    this.name = name
    this.path = isObjectUrl(directory) ? `${liveDirectory}/${name}` : `${layout.outbox(directory)}/${name}`
  }

  append(record: Uint8Array): void {
    this.buffered.reserve(4 + record.length)
    this.buffered.length = this.buffered.bytes.writeUInt32LE(record.length, this.buffered.length)
    this.buffered.writeBytes(record, 0, record.length)
    this.records++
  }

  flush(): Promise<void> {
    if (this.buffered.length === 0) return this.tail
    const full = this.buffered
    this.buffered = new ByteArena(full.bytes.length)
    this.inFlight += full.length
    this.tail = this.tail.then(() => this.write(full.view()))
    // Whoever awaits the tail sees the error; without this an unawaited flush would be unhandled.
    this.tail.catch(() => {})
    return this.tail
  }

  private async write(bytes: Uint8Array): Promise<void> {
    this.file ??= await this.disk.create(this.path)
    await this.file.append(bytes)
    this.inFlight -= bytes.length
    this.crc = crc32(bytes, this.crc)
    this.bytes += bytes.length
  }

  async seal(): Promise<OutboxSegment | null> {
    await this.flush()
    if (this.file === null) return null
    const file = this.file
    this.file = null
    try {
      await file.sync()
    } finally {
      await file.close()
    }
    if (isObjectUrl(this.directory)) {
      await this.disk.link(this.path, `${layout.outbox(this.directory)}/${this.name}`)
      await this.disk.remove(this.path)
    }
    await this.disk.syncDirectory(layout.outbox(this.directory))
    return { file: `outbox/${this.name}`, records: this.records, bytes: this.bytes, crc32: this.crc >>> 0 }
  }

  async discard(): Promise<void> {
    await this.tail.catch(() => {})
    await this.file?.close()
    this.file = null
  }
}

export interface OutboxOptions {
  readonly disk: Disk
  readonly directory: string
  /** Local; used when `directory` is remote. */
  readonly liveDirectory: string
  /** Start of the file names; unique in the generation. */
  readonly prefix: string
  readonly onError: (error: unknown) => void
  /** Told of the bytes of each record. */
  readonly onAppend?: (bytes: number) => void
}

/** The outbox of one writer. */
export function createOutbox(options: OutboxOptions): OutboxWriter {
  let sequence = 0
  const next = (roomBytes: number): Segment =>
    new Segment(options, `${options.prefix}-${String(sequence++).padStart(6, '0')}.seg`, roomBytes)
  let segment = next(ROOM_BYTES_MIN)
  return {
    append(record) {
      segment.append(record)
      options.onAppend?.(record.length)
      if (segment.buffered.length >= FLUSH_BYTES) segment.flush().catch(options.onError)
    },
    get bufferedBytes() {
      return segment.buffered.length + segment.inFlight
    },
    flush: () => segment.flush(),
    seal() {
      const sealed = segment
      segment = next(sealed.buffered.bytes.length)
      return sealed.seal()
    },
    close: () => segment.discard(),
  }
}

/** The records of a sealed segment, in order. Throws `OUTPUT_LOST`. */
export async function* readOutbox(disk: Disk, directory: string, segment: OutboxSegment): AsyncGenerator<Uint8Array> {
  const bytes = await readSegment(disk, directory, segment)
  let at = 0
  while (at < bytes.length) {
    const length = bytes.readUInt32LE(at)
    yield bytes.subarray(at + 4, at + 4 + length)
    at += 4 + length
  }
}

async function readSegment(disk: Disk, directory: string, segment: OutboxSegment): Promise<Buffer> {
  const path = `${directory}/${segment.file}`
  // Bytes can also be hurt on the way: what does not match is read once more before it is called damaged.
  for (let left = 1; left >= 0; left--) {
    const bytes = Buffer.from(await disk.read(path).catch((error) => goneOr(error, disk, directory, path)))
    if (bytes.length === segment.bytes && crc32(bytes) === segment.crc32) return bytes
  }
  throw outputLost(path, 'does not match its checksum')
}

/** Without any manifest all of the directory is away, and may come back: a volume that is not mounted. */
async function goneOr(error: unknown, disk: Disk, directory: string, path: string): Promise<never> {
  const isGone = (error as NodeJS.ErrnoException).code === 'ENOENT'
  if (isGone && (await disk.list(layout.manifests(directory))).length > 0) throw outputLost(path, 'is gone')
  throw error
}

/** Is it a segment of the engine's outbox, or something of the sink's own? */
export function isSegment(committable: unknown): committable is OutboxSegment {
  const file = (committable as { file?: unknown } | null)?.file
  return typeof file === 'string' && file.startsWith('outbox/')
}

/** The segments of an epoch's output, relative to the checkpoint directory. */
export function segmentsOf({ committables }: PendingCommit): string[] {
  return (committables as readonly unknown[]).filter(isSegment).map(({ file }) => file)
}

/** The generation that wrote a segment; 0 for a file that is none. */
export function generationOf(name: string): number {
  return Number(/^g(\d+)-/.exec(name)?.[1] ?? 0)
}

/** True when an epoch's output is certainly applied: its segments are removed only then. */
export async function isAnySegmentGone(disk: Disk, directory: string, commit: PendingCommit): Promise<boolean> {
  for (const file of segmentsOf(commit)) if ((await disk.size(`${directory}/${file}`)) === null) return true
  return false
}
