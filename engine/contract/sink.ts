/**
 * What a sink promises: a writer in every subtask, and, for exactly-once, one committer a job.
 *
 * Exactly-once output is made in two steps. Writers put rows where nobody reads them yet (an outbox
 * segment, a temporary file) and at a barrier seal them into committables. These are named in the
 * checkpoint's manifest. Only after the manifest exists does the committer make them visible, together
 * with a marker holding the epoch, in one atomic step. After a crash the engine reads the marker and
 * commits again exactly the epochs above it.
 *
 * Promises of a committer: `commit(e, ...)` for an epoch <= marker changes nothing; it resolves only
 * when the outcome is known; it throws rather than skip, `SINK_FENCED` where another one has opened since,
 * `OUTPUT_LOST` where what was prepared, or what it keeps outside, is gone or damaged. That ends the job: no restart
 * brings it back.
 * connectors/sink-conformance.ts checks all of this for any sink.
 */
import type { AccumulatorRegistry } from '../core/accumulators.ts'
import type { Batch } from '../core/batch.ts'
import { MillraceError } from '../core/errors.ts'
import type { Io } from '../core/io.ts'
import type { JsonValue } from '../core/json-value.ts'
import type { ChangelogMode } from '../core/row-kinds.ts'
import type { Schema } from '../core/schema.ts'
import type { MetricGroup } from '../core/user-metrics.ts'
import type { CheckpointListener, FunctionSnapshotContext } from './functions.ts'
import type { WorkerContext } from './worker-context.ts'

export type SinkGuarantee = 'exactly-once' | 'at-least-once'

/** A sealed outbox segment: length-framed records with a checksum over the file. A type, not an interface, so that it is a JsonValue. */
export type OutboxSegment = {
  /** Path relative to the checkpoint directory. */
  readonly file: string
  readonly records: number
  readonly bytes: number
  /** CRC-32 of the file's content. */
  readonly crc32: number
}

/** An append-only file of records, cut into segments at barriers. */
export interface OutboxWriter {
  /** Appends one record; the bytes are copied. */
  append(record: Uint8Array): void
  /** Bytes appended but not yet taken by the disk; writers above a few MiB should report blocked. */
  readonly bufferedBytes: number
  /** Hands buffered bytes to the disk; resolves when there is room again. */
  flush(): Promise<void>
  /** Ends the current segment and makes it durable; null when it has no records. */
  seal(): Promise<OutboxSegment | null>
  close(): Promise<void>
}

/** What is known of an element besides its value. */
export interface SinkContext {
  /** Event time of the element, in milliseconds; NaN when there is none. */
  readonly timestamp: number
  /** Of this subtask: -Infinity before the first watermark. */
  readonly currentWatermark: number
  /** The machine's clock, milliseconds since 1970 UTC. */
  readonly currentProcessingTime: number
}

/**
 * Output is gone or damaged, for good: `file` as a reader of the message finds it. Without a hint it is output that
 * was prepared for a commit.
 */
export function outputLost(file: string, problem: string, hint?: string, cause?: unknown): MillraceError {
  const options = hint === undefined ? {} : { hint }
  return new MillraceError('OUTPUT_LOST', `${file} ${problem}.`, { domain: 'external', cause, ...options })
}

export interface SinkWriterContext {
  readonly sinkId: string
  readonly subtask: number
  readonly parallelism: number
  /** Grows with every start of the job, restores by another process included. */
  readonly attempt: number
  /** The sink's name in the job. */
  readonly name: string
  /** How often this run of the job has restarted, 0 at first. */
  readonly restarts: number
  /** Shown under `/metrics` as `millrace_user_NAME`, one sample a subtask. */
  readonly metrics: MetricGroup
  /** Merged over all subtasks of the job, in its result. */
  readonly accumulators: AccumulatorRegistry
  readonly worker: WorkerContext
  /** Rows arrive in this schema. */
  readonly schema: Schema
  /** What the rows that arrive may be; inserts only when left out. */
  readonly changelogMode?: ChangelogMode
  /** What `snapshotState` returned in each subtask (of whatever parallelism) at the checkpoint; empty on a fresh start. */
  readonly restored: readonly JsonValue[]
  /** Of the rows written so far: -Infinity before the first. */
  currentWatermark(): number
  /** An outbox for this writer under the checkpoint directory. */
  createOutbox(): OutboxWriter
  /** A directory private to this writer and attempt. */
  readonly scratchDirectory: string
  /** Tells the engine to offer a blocked batch again. */
  wake(): void
  /** Fails the job (with restart) by an error met outside `write`. */
  fail(error: unknown): void
  /** Sends a value to the coordinator's thread, to the sink's `onMessage`. */
  post(message: unknown): void
}

/** As a listener it learns that a checkpoint is complete when its committables are in a manifest, applied or not. */
export interface SinkWriter extends Partial<CheckpointListener> {
  open(): Promise<void>
  /** Takes rows [from, batch.length); returns the first row not taken. Fewer means blocked until `wake`. */
  write(batch: Batch, from: number): number
  /** Every row has come: write what was held back. `prepareCommit` follows; so may a restart, which calls it again. */
  endInput?(): void
  /** State at the cut, right before `prepareCommit` makes it; small. The next attempt's writers get it in `restored`. */
  snapshotState?(context: FunctionSnapshotContext): JsonValue
  /**
   * Cuts the output here: what was written before belongs to this committable, what comes later to the
   * next. The cut is made before the call returns; the promise resolves once it is durable and every
   * outstanding error has been surfaced. Null when there is nothing to commit.
   */
  prepareCommit(): Promise<JsonValue | null>
  close(): Promise<void>
}

export interface SinkCommitterContext {
  readonly sinkId: string
  readonly jobName: string
  readonly io: Io
  /** Records of a segment in order; throws `OUTPUT_LOST` when it is gone, or file and checksum disagree. */
  readOutbox(segment: OutboxSegment): AsyncIterable<Uint8Array>
}

export interface SinkCommitter {
  /** Connects and fences off any earlier owner. */
  open(): Promise<void>
  /** Last applied epoch, 0 before the first. */
  readMarker(): Promise<number>
  /** The marker as it is, without `open`: nothing is made or fenced. Null when it cannot be known that way. */
  peekMarker?(): Promise<number | null>
  /**
   * Makes an epoch's committables (all subtasks') visible and sets the marker, atomically. Throws a `MillraceError`
   * `OUTPUT_LOST` when they are gone or damaged; after any other error the engine tries again.
   */
  commit(epoch: number, committables: readonly JsonValue[]): Promise<void>
  close(): Promise<void>
}

export interface Sink<T = unknown> {
  readonly kind: string
  readonly guarantee: SinkGuarantee
  /** When set, rows of a stream without a schema are converted to it before `write`. */
  readonly schema?: Schema<T>
  /**
   * The changelogs that its writers take (`Batch.kinds`): `all` for those that need what was before a change, `upsert` for
   * those that go by `primaryKey` and leave a -U aside. Inserts only when left out.
   */
  readonly changelogMode?: ChangelogMode
  /** Fields that identify a row of what it writes to: changes of one key come from one subtask, in order. */
  readonly primaryKey?: readonly string[]
  createWriter(context: SinkWriterContext): SinkWriter
  /** Present exactly when `guarantee` is exactly-once; runs on the coordinator's thread. */
  createCommitter?(context: SinkCommitterContext): SinkCommitter
  /** Receives what writers `post`, on the coordinator's thread. */
  onMessage?(message: unknown): void
}
