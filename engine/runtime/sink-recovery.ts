/**
 * Brings a job's exactly-once sinks to where its manifest says they are, at every start of a run.
 *
 * Called by the job master before any worker runs. Invariant: when it resolves, each marker has been
 * compared with the manifest and every pending epoch is applied.
 */
import { CommitQueue, verifyMarker } from '../checkpoint/commits.ts'
import { DEAD_LETTER_SINK, deadLetterCommitter } from '../checkpoint/dead-letters.ts'
import type { Manifest, PendingCommit } from '../checkpoint/manifest.ts'
import { listManifests } from '../checkpoint/manifest-store.ts'
import { isAnySegmentGone, readOutbox, segmentsOf } from '../checkpoint/outbox.ts'
import type { JobGraph } from '../contract/job-graph.ts'
import type { OutboxSegment, SinkCommitter, SinkCommitterContext } from '../contract/sink.ts'
import { MillraceError } from '../core/errors.ts'
import type { Disk, Io } from '../core/io.ts'

export interface SinkRecovery {
  readonly io: Io
  readonly graph: JobGraph
  readonly jobName: string
  /** The checkpoint directory. */
  readonly directory: string
  readonly manifest: Manifest
  readonly acceptDuplicates: boolean
}

/** What it takes to make a job's committers. */
export type SinkPlace = Pick<SinkRecovery, 'io' | 'graph' | 'jobName' | 'directory'>

export interface PeekedSink {
  readonly id: string
  /** Last applied epoch; null when the sink does not say without being opened. */
  readonly marker: number | null
  /** Why it does not fit, or cannot say; null when nothing is wrong. */
  readonly error: unknown
}

/**
 * Compares each sink's marker with `manifest`. Nothing is opened or fenced: this is asked before a job is taken over.
 * Dead letters are left out where `manifest` is of another directory than the job's: theirs begin anew.
 */
export async function* peekSinks(place: SinkPlace, base: RestorePlace): AsyncGenerator<PeekedSink> {
  const { sinks, pending } = base.manifest
  for (const { id, create } of committersOf(place)) {
    if (id === DEAD_LETTER_SINK && base.directory !== place.directory) continue
    const committer = create()
    let marker: number | null = null
    let error: unknown = null
    try {
      marker = (await committer.peekMarker?.()) ?? null
      if (marker !== null) verifyMarker(id, marker, sinks, pending)
    } catch (caught) {
      error = caught
    } finally {
      await committer.close().catch(() => {})
    }
    yield { id, marker, error }
  }
}

interface RestorePlace {
  readonly manifest: Manifest
  readonly directory: string
}

interface NamedCommitter {
  readonly id: string
  readonly kind: string
  readonly create: () => SinkCommitter
}

/** Of the job's exactly-once sinks and of its dead letters. */
function committersOf({ io, graph, jobName, directory }: SinkPlace): NamedCommitter[] {
  const context = (sinkId: string): SinkCommitterContext => ({
    sinkId,
    jobName,
    io,
    readOutbox: (segment: OutboxSegment) => readOutbox(io.disk, directory, segment),
  })
  const committers = graph.nodes.flatMap((node): NamedCommitter[] => {
    if (node.role !== 'sink' || node.sink.createCommitter === undefined) return []
    const { uid: id, sink } = node
    return [{ id, kind: sink.kind, create: () => sink.createCommitter!(context(id)) }]
  })
  const letters = (): SinkCommitter => deadLetterCommitter(context(DEAD_LETTER_SINK), directory)
  return [...committers, { id: DEAD_LETTER_SINK, kind: DEAD_LETTER_SINK, create: letters }]
}

/** So often sinks are opened that another process opens in between. */
const OPENINGS_MAX = 5

/** Opens every committer, checks the markers and applies what is pending. Throws what commits.ts names. */
export async function recoverSinks(recovery: SinkRecovery): Promise<CommitQueue> {
  for (let opening = 1; ; opening++) {
    try {
      return await openSinks(recovery)
    } catch (error) {
      // What a process that was taken over sent before may come late, and fence whoever has the job.
      const isFenced = error instanceof MillraceError && error.code === 'SINK_FENCED'
      if (!isFenced || opening === OPENINGS_MAX || !(await hasJob(recovery))) throw error
    }
  }
}

/** Is the manifest still the newest, because nobody took the job over since? */
async function hasJob({ io, directory, manifest }: SinkRecovery): Promise<boolean> {
  return (await listManifests(io.disk, directory)).last === manifest.number
}

async function openSinks(recovery: SinkRecovery): Promise<CommitQueue> {
  const { io, directory, manifest } = recovery
  const commits = new CommitQueue(io, (commit) => removeOutbox(io.disk, directory, commit))
  const opening = committersOf(recovery).map(({ id, kind, create }) => commits.add(id, kind, create()))
  try {
    await Promise.all(opening)
    commits.verifyMarkers(manifest.sinks, manifest.pending, recovery.acceptDuplicates)
    io.failpoint?.('sinks-fenced')
    for (const commit of manifest.pending) {
      // A sink that the job lacks by now has no marker to ask.
      if (!commits.has(commit.sink) && (await isAnySegmentGone(io.disk, directory, commit))) continue
      commits.enqueue(commit).catch(() => {})
    }
    await commits.drained()
    io.failpoint?.('pending-applied')
  } catch (error) {
    await Promise.allSettled(opening)
    await commits.close()
    throw error
  }
  return commits
}

async function removeOutbox(disk: Disk, directory: string, commit: PendingCommit): Promise<void> {
  for (const file of segmentsOf(commit)) await disk.remove(`${directory}/${file}`)
}
