/**
 * Slices: the pieces of time that overlapping windows are made of. A row is aggregated once, in its slice; a
 * window's result is merged from its slices.
 *
 * Used by window-slices-operator.ts. A slice is named by its start, a window by its end. Idea: J. Li et al.,
 * "No Pane, No Gain: Efficient Evaluation of Sliding-Window Aggregates over Data Streams", SIGMOD Record 34/1, 2005.
 *
 * Invariant: the windows that hold a slice end at `firstEnd`, `firstEnd` + step, ..., `lastEnd`, and each of them
 * holds it whole.
 */
import { alignedStart } from './window-assigner.ts'

/** A late row looks at all slices of its windows: beyond this many, windows have state of their own. */
const WINDOW_SLICES_MAX = 10_000

export interface SliceScheme {
  /** Part of the state's signature. */
  readonly description: string
  readonly sliceMs: number
  /** From the end of a window to the end of the next. */
  readonly stepMs: number
  /**
   * Windows share their start. Slices whose first window is over lie in the same windows from then on, so that they
   * can become one.
   */
  readonly isCumulative: boolean
  /** Every time lies in a slice: the windows leave no gaps. */
  sliceOf(timeMs: number): number
  firstEnd(slice: number): number
  lastEnd(slice: number): number
  startOf(windowEnd: number): number
}

/**
 * Slices of windows [offset + n*slide, offset + n*slide + size). Null when windows do not overlap, or consist of so
 * many slices that these would cost more than they save.
 */
export function slidingSlices(sizeMs: number, slideMs: number, offsetMs = 0): SliceScheme | null {
  const sliceMs = greatestCommonDivisor(sizeMs, slideMs)
  if (slideMs >= sizeMs || sizeMs / sliceMs > WINDOW_SLICES_MAX) return null
  return {
    description: `sliding slices(${sizeMs},${slideMs},${offsetMs})`,
    sliceMs,
    stepMs: slideMs,
    isCumulative: false,
    sliceOf: (timeMs) => alignedStart(timeMs, sliceMs, offsetMs),
    firstEnd: (slice) => alignedStart(slice - sizeMs, slideMs, offsetMs) + slideMs + sizeMs,
    lastEnd: (slice) => alignedStart(slice, slideMs, offsetMs) + sizeMs,
    startOf: (windowEnd) => windowEnd - sizeMs,
  }
}

/** Slices of windows that grow by `step` up to `size`; `size` is a multiple of `step`. Null as for `slidingSlices`. */
export function cumulativeSlices(sizeMs: number, stepMs: number, offsetMs = 0): SliceScheme | null {
  if (stepMs >= sizeMs || sizeMs / stepMs > WINDOW_SLICES_MAX) return null
  return {
    description: `cumulative slices(${sizeMs},${stepMs},${offsetMs})`,
    sliceMs: stepMs,
    stepMs,
    isCumulative: true,
    sliceOf: (timeMs) => alignedStart(timeMs, stepMs, offsetMs),
    firstEnd: (slice) => slice + stepMs,
    lastEnd: (slice) => alignedStart(slice, sizeMs, offsetMs) + sizeMs,
    startOf: (windowEnd) => alignedStart(windowEnd - stepMs, sizeMs, offsetMs),
  }
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b)
}

/** The least of first, first + step, ..., last that is above `bound`; Infinity when none is. */
export function endAbove(first: number, last: number, stepMs: number, bound: number): number {
  if (last <= bound) return Number.POSITIVE_INFINITY
  return first > bound ? first : first + (Math.floor((bound - first) / stepMs) + 1) * stepMs
}
