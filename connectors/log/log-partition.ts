/**
 * The writing side of one partition: group commit, segments, retention, and repair on open.
 *
 * Appended records wait in memory for at most 5 ms or 1 MiB, then are written and synced together; only
 * then is the new end published for readers. There is one writer a partition (log.ts holds the lock).
 *
 * Invariants:
 * - Every record below `durableEnd` is on disk, synced, in a segment whose frames are whole.
 * - The published end never exceeds `durableEnd`. It may lag: the log sink publishes at its commits.
 * - `open` cuts a torn tail off the last segment; a damaged frame below the published end is an error.
 */
import { type FileHandle, mkdir, open, stat, truncate, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { MillraceError } from '../../engine/core/errors.ts'
import { ByteArena } from '../../engine/core/strings.ts'
import { syncDirectory } from '../owner-directory.ts'
import {
  END_FILE,
  encodeEnd,
  FRAME_PREFIX_BYTES,
  frameSize,
  indexName,
  listSegments,
  readEnd,
  seekIndex,
  segmentName,
  writeFrame,
} from './log-format.ts'

export interface PartitionOptions {
  readonly segmentBytes: number
  readonly retentionMs: number | null
  readonly retentionBytes: number | null
  /** False: flushed records stay hidden until `publish`. */
  readonly publishOnFlush: boolean
  /** Asked before each change of a segment; throws when another writer has come. */
  readonly checkOwner?: () => Promise<void>
}

const GROUP_DELAY_MS = 5
const GROUP_BYTES = 1_024 * 1_024
const INDEX_EVERY_BYTES = 64 * 1_024
const SCAN_BYTES = 1_024 * 1_024

export class LogPartition {
  /** Offset of the next record. */
  nextOffset = 0
  durableEnd = 0
  private readonly directory: string
  private readonly options: PartitionOptions
  private segments: number[] = []
  private segment: FileHandle | null = null
  private index: FileHandle | null = null
  private endFile: FileHandle | null = null
  private segmentLength = 0
  private indexedAt = 0
  private pending = new ByteArena(64 * 1_024)
  /** First offset in `pending`. */
  private pendingBase = 0
  private timer: NodeJS.Timeout | null = null
  private work: Promise<void> = Promise.resolve()
  private failure: unknown = null

  constructor(directory: string, options: PartitionOptions) {
    this.directory = directory
    this.options = options
  }

  async open(): Promise<void> {
    await mkdir(this.directory, { recursive: true })
    const published = await readEnd(this.directory)
    this.segments = await listSegments(this.directory)
    if (this.segments.length === 0) await this.startSegment(published ?? 0)
    else {
      const base = this.segments.at(-1)!
      const scan = await scanSegment(this.directory, base, Number.POSITIVE_INFINITY)
      // Looked at before anything is cut off: a damaged file must stay as it is for repair.
      if (published !== null && published > scan.offset) throw lostRecords(this.directory, scan.offset, published)
      await truncate(join(this.directory, segmentName(base)), scan.position)
      await this.openSegment(base, scan.position)
      await this.segment!.sync()
      this.nextOffset = scan.offset
    }
    this.durableEnd = this.nextOffset
    this.pendingBase = this.nextOffset
    this.endFile = await open(join(this.directory, END_FILE), published === null ? 'w+' : 'r+')
    if (this.options.publishOnFlush) await this.publish(this.durableEnd)
    else if (published === null) await this.publish(0)
  }

  /** Appends a record and returns its offset. Durable after `flush`. */
  append(key: Uint8Array, value: Uint8Array, timestamp: number): number {
    if (this.failure !== null) throw this.failure
    const offset = this.nextOffset
    writeFrame(this.pending, offset, timestamp, key, value)
    this.nextOffset++
    if (this.pending.length >= GROUP_BYTES) this.flush().catch(() => {})
    else this.timer ??= setTimeout(() => this.flush().catch(() => {}), GROUP_DELAY_MS)
    return offset
  }

  /** Bytes that wait for the disk. */
  get pendingBytes(): number {
    return this.pending.length
  }

  /** Resolves when everything appended so far is durable. */
  flush(): Promise<void> {
    if (this.timer !== null) clearTimeout(this.timer)
    this.timer = null
    if (this.pending.length > 0) {
      const bytes = this.pending.copy()
      const base = this.pendingBase
      const end = this.nextOffset
      this.pending.clear()
      this.pendingBase = end
      this.work = this.work.then(() => this.store(bytes, base, end))
      this.work.catch((error: unknown) => {
        this.failure ??= error
      })
    }
    return this.work
  }

  /** Lets readers see records below `offset`. */
  async publish(offset: number): Promise<void> {
    await this.endFile!.write(encodeEnd(offset), 0, 12, 0)
  }

  /** Removes every record at or above `end`; nothing may be unflushed. */
  async truncateTo(end: number): Promise<void> {
    await this.flush()
    if (end >= this.nextOffset) return
    await this.options.checkOwner?.()
    await this.closeSegment()
    while (this.segments.length > 1 && this.segments.at(-1)! >= end) await this.removeSegment(this.segments.pop()!)
    const base = this.segments.at(-1)!
    const { offset, position } = await scanSegment(this.directory, base, end)
    // Cut here, a damaged record would take the committed ones after it along.
    if (offset < end) throw lostRecords(this.directory, offset, end)
    await truncate(join(this.directory, segmentName(base)), position)
    await this.openSegment(base, position)
    await this.segment!.sync()
    await syncDirectory(this.directory)
    this.nextOffset = end
    this.pendingBase = end
    this.durableEnd = end
  }

  async close(): Promise<void> {
    try {
      await this.flush()
    } finally {
      await this.closeSegment()
      await this.endFile?.close()
      this.endFile = null
    }
  }

  private async store(bytes: Uint8Array, base: number, end: number): Promise<void> {
    await this.options.checkOwner?.()
    if (this.segmentLength > 0 && this.segmentLength + bytes.length > this.options.segmentBytes) {
      await this.closeSegment()
      await this.startSegment(base)
      await this.retain()
    }
    if (this.segmentLength - this.indexedAt >= INDEX_EVERY_BYTES) {
      const entry = Buffer.alloc(8)
      entry.writeUInt32BE(base - this.segments.at(-1)!, 0)
      entry.writeUInt32BE(this.segmentLength, 4)
      await this.index!.appendFile(entry)
      this.indexedAt = this.segmentLength
    }
    await this.segment!.writeFile(bytes)
    await this.segment!.datasync()
    this.segmentLength += bytes.length
    this.durableEnd = end
    if (this.options.publishOnFlush) await this.publish(end)
  }

  private async startSegment(base: number): Promise<void> {
    const created = await open(join(this.directory, segmentName(base)), 'ax')
    await created.sync()
    await created.close()
    await syncDirectory(this.directory)
    this.segments.push(base)
    this.nextOffset = Math.max(this.nextOffset, base)
    await this.openSegment(base, 0)
  }

  private async openSegment(base: number, length: number): Promise<void> {
    this.segment = await open(join(this.directory, segmentName(base)), 'a')
    // Entries behind a cut could point into later frames, so an index is only kept when nothing was cut.
    const keepsIndex = length > 0 && (await indexEndsBefore(this.directory, base, length))
    this.index = await open(join(this.directory, indexName(base)), keepsIndex ? 'a' : 'w')
    this.segmentLength = length
    this.indexedAt = keepsIndex ? length : 0
  }

  private async closeSegment(): Promise<void> {
    await this.segment?.close()
    await this.index?.close()
    this.segment = null
    this.index = null
  }

  /** Removes whole segments, oldest first, that are too old or too much. Never the one written to. */
  private async retain(): Promise<void> {
    const { retentionMs, retentionBytes } = this.options
    if (retentionMs === null && retentionBytes === null) return
    const infos = await Promise.all(this.segments.map((base) => stat(join(this.directory, segmentName(base)))))
    let total = infos.reduce((sum, info) => sum + info.size, 0)
    for (const info of infos.slice(0, -1)) {
      const isOld = retentionMs !== null && Date.now() - info.mtimeMs > retentionMs
      const isTooMuch = retentionBytes !== null && total > retentionBytes
      if (!isOld && !isTooMuch) return
      total -= info.size
      await this.removeSegment(this.segments.shift()!)
    }
  }

  private async removeSegment(base: number): Promise<void> {
    await unlink(join(this.directory, segmentName(base)))
    await unlink(join(this.directory, indexName(base))).catch(() => {})
  }
}

function lostRecords(directory: string, end: number, published: number): MillraceError {
  return new MillraceError('LOG_CORRUPT', `${directory} ends at offset ${end}, but ${published} was durable.`, {
    domain: 'external',
    hint: 'A segment file was damaged or changed from outside; restore the directory from a copy.',
  })
}

async function indexEndsBefore(directory: string, base: number, length: number): Promise<boolean> {
  const path = join(directory, indexName(base))
  const size = await stat(path).then(
    (info) => info.size,
    () => 0,
  )
  if (size === 0 || size % 8 !== 0) return false
  const handle = await open(path, 'r')
  try {
    const entry = Buffer.alloc(8)
    await handle.read(entry, 0, 8, size - 8)
    return entry.readUInt32BE(4) < length
  } finally {
    await handle.close()
  }
}

/** Walks the whole frames of a segment up to offset `until`: the offset and byte position after them. */
export async function scanSegment(
  directory: string,
  base: number,
  until: number,
): Promise<{ offset: number; position: number }> {
  let { offset, position } = Number.isFinite(until)
    ? await seekIndex(directory, base, until)
    : { offset: base, position: 0 }
  const handle = await open(join(directory, segmentName(base)), 'r')
  try {
    let window: Buffer = Buffer.alloc(SCAN_BYTES)
    for (;;) {
      const { bytesRead } = await handle.read(window, 0, window.length, position)
      let at = 0
      let size = 0
      while (offset < until) {
        size = frameSize(window, at, bytesRead, offset)
        if (size <= 0) break
        at += size
        offset++
      }
      position += at
      if (offset >= until || size < 0) return { offset, position }
      if (at > 0) continue
      // Not one whole frame: the end of the file, or a frame larger than the window.
      if (bytesRead < window.length) return { offset, position }
      window = Buffer.alloc(FRAME_PREFIX_BYTES + window.readUInt32BE(0))
    }
  } finally {
    await handle.close()
  }
}
