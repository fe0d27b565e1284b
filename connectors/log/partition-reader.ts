/**
 * Reads one partition of the embedded log, frames straight into columns, up to the published end.
 *
 * Invariants: nothing at or above the published end is returned; a damaged frame below it is an error,
 * never skipped. `offset` is the next record's. Waiting is by a timer, so `take` returns at once.
 */
import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import { BATCH_ROWS_MAX, type Batch } from '../../engine/core/batch.ts'
import { MillraceError, messageOf } from '../../engine/core/errors.ts'
import type { Timers } from '../../engine/core/io.ts'
import type { JsonDecoder } from '../../engine/core/json/json-decoder.ts'
import { FRAME_HEADER_BYTES, FRAME_PREFIX_BYTES, frameSize, listSegments, readEnd, segmentName } from './log-format.ts'
import { scanSegment } from './log-partition.ts'

const WINDOW_BYTES = 256 * 1_024
const PADDING_BYTES = 16
const POLL_MS = 20
const DEAD_LETTER_BYTES_MAX = 1_024 * 1_024

export type LogTake = { readonly batch: Batch; readonly offsets: Float64Array } | 'starved' | 'done'
export type RejectRecord = (reason: string, offset: number, bytes: Uint8Array) => void

export class PartitionReader {
  offset: number
  private readonly directory: string
  /** Where a bounded read ends, or null. */
  private readonly end: number | null
  private readonly decoder: JsonDecoder
  private readonly reject: RejectRecord
  private readonly changed: () => void
  private readonly timers: Timers
  private handle: FileHandle | null = null
  /** Base offset of the open segment, and the byte to read next. */
  private segment = -1
  private position = 0
  private window: Buffer = Buffer.alloc(WINDOW_BYTES + PADDING_BYTES)
  private at = 0
  private filled = 0
  private visibleEnd = 0
  private filling = false
  private cancelTimer: (() => void) | null = null
  private error: unknown = null
  private closed = false
  private readonly starts = new Int32Array(BATCH_ROWS_MAX)
  private readonly ends = new Int32Array(BATCH_ROWS_MAX)
  private readonly times = new Float64Array(BATCH_ROWS_MAX)
  private readonly offsets = new Float64Array(BATCH_ROWS_MAX)

  constructor(
    directory: string,
    offset: number,
    end: number | null,
    decoder: JsonDecoder,
    timers: Timers,
    reject: RejectRecord,
    changed: () => void,
  ) {
    this.directory = directory
    this.offset = offset
    this.end = end
    this.decoder = decoder
    this.timers = timers
    this.reject = reject
    this.changed = changed
  }

  /** Up to `rowsMax` rows. After 'starved', `changed` is called when there is more. */
  take(rowsMax: number): LogTake {
    if (this.error !== null) throw this.error
    while (!this.filling) {
      if (this.end !== null && this.offset >= this.end) return 'done'
      const count = this.frames(Math.min(rowsMax, BATCH_ROWS_MAX))
      if (count === 0) {
        if (this.cancelTimer === null) this.fill()
        break
      }
      const batch = this.decode(count)
      if (batch.length > 0) return { batch, offsets: this.offsets.subarray(0, batch.length) }
    }
    return 'starved'
  }

  async close(): Promise<void> {
    this.closed = true
    this.cancelTimer?.()
    this.cancelTimer = null
    if (!this.filling) await this.handle?.close()
  }

  /** Finds up to `max` whole visible frames in the window; their values are the ranges. */
  private frames(max: number): number {
    const limit = this.end === null ? this.visibleEnd : Math.min(this.end, this.visibleEnd)
    let count = 0
    while (count < max && this.offset < limit) {
      const size = frameSize(this.window, this.at, this.filled, this.offset)
      if (size === 0) break
      if (size < 0) throw corrupt(this.directory, this.offset)
      this.starts[count] = this.at + FRAME_HEADER_BYTES + this.window.readUInt16BE(this.at + 24)
      this.ends[count] = this.at + size
      this.times[count] = this.window.readDoubleBE(this.at + 16)
      this.at += size
      this.offset++
      count++
    }
    return count
  }

