/**
 * Event-time timers in keyed state: they survive restores and rescaling like any other entry.
 *
 * Used by keyed-process.ts. A table entry holds the sorted times that one key registered within one
 * bucket of time; the bucket's start is the namespace. Due timers of a bucket are taken into a heap and
 * fired in order of time, each checked against state first, because it may have been deleted meanwhile.
 *
 * Invariants:
 * - `earliest` is at most the first time in any bucket, so advancing past nothing costs nothing.
 * - A timer registered while timers fire, and due already, fires in the same advance.
 */
import type { KeyedState, SegmentChunk, StateTable, ValueCodec } from '../engine/contract/keyed-state.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'

const BUCKET_MS = 1_000
const SCAN_KEYS = 2_000

/** A key of one row, kept longer than a call. */
export interface DueTimer {
  readonly timeMs: number
  readonly keys: KeyColumn
}

/** Sorted times, 8 bytes each, little-endian. */
const TIMES_CODEC: ValueCodec = {
  description: 'times',
  encode(value) {
    return new Uint8Array(Float64Array.from(value as number[]).buffer)
  },
  decode(bytes, start, end) {
    const view = new DataView(bytes.buffer, bytes.byteOffset + start, end - start)
    return Array.from({ length: (end - start) / 8 }, (_, i) => view.getFloat64(i * 8, true))
  },
}

const bucketOf = (timeMs: number): number =>
  Number.isFinite(timeMs) ? Math.floor(timeMs / BUCKET_MS) * BUCKET_MS : timeMs

export class EventTimeTimers {
  private readonly table: StateTable
  private readonly rows = new Int32Array(1)
  private readonly slots = new Int32Array(1)
  /** No timer is due before this time. */
  private earliest = Number.NEGATIVE_INFINITY
  /** Due timers that wait to fire, a binary heap by time; null when none are firing. */
  private due: DueTimer[] | null = null
  private dueUpTo = Number.NEGATIVE_INFINITY
  /** Buckets up to this one are in `due`; null before the first. */
  private bucketInHeap: number | null = null

  constructor(keyed: KeyedState) {
    this.table = keyed.table({ name: '$timers', version: 1, layout: { kind: 'object', codec: TIMES_CODEC } })
  }

  /** Registers a timer for key `row` of `keys`; the same time twice is one timer. Throws `TIMER_INVALID`. */
  register(keys: KeyColumn, row: number, timeMs: number): void {
    if (typeof timeMs !== 'number' || Number.isNaN(timeMs)) {
      throw new MillraceError('TIMER_INVALID', `A timer cannot be set for ${String(timeMs)}.`, {
        hint: 'Give milliseconds since 1970 UTC.',
      })
    }
    const segment = this.table.segment(bucketOf(timeMs))
    this.rows[0] = row
    segment.upsert(keys, this.rows, 1, this.slots)
    const slot = this.slots[0]
    const times = (segment.objects[slot] as number[] | undefined) ?? []
    segment.objects[slot] = times
    if (times.includes(timeMs)) return
    times.push(timeMs)
    times.sort((a, b) => a - b)
    this.earliest = Math.min(this.earliest, timeMs)
    // Later buckets of a firing are scanned when their turn comes.
    if (this.due === null || this.bucketInHeap === null || timeMs > this.dueUpTo) return
    if (bucketOf(timeMs) <= this.bucketInHeap) {
      heapPush(this.due, { timeMs, keys: copyOfKey(keys, row) })
    }
  }

  /** Forgets a timer; returns false when there is none. */
  delete(keys: KeyColumn, row: number, timeMs: number): boolean {
    const segment = this.table.existing(bucketOf(timeMs))
    if (segment === null) return false
    this.rows[0] = row
    segment.find(keys, this.rows, 1, this.slots)
    const slot = this.slots[0]
    if (slot < 0) return false
    const times = segment.objects[slot] as number[]
    const at = times.indexOf(timeMs)
    if (at < 0) return false
    if (times.length === 1) segment.remove(slot)
    else {
      times.splice(at, 1)
      segment.markDirty(slot)
    }
    return true
  }

  /**
   * Takes the earliest timer at or before `watermark` out of state, or returns null when none is left.
   * Call again with the same watermark until then, before any further row.
   */
  takeDue(watermark: number): DueTimer | null {
    if (this.due === null) {
      if (watermark < this.earliest) return null
      this.due = []
      this.dueUpTo = watermark
      this.bucketInHeap = null
      this.earliest = Number.POSITIVE_INFINITY
    }
    for (;;) {
      const timer = heapPop(this.due)
      if (timer === null) {
        if (!this.loadNextBucket(this.due)) break
      } else if (this.delete(timer.keys, 0, timer.timeMs)) return timer
    }
    this.due = null
    this.dropFired()
    return null
  }

  /** Brings the due timers of the next bucket into the heap; false when no due bucket is left. */
  private loadNextBucket(due: DueTimer[]): boolean {
    const next = this.table.namespaces().find((bucket) => this.bucketInHeap === null || bucket > this.bucketInHeap)
    if (next === undefined) return false
    if (next > this.dueUpTo) {
      this.earliest = Math.min(this.earliest, next)
      return false
    }
    this.bucketInHeap = next
    this.scanBucket(next, due)
    return true
  }

  /** Every time of a bucket before the watermark's own has fired. */
  private dropFired(): void {
    const current = bucketOf(this.dueUpTo)
    for (const bucket of this.table.namespaces()) if (bucket < current) this.table.drop(bucket)
  }

  private scanBucket(bucket: number, due: DueTimer[]): void {
    const scan = this.table.segment(bucket).scan()
    try {
      for (let chunk = scan.next(SCAN_KEYS); chunk !== null; chunk = scan.next(SCAN_KEYS)) this.takeChunk(chunk, due)
    } finally {
      scan.close()
    }
  }

  private takeChunk(chunk: SegmentChunk, due: DueTimer[]): void {
    for (let i = 0; i < chunk.count; i++) {
      for (const timeMs of chunk.objects[i] as number[]) {
        if (timeMs <= this.dueUpTo) heapPush(due, { timeMs, keys: copyOfKey(chunk.keys, i) })
        else this.earliest = Math.min(this.earliest, timeMs)
      }
    }
  }
}

function copyOfKey(keys: KeyColumn, row: number): KeyColumn {
  const bytes = new Uint8Array(keys.bytes.subarray(keys.starts[row], keys.ends[row]))
  return {
    bytes,
    starts: Int32Array.of(0),
    ends: Int32Array.of(bytes.length),
    hashes: Int32Array.of(keys.hashes[row]),
  }
}

function heapPush(heap: DueTimer[], timer: DueTimer): void {
  let at = heap.push(timer) - 1
  while (at > 0) {
    const parent = (at - 1) >> 1
    if (heap[parent].timeMs <= timer.timeMs) break
    heap[at] = heap[parent]
    at = parent
  }
  heap[at] = timer
}

function heapPop(heap: DueTimer[]): DueTimer | null {
  const last = heap.pop()
  if (last === undefined) return null
  if (heap.length === 0) return last
  const first = heap[0]
  let at = 0
  for (;;) {
    let child = 2 * at + 1
    if (child >= heap.length) break
    if (child + 1 < heap.length && heap[child + 1].timeMs < heap[child].timeMs) child++
    if (heap[child].timeMs >= last.timeMs) break
    heap[at] = heap[child]
    at = child
  }
  heap[at] = last
  return first
}
