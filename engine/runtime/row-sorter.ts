/**
 * Sorts keyed rows by key, and by event time within a key, in bounded memory: the external merge sort of batch
 * execution (batch-inputs.ts).
 *
 * Rows are copied into a buffer; a full one is sorted and written to a spill file as a run. `FAN_IN_MAX` runs of
 * one level are merged into one of the next, so that open files and blocks in memory stay few however much there is.
 * `finish` turns the rest into one sorted stream. Within the buffer keys are sorted by their hash first, in three
 * passes of a radix sort; only rows of the same hash are compared.
 *
 * Invariants:
 * - The order is: hash of the key, bytes of the key, event time (none comes first), arrival. So rows of one key are
 *   together, and rows that say nothing of their order keep it.
 * - Runs lie in the order of their arrival, and neighbours only are merged.
 * - `settle` and `next` do a bounded share of work; `add` sorts at most one buffer.
 * - Rows that bytes cannot carry, and rows where there is nowhere to spill to, stay in memory.
 */
import { assert } from '../core/assert.ts'
import { BATCH_ROWS_MAX, type Batch, sliceBatch } from '../core/batch.ts'
import { BatchGatherer } from '../core/batch-gather.ts'
import type { SpillFile } from '../core/io.ts'
import { bytesOf, isEncodable, type SpillSpace, spillFailed } from './overflow.ts'
import { copyBatch, decodeBatch } from './wire.ts'

/** A larger buffer makes fewer runs, and takes longer to sort in one go. */
const BUFFER_BYTES_MAX = 16 << 20
const BLOCK_BYTES = 64 << 10
const FAN_IN_MIN = 4
const FAN_IN_MAX = 64
/** Blocks that one `settle` writes at most. */
const SETTLE_BLOCKS = 16
/** What a copied batch takes besides its rows. */
const BATCH_BYTES = 512

/** Batches in order; rows of one key may go on in the next one. */
export interface SortedRows {
  /** Null at the end. */
  next(): Batch | null
  close(): void
}

export class RowSorter {
  private readonly space: SpillSpace | null
  private readonly bufferBytesMax: number
  private readonly fanIn: number
  private buffer: Batch[] = []
  private bufferBytes = 0
  private bufferRows = 0
  /** In the order of arrival; levels fall from the first to the last. */
  private readonly runs: Run[] = []
  /** The merge of the last `fanIn` runs under way. */
  private merging: { readonly merge: Merge; readonly into: Run } | null = null

  /** Of `memoryBytesMax` half is for the buffer and half for blocks of runs. */
  constructor(space: SpillSpace | null, memoryBytesMax: number) {
    this.space = space
    this.bufferBytesMax = Math.min(BUFFER_BYTES_MAX, memoryBytesMax / 2)
    this.fanIn = Math.max(FAN_IN_MIN, Math.min(FAN_IN_MAX, Math.floor(memoryBytesMax / 2 / BLOCK_BYTES)))
  }

  /** True before the first row, and after `finish`. */
  get isEmpty(): boolean {
    return this.bufferRows === 0 && this.runs.length === 0
  }

  /** Takes rows [from, length) of a batch with keys, once `settle` returned true; they are copied. Throws `SPILL_FAILED`. */
  add(batch: Batch, from = 0): void {
    assert(this.merging === null, 'runs are merged before further rows come')
    const rows = copyBatch(sliceBatch(batch, from, batch.length))
    this.buffer.push(rows)
    this.bufferBytes += bytesOf(rows, null, rows.length) + BATCH_BYTES
    this.bufferRows += rows.length
    if (this.bufferBytes > this.bufferBytesMax) this.endRun()
  }

  /** Merges runs where there are too many; true when nothing of that is left to do. Throws `SPILL_FAILED`. */
  settle(): boolean {
    const merging = this.merging ?? this.startMerge()
    if (merging === null) return true
    this.merging = merging
    for (let left = SETTLE_BLOCKS; left > 0; left--) {
      const batch = merging.merge.next()
      if (batch !== null) {
        merging.into.write(batch)
        continue
      }
      merging.merge.close()
      this.runs.splice(-this.fanIn, this.fanIn, merging.into)
      this.merging = null
      return this.startMerge() === null
    }
    return false
  }

  private startMerge(): { readonly merge: Merge; readonly into: Run } | null {
    const { runs, fanIn } = this
    const { level } = runs.at(-1) ?? { level: 0 }
    if (runs.length < fanIn || runs.at(-fanIn)!.level !== level) return null
    const last = runs.slice(-fanIn)
    const into = new Run(this.space, level + 1, Math.min(...last.map((run) => run.blockRows)))
    return { merge: new Merge(last), into }
  }

  /** All rows in order. To be called once `settle` has returned true; the sorter is empty then. */
  finish(): SortedRows {
    assert(this.merging === null, 'runs are merged before the end')
    const runs: SortedRows[] = this.runs.splice(0)
    if (this.bufferRows > 0) runs.push(this.sortedBuffer())
    return new Merge(runs)
  }

