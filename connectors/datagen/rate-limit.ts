/**
 * Evenly spaced permits, without a burst after a pause: unused permits pile up for 100 ms at most.
 * The caller brings the clock.
 */

const SAVED_MS_MAX = 100
const DELAY_MS_MIN = 2

export class RateLimit {
  private readonly perMs: number
  private readonly savedMax: number
  private permits = 1
  private lastMs: number

  constructor(perSecond: number, nowMs: number) {
    this.perMs = perSecond / 1_000
    this.savedMax = Math.max(1, this.perMs * SAVED_MS_MAX)
    this.lastMs = nowMs
  }

  /** Whole permits to be had now. */
  available(nowMs: number): number {
    this.permits = Math.min(this.savedMax, this.permits + (nowMs - this.lastMs) * this.perMs)
    this.lastMs = nowMs
    return Math.floor(this.permits)
  }

  take(count: number): void {
    this.permits -= count
  }

  /** Milliseconds until the next permit. */
  delayMs(): number {
    return Math.max(DELAY_MS_MIN, Math.ceil((1 - this.permits) / this.perMs))
  }
}
