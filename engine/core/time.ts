/**
 * Event time, watermarks and durations.
 *
 * Event time is a Float64 count of milliseconds since 1970 UTC; fractions are allowed, NaN means
 * "no timestamp yet". A watermark w says: no later record has event time <= w.
 */

export const WATERMARK_MIN = Number.NEGATIVE_INFINITY
/** The watermark at the end of bounded input. */
export const WATERMARK_MAX = Number.POSITIVE_INFINITY

/** A length of time; `Time.minutes(5)` in Flink's manner, or the plain functions below. */
export interface Duration {
  readonly ms: number
}

export const milliseconds = (n: number): Duration => ({ ms: n })
export const seconds = (n: number): Duration => ({ ms: n * 1_000 })
export const minutes = (n: number): Duration => ({ ms: n * 60_000 })
export const hours = (n: number): Duration => ({ ms: n * 3_600_000 })
export const days = (n: number): Duration => ({ ms: n * 86_400_000 })

/** Flink's class of the same name. */
export const Time = { milliseconds, seconds, minutes, hours, days } as const

/** Where a duration is expected, a bare number is milliseconds. */
export function toMs(duration: Duration | number): number {
  return typeof duration === 'number' ? duration : duration.ms
}
