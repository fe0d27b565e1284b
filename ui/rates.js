/**
 * Rates from counters that are observed twice a second, and their history for the chart. Pure.
 *
 * Invariants: bounded memory (a few samples a counter, two minutes of history); a counter that went
 * down (the job restarted from a checkpoint) starts anew and never shows a negative rate.
 */
const windowMs = 3000
export const historyMs = 120_000

export class RateTracker {
  #samples = new Map()

  /** Takes one reading of all counters; those that are missing are forgotten. */
  observe(atMs, counters) {
    const next = new Map()
    for (const [key, count] of counters) {
      const before = this.#samples.get(key) ?? []
      const last = before.at(-1)
      const isNew = last === undefined || count < last.count || atMs < last.atMs
      const samples = isNew ? [] : before.filter((sample) => sample.atMs >= atMs - windowMs)
      if (samples.at(-1)?.atMs !== atMs) samples.push({ atMs, count })
      next.set(key, samples)
    }
    this.#samples = next
  }

  /** Per second over the last three seconds; null until there are two readings. */
  rate(key) {
    const samples = this.#samples.get(key)
    if (samples === undefined || samples.length < 2) return null
    const first = samples[0]
    const last = samples[samples.length - 1]
    return ((last.count - first.count) / (last.atMs - first.atMs)) * 1000
  }
}

export class History {
  points = []

  add(atMs, values) {
    const last = this.points.at(-1)
    if (last !== undefined && atMs <= last.atMs) {
      if (atMs === last.atMs) return
      this.points = []
    }
    this.points = this.points.filter((point) => point.atMs >= atMs - historyMs)
    this.points.push({ atMs, values })
  }
}
