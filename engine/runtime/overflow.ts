/**
 * Batches that found no room: a queue that keeps a few MiB in memory and the rest in a file.
 *
 * An operator never blocks within a row, so one row may emit any number of batches while downstream is full.
 * They wait here, in the chain (chain.ts) and before the channels (output-router.ts), and nothing new enters a
 * subtask until they have left; so this bounds memory however much one row makes. The file has no name left
 * (spill files, core/io.ts): nothing survives a crash, and nothing needs to, because what waits was never
 * part of a checkpoint.
 *
 * Invariants:
 * - Messages leave in the order in which they came.
 * - Batches of one queue may have different schemas; a batch that comes back from the file equals the one that
 *   went in. Rows that bytes cannot carry (instances of classes, functions) stay in memory.
 * - Writing waits for the disk: this is the one place where a worker does, instead of running out of memory.
 */
import { isPlainData } from '../../state/value-codec.ts'
import type { Batch } from '../core/batch.ts'
import { MillraceError, messageOf } from '../core/errors.ts'
import type { SpillFile } from '../core/io.ts'
import type { Schema } from '../core/schema.ts'
import type { ControlMessage, Message } from './channel.ts'
import { type BatchEncoder, copyBatch, decodeBatch } from './wire.ts'

/** Bytes of batches kept in memory by one queue. */
const MEMORY_BYTES_MAX = 4 << 20
/** Room that an opaque value takes at least beside its encoding. */
const OPAQUE_BYTES = 64

/** Where a worker's queues spill to. One a worker. */
export interface SpillSpace {
  /** Opens a new, empty file. */
  readonly open: () => SpillFile
  readonly encoder: BatchEncoder
  /** Bytes of batches that one queue keeps in memory; a few MiB when left out. */
  readonly memoryBytesMax?: number
}

interface InMemory {
  readonly message: Message
  readonly bytes: number
}

interface InFile {
  readonly schema: Schema
  readonly at: number
  readonly length: number
}

type Entry = InMemory | InFile

export class Overflow {
  private readonly space: SpillSpace | null
  private readonly memoryBytesMax: number
  private entries: (Entry | undefined)[] = []
  private next = 0
  private memoryBytes = 0
  private file: SpillFile | null = null
  private fileBytes = 0
  /** The first message, when it was read from the file. */
  private first: Message | null = null

  /** Without a space all stays in memory. */
  constructor(space: SpillSpace | null, memoryBytesMax: number = space?.memoryBytesMax ?? MEMORY_BYTES_MAX) {
    this.space = space
    this.memoryBytesMax = memoryBytesMax
  }

  get length(): number {
    return this.entries.length - this.next
  }

  /** Takes rows `rows[0..count)` of a batch, or its first `count`; they are copied. Throws `SPILL_FAILED`. */
  pushBatch(batch: Batch, rows: Int32Array | null = null, count: number = batch.length): void {
    const bytes = bytesOf(batch, rows, count)
    const isSpilled = this.memoryBytes + bytes > this.memoryBytesMax && this.spill(batch, rows, count)
    if (isSpilled) return
    this.memoryBytes += bytes
    this.entries.push({ message: { kind: 'batch', batch: copyBatch(batch, rows, count) }, bytes })
  }

  pushControl(message: ControlMessage): void {
    this.entries.push({ message, bytes: 0 })
  }

  /** The message that came first; null when there is none. */
  peek(): Message | null {
    const entry = this.entries[this.next]
    if (entry === undefined) return null
    if ('message' in entry) return entry.message
    this.first ??= { kind: 'batch', batch: this.read(entry) }
    return this.first
  }

  /** Forgets the message that `peek` returned. */
  shift(): void {
    const entry = this.entries[this.next]
    if (entry === undefined) return
    if ('message' in entry) this.memoryBytes -= entry.bytes
    this.entries[this.next++] = undefined
    this.first = null
    if (this.next < this.entries.length) return
    this.close()
  }

  /** Forgets everything. */
  close(): void {
    this.entries = []
    this.next = 0
    this.memoryBytes = 0
    this.first = null
    this.file?.close()
    this.file = null
    this.fileBytes = 0
  }

  private spill(batch: Batch, rows: Int32Array | null, count: number): boolean {
    if (this.space === null || !isEncodable(batch, rows, count)) return false
    try {
      const bytes = this.space.encoder.encode(batch, rows, count)
      this.file ??= this.space.open()
      this.file.append(bytes)
      this.entries.push({ schema: batch.schema, at: this.fileBytes, length: bytes.length })
      this.fileBytes += bytes.length
      return true
    } catch (error) {
      throw spillFailed('written', error)
    }
  }

  private read({ schema, at, length }: InFile): Batch {
    try {
      return decodeBatch(schema, this.file!.read(at, length))
    } catch (error) {
      throw spillFailed('read back', error)
    }
  }
}

export function spillFailed(what: string, error: unknown): MillraceError {
  return new MillraceError('SPILL_FAILED', `Rows that wait for room cannot be ${what}: ${messageOf(error)}.`, {
    domain: 'external',
    retryable: true,
    hint: 'Make room on the disk of the local state directory; the job goes on from its last checkpoint.',
    cause: error,
  })
}

/** Bytes can carry every value of the rows. */
export function isEncodable(batch: Batch, rows: Int32Array | null, count: number): boolean {
  for (const column of batch.columns) {
    if (column.kind !== 'opaque') continue
    for (let i = 0; i < count; i++) if (!isPlainData(column.values[rows === null ? i : rows[i]!])) return false
  }
  return true
}

/** Memory that a copy of the rows takes; opaque values are judged by the first one. */
export function bytesOf(batch: Batch, rows: Int32Array | null, count: number): number {
  let bytes = count * 8
  const strings = (starts: Int32Array, ends: Int32Array): void => {
    for (let i = 0; i < count; i++) {
      const row = rows === null ? i : rows[i]!
      bytes += 8 + ends[row]! - starts[row]!
    }
  }
  if (batch.keys !== null) strings(batch.keys.starts, batch.keys.ends)
  for (const column of batch.columns) {
    if (column.kind === 'string') strings(column.starts, column.ends)
    else if (column.kind === 'opaque')
      bytes += count * (OPAQUE_BYTES + sizeOf(column.values[rows === null ? 0 : rows[0]!]))
    else bytes += count * 8
  }
  return bytes
}

/** A value's size, roughly: its strings, numbers and parts down to a few levels. */
function sizeOf(value: unknown, depth = 0): number {
  if (typeof value === 'string') return value.length + 16
  if (ArrayBuffer.isView(value)) return value.byteLength + 64
  if (value === null || typeof value !== 'object' || depth > 3) return 8
  if (Array.isArray(value)) return 16 + value.length * (value.length === 0 ? 0 : sizeOf(value[0], depth + 1))
  let bytes = 32
  for (const part of Object.values(value)) bytes += sizeOf(part, depth + 1)
  return bytes
}
