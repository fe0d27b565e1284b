/**
 * Settings of checkpoints; `env.getCheckpointConfig()` returns the environment's own.
 */
import { MillraceError } from '../core/errors.ts'
import { type Duration, toMs } from '../core/time.ts'

export class CheckpointConfig {
  private storage: string | null = null
  private intervalMs: number | null = null
  private timeoutMs = 600_000

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

  /** Time between the starts of two checkpoints. */
  setCheckpointInterval(interval: Duration | number): this {
    this.intervalMs = positive('checkpoint interval', toMs(interval))
    return this
  }

  /** A checkpoint that takes longer is given up; the job goes on. Ten minutes unless told. */
  setCheckpointTimeout(timeout: Duration | number): this {
    this.timeoutMs = positive('checkpoint timeout', toMs(timeout))
    return this
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
}

function positive(what: string, ms: number): number {
  if (!(ms > 0 && ms < Number.POSITIVE_INFINITY)) {
    throw new MillraceError('DURATION_INVALID', `A ${what} of ${ms} ms is not possible.`, {
      hint: 'Give a number of milliseconds above 0.',
    })
  }
  return ms
}
