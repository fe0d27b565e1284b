/**
 * Reads one split of a file: chunks with one read ahead, records straight into columns.
 * Positions count bytes of the content, decompressed where the file is compressed.
 *
 * Two windows take turns. While rows are decoded from one, the other is filled behind a headroom into
 * which the unfinished record at the end of the first is copied, so that a record is always contiguous.
 *
 * Invariants:
 * - `offset` is the file position right after the last record returned or rejected.
 * - A window is read into again only after all its records were taken and `take` was called once more.
 * - Memory stays bounded: of a record above `recordBytesMax` only the first 1 MiB is kept.
 */
import type { Batch } from '../../engine/core/batch.ts'
import { BATCH_ROWS_MAX } from '../../engine/core/batch.ts'
import type { CsvDecoder } from '../../engine/core/csv/csv-decoder.ts'
import { MillraceError, messageOf } from '../../engine/core/errors.ts'
import { JsonDecoder } from '../../engine/core/json/json-decoder.ts'
import { recordTooLong } from '../../engine/core/record-limit.ts'
import type { LineDecoder } from '../../engine/core/text/line-decoder.ts'
import { ArrayScanner, trimEnd, trimStart } from './array-scanner.ts'
import type { ByteStream } from './byte-stream.ts'
import type { FilePosition } from './file-splits.ts'

const CHUNK_BYTES = 256 * 1_024
const HEADROOM_BYTES = 64 * 1_024
const PADDING_BYTES = 16
const CLOSING_BRACKET = 0x5d
const ODD_ELEMENTS_MIN = 32
export const DEAD_LETTER_BYTES_MAX = 1_024 * 1_024

export type RecordDecoder = JsonDecoder | CsvDecoder | LineDecoder

export type RejectRecord = (reason: string, offset: number, bytes: Uint8Array) => void

export type Take =
  | { readonly kind: 'batch'; readonly batch: Batch; readonly offsets: Float64Array }
  | 'starved'
  | 'done'

interface Chunk {
  window: Buffer
  length: number
}

export class SplitReader {
  offset: number
  private readonly position: FilePosition
  private readonly stream: ByteStream
  private readonly decoder: RecordDecoder
  /** Where the records end; Infinity until the end of a compressed file is met. */
  private end: number
  private readonly recordBytesMax: number
  private readonly reject: RejectRecord
  private readonly changed: () => void
  private window: Buffer = Buffer.alloc(0)
  private spare: Buffer | null = null
  /** window[at, filled) is not yet decoded. */
  private at = 0
  private filled = 0
  /** File position of window[0]. */
  private base: number
  private ready: Chunk | null = null
  private reading = false
  private readOffset: number
  private error: unknown = null
  /** Kept start of a record that is too long, and the bytes of it seen so far. */
  private oversize: Uint8Array | null = null
  private oversizeBytes = 0
  private readonly scanner: ArrayScanner
  /** Array form: bytes before this were scanned already. */
  private scanned = 0
  /** How many elements are looked for before the decoder tries again to read them as they are. */
  private oddElementsMax = ODD_ELEMENTS_MIN
  private readonly starts = new Int32Array(BATCH_ROWS_MAX)
  private readonly ends = new Int32Array(BATCH_ROWS_MAX)
  private readonly offsets = new Float64Array(BATCH_ROWS_MAX)

  constructor(
    position: FilePosition,
    stream: ByteStream,
    decoder: RecordDecoder,
    recordBytesMax: number,
    reject: RejectRecord,
    changed: () => void,
  ) {
    this.position = position
    this.stream = stream
    this.end = position.end ?? Number.POSITIVE_INFINITY
    this.decoder = decoder
    this.recordBytesMax = recordBytesMax
    this.reject = reject
    this.changed = changed
    this.offset = position.offset
    this.readOffset = position.offset
    this.base = position.offset
    this.scanner = new ArrayScanner(position.offset > 0)
    this.readAhead()
  }

  /** Up to `rowsMax` rows; 'starved' while the next chunk is on its way, 'done' at the split's end. */
  take(rowsMax: number): Take {
    for (;;) {
      const taken = this.position.form !== 'array' ? this.takeLines(rowsMax) : this.takeElements(rowsMax)
      if (taken !== null) return taken
      if (this.offset >= this.end) return 'done'
      if (!this.advance()) {
        if (this.error !== null) throw this.error
        return 'starved'
      }
    }
  }

  async close(): Promise<void> {
    await this.stream.close()
  }

  private get atEnd(): boolean {
    return this.readOffset >= this.end && this.ready === null && !this.reading
  }

