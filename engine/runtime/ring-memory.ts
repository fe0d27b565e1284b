/**
 * The shared memory of a job's cross-thread channels: descriptor rings, a pool of pages, and a wake-up
 * cell a worker. Made once a deployment on the coordinator's thread and handed to every worker.
 *
 * Pages: channel c owns pages 2c and 2c + 1 for itself, so it can always make progress; the rest float
 * and are borrowed, at most `FLOATING_PER_CHANNEL` a channel. Watermarks and barriers need no page.
 *
 * Invariants:
 * - A ring has one writer and one reader. `tail` is written by the writer only, `head` by the reader.
 * - A page belongs to exactly one of: its free flag or free list, a writer filling it, a descriptor.
 * - Floating pages form a lock-free stack (Treiber); a 16-bit tag in the top word guards against ABA.
 * - Wake-up: a worker sets its sleeping flag, looks at every ring again, and only then waits; a peer
 *   publishes first and looks at the flag afterwards. Atomics are sequentially consistent, so at least
 *   one of the two sees the other.
 */
import { assert } from '../core/assert.ts'
import { WireBlock } from './wire.ts'

export const PAGE_BYTES = 128 * 1_024
export const RING_SLOTS = 64
const FLOATING_PER_CHANNEL = 6
const FLOATING_PAGES_MAX = 512

/** Int32 positions within a channel's control block. */
const HEAD = 0
const TAIL = 16
const FLOATING_HELD = 32
const EXCLUSIVE_FREE = 33
const WRITER_WAITS = 35
/** Rows that the reader lets wait, 0 for any number; and those it has taken, counted modulo 2^32. */
const ROWS_ALLOWED = 36
const ROWS_TAKEN = 37
const SLOTS = 48
/** Int32s a slot: kind, page, bytes, more, f64 (2), attempt, unused. */
const SLOT_INTS = 8
const CHANNEL_INTS = SLOTS + RING_SLOTS * SLOT_INTS

/** Int32s a worker: sequence, sleeping flag, padded to a cache line. */
const WORKER_INTS = 16
const NO_PAGE = 0xffff

export interface RingMemoryBuffers {
  readonly control: SharedArrayBuffer
  readonly pages: SharedArrayBuffer
  readonly channels: number
  readonly workers: number
}

function floatingPages(channels: number): number {
  return Math.min(FLOATING_PAGES_MAX, channels * 4)
}

export function createRingMemory(channels: number, workers: number): RingMemoryBuffers {
  const pageCount = channels * 2 + floatingPages(channels)
  assert(pageCount < NO_PAGE, 'page numbers fit into 16 bits')
  const ints = workers * WORKER_INTS + channels * CHANNEL_INTS + 16 + pageCount
  const buffers = {
    control: new SharedArrayBuffer(ints * 4),
    pages: new SharedArrayBuffer(Math.max(8, pageCount * PAGE_BYTES)),
    channels,
    workers,
  }
  const memory = new RingMemory(buffers)
  memory.initialise()
  return buffers
}

/** One thread's view of the shared memory. */
export class RingMemory {
  readonly channels: number
  readonly workers: number
  private readonly control: Int32Array
  private readonly controlF64: Float64Array
  private readonly pages: Uint8Array
  /** Views of pages that this thread has written, by page. */
  private readonly blocks: (WireBlock | undefined)[] = []
  private readonly stackAt: number
  private readonly nextAt: number

  constructor(buffers: RingMemoryBuffers) {
    this.channels = buffers.channels
    this.workers = buffers.workers
    this.control = new Int32Array(buffers.control)
    this.controlF64 = new Float64Array(buffers.control, 0, buffers.control.byteLength >>> 3)
    this.pages = new Uint8Array(buffers.pages)
    this.stackAt = this.workers * WORKER_INTS + this.channels * CHANNEL_INTS
    this.nextAt = this.stackAt + 16
  }

  initialise(): void {
    for (let c = 0; c < this.channels; c++) {
      const base = this.base(c)
      this.control[base + EXCLUSIVE_FREE] = 1
      this.control[base + EXCLUSIVE_FREE + 1] = 1
    }
    this.control[this.stackAt] = NO_PAGE
    const first = this.channels * 2
    for (let page = first; page < first + floatingPages(this.channels); page++) this.pushFloating(page)
  }

  private base(channel: number): number {
    return this.workers * WORKER_INTS + channel * CHANNEL_INTS
  }

  /** The memory of a page. */
  page(page: number, bytes: number): Uint8Array {
    return this.pages.subarray(page * PAGE_BYTES, page * PAGE_BYTES + bytes)
  }

  /** The whole of a page, to encode a message into. */
  block(page: number): WireBlock {
    this.blocks[page] ??= new WireBlock(this.pages.buffer, page * PAGE_BYTES, PAGE_BYTES)
    return this.blocks[page]
  }

  private pushFloating(page: number): void {
    const control = this.control
    for (;;) {
      const top = Atomics.load(control, this.stackAt)
      Atomics.store(control, this.nextAt + page, top & 0xffff)
      const tagged = (((top >>> 16) + 1) << 16) | page
      if (Atomics.compareExchange(control, this.stackAt, top, tagged) === top) return
    }
  }

