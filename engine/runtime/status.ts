/**
 * What a running job says about itself: the types that REST, metrics, the page and `--json` are made
 * from. The runtime fills them; the server only reads them.
 */

import type { StateTableSize } from '../contract/keyed-state.ts'
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
  /** All its inputs or splits are idle, or it has none: its time holds nobody back. */
  readonly timeIdle: boolean
  readonly ended: boolean
  /** Shares of time since the last report, 0 to 1, that sum to 1 (task-times.ts says what each means). */
  readonly busy: number
  readonly backPressured: number
  readonly idle: number
  /** The part of `busy` in which it had the thread of its worker, which it shares with other subtasks. */
  readonly running: number
  /** A source that may not read on, because its alignment group has to catch up. */
  readonly paused: boolean
  /** Key groups [from, to) of its keyed operators; null when it has none. */
  readonly keyGroups: { readonly from: number; readonly to: number } | null
  readonly stateBytes: number
  /** Operators chained into it, in order. */
  readonly operators: readonly OperatorStatus[]
  /** What user functions registered. */
  readonly userMetrics: readonly UserMetricStatus[]
  /** Local values by name; several operators of the subtask may have the same names. */
  readonly accumulators: readonly (readonly [string, AccumulatorValue])[]
}

/** One operator in one subtask. */
export interface OperatorStatus {
  readonly uid: string
  readonly name: string
  readonly recordsIn: number
  readonly recordsOut: number
  /** Shares of time since the last report, 0 to 1, that sum to 1. */
  readonly busy: number
  readonly backPressured: number
  readonly idle: number
  /** Bytes of its keyed state in memory. */
  readonly stateBytes: number
  /** State look-ups that had to read the store. */
  readonly coldReads: number
  readonly tables: readonly StateTableSize[]
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
  /** Not read at present, because alignment holds it back. */
  readonly paused: boolean
  /** Records read since the job was started or restarted. */
  readonly records: number
  /** Time since its last record, or since the start when there was none. */
  readonly silentMs: number
  /** After how long a silence it is idle; null for never. */
  readonly idleAfterMs: number | null
}

/** One source subtask of an alignment group. */
export interface AlignedSubtask {
  readonly vertex: number
  readonly subtask: number
  /** Null when it holds nobody back (idle, or at its end) or has not reported yet. */
  readonly watermarkMs: number | null
  /** How far it is ahead of the slowest; null as `watermarkMs`. */
  readonly driftMs: number | null
  /** `free`: it holds nobody back and waits for nobody. */
  readonly state: 'reading' | 'paused' | 'free' | 'unknown'
}

/** Sources that wait for the slowest of them. */
export interface AlignmentStatus {
  readonly group: string
  readonly maxDriftMs: number
  /** Up to here its sources may read; null before all have reported, and when none holds the others back. */
  readonly limitMs: number | null
  readonly subtasks: readonly AlignedSubtask[]
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
  /** The subtask with that alignment. */
  readonly alignmentAt: { readonly vertex: number; readonly subtask: number } | null
  /** Longest, over workers, from the trigger until the barrier had reached every subtask and each had cut. */
  readonly barrierMsMax: number | null
  /** Longest synchronous cut of one subtask: until its end the subtask processes nothing. */
  readonly syncMsMax: number | null
  /** Longest, over workers, from the last cut to durable files, which goes on beside processing. */
  readonly asyncMsMax: number | null
  /** From the last worker's files to the committed manifest. */
  readonly commitMs: number | null
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
  readonly alignment: readonly AlignmentStatus[]
  /** Newest last, bounded. */
  readonly checkpoints: readonly CheckpointStatus[]
  readonly checkpointsCompleted: number
  readonly checkpointsFailed: number
  /** Newest last, bounded. */
  readonly exceptions: readonly ExceptionStatus[]
  readonly sinks: readonly {
    /** Uid of its operator. */
    readonly id: string
    readonly name: string
    readonly kind: string
    readonly guarantee: string
    readonly markerEpoch: number | null
  }[]
}

/** What the server may ask of a job. Every call rejects with a MillraceError that says why not. */
export interface JobControl {
  status(): JobStatus
  /**
   * Takes a savepoint and resolves to its path; with `stop` the job ends at that very cut. While the job starts, it
   * waits until the job runs; rejects with the cause when it fails before. Throws `JOB_NOT_RUNNING` otherwise.
   */
  savepoint(options?: { readonly stop?: boolean }): Promise<string>
  /**
   * Final checkpoint, then stop; resolves when stopped. Open windows do not fire. A batch job has nothing to go on from:
   * it is cancelled.
   */
  stop(): Promise<void>
  /** Stops at once, without a checkpoint. */
  cancel(): Promise<void>
  /** Checkpoint, then continue with another default parallelism. Waits for a job that starts, as `savepoint` does. */
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