  private readAhead(): void {
    if (this.reading || this.ready !== null || this.readOffset >= this.end) return
    const window = this.spare ?? Buffer.alloc(HEADROOM_BYTES + CHUNK_BYTES + PADDING_BYTES)
    this.spare = null
    this.reading = true
    const wanted = Math.min(CHUNK_BYTES, this.end - this.readOffset)
    this.stream.read(window, HEADROOM_BYTES, wanted).then(
      (bytesRead) => {
        this.reading = false
        if (bytesRead === 0 && this.position.end === null) this.end = this.readOffset
        else if (bytesRead === 0) this.error = truncated(this.position.path, this.readOffset)
        else {
          this.readOffset += bytesRead
          this.ready = { window, length: bytesRead }
        }
        this.changed()
      },
      (error: unknown) => {
        this.reading = false
        this.error = new MillraceError(
          'FILE_READ_FAILED',
          `Reading ${this.position.path} failed: ${messageOf(error)}.`,
          {
            domain: 'external',
            retryable: true,
            cause: error,
          },
        )
        this.changed()
      },
    )
  }

  /** Makes the chunk that is ready current, the unfinished record before it. False when there is none. */
  private advance(): boolean {
    const chunk = this.ready
    if (chunk === null) return false
    this.ready = null
    const old = this.window
    const rest = this.filled - this.at
    const scannedRest = this.scanned - this.at
    const fileAt = this.base + this.at
    if (rest <= HEADROOM_BYTES) {
      this.window = chunk.window
      old.copy(this.window, HEADROOM_BYTES - rest, this.at, this.filled)
      this.at = HEADROOM_BYTES - rest
      this.filled = HEADROOM_BYTES + chunk.length
      if (old.length === HEADROOM_BYTES + CHUNK_BYTES + PADDING_BYTES) this.spare = old
    } else {
      const capacity = this.at + rest + chunk.length + PADDING_BYTES
      // Doubling keeps the copying of a long record linear.
      const grown = capacity <= old.length ? old : Buffer.alloc(2 * (rest + chunk.length) + PADDING_BYTES)
      if (grown !== old) {
        old.copy(grown, 0, this.at, this.filled)
        this.filled = rest
        this.at = 0
      }
      chunk.window.copy(grown, this.filled, HEADROOM_BYTES, HEADROOM_BYTES + chunk.length)
      this.filled += chunk.length
      this.window = grown
      this.spare = chunk.window
    }
    this.base = fileAt - this.at
    this.scanned = Math.max(this.at, this.at + scannedRest)
    this.readAhead()
    return true
  }

  /** Null when the window holds no complete line. */
  private takeLines(rowsMax: number): Take | null {
    while (this.at < this.filled) {
      const isEnd = this.atEnd
      let limit = this.window.lastIndexOf(0x0a, this.filled - 1) + 1
      if (isEnd && limit < this.filled) {
        // The last line of a file may lack its newline; the padding has room for one.
        this.window[this.filled] = 0x0a
        limit = this.filled + 1
      }
      if (limit <= this.at) {
        this.keepOversize(this.filled)
        return null
      }
      if (this.oversize !== null) {
        const end = this.window.indexOf(0x0a, this.at)
        this.keepOversize(end)
        this.rejectOversize()
        this.moveTo(Math.min(end + 1, this.filled))
        continue
      }
      const base = this.base
      const before = this.at
      const onReject = (reason: string, start: number, end: number): void =>
        this.rejectBytes(reason, base + start, this.window.subarray(start, end), end - start)
      const batch = this.decoder.decodeLines(this.window, this.at, limit, rowsMax, onReject, isEnd)
      this.moveTo(Math.min(this.decoder.next, this.filled))
      if (batch.length > 0) return this.taken(batch)
      // A record with line breaks in it is not all here yet.
      if (this.at === before) {
        this.keepOversize(this.filled)
        return null
      }
    }
    // A compressed file has ended inside a record that is too long: that it would was not known when its bytes were there.
    if (this.oversize !== null && this.atEnd) {
      this.rejectOversize()
      this.moveTo(this.filled)
    }
    return null
  }

  /** Null when the window holds no complete element. */
  private takeElements(rowsMax: number): Take | null {
    if (this.scanner.state === 'before') {
      const bracket = this.window.indexOf(0x5b, this.at)
      if (bracket < 0 || bracket >= this.filled) return null
      this.moveTo(bracket + 1)
      this.scanned = this.at
      this.scanner.state = 'inside'
    }
    const plain = this.takePlainElements(rowsMax)
    if (plain !== null) return plain
    const max = Math.min(rowsMax, this.oddElementsMax)
    let count = 0
    while (count < max && this.scanner.state === 'inside') {
      const first = this.scanner.isFirst
      const next = this.scanner.next(this.window, this.scanned, this.filled)
      this.scanned = next < 0 ? this.filled : next
      if (next < 0) break
      count += this.addElement(this.scanner.end, count, first)
      this.at = next
    }
    const base = this.base
    this.oddElementsMax = Math.min(2 * this.oddElementsMax, BATCH_ROWS_MAX)
    const batch = this.jsonDecoder.decodeRanges(
      this.window,
      this.starts,
      this.ends,
      0,
      count,
      count,
      (reason, start, end) => this.rejectBytes(reason, base + start, this.window.subarray(start, end), end - start),
    )
    if (this.scanner.state === 'after') this.finishArray()
    else if (count === 0 && this.atEnd) this.rejectUnclosed()
    else if (this.oversize === null) this.offset = this.base + this.at
    if (count === 0 && this.at < this.filled) this.keepOversize(this.filled)
    return batch.length > 0 ? this.taken(batch) : count > 0 ? this.takeElements(rowsMax) : null
  }

