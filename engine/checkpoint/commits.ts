/**
 * Applies committed epochs to exactly-once sinks, in order, one sink after the other's own queue.
 *
 * Called by the job master: at recovery for what the manifest lists as pending, and after each manifest.
 *
 * Invariants:
 * - A sink's epochs are applied in ascending order; its marker equals what the manifest expects before
 *   each apply (I3). A marker ahead of every known epoch means that output exists which this checkpoint
 *   would make again: refused unless duplicates are accepted.
 * - A commit ends only when its outcome is known; errors are retried, then fail the job (`COMMIT_FAILED`), which
 *   recovers and applies again. Only prepared output that is gone or damaged (`OUTPUT_LOST`) is final: a full disk
 *   is emptied, a database comes up, a table is mended, but nobody makes those bytes again.
 */

import type { SinkCommitter } from '../contract/sink.ts'
import { MillraceError, messageOf } from '../core/errors.ts'
import type { Io } from '../core/io.ts'
import type { JsonValue } from '../core/json-value.ts'
import type { PendingCommit } from './manifest.ts'

const RETRY_DELAYS_MS = [50, 200, 1_000, 3_000]

interface CommitterEntry {
  readonly id: string
  readonly kind: string
  readonly committer: SinkCommitter
  /** Last epoch known to be applied. */
  marker: number
}

/** Compares one sink's marker with a manifest; see `verifyMarkers`. */
export function verifyMarker(
  id: string,
  marker: number,
  sinks: readonly { readonly id: string; readonly marker: number }[],
  pending: readonly PendingCommit[],
): void {
  // A sink that the checkpoint does not know is new to it: nothing of this job may be in it yet.
  const expected = sinks.find((sink) => sink.id === id)?.marker ?? 0
  const epochs = pending.filter((commit) => commit.sink === id).map((commit) => commit.epoch)
  const newest = Math.max(expected, ...epochs)
  if (marker > newest) {
    throw new MillraceError(
      'SINK_AHEAD',
      `Sink ${id} already holds epoch ${marker}, but the checkpoint ends at epoch ${newest}.`,
      { hint: 'Restore a newer checkpoint, or start with --accept-duplicates to write those results again.' },
    )
  }
  if (marker < expected) {
    throw new MillraceError(
      'SINK_BEHIND',
      `Sink ${id} shows epoch ${marker}, but epoch ${expected} was applied to it.`,
      { hint: 'Its data was lost or replaced. Restore it, or start with --accept-duplicates to go on without.' },
    )
  }
}

export class CommitQueue {
  private readonly entries = new Map<string, CommitterEntry>()
  private readonly io: Io
  private readonly onApplied: (commit: PendingCommit) => Promise<void>
  private tail: Promise<void> = Promise.resolve()
  private waiting: PendingCommit[] = []

  /** `onApplied` runs after each applied commit, for example to delete its segments. */
  constructor(io: Io, onApplied: (commit: PendingCommit) => Promise<void>) {
    this.io = io
    this.onApplied = onApplied
  }

  /** Not known to be applied yet; what the next manifest has to list. */
  get pending(): readonly PendingCommit[] {
    return this.waiting
  }

  get markers(): { id: string; kind: string; marker: number }[] {
    return [...this.entries.values()].map(({ id, kind, marker }) => ({ id, kind, marker }))
  }

  /** Has this sink been added? */
  has(id: string): boolean {
    return this.entries.has(id)
  }

  /** Opens a sink's committer and reads its marker. */
  async add(id: string, kind: string, committer: SinkCommitter): Promise<void> {
    try {
      await committer.open()
      this.entries.set(id, { id, kind, committer, marker: await committer.readMarker() })
    } catch (error) {
      throw isLost(error) ? lostFor(`Sink ${id} cannot be opened`, error) : error
    }
  }

  /**
   * Compares markers with a manifest. `expected` is the marker before the pending epochs. Throws
   * `SINK_AHEAD` or `SINK_BEHIND`, naming sink and epochs.
   */
  verifyMarkers(
    expected: readonly { readonly id: string; readonly marker: number }[],
    pending: readonly PendingCommit[],
    acceptDuplicates: boolean,
  ): void {
    if (acceptDuplicates) return
    for (const entry of this.entries.values()) verifyMarker(entry.id, entry.marker, expected, pending)
  }