  close(): void {
    this.merging?.merge.close()
    this.merging?.into.close()
    for (const run of this.runs.splice(0)) run.close()
    this.buffer = []
  }

  private endRun(): void {
    const sorted = this.sortedBuffer()
    const run = new Run(this.space, 0, sorted.blockRows)
    for (let batch = sorted.next(); batch !== null; batch = sorted.next()) run.write(batch)
    this.runs.push(run)
  }

  /** The buffer's rows as a run in memory; it is empty then. */
  private sortedBuffer(): BufferRun {
    const meanBytes = this.bufferBytes / this.bufferRows
    const blockRows = Math.max(1, Math.min(BATCH_ROWS_MAX, Math.floor(BLOCK_BYTES / meanBytes)))
    const run = new BufferRun(this.buffer, sortedOrder(this.buffer, this.bufferRows), blockRows)
    this.buffer = []
    this.bufferBytes = 0
    this.bufferRows = 0
    return run
  }
}

/** Rows of many batches, by number: the batch in the high bits, the row in it in the low ones. */
const ROW_BITS = 11

function sortedOrder(batches: readonly Batch[], count: number): Int32Array {
  let order = new Int32Array(count)
  let hashes = new Uint32Array(count)
  let at = 0
  for (let b = 0; b < batches.length; b++) {
    const batch = batches[b]!
    for (let i = 0; i < batch.length; i++, at++) {
      order[at] = (b << ROW_BITS) | i
      hashes[at] = batch.keys!.hashes[i]!
    }
  }
  let nextOrder = new Int32Array(count)
  let nextHashes = new Uint32Array(count)
  for (let shift = 0; shift < 32; shift += ROW_BITS) {
    radixPass(hashes, order, shift, nextHashes, nextOrder)
    ;[order, nextOrder] = [nextOrder, order]
    ;[hashes, nextHashes] = [nextHashes, hashes]
  }
  sortWithinHashes(batches, hashes, order)
  return order
}

/** Sorts by 11 bits of the hashes, and keeps the order where they are the same. */
function radixPass(
  hashes: Uint32Array,
  order: Int32Array,
  shift: number,
  toHashes: Uint32Array,
  toOrder: Int32Array,
): void {
  const mask = (1 << ROW_BITS) - 1
  const places = new Int32Array(mask + 2)
  for (let i = 0; i < hashes.length; i++) places[((hashes[i]! >>> shift) & mask) + 1]!++
  for (let digit = 1; digit <= mask; digit++) places[digit]! += places[digit - 1]!
  for (let i = 0; i < hashes.length; i++) {
    const to = places[(hashes[i]! >>> shift) & mask]!++
    toHashes[to] = hashes[i]!
    toOrder[to] = order[i]!
  }
}

function sortWithinHashes(batches: readonly Batch[], hashes: Uint32Array, order: Int32Array): void {
  const mask = (1 << ROW_BITS) - 1
  const compare = (a: number, b: number): number =>
    compareRows(batches[a >>> ROW_BITS]!, a & mask, batches[b >>> ROW_BITS]!, b & mask) || a - b
  for (let from = 0; from < order.length; ) {
    let to = from + 1
    let isSorted = true
    for (; to < order.length && hashes[to] === hashes[from]; to++) {
      if (isSorted && compare(order[to - 1]!, order[to]!) > 0) isSorted = false
    }
    if (!isSorted) order.subarray(from, to).sort(compare)
    from = to
  }
}

/** Below 0 when row i of `a` comes before row j of `b`; 0 when key and event time are the same. */
export function compareRows(a: Batch, i: number, b: Batch, j: number): number {
  const order = compareKeys(a, i, b, j)
  if (order !== 0) return order
  const [left, right] = [a.eventTime[i]!, b.eventTime[j]!]
  if (left === right) return 0
  if (Number.isNaN(left)) return Number.isNaN(right) ? 0 : -1
  return left < right ? -1 : 1
}

/** 0 when both rows have the same key. */
export function compareKeys(a: Batch, i: number, b: Batch, j: number): number {
  const [left, right] = [a.keys!, b.keys!]
  const [leftHash, rightHash] = [left.hashes[i]! >>> 0, right.hashes[j]! >>> 0]
  if (leftHash !== rightHash) return leftHash - rightHash
  let at = left.starts[i]!
  let to = right.starts[j]!
  const leftEnd = left.ends[i]!
  const rightEnd = right.ends[j]!
  for (; at < leftEnd && to < rightEnd; at++, to++) {
    const difference = left.bytes[at]! - right.bytes[to]!
    if (difference !== 0) return difference
  }
  return leftEnd - at - (rightEnd - to)
}

