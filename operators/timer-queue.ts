/**
 * Timers in order of time, in columns: what a bucket of timers takes in memory while it is due.
 *
 * Used by timers.ts only. A binary heap of record numbers over typed arrays and one arena of key bytes, so that
 * a million timers are a few arrays and not a few million objects. Invariants:
 * - Timers of the same time leave in the order in which they came.
 * - Key bytes that `pop` has shown stay intact until the next `pop`, whatever is pushed meanwhile.
 */
import type { KeyColumn } from '../engine/core/batch.ts'

const RECORDS_MIN = 64
const ARENA_BYTES_MIN = 1_024

/** One timer, of the key in row 0 of `keys`. */
export interface QueuedTimer {
  timeMs: number
  namespace: number
  keys: KeyColumn
}

export class TimerQueue {
  /** What `pop` shows; the same object each time. */
  readonly popped: QueuedTimer
  private readonly starts = new Int32Array(1)
  private readonly ends = new Int32Array(1)
  private readonly hashes = new Int32Array(1)
  private heap = new Int32Array(RECORDS_MIN)
  private count = 0
  private records = 0
  private times = new Float64Array(RECORDS_MIN)
  private namespaces = new Float64Array(RECORDS_MIN)
  /** Three ints a record: hash, key start, key end. */
  private keys = new Int32Array(RECORDS_MIN * 3)
  private arena: Uint8Array = new Uint8Array(ARENA_BYTES_MIN)
  private arenaLength = 0

  constructor() {
    const { starts, ends, hashes } = this
    this.popped = { timeMs: Number.NaN, namespace: 0, keys: { bytes: this.arena, starts, ends, hashes } }
  }

  get size(): number {
    return this.count
  }

  /** The queue must not be empty. */
  get firstTimeMs(): number {
    return this.times[this.heap[0]]
  }

  push(timeMs: number, namespace: number, keys: KeyColumn, row: number): void {
    const start = keys.starts[row]
    const length = keys.ends[row] - start
    if (this.records === this.times.length || this.arenaLength + length > this.arena.length) this.makeRoom(length)
    const record = this.records++
    this.times[record] = timeMs
    this.namespaces[record] = namespace
    this.keys[record * 3] = keys.hashes[row]
    this.keys[record * 3 + 1] = this.arenaLength
    for (let i = 0; i < length; i++) this.arena[this.arenaLength + i] = keys.bytes[start + i]
    this.arenaLength += length
    this.keys[record * 3 + 2] = this.arenaLength
    this.siftUp(this.count++, record)
  }

  /** Takes the first timer out; the queue must not be empty. */
  pop(): QueuedTimer {
    const record = this.heap[0]
    const last = this.heap[--this.count]
    if (this.count > 0) this.siftDown(last)
    const { popped } = this
    popped.timeMs = this.times[record]
    popped.namespace = this.namespaces[record]
    this.hashes[0] = this.keys[record * 3]
    this.starts[0] = this.keys[record * 3 + 1]
    this.ends[0] = this.keys[record * 3 + 2]
    popped.keys = { bytes: this.arena, starts: this.starts, ends: this.ends, hashes: this.hashes }
    return popped
  }

  clear(): void {
    this.count = 0
    this.rebuild(RECORDS_MIN, ARENA_BYTES_MIN)
  }

  private isBefore(a: number, b: number): boolean {
    const difference = this.times[a] - this.times[b]
    return difference < 0 || (this.times[a] === this.times[b] && a < b)
  }

  private siftUp(from: number, record: number): void {
    const { heap } = this
    let at = from
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!this.isBefore(record, heap[parent])) break
      heap[at] = heap[parent]
      at = parent
    }
    heap[at] = record
  }

  private siftDown(record: number): void {
    const { heap, count } = this
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= count) break
      if (child + 1 < count && this.isBefore(heap[child + 1], heap[child])) child++
      if (!this.isBefore(heap[child], record)) break
      heap[at] = heap[child]
      at = child
    }
    heap[at] = record
  }

  /** Grows, or where most records have been popped gets rid of these, always into new memory. */
  private makeRoom(keyBytes: number): void {
    const live = this.count < this.records / 2 ? this.count : this.records
    const bytes = this.count < this.records / 2 ? this.liveBytes() : this.arenaLength
    const recordsMax = Math.max(RECORDS_MIN, live * 2)
    this.rebuild(recordsMax, Math.max(ARENA_BYTES_MIN, (bytes + keyBytes) * 2))
  }

  private liveBytes(): number {
    let bytes = 0
    for (let i = 0; i < this.count; i++) {
      const at = this.heap[i] * 3
      bytes += this.keys[at + 2] - this.keys[at + 1]
    }
    return bytes
  }

  /** Copies the waiting records, oldest first so that ties keep their order. */
  private rebuild(recordsMax: number, arenaBytes: number): void {
    const { times, namespaces, keys, arena } = this
    const order = this.heap.slice(0, this.count).sort()
    this.heap = new Int32Array(recordsMax)
    this.times = new Float64Array(recordsMax)
    this.namespaces = new Float64Array(recordsMax)
    this.keys = new Int32Array(recordsMax * 3)
    this.arena = new Uint8Array(arenaBytes)
    this.arenaLength = 0
    this.records = 0
    this.count = 0
    for (const old of order) {
      const record = this.records++
      this.times[record] = times[old]
      this.namespaces[record] = namespaces[old]
      this.keys[record * 3] = keys[old * 3]
      this.keys[record * 3 + 1] = this.arenaLength
      this.arena.set(arena.subarray(keys[old * 3 + 1], keys[old * 3 + 2]), this.arenaLength)
      this.arenaLength += keys[old * 3 + 2] - keys[old * 3 + 1]
      this.keys[record * 3 + 2] = this.arenaLength
      this.siftUp(this.count++, record)
    }
  }
}

/** The smallest numbers first; the times at which buckets begin. */
export class NumberQueue {
  private readonly heap: number[] = []

  /** Infinity when empty. */
  get first(): number {
    return this.heap.length === 0 ? Number.POSITIVE_INFINITY : this.heap[0]
  }

  get isEmpty(): boolean {
    return this.heap.length === 0
  }

  push(value: number): void {
    const { heap } = this
    let at = heap.push(value) - 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (heap[parent] <= value) break
      heap[at] = heap[parent]
      at = parent
    }
    heap[at] = value
  }

  pop(): number | undefined {
    const { heap } = this
    const first = heap[0]
    const last = heap.pop()
    if (last === undefined || heap.length === 0) return first
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && heap[child + 1] < heap[child]) child++
      if (heap[child] >= last) break
      heap[at] = heap[child]
      at = child
    }
    heap[at] = last
    return first
  }
}
