/**
 * Brings a job's exactly-once sinks to where its manifest says they are, at every start of a run.
 *
 * Called by the job master before any worker runs. Invariant: when it resolves, each marker has been
 * compared with the manifest and every pending epoch is applied.
 */
import { CommitQueue } from '../checkpoint/commits.ts'
import { DEAD_LETTER_SINK, deadLetterCommitter } from '../checkpoint/dead-letters.ts'
import type { Manifest, PendingCommit } from '../checkpoint/manifest.ts'
import { isAnySegmentGone, readOutbox, segmentsOf } from '../checkpoint/outbox.ts'
import type { JobGraph } from '../contract/job-graph.ts'
import type { OutboxSegment, SinkCommitterContext } from '../contract/sink.ts'
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

/** Opens every committer, checks the markers and applies what is pending. Throws what commits.ts names. */
export async function recoverSinks(recovery: SinkRecovery): Promise<CommitQueue> {
  const { io, graph, jobName, directory, manifest } = recovery
  const commits = new CommitQueue(io, (commit) => removeOutbox(io.disk, directory, commit))
  const context = (sinkId: string): SinkCommitterContext => ({
    sinkId,
    jobName,
    io,
    readOutbox: (segment: OutboxSegment) => readOutbox(io.disk, directory, segment),
  })
  const opening: Promise<void>[] = []
  for (const node of graph.nodes) {
    if (node.role !== 'sink' || node.sink.createCommitter === undefined) continue
    opening.push(commits.add(node.uid, node.sink.kind, node.sink.createCommitter(context(node.uid))))
  }
  const letters = deadLetterCommitter(context(DEAD_LETTER_SINK), directory)
  opening.push(commits.add(DEAD_LETTER_SINK, DEAD_LETTER_SINK, letters))
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
