/**
 * Keyed event-time windows that overlap, from shared slices: sliding and cumulative windows over aggregates that can
 * be merged in any order. Results, late rows and their order by window are those of window-aggregate.ts, whose windows
 * each have state of their own; floating-point sums may differ in their last digits, because slices are added up first.
 *
 * State is one table with a segment a slice. A window that fires is merged from its slices into a segment of a second
 * table, which is emptied again before the next window, so that it is never part of a checkpoint; being state, it
 * is bounded by the same memory budget. Slices of cumulative windows whose first window is over for good lie in the same
 * windows from then on and become one, the base, named by the start of their period: however many steps a period
 * has, a row is merged a fixed number of times.
 *
 * Invariants:
 * - Windows fire in ascending order; a call handles at most about `fireKeysMax` entries, and goes on where it
 *   stopped.
 * - A window fires on time once only: when the watermark of its key group passes its end. So watermarks are the only
 *   state besides the tables.
 * - A slice lives until its last window is over, its lateness included. A row that is late for its first windows counts
 *   in the others; those that are over are never looked at again, so that sharing the slice with them is harmless.
 */
import type { SegmentChunk, SegmentScan, StateSegment, StateTable } from '../engine/contract/keyed-state.ts'
import type { Operator, OperatorContext, Output } from '../engine/contract/operator.ts'
import { assert } from '../engine/core/assert.ts'
import { BATCH_ROWS_MAX, type Batch, type KeyColumn } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { type ProcessRows, WindowTime } from './restored-watermarks.ts'
import { type FiringWindow, fireKeysMax, type MutableWindowValues, type WindowKernel } from './window-aggregate.ts'
import { addRow, type WindowGroup, WindowGroups } from './window-groups.ts'
import { checkLateness, LateRows, refuseOtherWindows, timestampMissing } from './window-rows.ts'
import { endAbove, type SliceScheme } from './window-slices.ts'

/** Namespace of the window being merged. */
const MERGED = 0

/** A kernel whose accumulators may be merged. */
export type MergingKernel = WindowKernel & { readonly merge: NonNullable<WindowKernel['merge']> }

export interface SlicedWindowOptions {
  readonly slices: SliceScheme
  readonly kernel: MergingKernel
  readonly allowedLatenessMs?: number
  /** Side output for rows later than that; without one they are counted as `lateDropped`. */
  readonly lateTag?: string | null
}

export function isMerging(kernel: WindowKernel): kernel is MergingKernel {
  return kernel.merge !== undefined
}

/** Throws `WINDOW_INVALID` on a negative lateness. */
export function slicedWindowOperator(options: SlicedWindowOptions): Operator {
  checkLateness(options.allowedLatenessMs ?? 0)
  return new SlicedWindowOperator(options)
}

/**
 * Work that a watermark makes due, in ascending order of `end`; at one end in this order: slices join their base, the
 * window fires, slices that no window needs any more go.
 */
interface Task {
  readonly kind: 'join' | 'fire' | 'drop'
  readonly end: number
  /** The slice that joins or goes. */
  readonly slice: number
}

const TASK_ORDER = { join: 0, fire: 1, drop: 2 } as const

/** A watermark's tasks, and how far they are. */
interface Firing {
  readonly tasks: readonly Task[]
  at: number
  /** Segments that the task at hand still has to merge, as far as it merges; null before it began. */
  sources: number[] | null
  /** The one slice of the window that fires, when there is nothing to merge. */
  only: number | null
  scan: SegmentScan | null
  chunk: SegmentChunk | null
  row: number
}

class SlicedWindowOperator implements Operator {
  private readonly scheme: SliceScheme
  private readonly kernel: MergingKernel
  private readonly latenessMs: number
  private context!: OperatorContext
  private slices!: StateTable
  private merged!: StateTable
  private time!: WindowTime
  /** No slice has anything to do before this watermark. */
  private nextDue = Number.POSITIVE_INFINITY
  private firing: Firing | null = null
  private budget = 0
  private readonly groups = new WindowGroups()
  private readonly late: LateRows
  private readonly slots = new Int32Array(BATCH_ROWS_MAX)
  private readonly oneRow = new Int32Array(1)
  private readonly oneFound = new Int32Array(1)
  private readonly oneSlot = new Int32Array(1)
  /** The slices that hold the key of a late row, while its windows fire. */
  private readonly found: { slice: number; segment: StateSegment; slot: number }[] = []
  /** The value of one key and window, merged for a late row. */
  private readonly one: MutableWindowValues
  private readonly initial: readonly number[]

