/**
 * Drives one source subtask: polls the reader, assigns event times, keeps a watermark a split.
 *
 * Rows whose event time cannot be right (before 1970, or further ahead of the clock than a day) would
 * drag the watermark with them and make everything after them late; they are dead-lettered instead.
 *
 * Invariants:
 * - The subtask's watermark is the minimum over its splits that are not idle, and never regresses.
 * - While the watermark is beyond the limit of its alignment group, `isAhead` is true and nobody polls. Single
 *   splits beyond it are paused where the reader can.
 * - `capture` is the cut: positions after the last polled row, with watermark and idleness of each split. So there is
 *   none while `isMidBatch`: rows of a batch that is handed out in parts would be lost.
 */

import type { SourceNode } from '../contract/job-graph.ts'
import type { SourceReader, SourceReaderContext, SplitState } from '../contract/source.ts'
import { type Batch, gatherBatch, sliceBatch, withEventTime } from '../core/batch.ts'
import type { WatermarkAlignment, WatermarkGenerator, WatermarkPlan } from '../core/graph.ts'
import type { JsonValue } from '../core/json-value.ts'
import { rowReader } from '../core/rows.ts'
import { IdleClock } from './idle-clock.ts'
import { checkPositions, unknownPoll, unknownSplit } from './source-promises.ts'
import type { SplitWatermark } from './status.ts'

/** How far ahead of processing time an event may claim to be. */
const FUTURE_MS_MAX = 86_400_000

/** What a checkpoint keeps of a split. */
export interface SplitCheckpoint {
  readonly id: string
  readonly position: JsonValue
  /** Null stands for -Infinity, which JSON cannot hold; +Infinity is written as the string `end`. */
  readonly watermark: number | null | 'end'
  readonly idle: boolean
}

export interface AssignedSplit extends SplitState {
  readonly watermark: number
  readonly idle: boolean
}

interface SplitProgress {
  readonly generator: WatermarkGenerator | null
  idle: boolean
  /** When its last record came, by the two counts of the idle clock. */
  heardAt: { runningMs: number; listeningMs: number }
  records: number
}

/** Rows of a batch that wait for the watermark after those before them. */
interface BatchRest {
  readonly batch: Batch
  readonly split: SplitProgress
  readonly from: number
}

export type SourceStep =
  /** `isPunctuated`: the watermark after it is to go out at once. */
  | { readonly kind: 'batch'; readonly batch: Batch; readonly isPunctuated?: boolean }
  | { readonly kind: 'pending' }
  | { readonly kind: 'end' }

export class SourceDriver {
  recordsIn = 0
  deadLettered = 0
  private readonly node: SourceNode
  private readonly context: SourceReaderContext
  private readonly reader: SourceReader
  private readonly plan: WatermarkPlan | null
  private readonly assign: ((batch: Batch) => Float64Array) | null
  private readonly splits = new Map<string, SplitProgress>()
  private readonly clock: IdleClock
  /** Positions of cuts by attempt, until that attempt or a later one completes. */
  private readonly cuts = new Map<number, readonly SplitState[]>()
  private rest: BatchRest | null = null
  private watermark = Number.NEGATIVE_INFINITY
  private ended = false
  /** Aligned sources read no further than this; before the first limit, one batch. */
  private limit: number
  private pausedSplits: ReadonlySet<string> = new Set()
  /** Too much output of the job waits for its sinks. */
  private isOnHold = false

  constructor(node: SourceNode, context: SourceReaderContext) {
    this.node = node
    this.context = {
      ...context,
      deadLetter: (letter) => {
        this.deadLettered++
        context.deadLetter(letter)
      },
    }
    this.plan = node.watermarks
    this.limit = this.alignment === null ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY
    this.assign = this.plan?.createAssigner?.() ?? null
    this.reader = node.source.createReader(this.context)
    this.clock = new IdleClock(this.monotonicMs())
  }

  async open(splits: readonly AssignedSplit[]): Promise<void> {
    this.clock.enter('working', this.monotonicMs())
    for (const split of splits) {
      const generator = this.plan?.createGenerator() ?? null
      generator?.restore(split.watermark)
      this.splits.set(split.id, { generator, idle: split.idle, heardAt: this.now(), records: 0 })
    }
    await this.reader.open(splits)
    this.watermark = this.minimum()
    // Of what is restored some splits are further than others; how far they may read is not known yet.
    if (this.limit !== Number.POSITIVE_INFINITY) this.pauseSplits()
  }

  /** Takes splits that were found while the job runs. */
  addSplits(splits: readonly SplitState[]): void {
    for (const { id } of splits) {
      const generator = this.plan?.createGenerator() ?? null
      this.splits.set(id, { generator, idle: false, heardAt: this.now(), records: 0 })
    }
    this.reader.addSplits?.(splits)
  }

  /** Part of a batch is still to be polled, which neither alignment nor a slow operator may delay. */
  get isMidBatch(): boolean {
    return this.rest !== null
  }

