/**
 * How much output one worker holds for which no manifest exists yet.
 *
 * Output becomes visible only with a checkpoint, so a job with many results and a long interval, or whose checkpoints
 * fail, fills its disk and makes its sinks' next commits long. The worker reports in steps, and the job master adds up
 * what all of them hold (pending-output.ts).
 *
 * Invariants: it reports each further step at once; bytes count until the attempt that cut them, or a later one,
 * completes, because output of an attempt that was given up joins the next one. What subtasks append between their own
 * cut and the worker's last one is forgotten with the attempt: little, and never kept for good.
 */

/** Output of a job, in bytes, that makes a checkpoint due: this part of the most that may wait. */
const DUE_SHARE = 1 / 4

export class OutboxMeter {
  private readonly stepBytes: number
  private readonly report: (bytes: number) => void
  private bytes = 0
  private reported = 0
  /** Bytes that were there at the cut of an attempt. */
  private cuts: { readonly attempt: number; bytes: number }[] = []

  /** `bytesMax` is the most that the whole job may hold; one step is a worker's part of what makes a checkpoint due. */
  constructor(workers: number, bytesMax: number, report: (bytes: number) => void) {
    this.stepBytes = (bytesMax * DUE_SHARE) / workers
    this.report = report
  }

  add(bytes: number): void {
    this.bytes += bytes
    if (this.bytes >= this.reported + this.stepBytes) this.tell()
  }

  /** A subtask cut its output for `attempt`. */
  cut(attempt: number): void {
    const last = this.cuts.at(-1)
    if (last?.attempt === attempt) last.bytes = this.bytes
    else this.cuts.push({ attempt, bytes: this.bytes })
  }

  /** The manifest of `attempt` exists. */
  completed(attempt: number): void {
    const done = this.cuts.findLast((cut) => cut.attempt <= attempt)?.bytes ?? 0
    this.bytes -= done
    this.cuts = this.cuts
      .filter((cut) => cut.attempt > attempt)
      .map((cut) => ({ attempt: cut.attempt, bytes: cut.bytes - done }))
    if (this.reported > 0) this.tell()
  }

  private tell(): void {
    this.reported = this.bytes - (this.bytes % this.stepBytes)
    this.report(this.reported)
  }
}