  constructor(options: SlicedWindowOptions) {
    this.scheme = options.slices
    this.kernel = options.kernel
    this.latenessMs = options.allowedLatenessMs ?? 0
    this.late = new LateRows(options.lateTag ?? null)
    const { layout } = options.kernel
    this.initial = layout.kind === 'doubles' ? layout.initial : []
    this.one = { doubles: this.initial.map(() => new Float64Array(1)), objects: [undefined] }
  }

  open(context: OperatorContext): void {
    this.context = context
    refuseOtherWindows(context, this.signature)
    this.time = new WindowTime(context)
    this.kernel.open(context, true)
    const { layout } = this.kernel
    this.slices = context.keyed.table({ name: 'slices', version: 1, layout })
    this.merged = context.keyed.table({ name: 'merged', version: 1, layout })
    this.updateNextDue()
  }

  private get signature(): string {
    return `${this.scheme.description} ${this.kernel.signature}`
  }

  /** Windows that end up to here have fired. */
  private get firedEnd(): number {
    return this.watermark + 1
  }

  /** Windows that end up to here are over: their lateness has passed too. */
  private get overEnd(): number {
    return this.watermark + 1 - this.latenessMs
  }

  /** The end of a slice's first window that is not over; Infinity when all are. */
  private firstEndOf(slice: number): number {
    const { scheme } = this
    return endAbove(scheme.firstEnd(slice), scheme.lastEnd(slice), scheme.stepMs, this.overEnd)
  }

  /** The segment that holds a slice: its own, or the base that it has joined. */
  private segmentOf(slice: number): number {
    const { scheme } = this
    if (!scheme.isCumulative || scheme.firstEnd(slice) > this.overEnd) return slice
    return scheme.startOf(scheme.lastEnd(slice))
  }

  process(batch: Batch, from: number, output: Output): number {
    return this.time.process(batch, from, output, this.processRows)
  }

  /** Of the rows or the firing at hand. */
  private get watermark(): number {
    return this.time.watermark
  }

  private readonly processRows: ProcessRows = (batch, from, output) => {
    const { keys } = batch
    if (keys === null) {
      throw new MillraceError('STATE_NOT_KEYED', 'A window operator got rows without keys.', { domain: 'internal' })
    }
    let i = from
    while (i < batch.length && !output.blocked) {
      i = this.processOnTime(batch, keys, i)
      if (i < batch.length) this.processRefiring(batch, keys, i++, output)
    }
    this.kernel.flush(output)
    this.late.emit(batch, this.context, output)
    return i
  }

  /** Takes rows up to the first that makes a window fire again, and returns that row's index. */
  private processOnTime(batch: Batch, keys: KeyColumn, from: number): number {
    const { groups, scheme } = this
    const { eventTime } = batch
    groups.clear()
    let i = from
    let recent: WindowGroup | null = null
    let recentStart = Number.NaN
    let recentEnd = Number.NaN
    for (; i < batch.length; i++) {
      const time = eventTime[i]
      if (time >= recentStart && time < recentEnd && recent !== null) {
        addRow(recent, i)
        continue
      }
      if (Number.isNaN(time)) throw timestampMissing(this.context.name)
      const slice = scheme.sliceOf(time)
      const end = this.firstEndOf(slice)
      if (end === Number.POSITIVE_INFINITY) {
        this.late.add(i)
        continue
      }
      if (end <= this.firedEnd) break
      recent = groups.group(this.segmentOf(slice))
      recentStart = slice
      recentEnd = slice + scheme.sliceMs
      addRow(recent, i)
    }
    for (let g = 0; g < groups.count; g++) {
      const { window, rows, count } = groups.groups[g]
      this.accumulate(batch, keys, window, rows, count)
    }
    return i
  }

