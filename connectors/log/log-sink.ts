/**
 * Exactly-once sink into a topic of the embedded log, through the outbox.
 *
 * Writers put each row into the outbox: f64 timestamp | u16 key length | key | JSON value. The committer
 * owns the topic: nobody else may write to it. To commit epoch e it
 *   1. cuts every partition back to the ends recorded with the last epoch (what a crash left behind),
 *   2. appends the rows and syncs them; readers do not see them, because nothing is published,
 *   3. replaces `sink.json` by {sink, epoch: e, ends}: the one atomic step, marker and data together,
 *      Only the committer that opened last can do it (owner-directory.ts).
 *   4. publishes the ends to readers. A crash between 3 and 4 is made good by the next `open`.
 */
import { join } from 'node:path'
import {
  type OutboxSegment,
  type OutboxWriter,
  outputLost,
  type Sink,
  type SinkCommitter,
  type SinkCommitterContext,
  type SinkWriter,
  type SinkWriterContext,
} from '../../engine/contract/sink.ts'
import type { Batch } from '../../engine/core/batch.ts'
import { MillraceError } from '../../engine/core/errors.ts'
import { createJsonRowWriter, type JsonRowWriter } from '../../engine/core/json/json-writer.ts'
import type { JsonValue } from '../../engine/core/json-value.ts'
import { rowReader } from '../../engine/core/rows.ts'
import { fieldIndex, type Schema } from '../../engine/core/schema.ts'
import { ByteArena } from '../../engine/core/strings.ts'
import { OwnerDirectory, parseMarker } from '../owner-directory.ts'
import {
  openAll,
  openPartition,
  partitionDirectory,
  partitionOf,
  readOptional,
  requireTopic,
  SINK_FILE,
} from './log.ts'
import type { LogPartition } from './log-partition.ts'

export interface LogSinkOptions<T> {
  readonly directory: string
  /** An existing topic. */
  readonly topic: string
  /** A field, or a function of the row; rows of one key go to one partition in order. */
  readonly key?: string | ((row: T) => unknown)
  readonly schema?: Schema<T>
}

const BUFFERED_BYTES_MAX = 4 * 1_024 * 1_024
const RECORD_HEADER_BYTES = 10

/** Writes each row as a JSON record, visible exactly once. Throws `LOG_TOPIC_UNKNOWN` at start. */
export function logSink<T>(options: LogSinkOptions<T>): Sink<T> {
  return {
    kind: 'log',
    guarantee: 'exactly-once',
    ...(options.schema === undefined ? {} : { schema: options.schema }),
    createWriter: (context) => new LogSinkWriter(options, context),
    createCommitter: (context) => new LogSinkCommitter(options.directory, options.topic, context),
  }
}

class LogSinkWriter<T> implements SinkWriter {
  private readonly context: SinkWriterContext
  private readonly outbox: OutboxWriter
  private readonly rows: JsonRowWriter
  private readonly keyOf: ((batch: Batch, i: number) => unknown) | null
  private readonly record = new ByteArena(1_024)
  private flushing = false

  constructor(options: LogSinkOptions<T>, context: SinkWriterContext) {
    this.context = context
    this.outbox = context.createOutbox()
    this.rows = createJsonRowWriter(context.schema, context.worker.uniqueId('log-sink'))
    this.keyOf = keyReader(options.key, context)
  }

  async open(): Promise<void> {
    // The outbox needs no opening.
  }

  write(batch: Batch, from: number): number {
    const now = this.context.worker.nowMs()
    const record = this.record
    for (let i = from; i < batch.length; i++) {
      if (this.outbox.bufferedBytes > BUFFERED_BYTES_MAX) {
        this.flush()
        return i
      }
      const time = batch.eventTime[i]!
      record.clear()
      record.reserve(RECORD_HEADER_BYTES)
      record.bytes.writeDoubleBE(Number.isNaN(time) ? now : time, 0)
      record.length = RECORD_HEADER_BYTES
      const key = this.keyOf === null ? '' : keyText(this.keyOf(batch, i))
      record.writeString(key)
      const keyBytes = record.length - RECORD_HEADER_BYTES
      if (keyBytes > 65_535)
        throw new MillraceError('KEY_INVALID', `A key of ${keyBytes} bytes is too long for the log.`)
      record.bytes.writeUInt16BE(keyBytes, 8)
      this.rows.writeRow(batch, i, record)
      this.outbox.append(record.view())
    }
    return batch.length
  }

  async prepareCommit(): Promise<JsonValue | null> {
    const segment = await this.outbox.seal()
    return segment === null ? null : { ...segment }
  }

  async close(): Promise<void> {
    await this.outbox.close()
  }

  private flush(): void {
    if (this.flushing) return
    this.flushing = true
    this.outbox.flush().then(
      () => {
        this.flushing = false
        this.context.wake()
      },
      (error: unknown) => this.context.fail(error),
    )
  }
}

function keyReader<T>(
  key: LogSinkOptions<T>['key'],
  context: SinkWriterContext,
): ((batch: Batch, i: number) => unknown) | null {
  if (key === undefined) return null
  const read = rowReader(context.schema, context.worker.interner, context.worker.uniqueId('log-sink-key'))
  if (typeof key === 'function') return (batch, i) => key(read(batch, i) as T)
  if (!context.schema.isOpaque) fieldIndex(context.schema, key)
  return (batch, i) => (read(batch, i) as Record<string, unknown> | null)?.[key]
}

