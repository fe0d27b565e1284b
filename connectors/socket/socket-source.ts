/**
 * Unbounded source of the lines of a TCP connection, as Flink's `socketTextStream`: for trying things out.
 *
 * Guarantee: at most once. A socket cannot be read again, so after a failure the job goes on with what comes
 * then, and lines that were under way are lost. Read what must not be lost from a log.
 *
 * One subtask connects. When the peer closes, the source connects again `maxRetries` times (0: the stream
 * ends there, Flink's default), a second apart. Invariant: no more than `BUFFER_BYTES_MAX` is buffered; then the
 * socket is paused, so that TCP pushes back on the peer.
 */
import { connect, type Socket } from 'node:net'
import type { Source, SourcePoll, SourceReader, SourceReaderContext, SplitState } from '../../engine/contract/source.ts'
import { BATCH_ROWS_MAX } from '../../engine/core/batch.ts'
import { MillraceError, messageOf } from '../../engine/core/errors.ts'
import { BatchBuilder } from '../../engine/core/rows.ts'
import { OPAQUE_SCHEMA, type Schema } from '../../engine/core/schema.ts'

export interface SocketSourceOptions {
  readonly host: string
  readonly port: number
  /** Ends a record; not part of it. A newline by default, and then a carriage return before it is cut off too. */
  readonly delimiter?: string
  /** Connections tried after the first one ended or failed: 0 by default, -1 for ever. */
  readonly maxRetries?: number
  /** Longer records are dead-lettered. 8 MiB by default. */
  readonly recordBytesMax?: number
}

const SPLIT = 'socket'
const RETRY_DELAY_MS = 1_000
const BUFFER_BYTES_MAX = 4 * 1_024 * 1_024
const RECORD_BYTES_MAX = 8 * 1_024 * 1_024

/** A source of text, one string a record. Throws `OPTION_INVALID`. */
export function socketSource(options: SocketSourceOptions): Source<string> {
  const { host, port, delimiter = '\n', maxRetries = 0, recordBytesMax = RECORD_BYTES_MAX } = options
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    throw new MillraceError('OPTION_INVALID', `${port} is not a port.`, { hint: 'Give a whole number up to 65535.' })
  }
  if (delimiter.length === 0) throw new MillraceError('OPTION_INVALID', 'The delimiter must not be empty.')
  const settings = { host, port, delimiter: Buffer.from(delimiter), maxRetries, recordBytesMax }
  return {
    kind: 'socket',
    schema: OPAQUE_SCHEMA as Schema<string>,
    boundedness: 'unbounded',
    splits: async () => [{ id: SPLIT, position: null }],
    createReader: (context) => new SocketReader(settings, context),
  }
}

interface Settings {
  readonly host: string
  readonly port: number
  readonly delimiter: Buffer
  readonly maxRetries: number
  readonly recordBytesMax: number
}

class SocketReader implements SourceReader {
  private readonly settings: Settings
  private readonly context: SourceReaderContext
  private readonly builder = new BatchBuilder(OPAQUE_SCHEMA)
  private socket: Socket | null = null
  private state: 'no split' | 'connecting' | 'open' | 'waiting' | 'ended' | 'closed' = 'no split'
  private retriesLeft: number
  private cancelRetry: (() => void) | null = null
  private chunks: Buffer[] = []
  private bufferedBytes = 0
  private records = 0

  constructor(settings: Settings, context: SourceReaderContext) {
    this.settings = settings
    this.context = context
    this.retriesLeft = settings.maxRetries < 0 ? Number.POSITIVE_INFINITY : settings.maxRetries
  }

  async open(splits: readonly SplitState[]): Promise<void> {
    if (splits.length > 0) this.connect()
  }

  private connect(): void {
    const { host, port } = this.settings
    this.state = 'connecting'
    const socket = connect({ host, port })
    this.socket = socket
    socket.on('connect', () => {
      this.state = 'open'
    })
    socket.on('data', (chunk: Buffer) => {
      this.chunks.push(chunk)
      this.bufferedBytes += chunk.length
      if (this.bufferedBytes >= BUFFER_BYTES_MAX) socket.pause()
      this.context.wake()
    })
    let cause: Error | null = null
    socket.on('error', (error) => {
      cause = error
    })
    socket.on('close', () => this.disconnected(cause))
  }

  private disconnected(cause: Error | null): void {
    this.socket = null
    if (this.state === 'closed') return
    if (this.retriesLeft > 0) {
      this.retriesLeft--
      this.state = 'waiting'
      this.cancelRetry = this.context.worker.io.timers.schedule(RETRY_DELAY_MS, () => this.connect())
      return
    }
    if (cause === null) {
      this.state = 'ended'
      this.context.wake()
      return
    }
    const { host, port } = this.settings
    this.context.fail(
      new MillraceError('SOCKET_FAILED', `The connection to ${host}:${port} failed: ${messageOf(cause)}.`, {
        domain: 'external',
        retryable: true,
        hint: 'Start what listens there first, or set maxRetries.',
        cause,
      }),
    )
  }

  poll(rowsMax: number): SourcePoll {
    if (this.state === 'no split') return { kind: 'end' }
    const count = this.takeRecords(Math.min(rowsMax, BATCH_ROWS_MAX))
    // A record that is longer than the buffer needs more to be complete.
    if (count === 0 || this.bufferedBytes < BUFFER_BYTES_MAX) this.socket?.resume()
    if (count > 0) return { kind: 'batch', split: SPLIT, batch: this.builder.build() }
    return { kind: this.state === 'ended' && this.bufferedBytes === 0 ? 'end' : 'pending' }
  }

  /** Moves complete records into the builder; a rest without delimiter counts once the stream has ended. */
  private takeRecords(max: number): number {
    if (this.bufferedBytes === 0) return 0
    const bytes = this.chunks.length === 1 ? this.chunks[0]! : Buffer.concat(this.chunks)
    const { delimiter } = this.settings
    let at = 0
    let count = 0
    while (count < max && at < bytes.length) {
      let end = bytes.indexOf(delimiter, at)
      let next = end + delimiter.length
      if (end < 0) {
        if (this.state !== 'ended') break
        end = bytes.length
        next = end
      }
      count += this.append(bytes, at, end)
      at = next
    }
    if (at === 0 && bytes.length > this.settings.recordBytesMax) {
      this.reject(bytes)
      at = bytes.length
    }
    const rest = bytes.subarray(at)
    this.chunks = rest.length === 0 ? [] : [rest]
    this.bufferedBytes = rest.length
    return count
  }

  private append(bytes: Buffer, start: number, end: number): number {
    const isLine = this.settings.delimiter.length === 1 && this.settings.delimiter[0] === 0x0a
    const cut = isLine && end > start && bytes[end - 1] === 0x0d ? end - 1 : end
    if (cut - start > this.settings.recordBytesMax) {
      this.reject(bytes.subarray(start, cut))
      return 0
    }
    this.builder.append(bytes.utf8Slice(start, cut), Number.NaN)
    this.records++
    return 1
  }

  private reject(bytes: Buffer): void {
    this.context.deadLetter({
      source: 'socket',
      partition: SPLIT,
      offset: this.records,
      reason: `The record has more than ${this.settings.recordBytesMax} bytes.`,
      bytes: Uint8Array.prototype.slice.call(bytes, 0, 1_024 * 1_024),
    })
  }

  snapshot(): readonly SplitState[] {
    return this.state === 'no split' ? [] : [{ id: SPLIT, position: null }]
  }

  async close(): Promise<void> {
    this.state = 'closed'
    this.cancelRetry?.()
    this.socket?.destroy()
    this.socket = null
  }
}
