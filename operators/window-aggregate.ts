/**
 * Keyed event-time windows with allowed lateness, in Flink's semantics.
 *
 * A window [start, end) fires when the watermark reaches end - 1, keeps its state until the watermark
 * reaches end - 1 + lateness, and in between fires a key again with each late row. Later rows go to the
 * late side output, or are counted. Results carry event time end - 1. How rows are aggregated and results
 * made is the kernel's business (window-kernels.ts, window-columnar.ts); state is one table with a
 * segment a window.
 *
 * Invariants:
 * - Windows fire in ascending order; a call fires at most about `fireKeysMax` keys, and goes on where
 *   it stopped.
 * - A window fires on time once only: when the watermark of its key group passes its end. So watermarks are the
 *   only state besides the tables, and restored windows that had fired do not fire again by themselves.
 */
import type { SegmentChunk, SegmentScan, StateTable, ValueLayout } from '../engine/contract/keyed-state.ts'
import type { BatchInput, Operator, OperatorContext, Output } from '../engine/contract/operator.ts'
import { assert } from '../engine/core/assert.ts'
import { BATCH_ROWS_MAX, type Batch, type KeyColumn } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { WATERMARK_MAX, WATERMARK_MIN } from '../engine/core/time.ts'
import { type ProcessRows, WindowTime } from './restored-watermarks.ts'
import type { WindowAssigner } from './window-assigner.ts'
import { addRow, type WindowGroup, WindowGroups } from './window-groups.ts'
import { checkLateness, LateRows, refuseOtherWindows, timestampMissing } from './window-rows.ts'

const FIRE_KEYS_MAX = 2_000
/** For each of these a function of the user's is called. */
const FIRE_OBJECTS_MAX = 500

/** Entries that one call handles: about a millisecond's worth. */
export function fireKeysMax(layout: ValueLayout): number {
  return layout.kind === 'object' ? FIRE_OBJECTS_MAX : FIRE_KEYS_MAX
}

/** The values of entries: columns and objects, of a segment by slot or of a chunk by row. */
export interface WindowValues {
  readonly doubles: readonly Float64Array[]
  readonly objects: readonly unknown[]
}

/** A window whose results are being made. */
export interface FiringWindow {
  readonly start: number
  readonly end: number
  readonly maxTimestamp: number
}

/** What a kind of aggregation adds to windows. Made once a subtask. */
export interface WindowKernel {
  /** Another text means that stored values mean something else. */
  readonly signature: string
  readonly layout: ValueLayout
  /** `valuesLiveOn`: values that were fired may change and be fired again, or share rows with other windows. */
  open(context: OperatorContext, valuesLiveOn: boolean): void
  /** Adds rows[0..count) of `batch`, which has keys, to the entries in `slots` of the segment `namespace`. */
  accumulate(
    batch: Batch,
    rows: Int32Array,
    count: number,
    slots: Int32Array,
    values: MutableWindowValues,
    namespace: number,
  ): void
  /** Emits the result of one entry of the segment `namespace`: key `keyRow` of `keys`, value `at` of `values`. */
  fire(
    keys: KeyColumn,
    keyRow: number,
    values: WindowValues,
    at: number,
    window: FiringWindow,
    watermark: number,
    output: Output,
    namespace: number,
  ): void
  /** Firing has read enough for one call. */
  readonly isTired?: boolean
  /** The segment `namespace` was dropped. */
  drop?(namespace: number): void
  /**
   * Merges values `fromRows[j]` of `from` (value j when null) into entries `slots[j]` of `into`, for j < count.
   * Present only where accumulators may be merged in any order; `from` stays as it is.
   */
  readonly merge?:
    | ((
        from: WindowValues,
        fromRows: Int32Array | null,
        count: number,
        slots: Int32Array,
        into: MutableWindowValues,
      ) => void)
    | undefined
  /** Emits what `fire` left in an unfinished batch: the last call of each round. */
  flush(output: Output): void
}

export interface MutableWindowValues {
  readonly doubles: readonly Float64Array[]
  readonly objects: unknown[]
}

export interface WindowOptions {
  readonly assigner: WindowAssigner
  readonly kernel: WindowKernel
  readonly allowedLatenessMs?: number
  /** Side output for rows later than that; without one they are counted as `lateDropped`. */
  readonly lateTag?: string | null
}

