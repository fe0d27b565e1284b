/**
 * Time and the numbers that must not be mixed up.
 *
 * Event time is a Float64 count of milliseconds since 1970 UTC; fractions are allowed, NaN means
 * "no timestamp yet". A watermark w says: no later record has event time <= w.
 */

declare const brand: unique symbol
/** A number that the compiler keeps apart from other numbers. */
export type Branded<Name extends string> = number & { readonly [brand]: Name }

/** Milliseconds since 1970 UTC, of a record. */
export type EventTime = number
/** Index of a key group, 0 <= g < key groups. */
export type KeyGroup = Branded<'KeyGroup'>
/** Sink epoch: grows by one with each committed checkpoint, never by a takeover. */
export type Epoch = Branded<'Epoch'>
/** Number of a checkpoint attempt, never reused; barriers and acks carry it. */
export type AttemptId = Branded<'AttemptId'>
/** Number in a manifest's file name; one writer each, no gaps. */
export type ManifestNumber = Branded<'ManifestNumber'>
/** Fencing number: grows by one with each takeover of the job. */
export type Generation = Branded<'Generation'>

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