/** A sorted buffer, which is gathered block by block. */
class BufferRun implements SortedRows {
  readonly blockRows: number
  private batches: readonly Batch[]
  private readonly order: Int32Array
  private readonly gatherer = new BatchGatherer()
  private at = 0

  constructor(batches: readonly Batch[], order: Int32Array, blockRows: number) {
    this.batches = batches
    this.order = order
    this.blockRows = blockRows
  }

  next(): Batch | null {
    const { order, batches, gatherer } = this
    if (this.at === order.length) return null
    const to = Math.min(order.length, this.at + this.blockRows)
    for (; this.at < to; this.at++) {
      const number = order[this.at]!
      gatherer.add(batches[number >>> ROW_BITS]!, number & ((1 << ROW_BITS) - 1))
    }
    return gatherer.build()
  }

  close(): void {
    this.batches = []
    this.at = this.order.length
  }
}

/** Sorted rows in a file: written from its beginning to its end, then read as often. */
class Run implements SortedRows {
  readonly level: number
  readonly blockRows: number
  private readonly space: SpillSpace | null
  private file: SpillFile | null = null
  private schema: Batch['schema'] | null = null
  /** Lengths of the blocks in the file; a block that bytes cannot carry instead. */
  private blocks: (number | Batch)[] = []
  private nextBlock = 0
  private at = 0

  constructor(space: SpillSpace | null, level: number, blockRows: number) {
    this.space = space
    this.level = level
    this.blockRows = blockRows
  }

  /** A batch that nobody changes later. */
  write(batch: Batch): void {
    this.schema = batch.schema
    for (let from = 0; from < batch.length; from += this.blockRows) {
      this.writeBlock(sliceBatch(batch, from, Math.min(batch.length, from + this.blockRows)))
    }
  }

  private writeBlock(block: Batch): void {
    if (this.space === null || !isEncodable(block, null, block.length)) {
      this.blocks.push(block)
      return
    }
    try {
      const bytes = this.space.encoder.encode(block, null, block.length)
      this.file ??= this.space.open()
      this.file.append(bytes)
      this.blocks.push(bytes.length)
    } catch (error) {
      throw spillFailed('written', error)
    }
  }

  next(): Batch | null {
    const block = this.blocks[this.nextBlock]
    if (block === undefined) {
      this.close()
      return null
    }
    this.nextBlock++
    if (typeof block !== 'number') return block
    const { at } = this
    this.at += block
    try {
      return decodeBatch(this.schema!, this.file!.read(at, block))
    } catch (error) {
      throw spillFailed('read back', error)
    }
  }

  close(): void {
    this.blocks = []
    this.nextBlock = 0
    this.file?.close()
    this.file = null
  }
}

/** The rows of several runs in order; of equal rows those of an earlier run come first. */
class Merge implements SortedRows {
  private readonly runs: readonly SortedRows[]
  private readonly heads: (Batch | null)[]
  private readonly rows: Int32Array
  /** Runs that have rows left, as a heap with the one whose row comes next on top. */
  private readonly heap: number[] = []
  private readonly gatherer = new BatchGatherer()
  private started = false

  constructor(runs: readonly SortedRows[]) {
    this.runs = runs
    this.heads = runs.map(() => null)
    this.rows = new Int32Array(runs.length)
  }

  next(): Batch | null {
    if (this.runs.length === 1) return this.runs[0]!.next()
    if (!this.started) this.start()
    const { heap, heads, rows, gatherer } = this
    while (heap.length > 0 && !gatherer.isFull) {
      const run = heap[0]!
      const head = heads[run]!
      gatherer.add(head, rows[run]!++)
      if (rows[run] === head.length && !this.advance(run)) {
        const last = heap.pop()!
        if (heap.length === 0) break
        heap[0] = last
      }
      this.siftDown(0)
    }
    return gatherer.length === 0 ? null : gatherer.build()
  }

  private start(): void {
    this.started = true
    for (let run = 0; run < this.runs.length; run++) if (this.advance(run)) this.heap.push(run)
    for (let at = (this.heap.length >> 1) - 1; at >= 0; at--) this.siftDown(at)
  }

  /** The next block of a run; false at its end. */
  private advance(run: number): boolean {
    this.heads[run] = this.runs[run]!.next()
    this.rows[run] = 0
    return this.heads[run] !== null
  }

  private isBefore(a: number, b: number): boolean {
    const order = compareRows(this.heads[a]!, this.rows[a]!, this.heads[b]!, this.rows[b]!)
    return order < 0 || (order === 0 && a < b)
  }

  private siftDown(from: number): void {
    const { heap } = this
    const moved = heap[from]!
    let at = from
    for (;;) {
      let child = 2 * at + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && this.isBefore(heap[child + 1]!, heap[child]!)) child++
      if (!this.isBefore(heap[child]!, moved)) break
      heap[at] = heap[child]!
      at = child
    }
    heap[at] = moved
  }

  close(): void {
    for (const run of this.runs) run.close()
  }
}
