/**
 * Graph vocabulary that needs no contract: partitioning and watermarks.
 *
 * The graph itself, with the factories of operators, sources and sinks, is engine/contract/job-graph.ts.
 */
import type { Batch } from './batch.ts'

/**
 * How an edge spreads records over the subtasks of its target: to the one of the same index, by key, in turn
 * over all of them (`rebalance`) or over its share of them (`rescale`), at random (`shuffle`), to all, to the
 * first, or as a function of the user's says (`custom`).
 */
export type Partitioning = 'forward' | 'hash' | 'rebalance' | 'rescale' | 'shuffle' | 'broadcast' | 'global' | 'custom'

/** Target subtask of each row, for `custom`. */
export type RowTargets = (batch: Batch, targets: number) => ArrayLike<number>

/**
 * Whether an operator may run in one call with others: with those before and after it, only with those after
 * it (`head`), or with none.
 */
export type ChainingStrategy = 'always' | 'head' | 'never'

/** Turns values into a watermark for one split; `onBatch` sees assigned event times, and the rows they belong to. */
export interface WatermarkGenerator {
  onBatch(eventTimes: Float64Array, count: number, rows?: Batch): void
  /**
   * Of a generator that looks at each row, in place of `onBatch`: sees rows [from, to) up to and with the first that
   * makes it emit, and returns the one after. What it emits goes out before that one.
   */
  onRows?(eventTimes: Float64Array, from: number, to: number, rows: Batch): number
  /** The watermark now, -Infinity before the first record. Never regresses. */
  current(): number
  /** True when the split is idle whatever its records say. */
  readonly isIdle?: boolean
  /** Takes a watermark up again after a restore. */
  restore(watermark: number): void
}

/** Sources of a group read no further than `maxDriftMs` ahead of the slowest among them. */
export interface WatermarkAlignment {
  readonly group: string
  readonly maxDriftMs: number
  readonly updateIntervalMs: number
}

/** Event times and watermarks of a source's splits. */
export interface WatermarkPlan {
  createGenerator(): WatermarkGenerator
  /** Assigns event times in place, or null to keep the source's own. Made once a subtask. */
  createAssigner: (() => (batch: Batch) => Float64Array) | null
  /** A split without records for this long does not hold time back; null turns idleness off. */
  readonly idleAfterMs: number | null
  /** Left out or null: the source waits for no other. */
  readonly alignment?: WatermarkAlignment | null
}
