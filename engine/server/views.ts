/**
 * Pure functions from a `JobStatus` to what the REST routes, the metrics and the page show.
 *
 * Called by routes.ts, events.ts and metrics.ts. Invariants: nothing here changes a status; stack
 * traces leave only through `exceptionsView`.
 */
import type { JobStatus, SplitWatermark, SubtaskStatus } from '../runtime/status.ts'

export interface JobTotals {
  /** Records read by the sources. */
  readonly recordsIn: number
  /** Records written by the sinks; without sink tasks, records that leave the last tasks of the graph. */
  readonly recordsOut: number
  readonly late: number
  readonly filtered: number
  readonly deadLettered: number
  readonly stateBytes: number
}

/** The split that keeps the job's event time from moving on. */
export interface HeldBackBy {
  readonly vertex: number
  readonly vertexName: string
  readonly subtask: number
  readonly split: string
  /** Null when the split has not given a watermark yet, which holds back everything. */
  readonly watermarkMs: number | null
  /** How far the furthest active split is ahead, event-time milliseconds; null while not known. */
  readonly behindMs: number | null
}

function sum(subtasks: readonly SubtaskStatus[], value: (subtask: SubtaskStatus) => number): number {
  let total = 0
  for (const subtask of subtasks) total += value(subtask)
  return total
}

/** Ids of the vertices that send to no other. */
function terminalVertices(status: JobStatus): Set<number> {
  const terminal = new Set(status.vertices.map((vertex) => vertex.id))
  for (const edge of status.edges) terminal.delete(edge.from)
  return terminal
}

function verticesOfRole(status: JobStatus, role: 'source' | 'sink'): Set<number> {
  return new Set(status.vertices.filter((vertex) => vertex.role === role).map((vertex) => vertex.id))
}

export function jobTotals(status: JobStatus): JobTotals {
  const sources = verticesOfRole(status, 'source')
  const sinks = verticesOfRole(status, 'sink')
  const last = sinks.size > 0 ? sinks : terminalVertices(status)
  const ofSources = status.subtasks.filter((subtask) => sources.has(subtask.vertex))
  const ofLast = status.subtasks.filter((subtask) => last.has(subtask.vertex))
  return {
    recordsIn: sum(ofSources, (subtask) => subtask.recordsIn),
    recordsOut: sum(ofLast, (subtask) => subtask.recordsOut),
    late: sum(status.subtasks, (subtask) => subtask.lateDropped),
    filtered: sum(status.subtasks, (subtask) => subtask.filtered),
    deadLettered: sum(status.subtasks, (subtask) => subtask.deadLettered),
    stateBytes: sum(status.subtasks, (subtask) => subtask.stateBytes),
  }
}

/**
 * The event time that the end of the graph has reached: the minimum over the running subtasks of its
 * last vertices. Null while one of them has no watermark, and after the end of input.
 */
export function jobWatermarkMs(status: JobStatus): number | null {
  const terminal = terminalVertices(status)
  let lowestMs: number | null = null
  for (const subtask of status.subtasks) {
    if (subtask.ended || !terminal.has(subtask.vertex)) continue
    if (!isTime(subtask.watermarkMs)) return null
    lowestMs = lowestMs === null ? subtask.watermarkMs : Math.min(lowestMs, subtask.watermarkMs)
  }
  return lowestMs
}

/** Lowest watermark of one vertex's running subtasks, or null. */
export function vertexWatermarkMs(status: JobStatus, vertex: number): number | null {
  let lowestMs: number | null = null
  for (const subtask of status.subtasks) {
    if (subtask.vertex !== vertex || subtask.ended) continue
    if (!isTime(subtask.watermarkMs)) return null
    lowestMs = lowestMs === null ? subtask.watermarkMs : Math.min(lowestMs, subtask.watermarkMs)
  }
  return lowestMs
}

function isTime(watermarkMs: number | null): watermarkMs is number {
  return watermarkMs !== null && Number.isFinite(watermarkMs)
}

/** Splits that count for the watermark: not idle, of a running subtask, not at their end. */
function activeSplits(status: JobStatus): readonly SplitWatermark[] {
  const ended = new Set(status.subtasks.filter((subtask) => subtask.ended).map((subtask) => subtaskKey(subtask)))
  return status.splitWatermarks.filter(
    (split) => !split.idle && split.watermarkMs !== Number.POSITIVE_INFINITY && !ended.has(subtaskKey(split)),
  )
}