  private accumulate(batch: Batch, keys: KeyColumn, slice: number, rows: Int32Array, count: number): void {
    const segment = this.slices.segment(slice)
    segment.upsert(keys, rows, count, this.slots)
    this.kernel.accumulate(batch, rows, count, this.slots, segment, slice)
    this.nextDue = Math.min(this.nextDue, this.dueOf(slice))
  }

  /** A row within lateness of fired windows: its key fires again in each of them. */
  private processRefiring(batch: Batch, keys: KeyColumn, row: number, output: Output): void {
    const { scheme, oneRow } = this
    const slice = scheme.sliceOf(batch.eventTime[row])
    oneRow[0] = row
    this.accumulate(batch, keys, this.segmentOf(slice), oneRow, 1)
    const first = this.firstEndOf(slice)
    const last = Math.min(scheme.lastEnd(slice), this.firedEnd)
    this.findKey(keys, scheme.startOf(first), last)
    for (let end = first; end <= last; end += scheme.stepMs) this.fireKey(keys, row, end, output)
    this.found.length = 0
  }

  /** Notes in which slices from `from` up to `to` the key of `oneRow` is, and where. */
  private findKey(keys: KeyColumn, from: number, to: number): void {
    const { oneRow, oneSlot, found } = this
    for (let slice = from; slice < to; slice += this.scheme.sliceMs) {
      const segment = this.slices.existing(slice)
      if (segment === null) continue
      segment.find(keys, oneRow, 1, oneSlot)
      if (oneSlot[0] >= 0) found.push({ slice, segment, slot: oneSlot[0] })
    }
  }

  /** Fires a window for the key whose slices are in `found`. */
  private fireKey(keys: KeyColumn, row: number, end: number, output: Output): void {
    const { kernel, one, oneFound, oneSlot } = this
    for (let k = 0; k < this.initial.length; k++) one.doubles[k][0] = this.initial[k]
    one.objects[0] = undefined
    oneSlot[0] = 0
    const window = this.windowOf(end)
    for (const { slice, segment, slot } of this.found) {
      if (slice < window.start || slice >= end) continue
      oneFound[0] = slot
      kernel.merge(segment, oneFound, 1, oneSlot, one)
    }
    kernel.fire(keys, row, one, 0, window, this.watermark, output, MERGED)
  }

  private windowOf(end: number): FiringWindow {
    return { start: this.scheme.startOf(end), end, maxTimestamp: end - 1 }
  }

  advanceWatermark(watermark: number, output: Output): boolean {
    if (this.firing === null) {
      if (watermark <= this.watermark) return true
      const firedBefore = this.firedEnd
      this.time.watermark = watermark
      if (watermark < this.nextDue) {
        this.time.passed()
        return true
      }
      this.firing = {
        tasks: this.tasksSince(firedBefore),
        at: 0,
        sources: null,
        only: null,
        scan: null,
        chunk: null,
        row: 0,
      }
    }
    if (output.blocked) return false
    this.budget = fireKeysMax(this.kernel.layout)
    const { firing } = this
    let done = true
    while (done && firing.at < firing.tasks.length) {
      done = this.carryOut(firing.tasks[firing.at], firing, output)
      if (done) {
        firing.at++
        firing.sources = null
      }
    }
    this.kernel.flush(output)
    if (!done) return false
    this.firing = null
    this.time.passed()
    this.updateNextDue()
    return true
  }

  private tasksSince(firedBefore: number): Task[] {
    const { scheme, firedEnd, overEnd } = this
    const fires = new Set<number>()
    const drops = new Set<number>()
    const tasks: Task[] = []
    for (const slice of this.slices.namespaces()) {
      const first = scheme.firstEnd(slice)
      const last = scheme.lastEnd(slice)
      let end = endAbove(first, last, scheme.stepMs, firedBefore)
      for (; end <= last && end <= firedEnd; end += scheme.stepMs) fires.add(end)
      const base = this.segmentOf(slice)
      if (base !== slice) tasks.push({ kind: 'join', end: first, slice })
      if (last <= overEnd) drops.add(base)
    }
    for (const end of fires) tasks.push({ kind: 'fire', end, slice: Number.NaN })
    for (const slice of drops) tasks.push({ kind: 'drop', end: scheme.lastEnd(slice), slice })
    return tasks.sort((a, b) => a.end - b.end || TASK_ORDER[a.kind] - TASK_ORDER[b.kind])
  }