function keyText(key: unknown): string {
  if (typeof key === 'string') return key
  return typeof key === 'bigint' ? String(key) : (JSON.stringify(key) ?? 'null')
}

/** Committed records of a topic are gone or damaged: no restart brings them back. */
function lostRecords(folder: string, cause?: unknown): MillraceError {
  return outputLost(folder, 'has lost committed records', 'Restore the log directory from a copy.', cause)
}

async function lostIfCorrupt<R>(folder: string, step: Promise<R>): Promise<R> {
  try {
    return await step
  } catch (error) {
    throw error instanceof MillraceError && error.code === 'LOG_CORRUPT' ? lostRecords(folder, error) : error
  }
}

/** Content of `sink.json`. */
interface SinkState {
  readonly sink: string
  readonly epoch: number
  /** End of each partition after that epoch. */
  readonly ends: readonly number[]
}

class LogSinkCommitter implements SinkCommitter {
  private readonly directory: string
  private readonly topic: string
  private readonly context: SinkCommitterContext
  private readonly owner: OwnerDirectory
  private partitions: LogPartition[] = []
  private state: SinkState | null = null
  /** Spreads records without a key. */
  private turn = 0

  constructor(directory: string, topic: string, context: SinkCommitterContext) {
    this.directory = directory
    this.topic = topic
    this.context = context
    this.owner = new OwnerDirectory(join(directory, topic))
  }

  async open(): Promise<void> {
    const topic = await requireTopic(this.directory, this.topic)
    const folder = this.folder()
    const stored = await this.storedState()
    if (stored !== null && stored.sink !== this.context.sinkId) {
      throw new MillraceError(
        'LOG_TOPIC_OF_SINK',
        `Topic ${this.topic} is written by the sink ${JSON.stringify(stored.sink)}.`,
        {
          hint: 'Give each log sink its own topic.',
        },
      )
    }
    await this.owner.take()
    const checkOwner = (): Promise<void> => this.owner.check()
    this.partitions = Array.from({ length: topic.partitions }, (_, p) =>
      openPartition(this.directory, topic, p, false, checkOwner),
    )
    await lostIfCorrupt(folder, openAll(this.partitions))
    if (stored === null) {
      await this.setState({ sink: this.context.sinkId, epoch: 0, ends: this.partitions.map((p) => p.durableEnd) })
    } else this.state = stored
    for (const [p, partition] of this.partitions.entries()) {
      if (partition.durableEnd >= this.opened().ends[p]!) continue
      throw lostRecords(partitionDirectory(this.directory, this.topic, p))
    }
    await this.publish()
  }

  async readMarker(): Promise<number> {
    return this.opened().epoch
  }

  async peekMarker(): Promise<number> {
    return (await this.storedState())?.epoch ?? 0
  }

  private async storedState(): Promise<SinkState | null> {
    const path = join(this.folder(), SINK_FILE)
    const text = await readOptional(path)
    return text === null ? null : parseMarker<SinkState>(path, text)
  }

  async commit(epoch: number, committables: readonly JsonValue[]): Promise<void> {
    const state = this.opened()
    if (epoch <= state.epoch) return
    for (const [p, partition] of this.partitions.entries()) {
      await lostIfCorrupt(this.folder(), partition.truncateTo(state.ends[p]!))
    }
    for (const committable of committables) {
      for await (const record of this.context.readOutbox(committable as unknown as OutboxSegment)) {
        const partition = this.append(record)
        if (partition.pendingBytes > BUFFERED_BYTES_MAX) await partition.flush()
      }
    }
    await Promise.all(this.partitions.map((partition) => partition.flush()))
    await this.setState({ sink: this.context.sinkId, epoch, ends: this.partitions.map((p) => p.durableEnd) })
    await this.publish()
  }

  async close(): Promise<void> {
    // What a commit that failed has left unwritten is not missed.
    await Promise.allSettled(this.partitions.map((partition) => partition.close()))
    this.partitions = []
    await this.owner.release()
  }

  private append(record: Uint8Array): LogPartition {
    const view = new DataView(record.buffer, record.byteOffset, record.byteLength)
    const keyEnd = RECORD_HEADER_BYTES + view.getUint16(8)
    const key = record.subarray(RECORD_HEADER_BYTES, keyEnd)
    const index = key.length > 0 ? partitionOf(key, this.partitions.length) : this.turn++ % this.partitions.length
    const partition = this.partitions[index]!
    partition.append(key, record.subarray(keyEnd), view.getFloat64(0))
    return partition
  }

  private opened(): SinkState {
    if (this.state !== null) return this.state
    throw new MillraceError('INVARIANT_VIOLATED', 'The log sink was used before it was opened.', { domain: 'internal' })
  }

  private async setState(state: SinkState): Promise<void> {
    await this.owner.replace(SINK_FILE, JSON.stringify(state))
    this.state = state
  }

  private async publish(): Promise<void> {
    const { ends } = this.opened()
    for (const [p, partition] of this.partitions.entries()) await partition.publish(ends[p]!)
  }

  private folder(): string {
    return join(this.directory, this.topic)
  }
}