  /** Elements that need not be looked for, because the decoder reads them as they are; null when there are none here. */
  private takePlainElements(rowsMax: number): Take | null {
    if (this.oversize !== null || this.scanner.state !== 'inside' || this.at === this.filled) return null
    if (this.scanned !== this.at) {
      // The rest of a long element is looked for where that was left off.
      if (this.scanned - this.at > HEADROOM_BYTES) return null
      this.scanner.restart()
      this.scanned = this.at
    }
    // Nothing behind the bytes that were read may look like more of them.
    this.window[this.filled] = 0
    const { jsonDecoder } = this
    const batch = jsonDecoder.decodeElements(this.window, this.at, this.filled, rowsMax)
    if (batch.length === 0) return null
    this.oddElementsMax = ODD_ELEMENTS_MIN
    this.moveTo(jsonDecoder.next)
    this.scanned = this.at
    const isLast = this.window[this.at - 1] === CLOSING_BRACKET
    this.scanner.passed(batch.length, isLast)
    if (isLast) this.finishArray()
    return this.taken(batch)
  }

  private get jsonDecoder(): JsonDecoder {
    if (this.decoder instanceof JsonDecoder) return this.decoder
    throw new Error('Only JSON is read from arrays.')
  }

  /** Notes the element window[at, end) as range `index`; returns 1, or 0 when it is not one to decode. */
  private addElement(end: number, index: number, isFirst: boolean): number {
    if (this.oversize !== null) {
      this.keepOversize(end)
      this.rejectOversize()
      return 0
    }
    const start = trimStart(this.window, this.at, end)
    const trimmed = trimEnd(this.window, start, end)
    if (start === trimmed) {
      const isEmptyArray = isFirst && this.scanner.state === 'after'
      if (!isEmptyArray) this.rejectBytes('An element of the array is empty.', this.base + start, new Uint8Array(0), 0)
      return 0
    }
    this.starts[index] = start
    this.ends[index] = trimmed
    // The byte behind was scanned already; a zero there lets the decoder take its quick path.
    this.window[trimmed] = 0
    return 1
  }

  /** Behind the closing bracket only white space may follow. */
  private finishArray(): void {
    const start = trimStart(this.window, this.at, this.filled)
    if (start < this.filled) {
      const rest = this.window.subarray(start, this.filled)
      this.rejectBytes('Data after the end of the array.', this.base + start, rest, rest.length)
    }
    this.at = this.filled
    // Of a compressed file the end is not known yet; more white space may come.
    this.offset = Number.isFinite(this.end) ? this.end : this.base + this.filled
  }

  private rejectUnclosed(): void {
    if (this.oversize !== null) this.rejectOversize()
    const rest = this.window.subarray(this.at, this.filled)
    this.rejectBytes('The file ends before the array is closed.', this.base + this.at, rest, rest.length)
    this.at = this.filled
    // Of a compressed file the end is not known yet; more white space may come.
    this.offset = Number.isFinite(this.end) ? this.end : this.base + this.filled
  }

  private taken(batch: Batch): Take {
    const { recordStarts } = this.decoder
    for (let i = 0; i < batch.length; i++) this.offsets[i] = this.base + recordStarts[i]!
    return { kind: 'batch', batch, offsets: this.offsets.subarray(0, batch.length) }
  }

  private moveTo(at: number): void {
    this.at = at
    this.offset = this.base + at
  }

  /** When the unfinished record is too long, keeps its first bytes and drops window[at, end). */
  private keepOversize(end: number): void {
    if (this.oversize === null) {
      if (end - this.at <= this.recordBytesMax) return
      this.oversize = Uint8Array.prototype.slice.call(
        this.window,
        this.at,
        Math.min(end, this.at + DEAD_LETTER_BYTES_MAX),
      )
      this.oversizeBytes = 0
    }
    this.oversizeBytes += end - this.at
    this.at = end
  }

  private rejectOversize(): void {
    const reason = recordTooLong(this.oversizeBytes, this.recordBytesMax)
    this.rejectBytes(reason, this.offset, this.oversize!, this.oversizeBytes)
    this.oversize = null
  }

  private rejectBytes(reason: string, offset: number, bytes: Uint8Array, length: number): void {
    const kept = Math.min(bytes.length, DEAD_LETTER_BYTES_MAX)
    const note = length > kept ? ` Only the first ${kept} of ${length} bytes are kept.` : ''
    this.reject(`${reason}${note}`, offset, Uint8Array.prototype.slice.call(bytes, 0, kept))
  }
}

function truncated(path: string, at: number): MillraceError {
  return new MillraceError('FILE_TRUNCATED', `${path} ended at byte ${at}, earlier than when the job started.`, {
    domain: 'external',
    hint: 'Files must not change while a bounded job reads them.',
  })
}
