/**
 * Decides when checkpoints start, end and fail. Pure: every method takes what happened and returns what
 * to do; job-master.ts does it. The simulator runs the same code.
 *
 * Invariants:
 * - One attempt is in flight; its id is greater than every earlier one, over restarts too (I2).
 * - An attempt completes only when every worker acked it under this generation; late or foreign acks
 *   change nothing.
 * - After an abort no attempt starts until every worker said that it is done with the aborted one.
 * - At most `PENDING_EPOCHS_MAX` epochs wait for their commit; more hold checkpoints back.
 */

/** Epochs that may wait for their sinks' commits. */
export const PENDING_EPOCHS_MAX = 2

/** A savepoint or final checkpoint that failed is tried again after this long. */
const RETRY_DELAY_MS = 500

export type CheckpointKind = 'checkpoint' | 'savepoint' | 'final'

export type CoordinatorState =
  | { readonly phase: 'idle' }
  | {
      readonly phase: 'collecting'
      readonly attempt: number
      readonly kind: CheckpointKind
      readonly startedAtMs: number
      readonly missing: ReadonlySet<number>
    }
  | {
      readonly phase: 'aborting'
      readonly attempt: number
      readonly missing: ReadonlySet<number>
      /** Since the last time-out, or the first tick; null before. */
      readonly sinceMs: number | null
    }
  /** All acks are in; the manifest is being written. */
  | { readonly phase: 'completing'; readonly attempt: number; readonly kind: CheckpointKind }

export type Decision =
  | { readonly do: 'nothing' }
  | { readonly do: 'trigger'; readonly attempt: number; readonly kind: CheckpointKind }
  | { readonly do: 'abort'; readonly attempt: number; readonly reason: string }
  /** The attempt was given up long ago and still keeps others from starting: the next one has failed too. */
  | { readonly do: 'report'; readonly attempt: number; readonly reason: string }
  | { readonly do: 'complete'; readonly attempt: number; readonly kind: CheckpointKind }

const NOTHING: Decision = { do: 'nothing' }

export interface CoordinatorOptions {
  readonly workers: number
  /** Between the starts of two periodic checkpoints. */
  readonly intervalMs: number | null
  readonly timeoutMs: number
  /** From the end of one to the start of the next periodic checkpoint. */
  readonly minPauseMs: number
  /** Periodic checkpoints in a row that may fail; Infinity for any number. */
  readonly tolerableFailures: number
  /** Highest attempt id used before. */
  readonly lastAttempt: number
  readonly nowMs: number
}

export class CheckpointCoordinator {
  private state: CoordinatorState = { phase: 'idle' }
  private readonly options: CoordinatorOptions
  private lastAttempt: number
  private lastStartedAtMs: number
  private lastEndedAtMs = Number.NEGATIVE_INFINITY
  private failuresInARow = 0
  private retryAtMs = Number.NEGATIVE_INFINITY
  private requested: CheckpointKind | null = null
  /** The final checkpoint exists: none follows. */
  private finished = false
  private pendingEpochs = 0

  constructor(options: CoordinatorOptions) {
    this.options = options
    this.lastAttempt = options.lastAttempt
    this.lastStartedAtMs = options.nowMs
  }

  get current(): CoordinatorState {
    return this.state
  }

  /** Highest attempt id given out. */
  get attempts(): number {
    return this.lastAttempt
  }

  /** Asks for a checkpoint of that kind as soon as possible; `final` wins over all, a savepoint over a plain one. */
  request(kind: CheckpointKind, nowMs: number): Decision {
    this.want(kind)
    return this.tick(nowMs)
  }

  /** As `request`, but leaves the start to a later `tick`. */
  want(kind: CheckpointKind): void {
    if (this.requested === null || (this.requested !== 'final' && kind !== 'checkpoint')) this.requested = kind
  }

  /** Time passed, or something that held a checkpoint back ended. */
  tick(nowMs: number): Decision {
    if (this.state.phase === 'collecting' && nowMs - this.state.startedAtMs >= this.options.timeoutMs) {
      return this.abort(
        `Workers ${[...this.state.missing].join(', ')} did not ack within ${this.options.timeoutMs} ms.`,
      )
    }
    if (this.state.phase === 'aborting') return this.awaitAbort(this.state, nowMs)
    if (this.finished || this.state.phase !== 'idle' || this.pendingEpochs >= PENDING_EPOCHS_MAX) return NOTHING
    if (this.requested !== null && nowMs < this.retryAtMs) return NOTHING
    const kind = this.requested ?? (this.isDue(nowMs) ? 'checkpoint' : null)
    if (kind === null) return NOTHING
    this.requested = null
    this.lastStartedAtMs = nowMs
    const attempt = ++this.lastAttempt
    this.state = { phase: 'collecting', attempt, kind, startedAtMs: nowMs, missing: this.everyWorker() }
    return { do: 'trigger', attempt, kind }
  }