  /** Queues an epoch's output; the promise settles when it is applied, or with the error that fails the job. */
  enqueue(commit: PendingCommit): Promise<void> {
    this.waiting = [...this.waiting, commit]
    const applied = this.tail.then(() => this.apply(commit))
    this.tail = applied
    this.tail.catch(() => {})
    return applied
  }

  private async apply(commit: PendingCommit): Promise<void> {
    const entry = this.entries.get(commit.sink)
    if (entry === undefined) {
      throw new MillraceError(
        'SINK_MISSING',
        `The checkpoint has output for sink ${commit.sink}, which the job lacks.`,
        {
          hint: 'Keep the sink (with its uid) until its output is applied.',
        },
      )
    }
    this.io.failpoint?.('commit-begins')
    if (commit.epoch > entry.marker) {
      await this.commitWithRetries(entry, commit.epoch, commit.committables)
      entry.marker = commit.epoch
    }
    this.io.failpoint?.('commit-applied')
    await this.onApplied(commit)
    this.io.failpoint?.('segments-removed')
    this.waiting = this.waiting.filter((other) => other !== commit)
  }

  private async commitWithRetries(
    entry: CommitterEntry,
    epoch: number,
    committables: readonly JsonValue[],
  ): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      try {
        await entry.committer.commit(epoch, committables)
        return
      } catch (error) {
        // Another owner took the sink. Whether it has the job as well is for the restart to find out.
        if (error instanceof MillraceError && error.code === 'SINK_FENCED') throw error
        if (isLost(error)) {
          if (await this.isApplied(entry, epoch)) return
          throw lostFor(`Sink ${entry.id} cannot apply epoch ${epoch}`, error, epoch)
        }
        const isHopeless = error instanceof MillraceError && !error.retryable
        if (isHopeless || attempt >= RETRY_DELAYS_MS.length) throw failedFor(entry.id, epoch, error)
        await delay(this.io, RETRY_DELAYS_MS[attempt]!)
      }
    }
  }

  /**
   * Output goes when it has been applied: by an earlier try of which nothing was heard, or by another owner. When the
   * sink cannot say, that is the error, and another try may tell.
   */
  private async isApplied({ id, committer }: CommitterEntry, epoch: number): Promise<boolean> {
    try {
      return ((await committer.peekMarker?.()) ?? (await committer.readMarker())) >= epoch
    } catch (error) {
      throw failedFor(id, epoch, error)
    }
  }

  /** Waits for what is queued; rejects with the first error. */
  drained(): Promise<void> {
    return this.tail
  }

  async close(): Promise<void> {
    await this.tail.catch(() => {})
    const closing = [...this.entries.values()].map(({ committer }) => committer.close())
    this.entries.clear()
    await Promise.allSettled(closing)
  }
}

/** Ends the run; a restart tries again. */
function failedFor(id: string, epoch: number, cause: unknown): MillraceError {
  const retryable = !(cause instanceof MillraceError && !cause.retryable)
  const message = `Sink ${id} could not apply epoch ${epoch}: ${messageOf(cause)}`
  return new MillraceError('COMMIT_FAILED', message, { domain: 'external', retryable, cause })
}

function isLost(error: unknown): error is MillraceError {
  return error instanceof MillraceError && error.code === 'OUTPUT_LOST'
}

/** Ends the job. What the sink advises is in the cause's message already. */
function lostFor(what: string, cause: MillraceError, epoch?: number): MillraceError {
  const advice = `Bring the file back as it was and start again; or start from a checkpoint before epoch ${epoch} with --restore PATH (\`millrace checkpoints list DIR\`), and its results are made again.`
  const hint = cause.hint === undefined && epoch !== undefined ? { hint: advice } : {}
  return new MillraceError('OUTPUT_LOST', `${what}: ${cause.message}`, { domain: 'external', ...hint, cause })
}

function delay(io: Io, ms: number): Promise<void> {
  return new Promise((resolve) => {
    io.timers.schedule(ms, resolve)
  })
}
