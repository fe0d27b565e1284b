/**
 * Puts the acks of all workers together into the manifest of a completed checkpoint. Pure.
 */
import type { CheckpointKind } from '../checkpoint/coordinator.ts'
import type { Manifest, ManifestSink, PendingCommit } from '../checkpoint/manifest.ts'
import type { JobGraph } from '../contract/job-graph.ts'
import type { JsonValue } from '../core/json-value.ts'
import type { ExecutionPlan } from './planner.ts'
import type { OperatorCapture, WorkerAck } from './protocol.ts'

export interface ManifestParts {
  readonly last: Manifest
  readonly owner: string
  readonly kind: CheckpointKind
  readonly attempt: number
  readonly nowMs: number
  readonly jobName: string
  readonly stateBackend: string
  readonly workers: number
  readonly graph: JobGraph
  readonly plan: ExecutionPlan
  readonly operatorIds: Readonly<Record<string, number>>
  readonly acks: readonly WorkerAck[]
  /** Output of earlier epochs that is not known to be applied. */
  readonly pending: readonly PendingCommit[]
  readonly sinks: readonly ManifestSink[]
}

/** This epoch's output by sink; sinks without any are left out. */
function groupCommittables(acks: readonly WorkerAck[], epoch: number): PendingCommit[] {
  const bySink = new Map<string, JsonValue[]>()
  for (const { sink, committable } of acks.flatMap((ack) => ack.committables)) {
    const group = bySink.get(sink)
    if (group === undefined) bySink.set(sink, [committable])
    else group.push(committable)
  }
  return [...bySink].map(([sink, committables]) => ({ epoch, sink, committables }))
}

export function buildManifest(parts: ManifestParts): { manifest: Manifest; commits: PendingCommit[] } {
  const { last, acks, graph, plan, operatorIds } = parts
  const epoch = last.epoch + 1
  const commits = groupCommittables(acks, epoch)
  const captures = acks.flatMap((ack) => ack.captures)
  const byUid = new Map<string, { subtask: number; capture: OperatorCapture }[]>()
  for (const { subtask, operators } of captures) {
    for (const capture of operators) {
      const list = byUid.get(capture.uid) ?? []
      list.push({ subtask, capture })
      byUid.set(capture.uid, list)
    }
  }
  const operators = graph.nodes
    .filter((node) => node.role !== 'source')
    .map((node) => {
      const parts = (byUid.get(node.uid) ?? []).sort((a, b) => a.subtask - b.subtask)
      return {
        uid: node.uid,
        name: node.name,
        operatorId: operatorIds[node.uid]!,
        parallelism: parts.length,
        isKeyed: node.role === 'operator' && node.isKeyed,
        states: parts.map((part) => part.capture.state),
        tables: parts[0]?.capture.tables ?? [],
      }
    })
  const sources = plan.vertices
    .filter((vertex) => vertex.nodes[0]!.role === 'source')
    .map((vertex) => ({
      uid: vertex.uid,
      splits: captures.filter((capture) => capture.vertex === vertex.id).flatMap((capture) => capture.splits ?? []),
    }))
  const manifest: Manifest = {
    format: last.format,
    kind: parts.kind,
    owner: parts.owner,
    number: last.number + 1,
    parent: last.number,
    generation: last.generation,
    epoch,
    attempt: parts.attempt,
    createdAtMs: parts.nowMs,
    jobName: parts.jobName,
    keyGroups: last.keyGroups,
    workers: parts.workers,
    stateBackend: parts.stateBackend,
    operators,
    sources,
    stores: acks.flatMap((ack) => (ack.store === null ? [] : [ack.store])),
    sinks: parts.sinks,
    pending: [...parts.pending, ...commits],
  }
  return { manifest, commits }
}
