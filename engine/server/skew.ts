/**
 * How unevenly records and state lie over the subtasks of a vertex, and what each operator of a vertex does in
 * all. Pure; used by views.ts and metrics.ts.
 *
 * A subtask owns one range of key groups, so the figures by subtask are those by key group range.
 */
import type { JobStatus, OperatorStatus, SubtaskStatus } from '../runtime/status.ts'

/** The most loaded subtask against the mean. */
export interface Hottest {
  readonly subtask: number
  readonly max: number
  readonly mean: number
  /** `max` / `mean`: 1 is even, the parallelism is all in one subtask. */
  readonly ratio: number
}

export interface VertexSkew {
  readonly vertex: number
  /** By records that came in since the start or restart; null without any. */
  readonly records: Hottest | null
  /** By bytes of state in memory; null without any. */
  readonly state: Hottest | null
  /** Key groups [from, to) of the subtask with the most records, when the vertex is keyed. */
  readonly keyGroups: SubtaskStatus['keyGroups']
  /** The most loaded subtask has so much more than its share that more subtasks would not help. */
  readonly isSkewed: boolean
}

const SKEWED_RATIO = 1.5
/** Below these a difference means nothing. */
const RECORDS_MIN = 1_000
const STATE_BYTES_MIN = 1 << 20

/** One entry a vertex of several subtasks that have reported. */
export function skewOf(status: JobStatus): VertexSkew[] {
  return status.vertices.flatMap(({ id }) => {
    const subtasks = status.subtasks.filter((subtask) => subtask.vertex === id)
    if (subtasks.length < 2) return []
    const records = hottest(subtasks, (subtask) => subtask.recordsIn)
    const state = hottest(subtasks, (subtask) => subtask.stateBytes)
    const isSkewed =
      (records !== null && records.ratio >= SKEWED_RATIO && records.max >= RECORDS_MIN) ||
      (state !== null && state.ratio >= SKEWED_RATIO && state.max >= STATE_BYTES_MIN)
    const owner = subtasks.find((subtask) => subtask.subtask === records?.subtask)
    return [{ vertex: id, records, state, keyGroups: owner?.keyGroups ?? null, isSkewed }]
  })
}

function hottest(subtasks: readonly SubtaskStatus[], value: (subtask: SubtaskStatus) => number): Hottest | null {
  let total = 0
  let most = subtasks[0]!
  for (const subtask of subtasks) {
    total += value(subtask)
    if (value(subtask) > value(most)) most = subtask
  }
  if (total <= 0) return null
  const mean = total / subtasks.length
  return { subtask: most.subtask, max: value(most), mean, ratio: value(most) / mean }
}

/** An operator over all subtasks of its vertex: means of shares, sums of the rest. */
export function operatorTotals(status: JobStatus, vertex: number): OperatorStatus[] {
  const subtasks = status.subtasks.filter((subtask) => subtask.vertex === vertex)
  const first = subtasks[0]
  if (first === undefined) return []
  return first.operators.map(({ uid, name }, k) => {
    const parts = subtasks.flatMap((subtask) => subtask.operators[k] ?? [])
    const sum = (of: (part: OperatorStatus) => number): number => parts.reduce((total, part) => total + of(part), 0)
    return {
      uid,
      name,
      recordsIn: sum((part) => part.recordsIn),
      recordsOut: sum((part) => part.recordsOut),
      busy: sum((part) => part.busy) / parts.length,
      backPressured: sum((part) => part.backPressured) / parts.length,
      idle: sum((part) => part.idle) / parts.length,
      stateBytes: sum((part) => part.stateBytes),
      coldReads: sum((part) => part.coldReads),
      tables: tableTotals(parts),
    }
  })
}

type Table = OperatorStatus['tables'][number]

/** Sums by name; what one subtask does not know is not known of all. */
function tableTotals(parts: readonly OperatorStatus[]): Table[] {
  const byName = new Map<string, Table>()
  for (const table of parts.flatMap((part) => part.tables)) {
    const before = byName.get(table.name)
    const sum = (of: (table: Table) => number | null): number | null => {
      const added = of(table)
      if (before === undefined) return added
      const so = of(before)
      return so === null || added === null ? null : so + added
    }
    byName.set(table.name, {
      name: table.name,
      memoryBytes: (before?.memoryBytes ?? 0) + table.memoryBytes,
      entries: sum((one) => one.entries),
      storedBytes: sum((one) => one.storedBytes),
      checkpointBytes: sum((one) => one.checkpointBytes),
    })
  }
  return [...byName.values()]
}
