/**
 * Window assigners: which windows an element belongs to. Given to `KeyedStream.window`.
 */
import { MillraceError } from '../core/errors.ts'
import { type Duration, toMs } from '../core/time.ts'

/** Windows of one length, back to back: [offset + k * size, offset + (k + 1) * size). */
export interface TumblingWindowAssigner {
  readonly kind: 'tumbling-event-time'
  readonly sizeMs: number
  readonly offsetMs: number
}

/** Windows of one length that begin every `slideMs`: an element is in size / slide of them. */
export interface SlidingWindowAssigner {
  readonly kind: 'sliding-event-time'
  readonly sizeMs: number
  readonly slideMs: number
  readonly offsetMs: number
}

/** Windows that grow by `stepMs` up to `sizeMs`, then begin anew. */
export interface CumulativeWindowAssigner {
  readonly kind: 'cumulative-event-time'
  readonly sizeMs: number
  readonly stepMs: number
  readonly offsetMs: number
}

export type WindowAssigner = TumblingWindowAssigner | SlidingWindowAssigner | CumulativeWindowAssigner

export const TumblingEventTimeWindows = {
  /**
   * Windows of `size`, aligned to 1970 UTC, shifted by `offset` (days in UTC+2 begin at `hours(-2)`).
   * Throws `WINDOW_INVALID`.
   */
  of(size: Duration | number, offset: Duration | number = 0): TumblingWindowAssigner {
    const sizeMs = wholeMs(size)
    return { kind: 'tumbling-event-time', sizeMs, offsetMs: offsetWithin(sizeMs, offset) }
  },
} as const

export const SlidingEventTimeWindows = {
  /**
   * Windows of `size` that begin every `slide`, aligned to 1970 UTC, shifted by `offset`. With a slide above the
   * size, elements between two windows are in none. Throws `WINDOW_INVALID`.
   */
  of(size: Duration | number, slide: Duration | number, offset: Duration | number = 0): SlidingWindowAssigner {
    const slideMs = wholeMs(slide)
    return { kind: 'sliding-event-time', sizeMs: wholeMs(size), slideMs, offsetMs: offsetWithin(slideMs, offset) }
  },
} as const

export const CumulativeEventTimeWindows = {
  /**
   * Flink SQL's CUMULATE: for each period of `maxSize`, aligned to 1970 UTC and shifted by `offset`, windows that
   * share its start and end after each `step`. Throws `WINDOW_INVALID` unless `maxSize` is a multiple of `step`.
   */
  of(maxSize: Duration | number, step: Duration | number, offset: Duration | number = 0): CumulativeWindowAssigner {
    const sizeMs = wholeMs(maxSize)
    const stepMs = wholeMs(step)
    if (sizeMs % stepMs !== 0) {
      throw new MillraceError('WINDOW_INVALID', `Cumulative windows of ${sizeMs} ms cannot grow by ${stepMs} ms.`, {
        hint: 'The greatest size is a multiple of the step.',
      })
    }
    return { kind: 'cumulative-event-time', sizeMs, stepMs, offsetMs: offsetWithin(sizeMs, offset) }
  },
} as const

function wholeMs(length: Duration | number): number {
  const lengthMs = toMs(length)
  if (Number.isInteger(lengthMs) && lengthMs >= 1) return lengthMs
  throw new MillraceError('WINDOW_INVALID', `A window of ${lengthMs} ms is not possible.`, {
    hint: 'Give a whole number of milliseconds, 1 or more, for example minutes(5).',
  })
}

function offsetWithin(lengthMs: number, offset: Duration | number): number {
  const offsetMs = toMs(offset)
  if (Number.isInteger(offsetMs) && Math.abs(offsetMs) < lengthMs) return offsetMs
  throw new MillraceError('WINDOW_INVALID', `An offset of ${offsetMs} ms does not fit windows of ${lengthMs} ms.`, {
    hint: 'The offset is a whole number of milliseconds, smaller than the window (than the slide, for sliding ones).',
  })
}