  /** Goes on with a task; false when blocked or out of budget. */
  private carryOut(task: Task, firing: Firing, output: Output): boolean {
    switch (task.kind) {
      case 'join':
        firing.sources ??= [task.slice]
        if (!this.mergeSources(firing, this.slices, this.segmentOf(task.slice))) return false
        this.slices.drop(task.slice)
        return true
      case 'fire':
        return this.fire(task.end, firing, output)
      case 'drop':
        this.slices.drop(task.slice)
        return true
    }
  }

  private fire(end: number, firing: Firing, output: Output): boolean {
    const window = this.windowOf(end)
    if (firing.sources === null) {
      const present = this.slices.namespaces().filter((slice) => slice >= window.start && slice < end)
      firing.only = present.length === 1 ? present[0] : null
      firing.sources = present.reverse()
    }
    if (firing.only !== null) return this.emit(firing, this.slices, firing.only, window, output)
    if (!this.mergeSources(firing, this.merged, MERGED)) return false
    if (!this.emit(firing, this.merged, MERGED, window, output)) return false
    this.merged.drop(MERGED)
    return true
  }

  /** Merges the segments that are left of `sources` into another; false when out of budget. */
  private mergeSources(firing: Firing, table: StateTable, namespace: number): boolean {
    const sources = firing.sources ?? []
    while (sources.length > 0) {
      firing.scan ??= this.slices.segment(sources[sources.length - 1]).scan()
      for (;;) {
        if (this.budget <= 0) return false
        const chunk = firing.scan.next(this.budget)
        if (chunk === null) break
        this.budget -= chunk.count
        const target = table.segment(namespace)
        target.upsert(chunk.keys, null, chunk.count, this.slots)
        this.kernel.merge(chunk, null, chunk.count, this.slots, target)
      }
      firing.scan.close()
      firing.scan = null
      sources.pop()
    }
    return true
  }

  /** Emits the results of a segment; false when blocked or out of budget. */
  private emit(firing: Firing, table: StateTable, namespace: number, window: FiringWindow, output: Output): boolean {
    firing.scan ??= table.segment(namespace).scan()
    for (;;) {
      if (firing.chunk === null) {
        if (this.budget <= 0) return false
        firing.chunk = firing.scan.next(this.budget)
        firing.row = 0
        if (firing.chunk === null) break
        this.budget -= firing.chunk.count
      }
      const { chunk } = firing
      for (; firing.row < chunk.count; firing.row++) {
        if (output.blocked) return false
        if (this.time.hadFired(chunk.keys, firing.row, window.maxTimestamp)) continue
        this.kernel.fire(chunk.keys, firing.row, chunk, firing.row, window, this.watermark, output, namespace)
      }
      firing.chunk = null
    }
    firing.scan.close()
    firing.scan = null
    return true
  }

  private updateNextDue(): void {
    this.nextDue = Number.POSITIVE_INFINITY
    for (const slice of this.slices.namespaces()) this.nextDue = Math.min(this.nextDue, this.dueOf(slice))
  }

  /** The next watermark that has work for a slice: a window fires, or the slice joins its base or goes. */
  private dueOf(slice: number): number {
    const { scheme, latenessMs } = this
    const first = scheme.firstEnd(slice)
    const last = scheme.lastEnd(slice)
    const fires = endAbove(first, last, scheme.stepMs, this.firedEnd)
    const isBase = !scheme.isCumulative || slice === scheme.startOf(last)
    return Math.min(fires, (isBase ? last : first) + latenessMs) - 1
  }

  snapshot(): JsonValue {
    assert(this.firing === null, 'a barrier waits until windows have fired')
    return { ...this.time.toJson(), signature: this.signature }
  }

  close(): void {
    this.firing?.scan?.close()
  }
}
