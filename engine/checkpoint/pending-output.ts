/**
 * The output of a job that its sinks do not show yet, and when there is so much that sources have to wait.
 *
 * It is in the outboxes of workers until a manifest names it, and then until it is applied. A sink may stand still for
 * hours, as when its database is away: then epochs wait, no checkpoint follows, and the outboxes grow. Called by the job
 * master, which stops all sources once this is full. Barriers pass a source that waits, so the checkpoint that makes
 * room again does too.
 *
 * Invariant: on disk there is at most `bytesMax`, the quarter of it that workers have not reported yet, and what the
 * rows that were under way become.
 */
import type { JsonValue } from '../core/json-value.ts'
import { isSegment } from './outbox.ts'

export class PendingOutput {
  private readonly bytesMax: number
  private readonly inWorkers = new Map<number, number>()
  private inEpochsBytes = 0

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax
  }

  /** What the outboxes of a worker hold. */
  report(worker: number, bytes: number): void {
    this.inWorkers.set(worker, bytes)
  }

  /** A manifest names it. */
  named(committables: readonly JsonValue[]): void {
    this.inEpochsBytes += bytesOf(committables)
  }

  /** The sink shows it. */
  applied(committables: readonly JsonValue[]): void {
    this.inEpochsBytes -= bytesOf(committables)
  }

  get isFull(): boolean {
    return this.inEpochsBytes + this.inWorkersBytes >= this.bytesMax
  }

  /** A checkpoint would have something to name. */
  get isCheckpointDue(): boolean {
    return this.inWorkersBytes > 0
  }

  private get inWorkersBytes(): number {
    let sum = 0
    for (const bytes of this.inWorkers.values()) sum += bytes
    return sum
  }
}

/** What a sink keeps elsewhere has no known size. */
function bytesOf(committables: readonly JsonValue[]): number {
  const segments = (committables as readonly unknown[]).filter(isSegment)
  return segments.reduce((sum, { bytes }) => sum + bytes, 0)
}
