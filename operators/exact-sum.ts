/**
 * Sums of floating-point numbers that can be taken back: exact, so that a sum depends on the numbers that are in it now,
 * never on those that were, nor on their order.
 *
 * Used by the aggregates over changelogs (retractable-aggregates.ts). With plain addition 1e20 + 1 - 1e20 is 0, and what
 * is left after many updates is whatever rounding left. Here a sum is a few numbers that do not overlap and whose exact
 * sum it is (J. R. Shewchuk, "Adaptive Precision Floating-Point Arithmetic", 1997, grow-expansion); `value` rounds once,
 * to nearest, ties to even. So the result is the correctly rounded sum, the same after any history and restore.
 *
 * Infinities and NaN are counted apart, so that they can be taken back too. A sum that leaves the range of doubles in
 * between is infinite from then on.
 */
export interface ExactSum {
  /** Smallest first; none is 0. */
  readonly parts: number[]
  infinities: number
  negativeInfinities: number
  nans: number
}

export function exactSum(): ExactSum {
  return { parts: [], infinities: 0, negativeInfinities: 0, nans: 0 }
}

/** Adds `value`, or takes it back with `sign` -1. */
export function addExactly(sum: ExactSum, value: number, sign: 1 | -1): void {
  if (Number.isFinite(value)) grow(sum.parts, sign * value)
  else if (value === Number.POSITIVE_INFINITY) sum.infinities += sign
  else if (value === Number.NEGATIVE_INFINITY) sum.negativeInfinities += sign
  else sum.nans += sign
}

function grow(parts: number[], value: number): void {
  let x = value
  let kept = 0
  const { length } = parts
  for (let i = 0; i < length; i++) {
    const y = parts[i]!
    // Knuth's two-sum: high + low is exactly x + y.
    const high = x + y
    const back = high - x
    const low = x - (high - back) + (y - back)
    if (low !== 0) parts[kept++] = low
    x = high
  }
  if (x !== 0) parts[kept++] = x
  parts.length = kept
}

/** The sum, correctly rounded. */
export function exactValue(sum: ExactSum): number {
  if (sum.nans > 0 || (sum.infinities > 0 && sum.negativeInfinities > 0)) return Number.NaN
  if (sum.infinities > 0) return Number.POSITIVE_INFINITY
  if (sum.negativeInfinities > 0) return Number.NEGATIVE_INFINITY
  return rounded(sum.parts)
}

function rounded(parts: readonly number[]): number {
  let i = parts.length - 1
  if (i < 0) return 0
  let high = parts[i]!
  let low = 0
  while (i > 0) {
    const x = high
    const y = parts[--i]!
    high = x + y
    low = y - (high - x)
    if (low !== 0) break
  }
  // Half way between two doubles it is the part after `low` that says which is nearer.
  if (i > 0 && ((low < 0 && parts[i - 1]! < 0) || (low > 0 && parts[i - 1]! > 0))) {
    const twice = low * 2
    const up = high + twice
    if (twice === up - high) return up
  }
  return high
}
