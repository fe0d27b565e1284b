/**
 * How long a thread's event loop keeps everybody waiting, told apart from how long the machine does.
 *
 * A turn is one iteration of the loop, between two callbacks of `setImmediate`: whatever a worker does in it, garbage
 * collections of its thread included, delays sources, timers and the other subtasks. It is measured in CPU time of the
 * thread (bench/thread-clock.ts), so that no other process makes a turn longer. What it leaves out is time in which the
 * thread waits without working: for a disk, or for a lock that a thread holds which the machine does not let run.
 */
import { LatencyHistogram } from '../../bench/latency-histogram.ts'
import { threadClock } from '../../bench/thread-clock.ts'

/** Shorter iterations did nothing: the loop only went round. */
const TURN_MS_MIN = 0.1

export class LoopPauses {
  readonly turns = new LatencyHistogram()
  /** The longest turn, in milliseconds. */
  longestMs = 0
  private readonly clock = threadClock()
  private next: NodeJS.Immediate | undefined

  /** Measures from now on; what lies before the call does not count. */
  begin(): void {
    clearImmediate(this.next)
    let beforeMs = this.clock()
    const look = (): void => {
      const nowMs = this.clock()
      const turnMs = nowMs - beforeMs
      if (turnMs >= TURN_MS_MIN) this.turns.add(turnMs)
      this.longestMs = Math.max(this.longestMs, turnMs)
      beforeMs = nowMs
      this.next = setImmediate(look)
    }
    this.next = setImmediate(look)
  }

  /** The turn under way does not count. */
  end(): void {
    clearImmediate(this.next)
    this.next = undefined
  }

  toString(): string {
    const [p50, p99, p999] = [0.5, 0.99, 0.999].map((share) => this.turns.quantileMs(share).toFixed(1))
    return `${this.turns.count} turns, ms: p50 ${p50}, p99 ${p99}, p99.9 ${p999}, longest ${this.longestMs.toFixed(1)}`
  }
}
