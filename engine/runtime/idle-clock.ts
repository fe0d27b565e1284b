/**
 * The time that counts as silence of an input: a clock that stands still while nobody could have heard anything.
 *
 * Used by source-driver.ts for splits and by subtask.ts for assigners in the midst of a stream. An input that had no
 * chance to speak, because the subtask was blocked by those behind it, waited for its alignment group or was busy for
 * long, must not count as idle: its records would be late (Flink's FLIP-471).
 */

/** What a subtask does: it asked for input and there is none, it works on input, or it cannot take any. */
export type ListeningState = 'listening' | 'working' | 'blocked'

/** A call that takes longer than this held up the thread, and with it whoever wanted to bring records. */
const STALL_MS = 100

export class IdleClock {
  /** Stands still while the subtask is blocked or stalls. */
  runningMs = 0
  /** Runs only while the subtask has asked and there is nothing. */
  listeningMs = 0
  private state: ListeningState = 'working'
  private lastMs: number

  constructor(nowMs: number) {
    this.lastMs = nowMs
  }

  /** From `nowMs` on, monotonic milliseconds, the subtask is in `state`. */
  enter(state: ListeningState, nowMs: number): void {
    const elapsedMs = nowMs - this.lastMs
    this.lastMs = nowMs
    if (this.state === 'listening') {
      this.listeningMs += elapsedMs
      this.runningMs += elapsedMs
    } else if (this.state === 'working') this.runningMs += Math.min(elapsedMs, STALL_MS)
    this.state = state
  }
}
