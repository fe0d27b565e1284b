/**
 * Looks for new splits of running sources and decides which subtask gets each.
 *
 * Called by the job master on its ticks. A split that is assigned but in no checkpoint yet is simply found
 * again after a restart, so nothing about it has to be kept.
 *
 * Invariants:
 * - A split is assigned once a run; which ones are taken already is told at the start.
 * - One look at a time a source; a failed one fails the run.
 */
import type { SourceNode } from '../contract/job-graph.ts'
import type { SplitState } from '../contract/source.ts'
import type { WorkerContext } from '../contract/worker-context.ts'
import { checkSplits } from './source-promises.ts'

export interface NewSplits {
  readonly uid: string
  readonly subtask: number
  readonly splits: readonly SplitState[]
}

interface WatchedSource {
  readonly node: SourceNode
  readonly parallelism: number
  readonly intervalMs: number
  readonly known: Set<string>
  dueMs: number
  looking: boolean
}

export class SplitDiscovery {
  private readonly sources: WatchedSource[] = []
  private readonly worker: WorkerContext

  constructor(worker: WorkerContext) {
    this.worker = worker
  }

  /** Watches a source that asks for it; `assigned` are the splits that the run begins with. */
  watch(node: SourceNode, parallelism: number, assigned: readonly (readonly SplitState[])[], nowMs: number): void {
    const intervalMs = node.source.discoveryIntervalMs ?? null
    if (intervalMs === null) return
    const known = new Set(assigned.flatMap((splits) => splits.map((split) => split.id)))
    this.sources.push({ node, parallelism, intervalMs, known, dueMs: nowMs + intervalMs, looking: false })
  }

  /** Starts the looks that are due; `found` gets what is new, `failed` what went wrong. */
  tick(nowMs: number, found: (splits: NewSplits) => void, failed: (error: unknown, node: SourceNode) => void): void {
    for (const source of this.sources) {
      if (source.looking || nowMs < source.dueMs) continue
      source.looking = true
      source.node.source
        .splits({ worker: this.worker })
        .then((splits) => {
          source.looking = false
          source.dueMs = this.worker.io.clock.monotonicMs() + source.intervalMs
          for (const fresh of assignNew(source, checkSplits(source.node.name, splits))) found(fresh)
        })
        .catch((error: unknown) => failed(error, source.node))
    }
  }
}

/** Gives unknown splits out in turn. */
function assignNew(source: WatchedSource, splits: readonly SplitState[]): NewSplits[] {
  const bySubtask = new Map<number, SplitState[]>()
  for (const split of splits) {
    if (source.known.has(split.id)) continue
    const subtask = source.known.size % source.parallelism
    source.known.add(split.id)
    const list = bySubtask.get(subtask) ?? []
    list.push(split)
    bySubtask.set(subtask, list)
  }
  return [...bySubtask].map(([subtask, list]) => ({ uid: source.node.uid, subtask, splits: list }))
}