  private decode(count: number): Batch {
    const first = this.offset - count
    const { starts, ends, decoder, window } = this
    let rejected = 0
    const batch = decoder.decodeRanges(window, starts, ends, 0, count, count, (reason, start, end) => {
      rejected++
      const length = end - start
      const kept = Math.min(length, DEAD_LETTER_BYTES_MAX)
      const note = length > kept ? ` Only the first ${kept} of ${length} bytes are kept.` : ''
      const index = starts.subarray(0, count).indexOf(start)
      this.reject(`${reason}${note}`, first + index, Uint8Array.prototype.slice.call(window, start, start + kept))
    })
    const eventTime = batch.eventTime
    if (rejected === 0) {
      for (let i = 0; i < batch.length; i++) {
        eventTime[i] = this.times[i]!
        this.offsets[i] = first + i
      }
      return batch
    }
    for (let i = 0, j = 0; i < batch.length; i++, j++) {
      while (starts[j] !== decoder.recordStarts[i]) j++
      eventTime[i] = this.times[j]!
      this.offsets[i] = first + j
    }
    return batch
  }

  private fill(): void {
    this.filling = true
    this.fillWindow()
      .catch((error: unknown) => {
        this.error =
          error instanceof MillraceError
            ? error
            : new MillraceError('LOG_READ_FAILED', `Reading ${this.directory} failed: ${messageOf(error)}.`, {
                domain: 'external',
                retryable: true,
                cause: error,
              })
        return true
      })
      .then(async (hasMore) => {
        this.filling = false
        if (this.closed) await this.handle?.close()
        else if (hasMore) this.changed()
        else {
          this.cancelTimer = this.timers.schedule(POLL_MS, () => {
            this.cancelTimer = null
            this.changed()
          })
        }
      })
      .catch(() => {})
  }

  /** Reads further bytes behind the unread ones; false when nothing new is visible. */
  private async fillWindow(): Promise<boolean> {
    const visible = await readEnd(this.directory)
    if (visible !== null && visible > this.visibleEnd) this.visibleEnd = visible
    if (this.offset >= this.visibleEnd) return false
    // Bytes read behind the end published then may have been cut off and written anew since.
    this.position -= this.filled - this.at
    this.filled = this.at
    if (this.handle === null) await this.seek()
    for (;;) {
      this.makeRoom()
      const room = this.window.length - PADDING_BYTES - this.filled
      const { bytesRead } = await this.handle!.read(this.window, this.filled, room, this.position)
      this.filled += bytesRead
      this.position += bytesRead
      this.window.fill(0, this.filled, this.filled + PADDING_BYTES)
      const size = frameSize(this.window, this.at, this.filled, this.offset)
      if (size !== 0) return true
      if (bytesRead > 0) continue
      // The segment has no further frame, yet the record is visible: it starts the next segment.
      if (this.filled !== this.at || this.segment === this.offset) throw corrupt(this.directory, this.offset)
      await this.seek()
      if (this.segment !== this.offset) throw corrupt(this.directory, this.offset)
    }
  }

  /** Moves the unread bytes to the front and grows the window for a frame that does not fit. */
  private makeRoom(): void {
    const rest = this.filled - this.at
    const needed = rest >= FRAME_PREFIX_BYTES ? FRAME_PREFIX_BYTES + this.window.readUInt32BE(this.at) : 0
    const old = this.window
    if (needed + PADDING_BYTES > old.length) this.window = Buffer.alloc(needed + PADDING_BYTES)
    old.copy(this.window, 0, this.at, this.filled)
    this.at = 0
    this.filled = rest
  }

  /** Opens the segment that holds `offset`, at its frame. */
  private async seek(): Promise<void> {
    await this.handle?.close()
    this.handle = null
    const segments = await listSegments(this.directory)
    const base = segments.filter((candidate) => candidate <= this.offset).at(-1)
    if (base === undefined) {
      throw new MillraceError(
        'LOG_OFFSET_GONE',
        `Offset ${this.offset} of ${this.directory} was deleted by retention; the log starts at ${segments[0] ?? 0}.`,
        {
          domain: 'external',
          hint: 'Keep records longer than the job may be down, or start the job anew.',
        },
      )
    }
    const found = await scanSegment(this.directory, base, this.offset)
    if (found.offset !== this.offset) throw corrupt(this.directory, this.offset)
    this.handle = await open(join(this.directory, segmentName(base)), 'r')
    this.segment = base
    this.position = found.position
    this.at = 0
    this.filled = 0
  }
}

function corrupt(directory: string, offset: number): MillraceError {
  return new MillraceError('LOG_CORRUPT', `The record at offset ${offset} of ${directory} is damaged or missing.`, {
    domain: 'external',
    hint: 'Restore the directory from a copy; skipping records would lose data silently.',
  })
}