/** Throws `WINDOW_INVALID` on a negative lateness. */
export function windowOperator(options: WindowOptions): Operator {
  checkLateness(options.allowedLatenessMs ?? 0)
  return new WindowOperator(options)
}

/** A firing in progress. */
interface Firing {
  readonly windows: readonly number[]
  /** The watermark before this one: windows up to it have fired. */
  readonly previous: number
  at: number
  scan: SegmentScan | null
  chunk: SegmentChunk | null
  row: number
}

class WindowOperator implements Operator {
  /** The order of rows is of no matter where accumulators may be merged in any order. */
  readonly batchInputs: readonly BatchInput[] | undefined
  private readonly assigner: WindowAssigner
  private readonly kernel: WindowKernel
  private readonly latenessMs: number
  private context!: OperatorContext
  private table!: StateTable
  private time!: WindowTime
  /** No window has anything to do before this watermark. */
  private nextDue = Number.POSITIVE_INFINITY
  private firing: Firing | null = null
  private readonly groups = new WindowGroups()
  private readonly assigned: Float64Array
  private readonly slots = new Int32Array(BATCH_ROWS_MAX)
  private readonly single = new Int32Array(1)
  private readonly late: LateRows

  constructor(options: WindowOptions) {
    this.assigner = options.assigner
    this.kernel = options.kernel
    this.batchInputs = options.kernel.merge === undefined ? ['sorted'] : undefined
    this.latenessMs = options.allowedLatenessMs ?? 0
    this.late = new LateRows(options.lateTag ?? null)
    this.assigned = new Float64Array(options.assigner.windowsMax)
  }

  open(context: OperatorContext): void {
    this.context = context
    refuseOtherWindows(context, this.signature)
    this.time = new WindowTime(context)
    this.kernel.open(context, this.latenessMs > 0 || this.assigner.windowsMax > 1)
    this.table = context.keyed.table({ name: 'windows', version: 1, layout: this.kernel.layout })
    this.updateNextDue()
  }

