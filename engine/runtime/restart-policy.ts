/**
 * Whether a failed job runs again, and when: a pure function over its failures so far. The job master asks
 * at each failure of a run; the strategies come from `RestartStrategies` of the API.
 *
 * Invariants:
 * - Same strategy, history, time and random number: same decision.
 * - A history is small whatever happened: it holds at most the failures that a rate still counts.
 */

/** Flink's restart strategies. Attempts may be Infinity. */
export type RestartStrategy =
  /** A failure ends the job. */
  | { readonly kind: 'none' }
  /** At most `attempts` restarts in the job's life, `delayMs` after each failure. */
  | { readonly kind: 'fixed-delay'; readonly attempts: number; readonly delayMs: number }
  /** Delays that grow from failure to failure, and start anew after the job ran well for long. */
  | {
      readonly kind: 'exponential-delay'
      readonly initialBackoffMs: number
      readonly maxBackoffMs: number
      /** Above 1: each delay is this many times the one before. */
      readonly backoffMultiplier: number
      /** After this long without a failure delays and attempts start anew. */
      readonly resetBackoffThresholdMs: number
      /** 0 to 1: a delay is longer or shorter by up to this share. */
      readonly jitterFactor: number
      /** Restarts without a reset between them. */
      readonly attempts: number
    }
  /** Any number of restarts, unless more than `failuresMax` failures lie within one interval. */
  | {
      readonly kind: 'failure-rate'
      readonly failuresMax: number
      readonly intervalMs: number
      readonly delayMs: number
    }

/** What a job remembers of its failures. */
export interface RestartHistory {
  /** Restarts since the start, or since delays last started anew. */
  readonly attempts: number
  /** Delay of the last restart, without jitter; 0 before the first. */
  readonly backoffMs: number
  /** When the last restart was due. */
  readonly restartedAtMs: number
  /** Times of the failures that a rate counts, oldest first. */
  readonly failedAtMs: readonly number[]
}

export const NO_FAILURES: RestartHistory = {
  attempts: 0,
  backoffMs: 0,
  restartedAtMs: Number.NEGATIVE_INFINITY,
  failedAtMs: [],
}

/** `delayMs` null: the job has failed for good. */
export interface RestartDecision {
  readonly delayMs: number | null
  readonly history: RestartHistory
}

/** Decides after a failure at `nowMs`. `random` is uniform in [0, 1) and only moves delays with jitter. */
export function decideRestart(
  strategy: RestartStrategy,
  history: RestartHistory,
  nowMs: number,
  random: number,
): RestartDecision {
  switch (strategy.kind) {
    case 'none':
      return { delayMs: null, history }
    case 'fixed-delay':
      return after(history, history.attempts < strategy.attempts ? strategy.delayMs : null, nowMs)
    case 'exponential-delay':
      return exponential(strategy, history, nowMs, random)
    case 'failure-rate': {
      const since = nowMs - strategy.intervalMs
      const failedAtMs = [...history.failedAtMs.filter((atMs) => atMs > since), nowMs]
      const delayMs = failedAtMs.length > strategy.failuresMax ? null : strategy.delayMs
      return after({ ...history, failedAtMs }, delayMs, nowMs)
    }
  }
}

function after(history: RestartHistory, delayMs: number | null, nowMs: number): RestartDecision {
  if (delayMs === null) return { delayMs, history }
  return { delayMs, history: { ...history, attempts: history.attempts + 1, restartedAtMs: nowMs + delayMs } }
}

function exponential(
  strategy: Extract<RestartStrategy, { kind: 'exponential-delay' }>,
  history: RestartHistory,
  nowMs: number,
  random: number,
): RestartDecision {
  const ranWell = nowMs - history.restartedAtMs >= strategy.resetBackoffThresholdMs
  const before = ranWell ? NO_FAILURES : history
  const grown = before.backoffMs === 0 ? strategy.initialBackoffMs : before.backoffMs * strategy.backoffMultiplier
  const backoffMs = Math.min(strategy.maxBackoffMs, grown)
  const jitterMs = backoffMs * strategy.jitterFactor * (2 * random - 1)
  const delayMs = Math.min(strategy.maxBackoffMs, Math.max(0, backoffMs + jitterMs))
  return after({ ...before, backoffMs }, before.attempts < strategy.attempts ? delayMs : null, nowMs)
}
