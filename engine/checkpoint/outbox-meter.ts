/**
 * How much output one worker has gathered since its last cut, and when that is enough.
 *
 * Output becomes visible only with a checkpoint, so a job with many results and a long interval fills its disk and
 * makes its sinks' next commits long. When a worker's outboxes pass their share of the soft cap it asks for
 * a checkpoint, and again for each further share, should the first attempt have failed.
 *
 * Invariant: it asks once a share; cuts of subtasks of one attempt start the count anew.
 */

/** Bytes of output of a job that make a checkpoint due. */
export const OUTBOX_SOFT_CAP_BYTES = 256 << 20

export class OutboxMeter {
  private readonly shareBytes: number
  private readonly ask: () => void
  private bytes = 0
  private askAt: number

  constructor(workers: number, ask: () => void, softCapBytes: number = OUTBOX_SOFT_CAP_BYTES) {
    this.shareBytes = softCapBytes / workers
    this.askAt = this.shareBytes
    this.ask = ask
  }

  add(bytes: number): void {
    this.bytes += bytes
    if (this.bytes < this.askAt) return
    this.askAt = this.bytes + this.shareBytes
    this.ask()
  }

  /** A subtask cut its output. */
  cut(): void {
    this.bytes = 0
    this.askAt = this.shareBytes
  }
}
