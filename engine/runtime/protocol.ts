/**
 * Messages between the coordinator's thread and its workers. Plain data: they are cloned on the way.
 */
import type { CheckpointingMode } from '../checkpoint/checkpoint-policy.ts'
import type { ManifestStore, ManifestTable } from '../checkpoint/manifest.ts'
import type { SplitState } from '../contract/source.ts'
import type { JobContext } from '../contract/worker-context.ts'
import type { JsonValue } from '../core/json-value.ts'
import type { RuntimeMode, StateBackendName } from './launcher-types.ts'
import type { RingMemoryBuffers } from './ring-memory.ts'
import type { AssignedSplit, SplitCheckpoint } from './source-driver.ts'
import type { SplitWatermark, SubtaskStatus } from './status.ts'
import type { AlignmentLimit, AlignmentReport } from './watermark-alignment.ts'
import type { WorkerFailure } from './worker-failure.ts'

/** What a worker needs to build and restore its share of a job. */
export interface Deployment {
  readonly job: JobContext
  readonly generation: number
  /** Number of this deployment within the process; keeps file names of attempts apart. */
  readonly run: number
  readonly workerIndex: number
  readonly workers: number
  readonly parallelism: number
  readonly keyGroups: number
  /** Null: no periodic checkpoints. */
  readonly checkpointIntervalMs: number | null
  readonly stateBackend: StateBackendName
  readonly stateMemoryBytes: number
  readonly checkpointDirectory: string
  readonly checkpointingMode: CheckpointingMode
  readonly runtimeMode: RuntimeMode
  readonly pendingOutputBytesMax: number
  /** Local, and worthless after a crash. */
  readonly liveDirectory: string
  /** `describeGraph` of the coordinator's graph. */
  readonly graph: readonly string[]
  readonly rings: RingMemoryBuffers | null
  /** By source uid, then by subtask. */
  readonly splits: Readonly<Record<string, readonly (readonly AssignedSplit[])[]>>
  /** Non-keyed state by operator uid. */
  readonly operatorStates: Readonly<Record<string, readonly JsonValue[]>>
  /** Key prefix by uid of keyed operators. */
  readonly operatorIds: Readonly<Record<string, number>>
  /** Declared tables by uid of keyed operators. */
  readonly tables: Readonly<Record<string, readonly ManifestTable[]>>
  readonly stores: readonly ManifestStore[]
  /** How keyed state was spread over those stores: workers, and subtasks by operator uid. */
  readonly oldWorkers: number
  readonly oldParallelism: Readonly<Record<string, number>>
  /** Where the files of `stores` lie: a checkpoint directory. */
  readonly storesDirectory: string
  /** Every old store belongs to the worker of the same index, whole. */
  readonly storesMatchWorkers: boolean
}

/** One operator's part of a checkpoint in one subtask. */
export interface OperatorCapture {
  readonly uid: string
  readonly state: JsonValue
  readonly tables: readonly ManifestTable[]
}

export interface SubtaskCapture {
  readonly vertex: number
  readonly subtask: number
  readonly alignmentMs: number
  /** Time that the cut itself took. */
  readonly syncMs: number
  readonly operators: readonly OperatorCapture[]
  /** For sources. */
  readonly splits: readonly SplitCheckpoint[] | null
}

export interface SinkCommittable {
  readonly sink: string
  readonly committable: JsonValue
}

export interface WorkerAck {
  readonly worker: number
  readonly attempt: number
  readonly generation: number
  readonly captures: readonly SubtaskCapture[]
  readonly store: ManifestStore | null
  /** Bytes of files that no earlier checkpoint of this worker had. */
  readonly newBytes: number
  /** From the trigger to the last cut of the worker, and from there to durable files. */
  readonly barrierMs: number
  readonly asyncMs: number
  /** Sealed output of this attempt and of earlier ones that never completed. */
  readonly committables: readonly SinkCommittable[]
}

export type ToWorker =
  | { readonly type: 'deploy'; readonly deployment: Deployment }
  | { readonly type: 'start' }
  /** After the cut of a `last` attempt sources hold their input back, until it is aborted. */
  | { readonly type: 'trigger'; readonly attempt: number; readonly last: boolean }
  | { readonly type: 'abort'; readonly attempt: number }
  | { readonly type: 'completed'; readonly attempt: number }
  /** Splits found while the job runs, for the subtask of a source that this worker hosts. */
  | {
      readonly type: 'splits'
      readonly uid: string
      readonly subtask: number
      readonly splits: readonly SplitState[]
    }
  /** How far aligned sources may read. */
  | { readonly type: 'alignment'; readonly limits: readonly AlignmentLimit[] }
  /** Whether sources are to wait, because too much output does. */
  | { readonly type: 'hold'; readonly isHeld: boolean }
  | { readonly type: 'close' }

export type FromWorker =
  | { readonly type: 'ready'; readonly worker: number }
  | { readonly type: 'ack'; readonly ack: WorkerAck }
  | { readonly type: 'declined'; readonly worker: number; readonly attempt: number; readonly reason: string }
  | { readonly type: 'abortDone'; readonly worker: number; readonly attempt: number }
  | { readonly type: 'ended'; readonly worker: number }
  | { readonly type: 'failed'; readonly worker: number; readonly failure: WorkerFailure }
  | { readonly type: 'alignment'; readonly worker: number; readonly reports: readonly AlignmentReport[] }
  /** The outboxes of a worker hold so much; more than 0 makes a checkpoint due. */
  | { readonly type: 'outbox'; readonly worker: number; readonly bytes: number }
  | { readonly type: 'sinkMessage'; readonly sink: string; readonly message: unknown }
  | {
      readonly type: 'status'
      readonly worker: number
      readonly subtasks: readonly SubtaskStatus[]
      readonly splits: readonly SplitWatermark[]
    }
  /** Something did not close as it should. Comes before `closed`, and changes nothing. */
  | { readonly type: 'closeFailed'; readonly worker: number; readonly failure: WorkerFailure }
  | { readonly type: 'closed'; readonly worker: number }
