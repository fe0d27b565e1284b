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
  if (!(sizeMs > 0) || !Number.isFinite(sizeMs) || !Number.isFinite(offsetMs)) {
    throw new MillraceError('WINDOW_INVALID', `A window cannot be ${sizeMs} ms long with offset ${offsetMs} ms.`, {
      hint: 'Give a finite size above 0 and a finite offset.',
    })
  }
  return {
    description: `tumbling(${sizeMs},${offsetMs})`,
    windowsMax: 1,
    assign(timeMs, into) {
      const start = offsetMs + Math.floor((timeMs - offsetMs) / sizeMs) * sizeMs
      // The division may round up to the next whole number just below a boundary.
      into[0] = start > timeMs ? start - sizeMs : start
      return 1
    },
    startOf: (window) => window,
    endOf: (window) => window + sizeMs,
  }
}
