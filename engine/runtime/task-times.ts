/**
 * Where the time of one subtask goes: busy, back-pressured, idle, and which operator of its chain was busy.
 *
 * The worker tells it when a run of the subtask began and ended, and what state the subtask was left in; until the
 * next run the time counts as that state says. The chain tells it which operator a call goes into. Flink's terms:
 * - busy: operators run, or could run and wait for the worker's thread, or wait for the world outside, as a full sink
 *   does. `running` is the first of these alone: what the subtask took of its worker's thread.
 * - back-pressured: there is no room downstream.
 * - idle: there is nothing to do, or nothing that it may do: a barrier is awaited, or alignment holds a source back.
 *
 * Calls between operators are timed in some runs only, the time of all runs is split in their proportion: a run
 * that took long, or comes long after the last timed one, is timed, and of many short ones every eighth.
 *
 * Invariants: the three shares of a subtask sum to 1; those of each operator too; the operators' busy shares sum to
 * the subtask's. Nothing here is called more often than once a batch and operator.
 */

/** How a run left the subtask. `waiting`: for something outside the job, as an answer or a sink. */
export type Rest = 'ready' | 'waiting' | 'blocked' | 'idle'

/** Parts of an interval, 0 to 1, that sum to 1. */
export interface TimeShares {
  readonly busy: number
  readonly backPressured: number
  readonly idle: number
}

export interface TaskShares extends TimeShares {
  /** The part of `busy` in which it had the worker's thread. */
  readonly running: number
  /** In the order of the chain. */
  readonly operators: readonly TimeShares[]
}

/** Of runs in quick succession one in so many is timed. */
const TIMED_RUNS = 8
/** A run is timed when the last timed one began this long before. */
const TIMED_AFTER_MS = 10
/** What earlier intervals count for in the proportions of this one. */
const MEMORY = 0.25

export class TaskTimes {
  private readonly monotonicMs: () => number
  /** Milliseconds in timed runs by operator. */
  private readonly timed: Float64Array
  /** Milliseconds that operators waited for the world outside. */
  private readonly outside: Float64Array
  private runningMs = 0
  private readyMs = 0
  private blockedMs = 0
  private idleMs = 0
  private rest: Rest = 'idle'
  private waitingAt = 0
  private lastMs: number
  private isTiming = false
  private current = 0
  private currentSinceMs = 0
  private timedAtMs = Number.NEGATIVE_INFINITY
  private untimedRuns = 0

  /** Time counts from now on, as idle until the first run. */
  constructor(operators: number, monotonicMs: () => number) {
    this.monotonicMs = monotonicMs
    this.timed = new Float64Array(operators)
    this.outside = new Float64Array(operators)
    this.lastMs = monotonicMs()
  }

  /** How many operators there are. */
  get operators(): number {
    return this.timed.length
  }

  /** A run begins. */
  begin(nowMs: number): void {
    this.rests(nowMs)
    this.isTiming = ++this.untimedRuns >= TIMED_RUNS || nowMs - this.timedAtMs >= TIMED_AFTER_MS
    if (!this.isTiming) return
    this.untimedRuns = 0
    this.timedAtMs = nowMs
    this.current = 0
    this.currentSinceMs = nowMs
  }

  /** A call goes into an operator; what it returns is for `leave`. */
  enter(operator: number): number {
    const before = this.current
    if (this.isTiming) this.switchTo(operator)
    return before
  }

  /** The call is over. */
  leave(before: number): void {
    if (this.isTiming) this.switchTo(before)
  }

  private switchTo(operator: number): void {
    const now = this.monotonicMs()
    this.timed[this.current]! += now - this.currentSinceMs
    this.current = operator
    this.currentSinceMs = now
  }

  /** A run ends. One that found nothing to do is part of the rest before it and after it. */
  end(nowMs: number, progressed: boolean, rest: Rest, waitingAt: number): void {
    if (this.isTiming) {
      if (progressed) this.timed[this.current]! += nowMs - this.currentSinceMs
      this.isTiming = false
    }
    this.rest = rest
    this.waitingAt = waitingAt
    if (progressed) {
      this.runningMs += nowMs - this.lastMs
      this.lastMs = nowMs
    } else {
      this.rests(nowMs)
    }
  }

  private rests(nowMs: number): void {
    const ms = nowMs - this.lastMs
    this.lastMs = nowMs
    switch (this.rest) {
      case 'ready':
        this.readyMs += ms
        return
      case 'waiting':
        this.outside[this.waitingAt]! += ms
        return
      case 'blocked':
        this.blockedMs += ms
        return
      case 'idle':
        this.idleMs += ms
    }
  }

  /** The shares of the time since the last call; a new interval begins. */
  take(nowMs: number): TaskShares {
    this.rests(nowMs)
    const outsideMs = this.outside.reduce((sum, ms) => sum + ms, 0)
    const busyMs = this.runningMs + this.readyMs + outsideMs
    const totalMs = busyMs + this.blockedMs + this.idleMs
    const shares: TaskShares =
      totalMs <= 0
        ? { ...IDLE, running: 0, operators: Array.from(this.timed, () => IDLE) }
        : {
            ...sharesOf(busyMs / totalMs, this.blockedMs / totalMs),
            running: this.runningMs / totalMs,
            operators: this.sharesOfOperators(totalMs),
          }
    this.runningMs = 0
    this.readyMs = 0
    this.blockedMs = 0
    this.idleMs = 0
    this.outside.fill(0)
    for (let i = 0; i < this.timed.length; i++) this.timed[i]! *= MEMORY
    return shares
  }

  /** An operator is back-pressured, too, while a later one of its chain waits for the world outside. */
  private sharesOfOperators(totalMs: number): TimeShares[] {
    const timedMs = this.timed.reduce((sum, ms) => sum + ms, 0)
    const inChainMs = this.runningMs + this.readyMs
    let laterMs = this.outside.reduce((sum, ms) => sum + ms, 0)
    return Array.from(this.timed, (ms, i) => {
      // Without a timed run the head has all of it: there was next to nothing then.
      const part = timedMs > 0 ? ms / timedMs : i === 0 ? 1 : 0
      laterMs -= this.outside[i]!
      const busyMs = inChainMs * part + this.outside[i]!
      return sharesOf(busyMs / totalMs, (this.blockedMs + laterMs) / totalMs)
    })
  }
}

const IDLE: TimeShares = { busy: 0, backPressured: 0, idle: 1 }

function sharesOf(busy: number, backPressured: number): TimeShares {
  return { busy, backPressured, idle: Math.max(0, 1 - busy - backPressured) }
}