  private get signature(): string {
    return `${this.assigner.description} ${this.kernel.signature}`
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

  /** Takes rows up to the first whose window has fired already, and returns that row's index. */
  private processOnTime(batch: Batch, keys: KeyColumn, from: number): number {
    const { groups, watermark, latenessMs, assigner, assigned } = this
    const { eventTime } = batch
    const isSingle = assigner.windowsMax === 1
    groups.clear()
    let i = from
    let recent: WindowGroup | null = null
    let recentStart = Number.NaN
    let recentEnd = Number.NaN
    rows: for (; i < batch.length; i++) {
      const time = eventTime[i]
      if (recent !== null && time >= recentStart && time < recentEnd) {
        addRow(recent, i)
        continue
      }
      if (Number.isNaN(time)) throw timestampMissing(this.context.name)
      const count = assigner.assign(time, assigned)
      let lateCount = 0
      for (let w = 0; w < count; w++) {
        const maxTimestamp = assigner.endOf(assigned[w]) - 1
        if (maxTimestamp + latenessMs <= watermark) lateCount++
        else if (maxTimestamp <= watermark) break rows
      }
      if (lateCount === count) {
        // Between two windows that leave a gap a row is late only by its own time; else no window wants it.
        if (count > 0 || time + latenessMs <= watermark) this.late.add(i)
        continue
      }
      for (let w = 0; w < count; w++) {
        if (assigner.endOf(assigned[w]) - 1 + latenessMs <= watermark) continue
        const group = groups.group(assigned[w])
        addRow(group, i)
        if (isSingle) {
          recent = group
          recentStart = assigner.startOf(assigned[w])
          recentEnd = assigner.endOf(assigned[w])
        }
      }
    }
    for (let g = 0; g < groups.count; g++) {
      const group = groups.groups[g]
      this.accumulate(batch, keys, group.window, group.rows, group.count)
      this.nextDue = Math.min(this.nextDue, assigner.endOf(group.window) - 1)
    }
    return i
  }

  private accumulate(batch: Batch, keys: KeyColumn, window: number, rows: Int32Array, count: number): void {
    const segment = this.table.segment(window)
    segment.upsert(keys, rows, count, this.slots)
    this.kernel.accumulate(batch, rows, count, this.slots, segment, window)
  }

  /** A row within lateness of a fired window: its key fires again at once. */
  private processRefiring(batch: Batch, keys: KeyColumn, row: number, output: Output): void {
    const { assigner, assigned, watermark, latenessMs, single } = this
    single[0] = row
    const count = assigner.assign(batch.eventTime[row], assigned)
    for (let w = 0; w < count; w++) {
      const window = assigned[w]
      const maxTimestamp = assigner.endOf(window) - 1
      if (maxTimestamp + latenessMs <= watermark) continue
      this.accumulate(batch, keys, window, single, 1)
      this.nextDue = Math.min(this.nextDue, maxTimestamp <= watermark ? maxTimestamp + latenessMs : maxTimestamp)
      if (maxTimestamp <= watermark) {
        const segment = this.table.segment(window)
        this.kernel.fire(keys, row, segment, this.slots[0], this.windowOf(window), watermark, output, window)
      }
    }
  }

  private windowOf(window: number): FiringWindow {
    const end = this.assigner.endOf(window)
    return { start: this.assigner.startOf(window), end, maxTimestamp: end - 1 }
  }

  advanceWatermark(watermark: number, output: Output): boolean {
    if (this.firing === null) {
      if (watermark <= this.watermark) return true
      const previous = this.watermark
      this.time.watermark = watermark
      if (watermark < this.nextDue) {
        this.time.passed()
        return true
      }
      const windows = this.table.namespaces().filter((w) => this.assigner.endOf(w) - 1 <= watermark)
      this.firing = { windows, previous, at: 0, scan: null, chunk: null, row: 0 }
    }
    if (output.blocked) return false
    const done = this.fireOn(this.firing, output)
    this.kernel.flush(output)
    if (!done) return false
    this.firing = null
    this.time.passed()
    this.updateNextDue()
    return true
  }

  endKey(output: Output): boolean {
    if (!this.advanceWatermark(WATERMARK_MAX, output)) return false
    this.time.watermark = WATERMARK_MIN
    return true
  }

  /** Fires until done, blocked, or out of budget. */
  private fireOn(firing: Firing, output: Output): boolean {
    let budget = fireKeysMax(this.kernel.layout)
    for (; firing.at < firing.windows.length; firing.at++) {
      const namespace = firing.windows[firing.at]
      const window = this.windowOf(namespace)
      if (window.maxTimestamp > firing.previous) {
        firing.scan ??= this.table.segment(namespace).scan()
        for (;;) {
          if (firing.chunk === null) {
            if (budget <= 0) return false
            firing.chunk = firing.scan.next(budget)
            firing.row = 0
            if (firing.chunk === null) break
            budget -= firing.chunk.count
          }
          if (!this.fireChunk(firing, firing.chunk, window, output)) return false
          firing.chunk = null
        }
        firing.scan.close()
        firing.scan = null
      }
      if (window.maxTimestamp + this.latenessMs > this.watermark) continue
      this.table.drop(namespace)
      this.kernel.drop?.(namespace)
    }
    return true
  }

  private fireChunk(firing: Firing, chunk: SegmentChunk, window: FiringWindow, output: Output): boolean {
    const namespace = firing.windows[firing.at]
    while (firing.row < chunk.count) {
      if (output.blocked || this.kernel.isTired === true) return false
      if (!this.time.hadFired(chunk.keys, firing.row, window.maxTimestamp)) {
        this.kernel.fire(chunk.keys, firing.row, chunk, firing.row, window, this.watermark, output, namespace)
      }
      firing.row++
    }
    return true
  }

  private updateNextDue(): void {
    this.nextDue = Number.POSITIVE_INFINITY
    for (const window of this.table.namespaces()) {
      const maxTimestamp = this.assigner.endOf(window) - 1
      this.nextDue = Math.min(
        this.nextDue,
        maxTimestamp > this.watermark ? maxTimestamp : maxTimestamp + this.latenessMs,
      )
    }
  }

  snapshot(): JsonValue {
    assert(this.firing === null, 'a barrier waits until windows have fired')
    return { ...this.time.toJson(), signature: this.signature }
  }

  close(): void {
    this.firing?.scan?.close()
  }
}
