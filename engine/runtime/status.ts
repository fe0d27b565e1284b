/**
 * What a running job says about itself: the types that REST, metrics, the page and `--json` are made
 * from. The runtime fills them; the server only reads them.
 */

import type { AccumulatorValue } from '../core/accumulators.ts'
import type { MetricSample } from '../core/user-metrics.ts'

export type JobState = 'starting' | 'running' | 'restarting' | 'stopping' | 'finished' | 'failed' | 'cancelled'

export interface VertexStatus {
  readonly id: number
  readonly uid: string
  readonly name: string
  readonly parallelism: number
  /** Operators chained into this task, in order. */
  readonly operators: readonly string[]
  /** What users say about its operators, a line each; may be empty. */
  readonly description?: string
  readonly role: 'source' | 'operator' | 'sink'
}

export interface EdgeStatus {
  readonly from: number
  readonly to: number
  /** forward, hash, rebalance, broadcast, ... */
  readonly partitioning: string
}

export interface SubtaskStatus {
  readonly vertex: number
  readonly subtask: number
  readonly worker: number
  readonly recordsIn: number
  readonly recordsOut: number
  readonly lateDropped: number
  readonly filtered: number
  readonly deadLettered: number
  /** Milliseconds since 1970 UTC; null before the first watermark or after the end (+Infinity). */
  readonly watermarkMs: number | null
  readonly ended: boolean
  /** Shares of time since the last report, 0 to 1. */
  readonly busy: number
  readonly backPressured: number
  readonly stateBytes: number
  /** What user functions registered. */
  readonly userMetrics: readonly UserMetricStatus[]
  /** Local values by name; several operators of the subtask may have the same names. */
  readonly accumulators: readonly (readonly [string, AccumulatorValue])[]
}

/** A metric of a user function in one subtask. */
export interface UserMetricStatus extends MetricSample {
  /** Uid and name of the operator, which may be chained with others. */
  readonly operator: string
  readonly operatorName: string
}

export interface SplitWatermark {
  readonly vertex: number
  readonly subtask: number
  readonly split: string
  /** Milliseconds since 1970 UTC, or null. */
  readonly watermarkMs: number | null
  readonly idle: boolean
}

export interface CheckpointStatus {
  /** Attempt id. */
  readonly id: number
  readonly kind: 'checkpoint' | 'savepoint' | 'final'
  readonly status: 'in-progress' | 'completed' | 'failed'
  readonly epoch: number | null
  readonly manifest: number | null
  readonly triggeredAtMs: number
  /** Trigger to committed manifest. */
  readonly durationMs: number | null
  /** Longest time from first to last barrier in one subtask. */
  readonly alignmentMsMax: number | null
  /** Bytes of state referenced, and of files written new by this checkpoint. */
  readonly stateBytes: number | null
  readonly newBytes: number | null
  readonly failure: string | null
}

export interface ExceptionStatus {
  readonly atMs: number
  /** `name #subtask` of the task, or `coordinator`. */
  readonly where: string
  readonly code: string | null
  readonly message: string
  readonly stack: string | null
}

/** Everything about one job at one instant. */
export interface JobStatus {
  readonly id: string
  readonly name: string
  readonly state: JobState
  readonly startedAtMs: number
  readonly restarts: number
  readonly stateBackend: string
  readonly checkpointDirectory: string | null
  readonly checkpointIntervalMs: number | null
  readonly workers: number
  readonly parallelism: number
  readonly vertices: readonly VertexStatus[]
  readonly edges: readonly EdgeStatus[]
  readonly subtasks: readonly SubtaskStatus[]
  readonly splitWatermarks: readonly SplitWatermark[]
  /** Newest last, bounded. */
  readonly checkpoints: readonly CheckpointStatus[]
  readonly checkpointsCompleted: number
  readonly checkpointsFailed: number
  /** Newest last, bounded. */
  readonly exceptions: readonly ExceptionStatus[]
  readonly sinks: readonly {
    readonly id: string
    readonly kind: string
    readonly guarantee: string
    readonly markerEpoch: number | null
  }[]
}

/** What the server may ask of a job. Every call rejects with a MillraceError that says why not. */
export interface JobControl {
  status(): JobStatus
  /** Takes a savepoint and resolves to its path; with `stop` the job ends at that very cut. */
  savepoint(options?: { readonly stop?: boolean }): Promise<string>
  /** Final checkpoint, then stop; resolves when stopped. Open windows do not fire. */
  stop(): Promise<void>
  /** Stops at once, without a checkpoint. */
  cancel(): Promise<void>
  /** Checkpoint, then continue with another default parallelism. */
  rescale(parallelism: number): Promise<void>
}

/** Events of a job's life, as printed by `--json` and by the human output. */
export type JobEvent =
  | {
      readonly type: 'started'
      readonly job: string
      readonly stateBackend: string
      /** Null for a temporary one. */
      readonly checkpointDirectory: string | null
      readonly restoredFrom: string | null
    }
  | {
      readonly type: 'checkpoint'
      readonly id: number
      readonly epoch: number
      readonly durationMs: number
      readonly stateBytes: number
    }
  | { readonly type: 'checkpoint-failed'; readonly id: number; readonly reason: string }
  | { readonly type: 'restart'; readonly attempt: number; readonly cause: string }
  | { readonly type: 'exception'; readonly where: string; readonly message: string; readonly stack: string | null }
  | {
      readonly type: 'finished'
      readonly state: JobState
      readonly recordsIn: number
      readonly recordsOut: number
      readonly late: number
      readonly deadLettered: number
      readonly checkpoints: number
    }
