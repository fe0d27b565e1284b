/**
 * Channels: ordered, bounded pipes between subtasks, carrying batches with watermarks and barriers in
 * band. Two implementations: `LocalChannel` here, for subtasks of one thread (and for simulation), and
 * ring-channel.ts across threads. Who writes and reads: output-router.ts and subtask.ts.
 *
 * Invariants:
 * - Messages leave in the order in which they were accepted.
 * - A write is accepted whole or not at all; after a refusal the reader's next `pop` wakes the writer.
 * - A batch returned by `peek` stays valid until `pop`.
 */
import { assert } from '../core/assert.ts'
import type { Batch } from '../core/batch.ts'
import { NO_ROW_LIMIT } from './pace.ts'
import { BatchEncoder, copyBatch, decodeBatch, WireBlock } from './wire.ts'

export type ControlMessage =
  | { readonly kind: 'watermark'; readonly value: number }
  /** `attempt` is the checkpoint attempt's id. */
  | { readonly kind: 'barrier'; readonly attempt: number }
  /** The sender has no input for now: it does not hold time back. */
  | { readonly kind: 'idle' }
  | { readonly kind: 'active' }

export type Message = { readonly kind: 'batch'; readonly batch: Batch } | ControlMessage

export interface ChannelWriter {
  /** Offers rows `rows[0..count)` (or the first `count`); copies them before returning true. */
  writeBatch(batch: Batch, rows: Int32Array | null, count: number): boolean
  writeControl(message: ControlMessage): boolean
  /** True while an accepted message is not yet handed over whole; calling it again makes progress. */
  settle(): boolean
  /** Rows that the reader lets wait: larger batches are sent in parts. */
  readonly rowsAllowed: number
}

export interface ChannelReader {
  peek(): Message | null
  pop(): void
  /** No batch is accepted that makes more rows wait than this, unless none waits. */
  allow(rows: number): void
}

const BLOCK_BYTES_KEPT_MAX = 1 << 20

/** A bounded queue inside one thread. Control messages need no credit. */
export class LocalChannel implements ChannelWriter, ChannelReader {
  /** Popped places are undefined, so that their batches can be collected. */
  private readonly queue: (Message | undefined)[] = []
  private head = 0
  private batches = 0
  private rows = 0
  rowsAllowed = NO_ROW_LIMIT
  private readonly capacity: number
  private readonly onWritten: () => void
  private readonly onRoom: () => void
  private refused = false
  private readonly encoder: BatchEncoder
  /** Memory of queued batches, oldest first, and of popped ones, to be used again. */
  private readonly used: (WireBlock | null)[] = []
  private readonly free: WireBlock[] = []

  /**
   * `capacity` in batches. `onWritten` wakes the reader, `onRoom` a writer that was refused. The encoder may
   * serve all channels of a thread.
   */
  constructor(capacity: number, onWritten: () => void, onRoom: () => void, encoder: BatchEncoder = new BatchEncoder()) {
    this.capacity = capacity
    this.onWritten = onWritten
    this.onRoom = onRoom
    this.encoder = encoder
  }

  writeBatch(batch: Batch, rows: Int32Array | null, count: number): boolean {
    if (this.batches >= this.capacity || (this.batches > 0 && this.rows + count > this.rowsAllowed)) {
      this.refused = true
      return false
    }
    this.batches++
    this.rows += count
    this.queue.push({ kind: 'batch', batch: this.store(batch, rows, count) })
    this.onWritten()
    return true
  }

  /** Columns go into one recycled block, which is much cheaper than an array a column; objects are passed on. */
  private store(batch: Batch, rows: Int32Array | null, count: number): Batch {
    if (batch.schema.fields.some((field) => field.kind === 'opaque')) {
      this.used.push(null)
      return copyBatch(batch, rows, count)
    }
    let block = this.free.pop()
    if (block === undefined || this.encoder.encodeInto(block, batch, rows, count) < 0) {
      const message = this.encoder.encode(batch, rows, count)
      block = new WireBlock(new ArrayBuffer(message.length + 8 + ((message.length >>> 5) << 3)))
      block.u8.set(message)
    }
    this.used.push(block)
    return decodeBatch(batch.schema, block.u8)
  }

  writeControl(message: ControlMessage): boolean {
    this.queue.push(message)
    this.onWritten()
    return true
  }

  settle(): boolean {
    return true
  }

  allow(rows: number): void {
    this.rowsAllowed = rows
  }

  peek(): Message | null {
    return this.queue[this.head] ?? null
  }

  pop(): void {
    const message = this.queue[this.head]
    assert(message !== undefined, 'pop follows a successful peek')
    this.queue[this.head++] = undefined
    if (this.head > 64 && this.head * 2 > this.queue.length) {
      this.queue.splice(0, this.head)
      this.head = 0
    }
    if (message.kind !== 'batch') return
    this.batches--
    this.rows -= message.batch.length
    const block = this.used.shift() ?? null
    // The memory of a huge record is let go.
    if (block !== null && block.u8.length <= BLOCK_BYTES_KEPT_MAX) this.free.push(block)
    if (this.refused) {
      this.refused = false
      this.onRoom()
    }
  }
}
