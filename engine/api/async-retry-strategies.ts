/**
 * When a request of an async function is made again; given to `AsyncDataStream.orderedWaitWithRetry` and
 * `unorderedWaitWithRetry`.
 */
import type { AsyncRetryStrategy } from '../contract/functions.ts'
import { MillraceError } from '../core/errors.ts'
import { type Duration, toMs } from '../core/time.ts'

/** Flink's class of the same name. */
export const RetryPredicates = {
  EMPTY_RESULT_PREDICATE: (results: readonly unknown[]): boolean => results.length === 0,
  HAS_EXCEPTION_PREDICATE: (_error: unknown): boolean => true,
} as const

export const AsyncRetryStrategies = {
  /** Up to `maxAttempts` retries of an element, each `backoff` after the answer before. Throws `RETRY_INVALID`. */
  fixedDelay(maxAttempts: number, backoff: Duration | number): AsyncRetryStrategyBuilder {
    const delayMs = delayOf(backoff)
    return new AsyncRetryStrategyBuilder(maxAttempts, () => delayMs)
  },

  /**
   * Up to `maxAttempts` retries of an element: the first after `initialDelay`, each further one after `multiplier`
   * times the delay before, never more than `maxRetryDelay`. Throws `RETRY_INVALID`.
   */
  exponentialBackoff(
    maxAttempts: number,
    initialDelay: Duration | number,
    maxRetryDelay: Duration | number,
    multiplier: number,
  ): AsyncRetryStrategyBuilder {
    const [initialMs, maxMs] = [delayOf(initialDelay), delayOf(maxRetryDelay)]
    if (!(multiplier >= 1 && multiplier < Number.POSITIVE_INFINITY)) {
      throw invalid(`Delays cannot grow ${multiplier} times.`, 'Give a multiplier of 1 or more.')
    }
    return new AsyncRetryStrategyBuilder(maxAttempts, (attempt) =>
      Math.min(maxMs, initialMs * multiplier ** (attempt - 1)),
    )
  },
} as const

/** A retry strategy; `ifResult` and `ifException` return others. Without them it retries after every exception. */
export class AsyncRetryStrategyBuilder implements AsyncRetryStrategy {
  readonly maxAttempts: number
  readonly backoffMs: (attempt: number) => number
  private readonly resultPredicate: ((results: readonly unknown[]) => boolean) | null
  private readonly exceptionPredicate: ((error: unknown) => boolean) | null

  /** @internal */
  constructor(
    maxAttempts: number,
    backoffMs: (attempt: number) => number,
    resultPredicate: ((results: readonly unknown[]) => boolean) | null = null,
    exceptionPredicate: ((error: unknown) => boolean) | null = null,
  ) {
    if (!(maxAttempts === Number.POSITIVE_INFINITY || (Number.isInteger(maxAttempts) && maxAttempts >= 1))) {
      throw invalid(`${maxAttempts} retries are not possible.`, 'Give a whole number from 1 on, or Infinity.')
    }
    this.maxAttempts = maxAttempts
    this.backoffMs = backoffMs
    this.resultPredicate = resultPredicate
    this.exceptionPredicate = exceptionPredicate
  }

  /** Retries when `predicate` is true of the results. */
  ifResult(predicate: (results: readonly unknown[]) => boolean): AsyncRetryStrategyBuilder {
    return new AsyncRetryStrategyBuilder(this.maxAttempts, this.backoffMs, predicate, this.exceptionPredicate)
  }

  /** Retries when `predicate` is true of what the request was rejected with. */
  ifException(predicate: (error: unknown) => boolean): AsyncRetryStrategyBuilder {
    return new AsyncRetryStrategyBuilder(this.maxAttempts, this.backoffMs, this.resultPredicate, predicate)
  }

  shouldRetryResult(results: readonly unknown[]): boolean {
    return this.resultPredicate?.(results) ?? false
  }

  shouldRetryException(error: unknown): boolean {
    if (this.exceptionPredicate !== null) return this.exceptionPredicate(error)
    return this.resultPredicate === null
  }
}

function delayOf(duration: Duration | number): number {
  const ms = toMs(duration)
  if (ms >= 0 && ms < Number.POSITIVE_INFINITY) return ms
  throw invalid(`A delay of ${ms} ms is not possible.`, 'Give a duration of 0 or more, for example seconds(1).')
}

function invalid(message: string, hint: string): MillraceError {
  return new MillraceError('RETRY_INVALID', message, { hint })
}