  /** What never ends (as a call of a sink that nobody answers) must not hide that there are no checkpoints any more. */
  private awaitAbort(state: Extract<CoordinatorState, { phase: 'aborting' }>, nowMs: number): Decision {
    const { attempt, missing, sinceMs } = state
    const isOut = sinceMs !== null && nowMs - sinceMs >= this.options.timeoutMs
    if (sinceMs === null || isOut) this.state = { ...state, sinceMs: nowMs }
    if (!isOut || this.options.intervalMs === null) return NOTHING
    this.failuresInARow++
    const workers = [...missing].join(', ')
    return { do: 'report', attempt, reason: `Workers ${workers} are still busy with it, and no other can start.` }
  }

  /** Until then `tick` has nothing to do, if nothing else happens. */
  get idleUntilMs(): number {
    if (this.state.phase !== 'idle' || this.requested !== null) return Number.NEGATIVE_INFINITY
    const { intervalMs, minPauseMs } = this.options
    if (intervalMs === null) return Number.POSITIVE_INFINITY
    return Math.max(this.lastStartedAtMs + intervalMs, this.lastEndedAtMs + minPauseMs)
  }

  private isDue(nowMs: number): boolean {
    const { intervalMs, minPauseMs } = this.options
    if (intervalMs === null) return false
    return nowMs - this.lastStartedAtMs >= intervalMs && nowMs - this.lastEndedAtMs >= minPauseMs
  }

  /** True when more periodic checkpoints in a row failed than are tolerated: the job is to restart. */
  get hasFailedTooOften(): boolean {
    return this.failuresInARow > this.options.tolerableFailures
  }

  acked(worker: number, attempt: number): Decision {
    if (this.state.phase !== 'collecting' || this.state.attempt !== attempt) return NOTHING
    const missing = new Set(this.state.missing)
    missing.delete(worker)
    if (missing.size > 0) {
      this.state = { ...this.state, missing }
      return NOTHING
    }
    const { kind } = this.state
    this.state = { phase: 'completing', attempt, kind }
    return { do: 'complete', attempt, kind }
  }

  /** A worker cannot complete the attempt. */
  declined(attempt: number, reason: string): Decision {
    if (this.state.phase !== 'collecting' || this.state.attempt !== attempt) return NOTHING
    return this.abort(reason)
  }

  private abort(reason: string): Decision {
    if (this.state.phase !== 'collecting') return NOTHING
    const { attempt, kind } = this.state
    this.failed(kind)
    this.state = { phase: 'aborting', attempt, missing: this.everyWorker(), sinceMs: null }
    return { do: 'abort', attempt, reason }
  }

  /** What was asked for is tried again; periodic ones have their turn, and are counted. */
  private failed(kind: CheckpointKind): void {
    if (kind === 'checkpoint') this.failuresInARow++
    else this.want(kind)
  }

  /** A worker holds nothing of the aborted attempt any more. */
  abortDone(worker: number, attempt: number, nowMs: number): Decision {
    if (this.state.phase !== 'aborting' || this.state.attempt !== attempt) return NOTHING
    const missing = new Set(this.state.missing)
    missing.delete(worker)
    this.state = missing.size > 0 ? { ...this.state, missing } : { phase: 'idle' }
    if (missing.size === 0) {
      this.lastEndedAtMs = nowMs
      this.retryAtMs = nowMs + RETRY_DELAY_MS
    }
    return NOTHING
  }

  /** The manifest exists; `hasOutput` says whether its epoch now waits for a commit. */
  completed(attempt: number, hasOutput: boolean, nowMs: number): void {
    if (this.state.phase !== 'completing' || this.state.attempt !== attempt) return
    this.finished = this.state.kind === 'final'
    this.failuresInARow = 0
    this.state = { phase: 'idle' }
    this.lastEndedAtMs = nowMs
    if (hasOutput) this.pendingEpochs++
  }

  /** The manifest could not be written; the attempt's output joins the next one. */
  completionFailed(attempt: number, nowMs: number): void {
    if (this.state.phase !== 'completing' || this.state.attempt !== attempt) return
    this.failed(this.state.kind)
    this.state = { phase: 'idle' }
    this.lastEndedAtMs = nowMs
    this.retryAtMs = nowMs + RETRY_DELAY_MS
  }

  /** An epoch's output is applied in every sink. */
  committed(): void {
    this.pendingEpochs = Math.max(0, this.pendingEpochs - 1)
  }

  private everyWorker(): Set<number> {
    return new Set(Array.from({ length: this.options.workers }, (_, worker) => worker))
  }
}
