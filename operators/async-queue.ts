/**
 * What an async operator holds: its requests, and between them the watermarks that wait for those before them.
 *
 * Used by async-wait.ts. `take` gives finished requests in the order in which they may be emitted: all in
 * order of arrival, or, unordered, in the order of finishing between two watermarks. At a watermark it stops
 * until `passWatermark`, so that the watermark can leave before what came after it.
 *
 * Invariants:
 * - `watermark` never passes a request that came before it and was not taken, and none after it is taken before.
 * - Watermarks without a request between them are one: a queue is bounded by its requests.
 */
import { WATERMARK_MIN } from '../engine/core/time.ts'

export interface Finishable {
  readonly isFinished: boolean
}

export interface RequestQueue<R extends Finishable> {
  add(request: R): void
  addWatermark(watermark: number): void
  /** Tells it that a request is finished now. */
  finished(request: R): void
  /** The next request that may be emitted before the next watermark, which leaves the queue; null when none may. */
  take(): R | null
  /** Moves `watermark` on to the next one if no request is before that; false when there is none such. */
  passWatermark(): boolean
  /** The newest watermark with no request of the queue before it. */
  readonly watermark: number
  /** True when it holds neither requests nor watermarks. */
  readonly isEmpty: boolean
  /** In order of arrival, as far as order matters. */
  requests(): Iterable<R>
}

export class OrderedQueue<R extends Finishable> implements RequestQueue<R> {
  watermark = WATERMARK_MIN
  /** Taken places before `head` are undefined, so that requests can be collected. */
  private line: (R | number | undefined)[] = []
  private head = 0

  get isEmpty(): boolean {
    return this.head === this.line.length
  }

  add(request: R): void {
    this.line.push(request)
  }

  addWatermark(watermark: number): void {
    if (this.isEmpty) this.watermark = watermark
    else if (typeof this.line.at(-1) === 'number') this.line[this.line.length - 1] = watermark
    else this.line.push(watermark)
  }

  finished(): void {}

  take(): R | null {
    const first = this.line[this.head]
    if (first === undefined || typeof first === 'number' || !first.isFinished) return null
    this.dropFirst()
    return first
  }

  passWatermark(): boolean {
    const first = this.line[this.head]
    if (typeof first !== 'number') return false
    this.dropFirst()
    this.watermark = first
    return true
  }

  private dropFirst(): void {
    this.line[this.head++] = undefined
    if (this.head < 1_024 || this.head * 2 < this.line.length) return
    this.line = this.line.slice(this.head)
    this.head = 0
  }

  *requests(): Iterable<R> {
    for (const entry of this.line) if (entry !== undefined && typeof entry !== 'number') yield entry
  }
}

/** The requests between two watermarks. */
interface Segment<R> {
  readonly open: Set<R>
  readonly finished: R[]
  nextFinished: number
  /** The watermark that ends it; null for the last one. */
  watermark: number | null
}

const newSegment = <R>(): Segment<R> => ({ open: new Set(), finished: [], nextFinished: 0, watermark: null })

export class UnorderedQueue<R extends Finishable> implements RequestQueue<R> {
  watermark = WATERMARK_MIN
  /** At least one; only the last has no watermark. */
  private readonly segments: Segment<R>[] = [newSegment()]
  private readonly segmentOf = new Map<R, Segment<R>>()

  get isEmpty(): boolean {
    return this.segmentOf.size === 0 && this.segments.length === 1
  }

  add(request: R): void {
    const last = this.segments.at(-1)!
    last.open.add(request)
    this.segmentOf.set(request, last)
  }

  addWatermark(watermark: number): void {
    if (this.isEmpty) {
      this.watermark = watermark
      return
    }
    const last = this.segments.at(-1)!
    const before = this.segments.at(-2)
    if (isSpent(last) && before !== undefined) before.watermark = watermark
    else {
      last.watermark = watermark
      this.segments.push(newSegment())
    }
  }

  finished(request: R): void {
    const segment = this.segmentOf.get(request)!
    segment.open.delete(request)
    segment.finished.push(request)
  }

  take(): R | null {
    const segment = this.segments[0]!
    const request = segment.finished[segment.nextFinished]
    if (request === undefined) return null
    this.segmentOf.delete(request)
    segment.nextFinished++
    if (segment.nextFinished === segment.finished.length) {
      segment.finished.length = 0
      segment.nextFinished = 0
    }
    return request
  }

  passWatermark(): boolean {
    const segment = this.segments[0]!
    if (!isSpent(segment) || segment.watermark === null) return false
    this.watermark = segment.watermark
    this.segments.shift()
    return true
  }

  requests(): Iterable<R> {
    return this.segmentOf.keys()
  }
}

function isSpent(segment: Segment<unknown>): boolean {
  return segment.open.size === 0 && segment.finished.length === 0
}
