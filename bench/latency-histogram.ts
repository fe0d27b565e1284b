/**
 * Counts of latencies in buckets that each span 1/64 of a doubling (1.1 %), from a microsecond to minutes.
 *
 * Invariant: a quantile is never below the true one, and at most 1.1 % above it.
 */
const PER_DOUBLING = 64
const BUCKETS = PER_DOUBLING * 28

export class LatencyHistogram {
  private counts = new Float64Array(BUCKETS)

  add(ms: number): void {
    this.counts[bucketOf(ms)]! += 1
  }

  /** The counts so far; starts afresh. */
  take(): Float64Array {
    const { counts } = this
    this.counts = new Float64Array(BUCKETS)
    return counts
  }

  merge(counts: Float64Array): void {
    for (let b = 0; b < BUCKETS; b++) this.counts[b]! += counts[b]!
  }

  get count(): number {
    return this.counts.reduce((sum, n) => sum + n, 0)
  }

  /** The least bucket's upper end that at least `share` of all latencies lie below; 0 without any. */
  quantileMs(share: number): number {
    const wanted = Math.ceil(this.count * share)
    let seen = 0
    for (let b = 0; b < BUCKETS; b++) {
      seen += this.counts[b]!
      if (seen >= wanted && seen > 0) return 2 ** ((b + 1) / PER_DOUBLING) / 1_000
    }
    return 0
  }
}

function bucketOf(ms: number): number {
  if (!(ms > 0.001)) return 0
  return Math.min(BUCKETS - 1, Math.floor(Math.log2(ms * 1_000) * PER_DOUBLING))
}