  poll(rowsMax: number): SourceStep {
    this.clock.enter('working', this.monotonicMs())
    if (this.rest !== null) return this.nextRows(this.rest)
    let polled = this.reader.poll(rowsMax)
    while (polled?.kind === 'finished') {
      this.progressOf(polled.split).idle = true
      polled = this.reader.poll(rowsMax)
    }
    if (polled?.kind === 'pending') {
      this.clock.enter('listening', this.monotonicMs())
      return polled
    }
    if (polled?.kind === 'end') {
      this.ended = true
      return polled
    }
    if (polled?.kind !== 'batch') throw unknownPoll(this.node.name, polled)
    const split = this.progressOf(polled.split)
    this.recordsIn += polled.batch.length
    split.idle = false
    split.heardAt = this.now()
    split.records += polled.batch.length
    let batch = polled.batch
    if (this.assign !== null) {
      const times = this.assign(batch)
      batch = this.withoutImpossibleTimes(withEventTime(batch, times), polled.split, polled.offsets ?? null)
    }
    if (split.generator?.onRows !== undefined) return this.nextRows({ batch, split, from: 0 })
    split.generator?.onBatch(batch.eventTime, batch.length, batch)
    if (this.limit !== Number.POSITIVE_INFINITY) this.pauseSplits()
    return { kind: 'batch', batch }
  }

  private progressOf(split: string): SplitProgress {
    const progress = this.splits.get(split)
    if (progress === undefined) throw unknownSplit(this.node.name, 'poll', split)
    return progress
  }

  /** Rows up to and with the one that makes the watermark grow. */
  private nextRows({ batch, split, from }: BatchRest): SourceStep {
    let to = from
    do to = split.generator!.onRows!(batch.eventTime, to, batch.length, batch)
    while (to < batch.length && this.minimum() <= this.watermark)
    this.rest = to < batch.length ? { batch, split, from: to } : null
    if (this.limit !== Number.POSITIVE_INFINITY) this.pauseSplits()
    const rows = from === 0 && to === batch.length ? batch : sliceBatch(batch, from, to)
    return { kind: 'batch', batch: rows, isPunctuated: this.minimum() > this.watermark }
  }

  private withoutImpossibleTimes(batch: Batch, split: string, offsets: Float64Array | null): Batch {
    const latest = this.context.worker.nowMs() + FUTURE_MS_MAX
    const times = batch.eventTime
    let bad = 0
    for (let i = 0; i < batch.length; i++) if (!(times[i]! >= 0 && times[i]! <= latest)) bad++
    if (bad === 0) return batch
    const kept = new Int32Array(batch.length - bad)
    let count = 0
    const read = rowReader(batch.schema, this.context.worker.interner, this.context.worker.uniqueId('dead-letter'))
    for (let i = 0; i < batch.length; i++) {
      const time = times[i]!
      if (time >= 0 && time <= latest) {
        kept[count++] = i
        continue
      }
      this.context.deadLetter({
        source: this.node.name,
        partition: split,
        offset: offsets?.[i] ?? -1,
        reason: impossibleTime(time),
        bytes: Buffer.from(JSON.stringify(read(batch, i), (_, v) => (typeof v === 'bigint' ? String(v) : v)) ?? 'null'),
      })
    }
    return gatherBatch(batch, kept, count)
  }

  /** Marks splits idle that had no record for long; returns true when every split is idle. */
  updateIdleness(): boolean {
    const idleAfterMs = this.plan?.idleAfterMs ?? null
    let active = 0
    for (const [id, split] of this.splits) {
      const isSilent = idleAfterMs !== null && this.silenceMs(split) >= idleAfterMs
      if (isSilent && !this.pausedSplits.has(id)) split.idle = true
      if (split.generator?.isIdle === true) split.idle = true
      if (!split.idle) active++
    }
    return active === 0
  }

  /** The subtask's watermark now; +Infinity after the end of bounded input. */
  currentWatermark(): number {
    if (this.ended) return Number.POSITIVE_INFINITY
    const minimum = this.minimum()
    if (minimum > this.watermark) this.watermark = minimum
    return this.watermark
  }

  /** Group and interval of its alignment, or null. */
  get alignment(): WatermarkAlignment | null {
    return this.plan?.alignment ?? null
  }

  /** What the group has to wait for: +Infinity when there is nothing, because no split is active or left. */
  get alignedWatermark(): number {
    if (this.ended) return Number.POSITIVE_INFINITY
    const active = [...this.splits.values()].filter((split) => !split.idle && split.generator?.isIdle !== true)
    return active.length === 0 ? Number.POSITIVE_INFINITY : this.minimum()
  }

  /** Sets how far sources of a group may read. */
  limitTo(group: string, watermark: number): void {
    if (this.alignment?.group !== group) return
    this.limit = watermark
    this.pauseSplits()
  }

