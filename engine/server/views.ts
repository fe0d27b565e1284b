/**
 * Pure functions from a `JobStatus` to what the REST routes, the metrics and the page show.
 *
 * Called by routes.ts, events.ts and metrics.ts. Invariants: nothing here changes a status; stack
 * traces leave only through `exceptionsView`.
 */
import type { JobStatus, SubtaskStatus } from '../runtime/status.ts'
import { heldBackBy } from './held-back.ts'
import { operatorTotals, skewOf } from './skew.ts'

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
 * last vertices, idle ones left out. Null while one of them has no watermark, and after the end of input.
 */
export function jobWatermarkMs(status: JobStatus): number | null {
  const terminal = terminalVertices(status)
  let lowestMs: number | null = null
  for (const subtask of status.subtasks) {
    if (subtask.ended || subtask.timeIdle || !terminal.has(subtask.vertex)) continue
    if (!isTime(subtask.watermarkMs)) return null
    lowestMs = lowestMs === null ? subtask.watermarkMs : Math.min(lowestMs, subtask.watermarkMs)
  }
  return lowestMs
}

/** Lowest watermark of one vertex's running subtasks that are not idle, or null. */
export function vertexWatermarkMs(status: JobStatus, vertex: number): number | null {
  let lowestMs: number | null = null
  for (const subtask of status.subtasks) {
    if (subtask.vertex !== vertex || subtask.ended || subtask.timeIdle) continue
    if (!isTime(subtask.watermarkMs)) return null
    lowestMs = lowestMs === null ? subtask.watermarkMs : Math.min(lowestMs, subtask.watermarkMs)
  }
  return lowestMs
}

function isTime(watermarkMs: number | null): watermarkMs is number {
  return watermarkMs !== null && Number.isFinite(watermarkMs)
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
    // Operators of single subtasks are in `/subtasks`: twice a second their sums are enough.
    ...graphView(status),
    subtasks: status.subtasks.map((subtask) => ({ ...subtask, operators: [] })),
    exceptions: status.exceptions.map((exception) => ({ ...exception, stack: null })),
    nowMs,
    totals: jobTotals(status),
    watermarkMs: jobWatermarkMs(status),
    heldBackBy: heldBackBy(status),
    skew: skewOf(status),
  }
}

/** Means over the subtasks of a vertex; null before one has reported. */
function vertexLoad(status: JobStatus, vertex: number) {
  const subtasks = status.subtasks.filter((subtask) => subtask.vertex === vertex)
  if (subtasks.length === 0) return null
  const mean = (value: (subtask: SubtaskStatus) => number) => sum(subtasks, value) / subtasks.length
  return {
    busy: mean((subtask) => subtask.busy),
    backPressured: mean((subtask) => subtask.backPressured),
    idle: mean((subtask) => subtask.idle),
    busyMax: Math.max(...subtasks.map((subtask) => subtask.busy)),
    backPressuredMax: Math.max(...subtasks.map((subtask) => subtask.backPressured)),
  }
}

/** `GET /api/jobs/:id/graph`: each vertex with its load and what each of its operators does. */
export function graphView(status: JobStatus) {
  const vertices = status.vertices.map((vertex) => ({
    ...vertex,
    load: vertexLoad(status, vertex.id),
    operatorTotals: operatorTotals(status, vertex.id),
  }))
  return { vertices, edges: status.edges }
}

/** `GET /api/jobs/:id/subtasks`. */
export function subtasksView(status: JobStatus) {
  return {
    subtasks: status.subtasks.map((subtask) => ({ ...subtask, vertexName: vertexName(status, subtask.vertex) })),
    skew: skewOf(status),
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
    alignment: status.alignment,
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
