/**
 * How fast a subtask takes rows, and from that how many may wait in front of it.
 *
 * Aligned barriers wait behind what is queued, so queues are bounded by time as well as by memory: a subtask that is
 * slow lets fewer rows wait (the idea of Flink's buffer debloating, FLIP-183). Fast ones never meet this bound, because
 * their queues hold less than that anyway. Called by subtask.ts.
 *
 * Invariant: `rows` is at least 1, so a bound never stops the flow.
 */

/** What may wait in front of a subtask, all inputs together, takes it about this long. */
export const QUEUE_MS = 10
/** Rows that a queue of batches holds anyway: bounds above are none. */
const ROWS_UNBOUNDED = 16_384
export const NO_ROW_LIMIT = 0x7fff_ffff
/** The share of a new measurement that spans as much as `QUEUE_MS`; pauses of a moment do not make it look slow. */
const WEIGHT_MAX = 0.25

export class Pace {
  /** 0 until something was measured. */
  private msPerRow = 0
  private rows = 0
  private ms = 0

  /** So many rows took so long, waiting for the processor and for room downstream included. */
  add(rows: number, ms: number): void {
    this.rows += rows
    this.ms += ms
    if (this.ms < QUEUE_MS / 2) return
    const measured = this.ms / Math.max(1, this.rows)
    const weight = Math.min(WEIGHT_MAX, (this.ms / QUEUE_MS) * WEIGHT_MAX)
    this.msPerRow = this.msPerRow === 0 ? measured : this.msPerRow + weight * (measured - this.msPerRow)
    this.rows = 0
    this.ms = 0
  }

  /** Rows that take `ms` milliseconds; `NO_ROW_LIMIT` when these are more than queues hold. */
  rowsIn(ms: number): number {
    const rows = ms / this.msPerRow
    return rows < ROWS_UNBOUNDED ? Math.max(1, Math.floor(rows)) : NO_ROW_LIMIT
  }
}
