/**
 * Gathers what workers, coordinator and commits report into one `JobStatus`.
 */
import type { AccumulatorValue } from '../core/accumulators.ts'
import type { ExecutionPlan } from './planner.ts'
import type { WorkerAck } from './protocol.ts'
import type {
  CheckpointStatus,
  EdgeStatus,
  ExceptionStatus,
  SplitWatermark,
  SubtaskStatus,
  VertexStatus,
} from './status.ts'

const CHECKPOINTS_KEPT = 100
const EXCEPTIONS_KEPT = 50
const RUN_ENDED = 'The job restarted or ended before it was complete.'

export interface JobCounts {
  readonly recordsIn: number
  readonly recordsOut: number
  readonly late: number
  readonly deadLettered: number
}

/** The changing part of a job's status; the job master owns one. */
export class StatusBoard {
  vertices: readonly VertexStatus[] = []
  edges: readonly EdgeStatus[] = []
  checkpoints: CheckpointStatus[] = []
  exceptions: ExceptionStatus[] = []
  completed = 0
  failed = 0
  private subtasksByWorker = new Map<number, readonly SubtaskStatus[]>()
  private splitsByWorker = new Map<number, readonly SplitWatermark[]>()

  /** A new run: what the old one's workers said no longer holds. */
  begin(plan: ExecutionPlan): void {
    this.subtasksByWorker = new Map()
    this.splitsByWorker = new Map()
    this.vertices = plan.vertices.map(({ id, uid, name, parallelism, nodes, role }) => ({
      id,
      uid,
      name,
      parallelism,
      operators: nodes.map((node) => node.name),
      description: nodes
        .map((node) => node.description)
        .filter((text) => text !== undefined)
        .join('\n'),
      role,
    }))
    this.edges = plan.edges.map(({ from, to, partitioning }) => ({ from, to, partitioning }))
  }

  report(worker: number, subtasks: readonly SubtaskStatus[], splits: readonly SplitWatermark[]): void {
    this.subtasksByWorker.set(worker, subtasks)
    this.splitsByWorker.set(worker, splits)
  }

  get subtasks(): SubtaskStatus[] {
    return [...this.subtasksByWorker.values()].flat().sort((a, b) => a.vertex - b.vertex || a.subtask - b.subtask)
  }

  get splits(): SplitWatermark[] {
    return [...this.splitsByWorker.values()].flat()
  }

  /** Local values of accumulators by name, of all subtasks. */
  get accumulators(): Map<string, AccumulatorValue[]> {
    const byName = new Map<string, AccumulatorValue[]>()
    for (const { accumulators } of this.subtasks) {
      for (const [name, value] of accumulators) byName.set(name, [...(byName.get(name) ?? []), value])
    }
    return byName
  }

  checkpointStarted(id: number, kind: CheckpointStatus['kind'], triggeredAtMs: number): void {
    this.checkpoints.push({
      id,
      kind,
      status: 'in-progress',
      epoch: null,
      manifest: null,
      triggeredAtMs,
      durationMs: null,
      alignmentMsMax: null,
      alignmentAt: null,
      barrierMsMax: null,
      syncMsMax: null,
      asyncMsMax: null,
      commitMs: null,
      stateBytes: null,
      newBytes: null,
      failure: null,
    })
    if (this.checkpoints.length > CHECKPOINTS_KEPT) this.checkpoints.shift()
  }

  checkpointEnded(id: number, change: Partial<CheckpointStatus>): void {
    if (change.status === 'completed') this.completed++
    if (change.status === 'failed') this.failed++
    this.checkpoints = this.checkpoints.map((entry) => (entry.id === id ? { ...entry, ...change } : entry))
  }

  /** No worker runs any more: nothing is busy, and what was under way will never be complete. */
  runEnded(): void {
    const atRest = { busy: 0, backPressured: 0, idle: 1 }
    for (const [worker, subtasks] of this.subtasksByWorker) {
      const resting = subtasks.map((subtask) => ({
        ...subtask,
        ...atRest,
        running: 0,
        operators: subtask.operators.map((operator) => ({ ...operator, ...atRest })),
      }))
      this.subtasksByWorker.set(worker, resting)
    }
    for (const { id, status } of this.checkpoints) {
      if (status === 'in-progress') this.checkpointEnded(id, { status: 'failed', failure: RUN_ENDED })
    }
  }

  exception(exception: ExceptionStatus): void {
    this.exceptions.push(exception)
    if (this.exceptions.length > EXCEPTIONS_KEPT) this.exceptions.shift()
  }

  /** Sums over the subtasks: input at sources, output at sinks. */
  counts(): JobCounts {
    const roles = new Map(this.vertices.map((vertex) => [vertex.id, vertex]))
    const sinks = new Set(this.vertices.filter((v) => !this.edges.some((e) => e.from === v.id)).map((v) => v.id))
    let recordsIn = 0
    let recordsOut = 0
    let late = 0
    let deadLettered = 0
    for (const subtask of this.subtasks) {
      if (roles.get(subtask.vertex)?.role === 'source') recordsIn += subtask.recordsIn
      if (sinks.has(subtask.vertex)) recordsOut += subtask.recordsOut
      late += subtask.lateDropped
      deadLettered += subtask.deadLettered
    }
    return { recordsIn, recordsOut, late, deadLettered }
  }
}

/** Where a checkpoint's time went, and what it wrote. */
export function checkpointParts(acks: readonly WorkerAck[]) {
  const captures = acks.flatMap((ack) => ack.captures)
  const max = (values: readonly number[]): number => values.reduce((most, value) => Math.max(most, value), 0)
  const alignmentMsMax = max(captures.map((capture) => capture.alignmentMs))
  const slowest = captures.find((capture) => capture.alignmentMs === alignmentMsMax && alignmentMsMax > 0)
  return {
    alignmentMsMax,
    alignmentAt: slowest === undefined ? null : { vertex: slowest.vertex, subtask: slowest.subtask },
    barrierMsMax: max(acks.map((ack) => ack.barrierMs)),
    syncMsMax: max(captures.map((capture) => capture.syncMs)),
    asyncMsMax: max(acks.map((ack) => ack.asyncMs)),
    newBytes: acks.reduce((sum, ack) => sum + ack.newBytes, 0),
  }
}
