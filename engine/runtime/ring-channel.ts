/**
 * A channel between two worker threads: one descriptor ring over the shared page pool (ring-memory.ts).
 *
 * A batch becomes one wire message (wire.ts). If it fits a page, the writer encodes it in that page and the reader
 * gets views straight into it, so that nothing is copied but the selected rows, once; a larger one travels in several pages, one after the other, and is put together by the
 * reader in memory of its own, so that a 10 MB record needs no more than the channel's credit.
 */
import type { Batch } from '../core/batch.ts'
import type { Schema } from '../core/schema.ts'
import type { ChannelReader, ChannelWriter, ControlMessage, Message } from './channel.ts'
import { NO_ROW_LIMIT } from './pace.ts'
import { PAGE_BYTES, type RingMemory } from './ring-memory.ts'
import { type BatchEncoder, decodeBatch } from './wire.ts'

const BATCH = 1
const WATERMARK = 2
const BARRIER = 3
const IDLE = 4
const ACTIVE = 5

export class RingWriter implements ChannelWriter {
  private readonly memory: RingMemory
  private readonly channel: number
  private readonly readerWorker: number
  private readonly encoder: BatchEncoder
  /** The part of a large message that is not sent yet. */
  private rest: Uint8Array | null = null
  /** The message before was larger than a page: this one probably is too, and is not tried in place first. */
  private wasLarge = false
  /** Rows sent, counted as the reader counts those it takes. */
  private rowsSent: number

  constructor(memory: RingMemory, channel: number, readerWorker: number, encoder: BatchEncoder) {
    this.memory = memory
    this.channel = channel
    this.readerWorker = readerWorker
    this.encoder = encoder
    this.rowsSent = memory.rowsTaken(channel)
  }

  get rowsAllowed(): number {
    return this.memory.rowsAllowed(this.channel) || NO_ROW_LIMIT
  }

  writeBatch(batch: Batch, rows: Int32Array | null, count: number): boolean {
    if (!this.settle()) return false
    if (this.hasManyRows(count)) {
      this.memory.setWriterWaits(this.channel, true)
      if (this.hasManyRows(count)) return false
    }
    const page = this.acquire()
    if (page < 0) return false
    this.rowsSent = (this.rowsSent + count) | 0
    if (!this.wasLarge) {
      const bytes = this.encoder.encodeInto(this.memory.block(page), batch, rows, count)
      if (bytes >= 0) {
        this.announce(page, bytes, 0, bytes)
        return true
      }
    }
    this.writeCopy(page, this.encoder.encode(batch, rows, count))
    return true
  }

  /** With `count` more, more rows would wait than the reader wants. */
  private hasManyRows(count: number): boolean {
    const waiting = (this.rowsSent - this.memory.rowsTaken(this.channel)) | 0
    return waiting > 0 && waiting + count > this.rowsAllowed
  }

  private writeCopy(page: number, message: Uint8Array): void {
    const first = Math.min(message.length, PAGE_BYTES)
    this.wasLarge = message.length > first
    this.memory.page(page, first).set(this.wasLarge ? message.subarray(0, first) : message)
    this.announce(page, first, this.wasLarge ? 1 : 0, message.length)
    if (!this.wasLarge) return
    this.rest = message.slice(first)
    this.settle()
  }

  private announce(page: number, bytes: number, more: number, total: number): void {
    this.memory.publish(this.channel, BATCH, page, bytes, more, total)
    this.memory.wake(this.readerWorker)
  }

  settle(): boolean {
    while (this.rest !== null) {
      const page = this.acquire()
      if (page < 0) return false
      const bytes = Math.min(this.rest.length, PAGE_BYTES)
      this.memory.page(page, bytes).set(this.rest.subarray(0, bytes))
      this.rest = bytes === this.rest.length ? null : this.rest.subarray(bytes)
      this.announce(page, bytes, this.rest === null ? 0 : 1, 0)
    }
    return true
  }

