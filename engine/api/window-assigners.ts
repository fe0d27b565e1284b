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

export type WindowAssigner = TumblingWindowAssigner

export const TumblingEventTimeWindows = {
  /**
   * Windows of `size`, aligned to 1970 UTC, shifted by `offset` (days in UTC+2 begin at `hours(-2)`).
   * Throws `WINDOW_INVALID`.
   */
  of(size: Duration | number, offset: Duration | number = 0): WindowAssigner {
    const sizeMs = toMs(size)
    const offsetMs = toMs(offset)
    if (!Number.isInteger(sizeMs) || sizeMs < 1) {
      throw new MillraceError('WINDOW_INVALID', `A window of ${sizeMs} ms is not possible.`, {
        hint: 'Give a whole number of milliseconds, 1 or more, for example minutes(5).',
      })
    }
    if (!Number.isInteger(offsetMs) || Math.abs(offsetMs) >= sizeMs) {
      throw new MillraceError('WINDOW_INVALID', `An offset of ${offsetMs} ms does not fit windows of ${sizeMs} ms.`, {
        hint: 'The offset is a whole number of milliseconds, smaller than the window.',
      })
    }
    return { kind: 'tumbling-event-time', sizeMs, offsetMs }
  },
} as const