  /** Has the source wait until enough of the job's output is shown. */
  hold(isHeld: boolean): void {
    this.isOnHold = isHeld
  }

  /** It waits for the job's sinks. */
  get isHeld(): boolean {
    return this.isOnHold && !this.ended
  }

  /** True while it is not to be polled, because it is too far ahead of its group. */
  get isAhead(): boolean {
    if (!this.isBeyondLimit) return false
    // It waits for others: that is not silence of its own.
    this.blocked()
    return true
  }

  /** As `isAhead`, and changes nothing. */
  get isBeyondLimit(): boolean {
    return !this.ended && this.limit !== Number.POSITIVE_INFINITY && this.minimum() > this.limit
  }

  private pauseSplits(): void {
    if (this.reader.pauseSplits === undefined) return
    const paused = new Set<string>()
    for (const [id, split] of this.splits) {
      if ((split.generator?.current() ?? Number.NEGATIVE_INFINITY) > this.limit) paused.add(id)
    }
    if (paused.size === this.pausedSplits.size && [...paused].every((id) => this.pausedSplits.has(id))) return
    // What was paused was not silent by itself.
    for (const id of this.pausedSplits) this.splits.get(id)!.heardAt = this.now()
    this.pausedSplits = paused
    this.reader.pauseSplits(paused)
  }

  /** The subtask cannot poll: there is no room for what would come. */
  blocked(): void {
    this.clock.enter('blocked', this.monotonicMs())
  }

  private now(): SplitProgress['heardAt'] {
    const { runningMs, listeningMs } = this.clock
    return { runningMs, listeningMs }
  }

  /** A reader may leave a split for last: one that gave nothing yet is silent only while there is nothing at all. */
  private silenceMs({ heardAt, records }: SplitProgress): number {
    return records === 0 ? this.clock.listeningMs - heardAt.listeningMs : this.clock.runningMs - heardAt.runningMs
  }

  /** Silence is measured by the clock that nobody sets: a jump of the other one says nothing about event time. */
  private monotonicMs(): number {
    return this.context.worker.io.clock.monotonicMs()
  }

  private minimum(): number {
    let minimum = Number.POSITIVE_INFINITY
    for (const split of this.splits.values()) {
      if (!split.idle && split.generator?.isIdle !== true)
        minimum = Math.min(minimum, split.generator?.current() ?? Number.NEGATIVE_INFINITY)
    }
    return minimum === Number.POSITIVE_INFINITY ? Number.NEGATIVE_INFINITY : minimum
  }

  capture(attempt: number): SplitCheckpoint[] {
    const positions = this.reader.snapshot()
    checkPositions(this.node.name, positions, this.splits)
    if (this.reader.notifyCheckpointComplete !== undefined) this.cuts.set(attempt, positions)
    return positions.map(({ id, position }) => {
      const split = this.splits.get(id)
      const watermark = split?.generator?.current() ?? Number.NEGATIVE_INFINITY
      return {
        id,
        position,
        watermark:
          watermark === Number.NEGATIVE_INFINITY ? null : watermark === Number.POSITIVE_INFINITY ? 'end' : watermark,
        idle: split?.idle ?? false,
      }
    })
  }

  splitWatermarks(vertex: number, subtask: number): SplitWatermark[] {
    const isAhead = this.isBeyondLimit
    return [...this.splits].map(([id, split]) => {
      const watermark = split.generator?.current() ?? Number.NEGATIVE_INFINITY
      return {
        vertex,
        subtask,
        split: id,
        watermarkMs: Number.isFinite(watermark) ? watermark : null,
        idle: split.idle,
        paused: this.pausedSplits.has(id) || (isAhead && !split.idle),
        records: split.records,
        silentMs: this.silenceMs(split),
        idleAfterMs: this.plan?.idleAfterMs ?? null,
      }
    })
  }

  /** The checkpoint of this attempt is complete; cuts of earlier ones mean nothing any more. */
  completed(attempt: number): void {
    const positions = this.cuts.get(attempt)
    for (const cut of this.cuts.keys()) if (cut <= attempt) this.cuts.delete(cut)
    if (positions !== undefined) this.reader.notifyCheckpointComplete?.(positions)
  }

  close(): Promise<void> {
    return this.reader.close()
  }
}

/** A split as a restore hands it out. */
export function assignedSplit(split: SplitCheckpoint): AssignedSplit {
  const watermark =
    split.watermark === null
      ? Number.NEGATIVE_INFINITY
      : split.watermark === 'end'
        ? Number.POSITIVE_INFINITY
        : split.watermark
  return { id: split.id, position: split.position, watermark, idle: split.idle }
}

function impossibleTime(time: number): string {
  if (Number.isNaN(time)) return 'The timestamp assigner gave no number.'
  if (time < 0) return `Event time ${time} lies before 1970.`
  return `Event time ${time} lies more than a day in the future.`
}
