/**
 * What the API hands to the runtime to start a job, and what it gets back.
 */
import type { CheckpointPolicy } from '../checkpoint/checkpoint-policy.ts'
import type { RestartStrategy } from './restart-policy.ts'
import type { JobControl, JobEvent, JobState } from './status.ts'

export type { RestartStrategy } from './restart-policy.ts'

/** `batch`: bounded input, and only final results: operators emit at its end what they would refine before. */
export type RuntimeMode = 'streaming' | 'batch'

export type StateBackendName = 'memory' | 'rocksdb'

export interface JobOptions {
  readonly name: string
  /** Default subtasks per operator. */
  readonly parallelism: number
  readonly runtimeMode: RuntimeMode
  /** Worker threads; 0 runs every subtask on the calling thread. */
  readonly workers: number
  /** Module that worker threads import to build the same graph; required when `workers` > 0. */
  readonly moduleUrl: string | null
  /** Null: no periodic checkpoints. */
  readonly checkpointIntervalMs: number | null
  readonly checkpointTimeoutMs: number
  readonly checkpointPolicy: CheckpointPolicy
  /** Null: a temporary directory, removed at the end. */
  readonly checkpointDirectory: string | null
  readonly stateBackend: StateBackendName
  /** `latest`, a savepoint's manifest path, or null for a fresh start. */
  readonly restore: string | null
  readonly allowNonRestoredState: boolean
  /** Start although an exactly-once sink is ahead of the checkpoint. */
  readonly acceptDuplicates: boolean
  readonly restart: RestartStrategy
  readonly keyGroups: number
  /** Bytes of keyed working set per worker. */
  readonly stateMemoryBytes: number
  /** `--set` pairs and programmatic configuration, given to the job again in each worker. */
  readonly config: Readonly<Record<string, string>>
  readonly onEvent: (event: JobEvent) => void
}

/** What `execute` resolves to, Flink's JobExecutionResult. */
export interface JobExecutionResult {
  readonly state: JobState
  readonly recordsIn: number
  readonly recordsOut: number
  readonly late: number
  readonly deadLettered: number
  readonly checkpoints: number
  /** Times that the job was started again after a failure. */
  readonly restarts: number
  /** From the start to the end. */
  readonly durationMs: number
  /** As `durationMs`, without what came before the job first ran; 0 when it never did. */
  readonly netRuntimeMs: number
  /** Results of accumulators by name, merged over all subtasks of the last run. */
  readonly accumulators: Readonly<Record<string, unknown>>
  /** The result of an accumulator. Throws `ACCUMULATOR_UNKNOWN`, `ACCUMULATOR_MISMATCH`. */
  getAccumulatorResult<R = number>(name: string): R
}

export interface RunningJob extends JobControl {
  readonly id: string
  /** Settles at the end of the job; rejects with the cause when the job failed. */
  readonly done: Promise<JobExecutionResult>
  /** Cancels the job if it still runs: for `await using`. */
  [Symbol.asyncDispose](): Promise<void>
}
