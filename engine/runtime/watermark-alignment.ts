/**
 * Watermark alignment: sources of one group wait for the slowest of them, so that what joins and windows behind
 * them must keep stays bounded.
 *
 * The coordinator's half, and pure: every source subtask of a group reports its watermark through its worker, and
 * the board answers how far each group may read. Workers then stop polling sources (source-driver.ts) that are
 * further. Barriers and the end of input pass a source that waits, because only its polling stops.
 *
 * Invariants:
 * - The slowest subtask of a group is never beyond its limit, so a group never waits for itself.
 * - Idle and ended subtasks report +Infinity and hold nobody back.
 * - Before every subtask of a group has reported each reads one batch and waits.
 */
import type { JobGraph } from '../contract/job-graph.ts'
import type { WatermarkAlignment } from '../core/graph.ts'
import type { ExecutionPlan } from './planner.ts'

/** Watermark of one source subtask; +Infinity when it holds nobody back. */
export interface AlignmentReport {
  readonly group: string
  /** Vertex and subtask. */
  readonly subtask: string
  readonly watermark: number
}

/** Watermark up to which the sources of a group may read. */
export interface AlignmentLimit {
  readonly group: string
  readonly watermark: number
}

interface Group {
  readonly maxDriftMs: number
  /** Subtasks that are to report. */
  readonly expected: number
  readonly watermarks: Map<string, number>
  limit: number
}

export class AlignmentBoard {
  private readonly groups = new Map<string, Group>()

  constructor(plan: ExecutionPlan) {
    for (const { nodes, parallelism } of plan.vertices) {
      const alignment = nodes[0]!.role === 'source' ? nodes[0]!.watermarks?.alignment : undefined
      if (alignment === undefined || alignment === null) continue
      const known = this.groups.get(alignment.group)
      this.groups.set(alignment.group, {
        maxDriftMs: Math.min(known?.maxDriftMs ?? Number.POSITIVE_INFINITY, alignment.maxDriftMs),
        expected: (known?.expected ?? 0) + parallelism,
        watermarks: new Map(),
        limit: Number.POSITIVE_INFINITY,
      })
    }
  }

  /** Takes the reports of one worker and returns the limits that changed. */
  report(reports: readonly AlignmentReport[]): AlignmentLimit[] {
    for (const { group, subtask, watermark } of reports) this.groups.get(group)?.watermarks.set(subtask, watermark)
    const changed: AlignmentLimit[] = []
    for (const [group, state] of this.groups) {
      if (state.watermarks.size < state.expected) continue
      const limit = Math.min(...state.watermarks.values()) + state.maxDriftMs
      if (limit === state.limit) continue
      state.limit = limit
      changed.push({ group, watermark: limit })
    }
    return changed
  }
}

/** How often workers report, or null when no source is aligned. */
export function alignmentIntervalMs(graph: JobGraph): number | null {
  const alignments = graph.nodes
    .map((node) => (node.role === 'source' ? node.watermarks?.alignment : null))
    .filter((alignment): alignment is WatermarkAlignment => alignment !== null && alignment !== undefined)
  return alignments.length === 0 ? null : Math.min(...alignments.map((alignment) => alignment.updateIntervalMs))
}
