/**
 * How fast a process's memory grows: the common slope of resident memory over time, with each process
 * having its own level (a regression with fixed effects), so that restarts do not count as shrinking.
 */

export interface RssSample {
  /** Which process; a new one starts from a new level. */
  readonly process: number
  readonly timeMs: number
  readonly mib: number
}

/** MiB an hour; NaN without two samples of one process. Source: the within estimator of panel regression. */
export function rssSlopeMibPerHour(samples: readonly RssSample[]): number {
  const byProcess = Map.groupBy(samples, (sample) => sample.process)
  let covariance = 0
  let variance = 0
  for (const own of byProcess.values()) {
    const meanMs = own.reduce((sum, sample) => sum + sample.timeMs, 0) / own.length
    const meanMib = own.reduce((sum, sample) => sum + sample.mib, 0) / own.length
    for (const { timeMs, mib } of own) {
      covariance += (timeMs - meanMs) * (mib - meanMib)
      variance += (timeMs - meanMs) ** 2
    }
  }
  return (covariance / variance) * 3_600_000
}
