/**
 * Settings of checkpoints; `env.getCheckpointConfig()` returns the environment's own.
 */
import {
  CHECKPOINT_POLICY_DEFAULT,
  type CheckpointPolicy,
  type CheckpointingMode as Mode,
} from '../checkpoint/checkpoint-policy.ts'
import { MillraceError } from '../core/errors.ts'
import { type Duration, toMs } from '../core/time.ts'

/** What a checkpoint promises: Flink's class of the same name. */
export const CheckpointingMode = { EXACTLY_ONCE: 'exactly-once', AT_LEAST_ONCE: 'at-least-once' } as const
export type CheckpointingMode = Mode

/** What becomes of checkpoints when the job is cancelled: Flink's class of the same name. */
export const ExternalizedCheckpointRetention = {
  RETAIN_ON_CANCELLATION: 'retain-on-cancellation',
  DELETE_ON_CANCELLATION: 'delete-on-cancellation',
} as const
export type ExternalizedCheckpointRetention =
  (typeof ExternalizedCheckpointRetention)[keyof typeof ExternalizedCheckpointRetention]

export class CheckpointConfig {
  private storage: string | null = null
  private intervalMs: number | null = null
  private timeoutMs = 600_000
  private policy: CheckpointPolicy = CHECKPOINT_POLICY_DEFAULT

  /** Directory of the checkpoints; `--checkpoint-dir` overrides it. Without one it is a temporary directory. */
  setCheckpointStorage(directory: string): this {
    if (directory === '') {
      throw new MillraceError('CHECKPOINT_STORAGE_INVALID', 'The checkpoint directory is an empty text.', {
        hint: 'Give the path of a directory; it is created when it does not exist.',
      })
    }
    this.storage = directory
    return this
  }

  /** Time between the starts of two checkpoints; the next waits for the one before, however long that takes. */
  setCheckpointInterval(interval: Duration | number): this {
    this.intervalMs = duration('checkpoint interval', interval, Number.MIN_VALUE)
    return this
  }

  /** A checkpoint that takes longer is given up; the job goes on. Ten minutes unless told. */
  setCheckpointTimeout(timeout: Duration | number): this {
    this.timeoutMs = duration('checkpoint timeout', timeout, Number.MIN_VALUE)
    return this
  }

  /** `AT_LEAST_ONCE` holds no input back at a barrier: lower latency, and records may count twice after a failure. */
  setCheckpointingConsistencyMode(mode: CheckpointingMode): this {
    if (mode !== 'exactly-once' && mode !== 'at-least-once') {
      throw invalid(`There is no checkpointing mode ${JSON.stringify(mode)}.`, 'Use CheckpointingMode.EXACTLY_ONCE.')
    }
    return this.with({ mode })
  }

  /** Least time from the end of a checkpoint to the start of the next, so that a slow one leaves the job room. */
  setMinPauseBetweenCheckpoints(pause: Duration | number): this {
    return this.with({ minPauseMs: duration('pause between checkpoints', pause, 0) })
  }

  /**
   * The job restarts when more than this many checkpoints in a row failed. Unless told it never does: it keeps
   * running, and trying.
   */
  setTolerableCheckpointFailureNumber(count: number): this {
    return this.with({ tolerableFailures: wholeNumber('tolerable failures', count, 0) })
  }

  /** Checkpoints that are kept, besides savepoints. Three unless told. */
  setMaxRetainedCheckpoints(count: number): this {
    return this.with({ retained: wholeNumber('retained checkpoints', count, 1) })
  }

  /** Whether `cancel` removes the job's checkpoints. Unless told they stay; savepoints always do. */
  setExternalizedCheckpointRetention(retention: ExternalizedCheckpointRetention): this {
    if (!Object.values(ExternalizedCheckpointRetention).includes(retention)) {
      throw invalid(
        `There is no retention ${JSON.stringify(retention)}.`,
        'Use ExternalizedCheckpointRetention.RETAIN_ON_CANCELLATION or DELETE_ON_CANCELLATION.',
      )
    }
    return this.with({ deleteOnCancellation: retention === ExternalizedCheckpointRetention.DELETE_ON_CANCELLATION })
  }

  /**
   * Bytes of output, in the checkpoint directory, that may wait for a checkpoint or for sinks to show it. When there is
   * more, as while a sink's database is away, sources are not read until some is shown. 1 GiB unless told; a checkpoint
   * is taken at a quarter of it, whatever the interval. Batch jobs show their output at the end, however large.
   */
  setMaxPendingOutputBytes(bytes: number): this {
    return this.with({ pendingOutputBytesMax: wholeNumber('bytes of pending output', bytes, 1) })
  }

  /** No periodic checkpoints; savepoints and the final checkpoint remain. */
  disableCheckpointing(): this {
    this.intervalMs = null
    return this
  }

  isCheckpointingEnabled(): boolean {
    return this.intervalMs !== null
  }

  get checkpointStorage(): string | null {
    return this.storage
  }

  get checkpointIntervalMs(): number | null {
    return this.intervalMs
  }

  get checkpointTimeoutMs(): number {
    return this.timeoutMs
  }

  /** For the engine: everything else that was set. */
  get checkpointPolicy(): CheckpointPolicy {
    return this.policy
  }

  private with(change: Partial<CheckpointPolicy>): this {
    this.policy = { ...this.policy, ...change }
    return this
  }
}

function duration(what: string, value: Duration | number, leastMs: number): number {
  const ms = toMs(value)
  if (!(ms >= leastMs && ms < Number.POSITIVE_INFINITY)) {
    throw new MillraceError('DURATION_INVALID', `A ${what} of ${ms} ms is not possible.`, {
      hint: `Give a number of milliseconds ${leastMs === 0 ? 'of 0 or more' : 'above 0'}.`,
    })
  }
  return ms
}

function wholeNumber(what: string, value: number, least: number): number {
  if (Number.isInteger(value) && value >= least) return value
  throw invalid(`${value} ${what} are not possible.`, `Give a whole number from ${least} on.`)
}

function invalid(message: string, hint: string): MillraceError {
  return new MillraceError('CHECKPOINT_CONFIG_INVALID', message, { hint })
}
