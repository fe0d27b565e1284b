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

/** Of a segment that is read in pieces. */
const PIECE_BYTES = 4 << 20

/**
 * The records of a sealed segment, in order; none before the whole of it has matched its checksum. Throws `OUTPUT_LOST`.
 *
 * A batch job's output waits in one segment a subtask, however large, so it is read in pieces where the disk can: once to
 * check it, once for the records.
 */
export async function* readOutbox(disk: Disk, directory: string, segment: OutboxSegment): AsyncGenerator<Uint8Array> {
  const path = `${directory}/${segment.file}`
  let whole: Uint8Array | null = null
  // Bytes can also be hurt on the way: what does not match is read once more before it is called damaged.
  for (let left = 1; ; left--) {
    const check = await checkSegment(disk, path, segment).catch((error) => goneOr(error, disk, directory, path))
    whole = check.whole
    if (check.matches) break
    if (left === 0) throw outputLost(path, 'does not match its checksum')
  }
  let rest: Buffer = Buffer.alloc(0)
  for await (const piece of whole === null ? piecesOf(disk, path, segment.bytes) : [whole]) {
    const bytes = rest.length === 0 ? bufferOf(piece) : Buffer.concat([rest, piece])
    let at = 0
    while (at + 4 <= bytes.length) {
      const end = at + 4 + bytes.readUInt32LE(at)
      if (end > bytes.length) break
      yield bytes.subarray(at + 4, end)
      at = end
    }
    rest = bytes.subarray(at)
  }
  if (rest.length > 0) throw outputLost(path, 'ends within a record')
}

/** Whether the file is what was sealed. `whole` are its bytes, of a small one. */
export async function checkSegment(
  disk: Disk,
  path: string,
  segment: OutboxSegment,
): Promise<{ readonly matches: boolean; readonly whole: Uint8Array | null }> {
  const matches = (bytes: number, crc: number): boolean => bytes === segment.bytes && crc === segment.crc32
  if (segment.bytes > PIECE_BYTES && (await disk.size(path)) === segment.bytes) {
    let crc: number | null = null
    let bytes = 0
    for await (const piece of piecesOf(disk, path, segment.bytes)) {
      crc = crc32(piece, crc ?? 0)
      bytes += piece.length
    }
    if (crc !== null) return { matches: matches(bytes, crc), whole: null }
  }
  const whole = await disk.read(path)
  return { matches: matches(whole.length, crc32(whole)), whole }
}

/** None where the disk reads whole files only. */
async function* piecesOf(disk: Disk, path: string, bytes: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes; at += PIECE_BYTES) {
    const reading = disk.readRange?.(path, at, Math.min(PIECE_BYTES, bytes - at)) ?? null
    if (reading === null) return
    yield await reading
  }
}

function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
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
