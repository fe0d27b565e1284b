/**
 * What happens after a failure. Given to `env.setRestartStrategy`; decided by runtime/restart-policy.ts.
 */
import { MillraceError } from '../core/errors.ts'
import { type Duration, toMs } from '../core/time.ts'
import type { RestartStrategy } from '../runtime/launcher-types.ts'

export interface ExponentialDelayOptions {
  /** Delay of the first restart. 1 s unless told. */
  readonly initialBackoff?: Duration | number
  /** No delay is longer. 1 min unless told. */
  readonly maxBackoff?: Duration | number
  /** Each delay is this many times the one before; above 1. 1.5 unless told. */
  readonly backoffMultiplier?: number
  /** After a run this long without a failure, delays and attempts start anew. 1 h unless told. */
  readonly resetBackoffThreshold?: Duration | number
  /** 0 to 1: the share by which a delay may be longer or shorter. 0.1 unless told. */
  readonly jitterFactor?: number
  /** Restarts without a good run between them. Infinity unless told. */
  readonly attemptsBeforeResetBackoff?: number
}

export const RestartStrategies = {
  /** A failure ends the job. */
  noRestart: (): RestartStrategy => ({ kind: 'none' }),

  /** At most `attempts` restarts from the last checkpoint, `delay` apart. Throws `RESTART_INVALID`. */
  fixedDelayRestart(attempts: number, delay: Duration | number): RestartStrategy {
    return { kind: 'fixed-delay', attempts: countOf(attempts, 0), delayMs: delayOf(delay) }
  },

  /** Restarts after delays that grow while the job keeps failing. Throws `RESTART_INVALID`. */
  exponentialDelayRestart(options: ExponentialDelayOptions = {}): RestartStrategy {
    const { backoffMultiplier = 1.5, jitterFactor = 0.1 } = options
    const initialBackoffMs = delayOf(options.initialBackoff ?? 1_000)
    const maxBackoffMs = delayOf(options.maxBackoff ?? 60_000)
    if (!(initialBackoffMs > 0 && maxBackoffMs >= initialBackoffMs)) {
      throw invalid(`Delays from ${initialBackoffMs} to ${maxBackoffMs} ms are not possible.`, 'Grow from above 0.')
    }
    if (!(backoffMultiplier > 1 && backoffMultiplier < Number.POSITIVE_INFINITY)) {
      throw invalid(`Delays cannot grow ${backoffMultiplier} times.`, 'Give a multiplier above 1.')
    }
    if (!(jitterFactor >= 0 && jitterFactor <= 1)) {
      throw invalid(`A jitter factor of ${jitterFactor} is not possible.`, 'Give a share from 0 to 1.')
    }
    return {
      kind: 'exponential-delay',
      initialBackoffMs,
      maxBackoffMs,
      backoffMultiplier,
      resetBackoffThresholdMs: delayOf(options.resetBackoffThreshold ?? 3_600_000),
      jitterFactor,
      attempts: countOf(options.attemptsBeforeResetBackoff ?? Number.POSITIVE_INFINITY, 0),
    }
  },

  /**
   * Restarts `delay` after each failure; more than `failureRate` failures within one `interval` end the
   * job. Throws `RESTART_INVALID`.
   */
  failureRateRestart(failureRate: number, interval: Duration | number, delay: Duration | number): RestartStrategy {
    const intervalMs = delayOf(interval)
    if (intervalMs === 0) throw invalid('Failures cannot be counted over 0 ms.', 'Give an interval above 0.')
    return { kind: 'failure-rate', failuresMax: countOf(failureRate, 1), intervalMs, delayMs: delayOf(delay) }
  },
} as const

const KINDS: Readonly<Record<RestartStrategy['kind'], true>> = {
  none: true,
  'fixed-delay': true,
  'exponential-delay': true,
  'failure-rate': true,
}

/** For what no type checker has seen. */
export function isRestartStrategy(strategy: unknown): boolean {
  const kind = (strategy as { kind?: unknown } | null | undefined)?.kind
  return typeof kind === 'string' && Object.hasOwn(KINDS, kind)
}

function countOf(count: number, least: number): number {
  if (count === Number.POSITIVE_INFINITY || (Number.isInteger(count) && count >= least)) return count
  throw invalid(`${count} restarts are not possible.`, `Give a whole number from ${least} on, or Infinity.`)
}

function delayOf(duration: Duration | number): number {
  const ms = toMs(duration)
  if (ms >= 0 && ms < Number.POSITIVE_INFINITY) return ms
  throw invalid(`A duration of ${ms} ms is not possible.`, 'Give a duration of 0 or more, for example seconds(5).')
}

function invalid(message: string, hint: string): MillraceError {
  return new MillraceError('RESTART_INVALID', message, { hint })
}
