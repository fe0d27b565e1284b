/**
 * How a job takes, keeps and discards checkpoints: what the API's CheckpointConfig asks for beyond interval,
 * timeout and directory. Read by the job master, the coordinator, garbage collection and the workers.
 */

/** `at-least-once`: barriers hold no input back, so records after one may be in the checkpoint, and come again. */
export type CheckpointingMode = 'exactly-once' | 'at-least-once'

export interface CheckpointPolicy {
  readonly mode: CheckpointingMode
  /** No periodic checkpoint starts sooner after the end of the one before. */
  readonly minPauseMs: number
  /** Periodic checkpoints in a row that may fail before the job restarts; Infinity: it never does for that. */
  readonly tolerableFailures: number
  /** Checkpoints kept besides savepoints, at least 1. */
  readonly retained: number
  /** Cancelling the job removes its checkpoints; savepoints stay. */
  readonly deleteOnCancellation: boolean
  /**
   * Bytes of output that may wait for checkpoints and for sinks to show it; then sources wait. At a quarter of it a
   * checkpoint is due, whatever the interval.
   */
  readonly pendingOutputBytesMax: number
}

/** A failed checkpoint (as on a full disk) leaves the job running; three are kept, in case the newest is damaged. */
export const CHECKPOINT_POLICY_DEFAULT: CheckpointPolicy = {
  mode: 'exactly-once',
  minPauseMs: 0,
  tolerableFailures: Number.POSITIVE_INFINITY,
  retained: 3,
  deleteOnCancellation: false,
  pendingOutputBytesMax: 1 << 30,
}
