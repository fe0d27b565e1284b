/**
 * What an operator promises, and what it may ask for.
 *
 * Operators are synchronous, resumable and see batches. They never wait: an operator whose output is
 * blocked returns early and is called again with the same batch from the row where it stopped.
 *
 * Promises of the engine:
 * - `open` comes first, once; `close` last, once, also after a failure.
 * - `process` is called again with the rows that it left until every one is consumed, before anything else.
 *   They may come as a batch of their own that starts at row 0.
 * - `advanceWatermark` gets strictly growing values, and is repeated with the same value until it
 *   returns true, before any further input. At the end of bounded input the value is +Infinity.
 * - `snapshot` is called only when all input before the barrier is consumed and all output emitted.
 * - An operator of several inputs sees a batch of one input at a time, in any order between inputs, and one
 *   watermark: the lowest of its inputs. Each input has a schema and keys of its own.
 * Promises of the operator:
 * - Emitted batches are read-only and no longer than `BATCH_ROWS_MAX`.
 * - A call does a bounded share of work: a row that means much of it is left, and gone on with in the next call.
 * - It looks at `output.blocked` at least between rows (lambdas) or chunks (columnar), and stops soon.
 * - What outlives a call holds no reference into an input batch's buffers.
 */
import type { AccumulatorRegistry } from '../core/accumulators.ts'
import type { Batch } from '../core/batch.ts'
import type { JsonValue } from '../core/json-value.ts'
import type { MetricRegistry } from '../core/user-metrics.ts'
import type { CheckpointListener, FunctionSnapshotContext } from './functions.ts'
import type { KeyedState } from './keyed-state.ts'
import type { WorkerContext } from './worker-context.ts'

export interface Output {
  /** Passes a batch on. Always accepted; what does not fit downstream waits in a bounded overflow. */
  emit(batch: Batch): void
  /** Passes a batch to a side output; ignored when nobody reads that tag. */
  emitSide(tag: string, batch: Batch): void
  /** True while earlier output waits for room: return soon. */
  readonly blocked: boolean
}

/**
 * What batch execution does with the rows of one input on their way to the operator.
 * - `sorted`: they come by key, and by event time within a key; one key after the other over all such inputs.
 * - `first`: they come as they are read, before any row of an input that is not `first`.
 * - `later`: they are kept until every `first` input has ended.
 */
export type BatchInput = 'sorted' | 'first' | 'later'

/** Counters that every operator may bump; exported as metrics per subtask. */
export interface OperatorCounters {
  /** Late records that no window took. */
  lateDropped: number
  /** Records that a predicate removed. */
  filtered: number
  /** State look-ups that had to read the store synchronously. */
  coldReads: number
}

export interface OperatorContext {
  readonly name: string
  readonly uid: string
  /** 0 <= subtask < parallelism. */
  readonly subtask: number
  readonly parallelism: number
  /** How often the job was started before, 0 at first. */
  readonly attempt: number
  readonly worker: WorkerContext
  readonly counters: OperatorCounters
  /** Metrics with names of the user's own. */
  readonly metrics: MetricRegistry
  readonly accumulators: AccumulatorRegistry
  /** Keyed state; throws `STATE_NOT_KEYED` when the operator does not follow a keyBy. */
  readonly keyed: KeyedState
  /** What `snapshot` returned for each old subtask (any parallelism), or empty on a fresh start. */
  readonly restored: readonly JsonValue[]
  /** Asks for a call of `onProcessingTime` once `timeMs` has passed. */
  scheduleProcessingTime(timeMs: number): void
  /**
   * True in batch execution: the only watermark is +Infinity, and only final results count. Keyed aggregates emit then,
   * timers of both kinds fire then, and what fires registers none. With sorted inputs that is the end of each key.
   */
  readonly isBatch?: boolean
  /** Asks for a call of `resume` on a turn of the engine; any time, from promise reactions and timers too. */
  wake(): void
}

export interface Operator {
  open(context: OperatorContext): void
  /**
   * Consumes rows [from, batch.length) and returns the first row not consumed. `input` says which input of the
   * operator they come from (`GraphEdge.input`): always 0 for an operator of one input.
   */
  process(batch: Batch, from: number, output: Output, input: number): number
  /** True when the last `process` left rows until `context.wake()`, as a full sink does; false or absent for its share of work. */
  readonly isWaiting?: boolean
  /** Returns true once everything that this watermark makes due is emitted. */
  advanceWatermark(watermark: number, output: Output): boolean
  /**
   * Processing time has passed a time asked for; returns true when done, as `advanceWatermark`. As with watermarks, no
   * row comes after the call at `passedMs` or before: it is made one millisecond later.
   */
  onProcessingTime?(passedMs: number, output: Output): boolean
  /** How batch execution orders the rows of each input; absent, it gives them as they are read. */
  readonly batchInputs?: readonly BatchInput[] | undefined
  /**
   * There where an input is `sorted`: all rows of the key that came last have come. Does what the end of input means for
   * that key, and is ready for another one; repeated until it returns true. The engine then drops the key's state.
   */
  endKey?(output: Output): boolean
  /** Every row of an input has come. */
  endInput?(input: number): void
  /** State that is not keyed; small. Keyed state is captured by the engine itself. */
  snapshot?(context: FunctionSnapshotContext): JsonValue
  /** The user's function, which is told how checkpoints end, between calls; looked at after `open`. */
  readonly checkpointListener?: Partial<CheckpointListener> | undefined
  close?(): void | Promise<void>
}

/**
 * An operator that makes watermarks itself: the engine asks after each call and sends growing values on.
 * Watermarks from upstream end at it, except +Infinity.
 */
export interface WatermarkingOperator extends Operator {
  currentWatermark(): number
  /** True when the last `process` ended at a row whose watermark is to go out before the next row is looked at. */
  readonly isPunctuated?: boolean
  /** Without rows for this long it holds time back no more; null or absent turns idleness off. */
  readonly idleAfterMs?: number | null
  /** True when it holds time back no more, whatever its rows say. */
  readonly isIdle?: boolean
}

/**
 * An operator whose work ends outside its calls, as asynchronous I/O does. It takes every batch whole, holds rows
 * until their results are there, and emits them in `resume`. Its watermarks are its own, +Infinity too, because
 * each has to wait for the rows before it.
 */
export interface AsyncOperator extends WatermarkingOperator {
  /** Called on a turn after `context.wake()`: emits what has ended. Returns true when all of that is emitted. */
  resume(output: Output): boolean
  /** True while it holds enough rows: it is given no further input, but barriers pass. */
  readonly isFull: boolean
  /** True while it holds rows or watermarks: the subtask has not ended. */
  readonly isPending: boolean
}
