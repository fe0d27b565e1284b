/**
 * Timers in order of time, in columns: what a bucket of timers takes in memory while it is due.
 *
 * Used by timers.ts only. A binary heap of record numbers with their times; what else a record has lies in blocks of a
 * thousand, which go when their last record has left. So a million timers are some arrays and not a few million
 * objects, and no push or pop moves more than a block and, once each doubling, the heap's own numbers. Invariants:
 * - Timers of the same time leave in the order in which they came. Record numbers are consecutive, modulo 2^32.
 * - Key bytes that `pop` has shown stay intact until the next `pop`, whatever is pushed meanwhile.
 */
import type { KeyColumn } from '../engine/core/batch.ts'

const HEAP_MIN = 64
const BLOCK_BITS = 10
const BLOCK_RECORDS = 1 << BLOCK_BITS
/** Block numbers are what is left of a record number: they count modulo this. */
const BLOCK_NUMBERS = 1 << (32 - BLOCK_BITS)
/** A queue of few timers takes little. */
const RECORDS_MIN = 64
const KEY_BYTES_GUESS = 16

/** One timer, of the key in row 0 of `keys`. */
export interface QueuedTimer {
  timeMs: number
  namespace: number
  keys: KeyColumn
}

/** Consecutive records. */
class Block {
  /** Records that have not left. */
  live = 0
  count = 0
  namespaces: Float64Array
  /** Three ints a record: hash, key start, key end. */
  keys: Int32Array
  bytes: Uint8Array
  byteLength = 0

  constructor(records: number, keyBytes: number) {
    this.namespaces = new Float64Array(records)
    this.keys = new Int32Array(records * 3)
    this.bytes = new Uint8Array(keyBytes)
  }

  add(namespace: number, keys: KeyColumn, row: number): void {
    const start = keys.starts[row]
    const length = keys.ends[row] - start
    if (this.count === this.namespaces.length) this.growRecords()
    if (this.byteLength + length > this.bytes.length) this.growBytes(this.byteLength + length)
    const at = this.count++
    this.live++
    this.namespaces[at] = namespace
    this.keys[at * 3] = keys.hashes[row]
    this.keys[at * 3 + 1] = this.byteLength
    for (let i = 0; i < length; i++) this.bytes[this.byteLength + i] = keys.bytes[start + i]
    this.byteLength += length
    this.keys[at * 3 + 2] = this.byteLength
  }

  private growRecords(): void {
    const { namespaces, keys, count } = this
    this.namespaces = new Float64Array(count * 2)
    this.namespaces.set(namespaces)
    this.keys = new Int32Array(count * 6)
    this.keys.set(keys)
  }

  /** Into new memory: what `pop` has shown stays as it is. */
  private growBytes(needed: number): void {
    const { bytes } = this
    this.bytes = new Uint8Array(needed * 2)
    this.bytes.set(bytes.subarray(0, this.byteLength))
  }
}

export class TimerQueue {
  /** What `pop` shows; the same object each time. */
  readonly popped: QueuedTimer
  private readonly starts = new Int32Array(1)
  private readonly ends = new Int32Array(1)
  private readonly hashes = new Int32Array(1)
  /** By place in the heap: a record's number, and its time. */
  private heap = new Int32Array(HEAP_MIN)
  private times = new Float64Array(HEAP_MIN)
  private count = 0
  /** Number of the next record. */
  private next = 0
  /** Those from block number `firstBlock` on; undefined when all of one's records have left. The last is being filled. */
  private blocks: (Block | undefined)[] = [new Block(RECORDS_MIN, RECORDS_MIN * KEY_BYTES_GUESS)]
  private firstBlock = 0

  constructor() {
    const { starts, ends, hashes } = this
    this.popped = { timeMs: Number.NaN, namespace: 0, keys: { bytes: new Uint8Array(0), starts, ends, hashes } }
  }

  get size(): number {
    return this.count
  }

  /** The queue must not be empty. */
  get firstTimeMs(): number {
    return this.times[0]
  }

  push(timeMs: number, namespace: number, keys: KeyColumn, row: number): void {
    const last = this.blocks[this.blocks.length - 1]!
    const block = last.count < BLOCK_RECORDS ? last : this.addBlock(last)
    block.add(namespace, keys, row)
    if (this.count === this.heap.length) this.growHeap()
    this.siftUp(this.count++, this.next, timeMs)
    this.next = (this.next + 1) | 0
  }

  private addBlock(full: Block): Block {
    if (full.live === 0) this.leave(this.blocks.length - 1)
    const block = new Block(BLOCK_RECORDS, full.byteLength)
    this.blocks.push(block)
    return block
  }

  /** All records of a full block have left. */
  private leave(index: number): void {
    const { blocks } = this
    blocks[index] = undefined
    let gone = 0
    while (gone < blocks.length && blocks[gone] === undefined) gone++
    blocks.splice(0, gone)
    this.firstBlock = (this.firstBlock + gone) % BLOCK_NUMBERS
  }

  /** Takes the first timer out; the queue must not be empty. */
  pop(): QueuedTimer {
    const { popped, heap, times } = this
    const record = heap[0]
    popped.timeMs = times[0]
    const last = --this.count
    if (last > 0) this.siftDown(heap[last], times[last])
    const index = ((record >>> BLOCK_BITS) - this.firstBlock) & (BLOCK_NUMBERS - 1)
    const block = this.blocks[index]!
    const at = record & (BLOCK_RECORDS - 1)
    popped.namespace = block.namespaces[at]
    this.hashes[0] = block.keys[at * 3]
    this.starts[0] = block.keys[at * 3 + 1]
    this.ends[0] = block.keys[at * 3 + 2]
    popped.keys = { bytes: block.bytes, starts: this.starts, ends: this.ends, hashes: this.hashes }
    if (--block.live === 0 && index < this.blocks.length - 1) this.leave(index)
    return popped
  }

  clear(): void {
    this.count = 0
    this.next = 0
    this.firstBlock = 0
    this.heap = new Int32Array(HEAP_MIN)
    this.times = new Float64Array(HEAP_MIN)
    this.blocks = [new Block(RECORDS_MIN, RECORDS_MIN * KEY_BYTES_GUESS)]
  }

  private growHeap(): void {
    const { heap, times } = this
    this.heap = new Int32Array(heap.length * 2)
    this.heap.set(heap)
    this.times = new Float64Array(heap.length * 2)
    this.times.set(times)
  }

  private siftUp(from: number, record: number, time: number): void {
    const { heap, times } = this
    let at = from
    while (at > 0) {
      const parent = (at - 1) >> 1
      // Those that wait came before: of the same time they go first.
      if (times[parent] <= time) break
      heap[at] = heap[parent]
      times[at] = times[parent]
      at = parent
    }
    heap[at] = record
    times[at] = time
  }

  private siftDown(record: number, time: number): void {
    const { heap, times, count } = this
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= count) break
      if (child + 1 < count && isBefore(heap, times, child + 1, child)) child++
      if (time < times[child] || (time === times[child] && ((record - heap[child]) | 0) < 0)) break
      heap[at] = heap[child]
      times[at] = times[child]
      at = child
    }
    heap[at] = record
    times[at] = time
  }
}

/** Whether the timer at place `a` of the heap leaves before that at `b`. */
function isBefore(heap: Int32Array, times: Float64Array, a: number, b: number): boolean {
  const difference = times[a] - times[b]
  return difference < 0 || (times[a] === times[b] && ((heap[a] - heap[b]) | 0) < 0)
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