  private popFloating(): number {
    const control = this.control
    for (;;) {
      const top = Atomics.load(control, this.stackAt)
      const page = top & 0xffff
      if (page === NO_PAGE) return -1
      const next = Atomics.load(control, this.nextAt + page)
      const tagged = (((top >>> 16) + 1) << 16) | next
      if (Atomics.compareExchange(control, this.stackAt, top, tagged) === top) return page
    }
  }

  /** A free page for a channel's writer, or -1 when its credit is used up. */
  acquirePage(channel: number): number {
    const base = this.base(channel)
    for (let k = 0; k < 2; k++) {
      if (Atomics.compareExchange(this.control, base + EXCLUSIVE_FREE + k, 1, 0) === 1) return channel * 2 + k
    }
    if (Atomics.load(this.control, base + FLOATING_HELD) >= FLOATING_PER_CHANNEL) return -1
    const page = this.popFloating()
    if (page >= 0) Atomics.add(this.control, base + FLOATING_HELD, 1)
    return page
  }

  releasePage(channel: number, page: number): void {
    const base = this.base(channel)
    if (page < this.channels * 2) {
      Atomics.store(this.control, base + EXCLUSIVE_FREE + (page & 1), 1)
    } else {
      this.pushFloating(page)
      Atomics.sub(this.control, base + FLOATING_HELD, 1)
    }
  }

  /** Free descriptor slots of a ring, as its writer sees them. */
  freeSlots(channel: number): number {
    const base = this.base(channel)
    return RING_SLOTS - ((this.control[base + TAIL]! - Atomics.load(this.control, base + HEAD)) | 0)
  }

  /** Publishes a descriptor; the caller made sure of a free slot. */
  publish(channel: number, kind: number, page: number, bytes: number, more: number, value: number): void {
    const base = this.base(channel)
    const tail = this.control[base + TAIL]!
    const slot = base + SLOTS + (tail & (RING_SLOTS - 1)) * SLOT_INTS
    this.control[slot] = kind
    this.control[slot + 1] = page
    this.control[slot + 2] = bytes
    this.control[slot + 3] = more
    this.controlF64[(slot + 4) >>> 1] = value
    Atomics.store(this.control, base + TAIL, tail + 1)
  }

  hasMessage(channel: number): boolean {
    const base = this.base(channel)
    return this.control[base + HEAD] !== Atomics.load(this.control, base + TAIL)
  }

  headKind(channel: number): number {
    return this.control[this.headSlot(channel)]!
  }
  headPage(channel: number): number {
    return this.control[this.headSlot(channel) + 1]!
  }
  headBytes(channel: number): number {
    return this.control[this.headSlot(channel) + 2]!
  }
  headMore(channel: number): number {
    return this.control[this.headSlot(channel) + 3]!
  }
  headValue(channel: number): number {
    return this.controlF64[(this.headSlot(channel) + 4) >>> 1]!
  }

  private headSlot(channel: number): number {
    const base = this.base(channel)
    return base + SLOTS + (this.control[base + HEAD]! & (RING_SLOTS - 1)) * SLOT_INTS
  }

  /** Frees the head slot. */
  consume(channel: number): void {
    const base = this.base(channel)
    Atomics.store(this.control, base + HEAD, this.control[base + HEAD]! + 1)
  }

  /** A writer that was refused says so; it looks at its credit again afterwards. */
  setWriterWaits(channel: number, waits: boolean): void {
    Atomics.store(this.control, this.base(channel) + WRITER_WAITS, waits ? 1 : 0)
  }
  writerWaits(channel: number): boolean {
    return Atomics.load(this.control, this.base(channel) + WRITER_WAITS) === 1
  }

  rowsAllowed(channel: number): number {
    return Atomics.load(this.control, this.base(channel) + ROWS_ALLOWED)
  }
  setRowsAllowed(channel: number, rows: number): void {
    Atomics.store(this.control, this.base(channel) + ROWS_ALLOWED, rows)
  }

  /** Rows taken by the reader, as it counts them. */
  rowsTaken(channel: number): number {
    return Atomics.load(this.control, this.base(channel) + ROWS_TAKEN)
  }
  addRowsTaken(channel: number, rows: number): void {
    Atomics.add(this.control, this.base(channel) + ROWS_TAKEN, rows)
  }

  setSleeping(worker: number, sleeping: boolean): void {
    Atomics.store(this.control, worker * WORKER_INTS + 1, sleeping ? 1 : 0)
  }

  sequence(worker: number): number {
    return Atomics.load(this.control, worker * WORKER_INTS)
  }

  /** Wakes a worker if it sleeps. */
  wake(worker: number): void {
    if (Atomics.load(this.control, worker * WORKER_INTS + 1) === 0) return
    Atomics.add(this.control, worker * WORKER_INTS, 1)
    Atomics.notify(this.control, worker * WORKER_INTS)
  }

  /** Resolves when the worker's sequence differs from `seen`; already resolved (null) when it does. */
  waitForChange(worker: number, seen: number): Promise<unknown> | null {
    const waiting = Atomics.waitAsync(this.control, worker * WORKER_INTS, seen)
    return waiting.async ? waiting.value : null
  }
}
