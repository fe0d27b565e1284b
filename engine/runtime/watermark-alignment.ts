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
import type { AlignedSubtask, AlignmentStatus } from './status.ts'

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
  /** Vertex and parallelism of its sources: the subtasks that are to report. */
  readonly sources: readonly { readonly vertex: number; readonly parallelism: number }[]
  readonly watermarks: Map<string, number>
  limit: number
}

export class AlignmentBoard {
  private readonly groups = new Map<string, Group>()

  constructor(plan: ExecutionPlan) {
    for (const { id, nodes, parallelism } of plan.vertices) {
      const alignment = nodes[0]!.role === 'source' ? nodes[0]!.watermarks?.alignment : undefined
      if (alignment === undefined || alignment === null) continue
      const known = this.groups.get(alignment.group)
      this.groups.set(alignment.group, {
        maxDriftMs: Math.min(known?.maxDriftMs ?? Number.POSITIVE_INFINITY, alignment.maxDriftMs),
        sources: [...(known?.sources ?? []), { vertex: id, parallelism }],
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
      if (state.watermarks.size < expectedOf(state)) continue
      const limit = Math.min(...state.watermarks.values()) + state.maxDriftMs
      if (limit === state.limit) continue
      state.limit = limit
      changed.push({ group, watermark: limit })
    }
    return changed
  }

  /** Who waits for whom, for people to see. */
  status(): AlignmentStatus[] {
    return [...this.groups].map(([group, state]) => {
      const slowest = Math.min(...state.watermarks.values())
      const hasLimit = state.watermarks.size === expectedOf(state) && Number.isFinite(state.limit)
      const subtasks = state.sources.flatMap(({ vertex, parallelism }) =>
        Array.from({ length: parallelism }, (_, subtask): AlignedSubtask => {
          const watermark = state.watermarks.get(`${vertex} ${subtask}`)
          if (watermark === undefined || !Number.isFinite(watermark)) {
            const isFree = watermark === Number.POSITIVE_INFINITY
            return { vertex, subtask, watermarkMs: null, driftMs: null, state: isFree ? 'free' : 'unknown' }
          }
          const driftMs = Number.isFinite(slowest) ? watermark - slowest : null
          const isPaused = hasLimit && watermark > state.limit
          return { vertex, subtask, watermarkMs: watermark, driftMs, state: isPaused ? 'paused' : 'reading' }
        }),
      )
      return { group, maxDriftMs: state.maxDriftMs, limitMs: hasLimit ? state.limit : null, subtasks }
    })
  }
}

function expectedOf(group: Group): number {
  return group.sources.reduce((sum, { parallelism }) => sum + parallelism, 0)
}

/** How often workers report, or null when no source is aligned. */
export function alignmentIntervalMs(graph: JobGraph): number | null {
  const alignments = graph.nodes
    .map((node) => (node.role === 'source' ? node.watermarks?.alignment : null))
    .filter((alignment): alignment is WatermarkAlignment => alignment !== null && alignment !== undefined)
  return alignments.length === 0 ? null : Math.min(...alignments.map((alignment) => alignment.updateIntervalMs))
}
