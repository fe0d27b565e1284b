/**
 * What a source promises: splits with positions, and readers that never block.
 *
 * A source divides its input into splits (a file, a partition). A split's position is JSON; reading
 * from a position gives the same records every time. Splits are spread over the subtasks by the engine,
 * again on each restore, so any parallelism can continue any checkpoint.
 *
 * Promises of a reader:
 * - `poll` returns at once, or throws what fails the job. After `pending` it calls `context.wake()` when there is more.
 * - A batch holds rows of one split and is valid until the next `poll`, which may reuse all of its columns.
 * - `snapshot` gives positions just after the last row that `poll` returned.
 * - A record that cannot be decoded goes to `context.deadLetter` and the reader goes on.
 */
import type { Batch } from '../core/batch.ts'
import type { JsonValue } from '../core/json-value.ts'
import type { Schema } from '../core/schema.ts'
import type { WorkerContext } from './worker-context.ts'

export interface SplitState {
  /** Unique within the source, stable over restarts. */
  readonly id: string
  readonly position: JsonValue
}

/** A record that could not be used, kept with the reason instead of being lost. */
export interface DeadLetter {
  readonly source: string
  /** The split's id. */
  readonly partition: string
  /** Where in the split: an offset or a byte position. */
  readonly offset: number
  readonly reason: string
  /** The record as it was read; a connector cuts what is longer than 1 MiB and says so in `reason`. */
  readonly bytes: Uint8Array
}

export interface SourceReaderContext {
  readonly subtask: number
  readonly parallelism: number
  readonly worker: WorkerContext
  /** False when the job takes no checkpoints by itself: nothing will be told to `notifyCheckpointComplete`. */
  readonly checkpointing: boolean
  /** Tells the engine that `poll` is worth calling again. Any time, from callbacks too. */
  wake(): void
  /** Fails the job (with restart) by an error met outside `poll`. */
  fail(error: unknown): void
  deadLetter(letter: DeadLetter): void
}

export type SourcePoll =
  | {
      readonly kind: 'batch'
      readonly split: string
      readonly batch: Batch
      /** Where each row lies in its split, for dead letters; may be left out. */
      readonly offsets?: Float64Array
    }
  /** A split is read to its end: it does not hold time back any more. Poll again. */
  | { readonly kind: 'finished'; readonly split: string }
  /** Nothing now; `wake` will come. */
  | { readonly kind: 'pending' }
  /** Every split is read to its end, and no more will come. */
  | { readonly kind: 'end' }

export interface SourceReader {
  /** Takes its splits, possibly none, before the first poll. */
  open(splits: readonly SplitState[]): Promise<void>
  poll(rowsMax: number): SourcePoll
  /** Takes splits that were found while the job runs; required when the source sets `discoveryIntervalMs`. */
  addSplits?(splits: readonly SplitState[]): void
  snapshot(): readonly SplitState[]
  /**
   * Splits that are ahead of others: `poll` serves them only when no other has records left at all. Called with
   * all of them each time they change.
   */
  pauseSplits?(paused: ReadonlySet<string>): void
  /** A checkpoint with these positions, which `snapshot` gave, is complete: no restart goes back behind them. */
  notifyCheckpointComplete?(splits: readonly SplitState[]): void
  close(): Promise<void>
}

export interface SplitEnumeratorContext {
  readonly worker: WorkerContext
}

export interface Source<T = unknown> {
  /** Connector name, as `files` or `log`; shown in the graph. */
  readonly kind: string
  readonly schema: Schema<T>
  readonly boundedness: 'bounded' | 'unbounded'
  /** How often to look for new splits while the job runs; null or absent is never. */
  readonly discoveryIntervalMs?: number | null
  /**
   * All splits with their initial positions. Called on the coordinator's thread at each start; splits
   * that a checkpoint knows keep the checkpoint's position. With `discoveryIntervalMs` also called while the
   * job runs: splits with new ids are then given to readers, and no split may change once it was named.
   */
  splits(context: SplitEnumeratorContext): Promise<readonly SplitState[]>
  createReader(context: SourceReaderContext): SourceReader
  /** Called on the coordinator's thread when the job has ended, in whatever way: let go of what the source holds. */
  jobEnded?(): void
}
