/**
 * How fast a process's memory grows: the slope of resident memory over time by least squares, and how far
 * off the scatter of the samples may make it. Called by soak.ts with samples of one process.
 */

export interface RssSample {
  readonly timeMs: number
  readonly mib: number
}

export interface RssSlope {
  readonly mibPerHour: number
  /** Standard error of `mibPerHour`: the scatter of independent samples around the line. */
  readonly errorMibPerHour: number
  readonly meanMib: number
}

const HOUR_MS = 3_600_000

/** Null with fewer than three samples, of which no error can be told. */
export function rssSlope(samples: readonly RssSample[]): RssSlope | null {
  const count = samples.length
  if (count < 3) return null
  const meanMs = samples.reduce((sum, { timeMs }) => sum + timeMs, 0) / count
  const meanMib = samples.reduce((sum, { mib }) => sum + mib, 0) / count
  let covariance = 0
  let spread = 0
  for (const { timeMs, mib } of samples) {
    covariance += (timeMs - meanMs) * (mib - meanMib)
    spread += (timeMs - meanMs) ** 2
  }
  const slope = covariance / spread
  const residual = samples.reduce((sum, { timeMs, mib }) => sum + (mib - meanMib - slope * (timeMs - meanMs)) ** 2, 0)
  const error = Math.sqrt(residual / (count - 2) / spread)
  return { mibPerHour: slope * HOUR_MS, errorMibPerHour: error * HOUR_MS, meanMib }
}