function subtaskKey(of: { readonly vertex: number; readonly subtask: number }): string {
  return `${of.vertex}/${of.subtask}`
}

/** Names the active split with the lowest watermark; null when none is active. */
export function heldBackBy(status: JobStatus): HeldBackBy | null {
  let lowest: SplitWatermark | null = null
  let highestMs: number | null = null
  for (const split of activeSplits(status)) {
    const atMs = isTime(split.watermarkMs) ? split.watermarkMs : Number.NEGATIVE_INFINITY
    const lowestMs = lowest !== null && isTime(lowest.watermarkMs) ? lowest.watermarkMs : Number.NEGATIVE_INFINITY
    if (lowest === null || atMs < lowestMs) lowest = split
    if (Number.isFinite(atMs) && (highestMs === null || atMs > highestMs)) highestMs = atMs
  }
  if (lowest === null) return null
  const { vertex, subtask, split } = lowest
  const watermarkMs = isTime(lowest.watermarkMs) ? lowest.watermarkMs : null
  return {
    vertex,
    vertexName: vertexName(status, vertex),
    subtask,
    split,
    watermarkMs,
    behindMs: watermarkMs === null || highestMs === null ? null : highestMs - watermarkMs,
  }
}

export function vertexName(status: JobStatus, id: number): string {
  return status.vertices.find((vertex) => vertex.id === id)?.name ?? `vertex ${id}`
}

/** `GET /api/jobs`: one line a job. */
export function jobSummary(status: JobStatus) {
  return {
    id: status.id,
    name: status.name,
    state: status.state,
    startedAtMs: status.startedAtMs,
    restarts: status.restarts,
    parallelism: status.parallelism,
    workers: status.workers,
    stateBackend: status.stateBackend,
    totals: jobTotals(status),
  }
}

/** `GET /api/jobs/:id` and each event of the page: the status without stacks, and what is derived from it. */
export function jobDetail(status: JobStatus, nowMs: number) {
  return {
    ...status,
    exceptions: status.exceptions.map((exception) => ({ ...exception, stack: null })),
    nowMs,
    totals: jobTotals(status),
    watermarkMs: jobWatermarkMs(status),
    heldBackBy: heldBackBy(status),
  }
}

/** `GET /api/jobs/:id/graph`. */
export function graphView(status: JobStatus) {
  return { vertices: status.vertices, edges: status.edges }
}

/** `GET /api/jobs/:id/subtasks`. */
export function subtasksView(status: JobStatus) {
  return {
    subtasks: status.subtasks.map((subtask) => ({ ...subtask, vertexName: vertexName(status, subtask.vertex) })),
  }
}

/** `GET /api/jobs/:id/checkpoints`. */
export function checkpointsView(status: JobStatus) {
  return {
    directory: status.checkpointDirectory,
    intervalMs: status.checkpointIntervalMs,
    completed: status.checkpointsCompleted,
    failed: status.checkpointsFailed,
    checkpoints: status.checkpoints,
    sinks: status.sinks,
  }
}

/** `GET /api/jobs/:id/exceptions`: the only place where stacks are served; they are the job's own. */
export function exceptionsView(status: JobStatus) {
  return { restarts: status.restarts, exceptions: status.exceptions }
}

/** `GET /api/jobs/:id/watermarks`. */
export function watermarksView(status: JobStatus, nowMs: number) {
  const watermarkMs = jobWatermarkMs(status)
  const held = heldBackBy(status)
  return {
    nowMs,
    watermarkMs,
    lagMs: watermarkMs === null ? null : nowMs - watermarkMs,
    heldBackBy: held,
    vertices: status.vertices.map((vertex) => ({
      vertex: vertex.id,
      name: vertex.name,
      watermarkMs: vertexWatermarkMs(status, vertex.id),
    })),
    splits: status.splitWatermarks.map((split) => ({
      ...split,
      vertexName: vertexName(status, split.vertex),
      holdsTimeBack:
        held !== null && held.vertex === split.vertex && held.subtask === split.subtask && held.split === split.split,
    })),
  }
}
