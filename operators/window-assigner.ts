/**
 * Which windows a time lies in.
 *
 * A window is named by one number, the namespace of its state. Invariant: of two windows of an assigner,
 * the one with the larger number ends no earlier.
 */
import { MillraceError } from '../engine/core/errors.ts'

export interface WindowAssigner {
  /** Part of the state's signature: another text means that stored windows mean something else. */
  readonly description: string
  /** Windows of one time at most. */
  readonly windowsMax: number
  /** Writes the windows of `timeMs` to `into`, returns how many. */
  assign(timeMs: number, into: Float64Array): number
  startOf(window: number): number
  /** Exclusive. */
  endOf(window: number): number
}

/**
 * Windows [offset + n*size, offset + (n+1)*size), named by their start. Negative times work as others.
 * Throws `WINDOW_INVALID` on a size that is not above 0.
 */
export function tumblingWindows(sizeMs: number, offsetMs = 0): WindowAssigner {
  checkLength(sizeMs, offsetMs)
  return {
    description: `tumbling(${sizeMs},${offsetMs})`,
    windowsMax: 1,
    assign(timeMs, into) {
      into[0] = alignedStart(timeMs, sizeMs, offsetMs)
      return 1
    },
    startOf: (window) => window,
    endOf: (window) => window + sizeMs,
  }
}

/**
 * Windows [offset + n*slide, offset + n*slide + size), named by their start: they overlap when `slide` is below
 * `size`; when it is above, some times lie in none. Throws `WINDOW_INVALID` on lengths that are not above 0.
 */
export function slidingWindows(sizeMs: number, slideMs: number, offsetMs = 0): WindowAssigner {
  checkLength(sizeMs, offsetMs)
  checkLength(slideMs, offsetMs)
  return {
    description: `sliding(${sizeMs},${slideMs},${offsetMs})`,
    windowsMax: Math.ceil(sizeMs / slideMs),
    assign(timeMs, into) {
      const last = alignedStart(timeMs, slideMs, offsetMs)
      let count = 0
      for (let start = last; start + sizeMs > timeMs; start -= slideMs) count++
      for (let w = 0; w < count; w++) into[w] = last - (count - 1 - w) * slideMs
      return count
    },
    startOf: (window) => window,
    endOf: (window) => window + sizeMs,
  }
}

/**
 * Windows [start, start + n*step) up to `size` long, over periods of `size` back to back, named by their end: each
 * shows what its period brought so far. Throws `WINDOW_INVALID` unless `size` is a multiple of `step`.
 */
export function cumulativeWindows(sizeMs: number, stepMs: number, offsetMs = 0): WindowAssigner {
  checkLength(sizeMs, offsetMs)
  checkLength(stepMs, offsetMs)
  if (sizeMs % stepMs !== 0) {
    throw new MillraceError('WINDOW_INVALID', `Cumulative windows of ${sizeMs} ms cannot grow by ${stepMs} ms.`, {
      hint: 'Give a size that is a multiple of the step.',
    })
  }
  return {
    description: `cumulative(${sizeMs},${stepMs},${offsetMs})`,
    windowsMax: sizeMs / stepMs,
    assign(timeMs, into) {
      const periodEnd = alignedStart(timeMs, sizeMs, offsetMs) + sizeMs
      let count = 0
      for (let end = alignedStart(timeMs, stepMs, offsetMs) + stepMs; end <= periodEnd; end += stepMs)
        into[count++] = end
      return count
    },
    startOf: (window) => alignedStart(window - stepMs, sizeMs, offsetMs),
    endOf: (window) => window,
  }
}

/** The greatest offset + n*length that is not above `timeMs`. */
export function alignedStart(timeMs: number, lengthMs: number, offsetMs: number): number {
  const start = offsetMs + Math.floor((timeMs - offsetMs) / lengthMs) * lengthMs
  // The division may round up to the next whole number just below a boundary.
  return start > timeMs ? start - lengthMs : start
}

function checkLength(lengthMs: number, offsetMs: number): void {
  if (lengthMs > 0 && Number.isFinite(lengthMs) && Number.isFinite(offsetMs)) return
  throw new MillraceError('WINDOW_INVALID', `A window cannot be ${lengthMs} ms long with offset ${offsetMs} ms.`, {
    hint: 'Give a finite size above 0 and a finite offset.',
  })
}
