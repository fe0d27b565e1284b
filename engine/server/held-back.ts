/**
 * Which split keeps the event time of a job from moving on, by how much, and why. Pure; used by views.ts.
 *
 * Invariant: a split that is idle, at its end, or of a subtask at its end holds nothing back.
 */
import type { JobStatus, SplitWatermark } from '../runtime/status.ts'

/**
 * `level`: no active split is ahead of it, it merely sets the time. `no-record`: nothing was read from it yet.
 * `paused`: it has read up to the limit of its alignment group. `silent`: no record came for a while. `back-pressured`: its source has no
 * room downstream. `busy`: its source is at its limit. `behind`: records come, with older event times than elsewhere.
 */
export type HeldReason = 'level' | 'no-record' | 'paused' | 'silent' | 'back-pressured' | 'busy' | 'behind'

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
  readonly reason: HeldReason
  /** The reason as a sentence. */
  readonly why: string
}

/** From here on a split without records counts as silent. */
const SILENT_MS = 2_000
const BLOCKED_SHARE = 0.5
const BUSY_SHARE = 0.9

function isTime(watermarkMs: number | null): watermarkMs is number {
  return watermarkMs !== null && Number.isFinite(watermarkMs)
}

function subtaskKey(of: { readonly vertex: number; readonly subtask: number }): string {
  return `${of.vertex}/${of.subtask}`
}

/** Splits that count for the watermark: not idle, of a running subtask, not at their end. */
function activeSplits(status: JobStatus): readonly SplitWatermark[] {
  const ended = new Set(status.subtasks.filter((subtask) => subtask.ended).map((subtask) => subtaskKey(subtask)))
  return status.splitWatermarks.filter(
    (split) => !split.idle && split.watermarkMs !== Number.POSITIVE_INFINITY && !ended.has(subtaskKey(split)),
  )
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
  const behindMs = watermarkMs === null || highestMs === null ? null : highestMs - watermarkMs
  const reason = reasonOf(status, lowest, behindMs)
  const vertexName = status.vertices.find((candidate) => candidate.id === vertex)?.name ?? `vertex ${vertex}`
  return { vertex, vertexName, subtask, split, watermarkMs, behindMs, reason, why: sentence(status, lowest, reason) }
}

function reasonOf(status: JobStatus, split: SplitWatermark, behindMs: number | null): HeldReason {
  if (behindMs === 0) return 'level'
  if (split.records === 0 && split.watermarkMs === null) return 'no-record'
  if (split.paused) return 'paused'
  const source = status.subtasks.find((subtask) => subtaskKey(subtask) === subtaskKey(split))
  if (source !== undefined && source.backPressured >= BLOCKED_SHARE) return 'back-pressured'
  if (split.silentMs >= SILENT_MS) return 'silent'
  return source !== undefined && source.busy >= BUSY_SHARE ? 'busy' : 'behind'
}

function sentence(status: JobStatus, split: SplitWatermark, reason: HeldReason): string {
  switch (reason) {
    case 'level':
      return 'No active split is ahead of it: it sets the time.'
    case 'no-record':
      return `No record was read from it yet. ${idleSentence(split)}`
    case 'paused': {
      const group = status.alignment.find(({ subtasks }) =>
        subtasks.some((aligned) => subtaskKey(aligned) === subtaskKey(split)),
      )
      return `Alignment ${group === undefined ? '' : `in group ${JSON.stringify(group.group)} `}lets nobody read further until the next limit: its members read faster than limits are exchanged.`
    }
    case 'silent':
      return `No record came for ${seconds(split.silentMs)}. ${idleSentence(split)}`
    case 'back-pressured':
      return 'Its source has no room downstream and reads only as fast as the tasks after it take records.'
    case 'busy':
      return 'Its source is at its limit: it cannot read faster.'
    case 'behind':
      return 'Records come from it, but their event times are older than those of the others.'
  }
}

function idleSentence(split: SplitWatermark): string {
  if (split.idleAfterMs === null) return 'Idleness is off, so it holds the others back until a record comes.'
  const leftMs = Math.max(0, split.idleAfterMs - split.silentMs)
  return leftMs > 0 ? `It counts as idle in ${seconds(leftMs)}.` : 'It is about to count as idle.'
}

function seconds(ms: number): string {
  return ms < 60_000 ? `${Math.max(1, Math.round(ms / 1000))} s` : `${Math.round(ms / 60_000)} min`
}