  writeControl(message: ControlMessage): boolean {
    if (!this.settle()) return false
    if (this.memory.freeSlots(this.channel) === 0) {
      this.memory.setWriterWaits(this.channel, true)
      if (this.memory.freeSlots(this.channel) === 0) return false
    }
    switch (message.kind) {
      case 'watermark':
        this.memory.publish(this.channel, WATERMARK, 0, 0, 0, message.value)
        break
      case 'barrier':
        this.memory.publish(this.channel, BARRIER, 0, 0, 0, message.attempt)
        break
      case 'idle':
        this.memory.publish(this.channel, IDLE, 0, 0, 0, 0)
        break
      case 'active':
        this.memory.publish(this.channel, ACTIVE, 0, 0, 0, 0)
        break
    }
    this.memory.wake(this.readerWorker)
    return true
  }

  /** A page with a slot to announce it in, or -1; then the reader's next pop wakes this worker. */
  private acquire(): number {
    const page = this.tryAcquire()
    if (page >= 0) return page
    this.memory.setWriterWaits(this.channel, true)
    // Credit may have come back between the look and the flag.
    return this.tryAcquire()
  }

  private tryAcquire(): number {
    return this.memory.freeSlots(this.channel) === 0 ? -1 : this.memory.acquirePage(this.channel)
  }
}

export class RingReader implements ChannelReader {
  private readonly memory: RingMemory
  private readonly channel: number
  private readonly writerWorker: number
  private readonly schema: Schema
  private head: Message | null = null
  /** Page of the head message, -1 when it has none. */
  private headPage = -1
  private assembly: Uint8Array | null = null
  private assembled = 0
  private allowed = 0

  constructor(memory: RingMemory, channel: number, writerWorker: number, schema: Schema) {
    this.memory = memory
    this.channel = channel
    this.writerWorker = writerWorker
    this.schema = schema
  }

  peek(): Message | null {
    if (this.head !== null) return this.head
    while (this.head === null && this.memory.hasMessage(this.channel)) this.take()
    return this.head
  }

  /** Looks at the descriptor at the head: makes a message of it, or collects its part of a large one. */
  private take(): void {
    const memory = this.memory
    switch (memory.headKind(this.channel)) {
      case BATCH:
        this.takePage()
        return
      case WATERMARK:
        this.head = { kind: 'watermark', value: memory.headValue(this.channel) }
        return
      case BARRIER:
        this.head = { kind: 'barrier', attempt: memory.headValue(this.channel) }
        return
      case IDLE:
        this.head = { kind: 'idle' }
        return
      default:
        this.head = { kind: 'active' }
    }
  }

  private takePage(): void {
    const memory = this.memory
    const page = memory.headPage(this.channel)
    const bytes = memory.headBytes(this.channel)
    const more = memory.headMore(this.channel)
    if (this.assembly === null && more === 0) {
      this.headPage = page
      this.head = { kind: 'batch', batch: decodeBatch(this.schema, memory.page(page, bytes)) }
      return
    }
    if (this.assembly === null) {
      this.assembly = new Uint8Array(memory.headValue(this.channel))
      this.assembled = 0
    }
    this.assembly.set(memory.page(page, bytes), this.assembled)
    this.assembled += bytes
    if (more === 1) {
      this.release(page)
      return
    }
    // The descriptor of the last part stays at the head until `pop`.
    this.headPage = page
    this.head = { kind: 'batch', batch: decodeBatch(this.schema, this.assembly) }
    this.assembly = null
  }

  allow(rows: number): void {
    const allowed = rows === NO_ROW_LIMIT ? 0 : rows
    if (allowed === this.allowed) return
    this.allowed = allowed
    this.memory.setRowsAllowed(this.channel, allowed)
  }

  pop(): void {
    // Before the flag of a writer that waits is looked at.
    if (this.head?.kind === 'batch') this.memory.addRowsTaken(this.channel, this.head.batch.length)
    this.head = null
    this.release(this.headPage)
    this.headPage = -1
  }

  private release(page: number): void {
    if (page >= 0) this.memory.releasePage(this.channel, page)
    this.memory.consume(this.channel)
    if (this.memory.writerWaits(this.channel)) {
      this.memory.setWriterWaits(this.channel, false)
      this.memory.wake(this.writerWorker)
    }
  }
}
