/**
 * The one queue of a simulation: every deferred turn, message, timer and disk completion waits here, and
 * the seed picks which ready one runs next and how far time moves.
 *
 * Used by sim-disk.ts, sim-store.ts, sim-external.ts and sim-process.ts. Between two steps all promise
 * reactions run to their end, so a step is atomic and the same seed gives the same trace.
 *
 * Invariants:
 * - Items of one lane run in the order in which they were posted; others in any order.
 * - Nothing of a dead scope runs, and nothing of a paused one until it goes on.
 * - Time never goes back.
 */
import type { Clock, Timers } from '../../core/io.ts'
import type { SeededRandom } from './seeded-random.ts'

/** Simulated time starts here, so that event times near it are plausible. Milliseconds since 1970. */
export const SIM_START_MS = 1_700_000_000_000

/** What dies together: a process, or a worker thread within one. */
export class Scope {
  readonly label: string
  private readonly parent: Scope | null
  private killed = false
  private paused = false

  constructor(label: string, parent: Scope | null) {
    this.label = label
    this.parent = parent
  }

  get alive(): boolean {
    return !this.killed && (this.parent === null || this.parent.alive)
  }

  kill(): void {
    this.killed = true
  }

  get isPaused(): boolean {
    return this.paused || (this.parent?.isPaused ?? false)
  }

  /** As SIGSTOP does: everything of the scope waits until `resume`. */
  pause(): void {
    this.paused = true
  }

  resume(): void {
    this.paused = false
  }
}

interface Item {
  readonly scope: Scope
  readonly label: string
  readonly readyAtMs: number
  readonly lane: string | null
  readonly task: () => void
  cancelled: boolean
}

export interface PostOptions {
  readonly delayMs?: number
  /** Items of a lane keep their order. */
  readonly lane?: string
}

export class SimScheduler {
  steps = 0
  /** Called with each step's label, for `--trace`. */
  onStep: ((label: string, timeMs: number) => void) | null = null
  private items: Item[] = []
  private time = SIM_START_MS
  /** What the wall clock shows more than it should. */
  private wallOffsetMs = 0
  private digest = 0x811c9dc5
  private readonly random: SeededRandom

  constructor(random: SeededRandom) {
    this.random = random
  }

  /** Simulated milliseconds since 1970. */
  get nowMs(): number {
    return this.time
  }

  /** Simulated milliseconds since the start, whatever the wall clock shows. */
  get monotonicMs(): number {
    return this.time - SIM_START_MS
  }

  /** Hash over every step's label and time so far. */
  get traceHash(): string {
    return (this.digest >>> 0).toString(16).padStart(8, '0')
  }

  post(scope: Scope, label: string, task: () => void, options: PostOptions = {}): () => void {
    const item: Item = {
      scope,
      label,
      readyAtMs: this.time + (options.delayMs ?? 0),
      lane: options.lane ?? null,
      task,
      cancelled: false,
    }
    this.items.push(item)
    return () => {
      item.cancelled = true
    }
  }

  /** Sets the wall clock forward or back, as an operator or a time server may; the monotonic clock goes on. */
  jumpWallClock(byMs: number): void {
    this.wallOffsetMs += byMs
  }

  /** Runs one item and everything that follows from it at once; false when nothing waits that may run. */
  async step(): Promise<boolean> {
    let item = this.choose()
    if (item === null) {
      // What was begun since the last step may not have got as far as waiting for anything.
      await quiescence()
      item = this.choose()
    }
    if (item === null) return false
    this.steps++
    this.record(item.label)
    item.task()
    await quiescence()
    return true
  }

  /** Adds something that happened to the trace. */
  record(label: string): void {
    this.onStep?.(label, this.time - SIM_START_MS)
    let digest = this.digest
    for (let i = 0; i < label.length; i++) digest = Math.imul(digest ^ label.charCodeAt(i), 0x01000193)
    this.digest = Math.imul(digest ^ Math.floor((this.time - SIM_START_MS) * 1_000), 0x01000193)
  }

  private choose(): Item | null {
    this.items = this.items.filter((item) => !item.cancelled && item.scope.alive)
    if (this.items.length === 0) return null
    this.time += this.random.chance(0.05) ? this.random.next() * 8 : this.random.next() * 0.2
    const heads = this.heads()
    if (heads.length === 0) return null
    let ready = heads.filter((item) => item.readyAtMs <= this.time)
    if (ready.length === 0) {
      this.time = heads.reduce((min, item) => Math.min(min, item.readyAtMs), Number.POSITIVE_INFINITY)
      ready = heads.filter((item) => item.readyAtMs <= this.time)
    }
    const chosen = this.random.pick(ready)
    this.items.splice(this.items.indexOf(chosen), 1)
    return chosen
  }

  /** What may run as far as order goes. */
  private heads(): Item[] {
    const lanes = new Set<string>()
    return this.items.filter((item) => {
      if (item.scope.isPaused) return false
      if (item.lane === null) return true
      if (lanes.has(item.lane)) return false
      lanes.add(item.lane)
      return true
    })
  }

  /** Reading the monotonic clock takes a little time: turns end by their budget. */
  get clock(): Clock {
    return {
      nowMs: () => this.time + this.wallOffsetMs,
      monotonicMs: () => {
        this.time += 0.01 + this.random.next() * 0.1
        return this.time - SIM_START_MS
      },
    }
  }

  timers(scope: Scope): Timers {
    return {
      schedule: (delayMs, task) => this.post(scope, `timer ${scope.label}`, task, { delayMs }),
    }
  }
}

/** Resolves when no promise reaction is left to run. */
function quiescence(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve)
  })
}
