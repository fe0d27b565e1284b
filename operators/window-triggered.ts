/**
 * Keyed windows of any assigner, trigger and evictor, in the semantics of Flink's WindowOperator: sessions that
 * merge, processing time, global windows, user-defined ones. Aligned event-time windows under their own trigger
 * have faster operators (window-aggregate.ts, window-slices-operator.ts).
 *
 * All windows of a key are one object in state (window-records.ts), looked up once a row; of windows that keep their
 * elements it holds the newest of them (window-elements.ts). A record knows the times that
 * it waits for; timers.ts has a timer at or before the earliest of a key, and when it fires the next one is set.
 *
 * - A row goes to each window that its assigner names and that is not over; the trigger says whether the window
 *   fires. A row that all its windows refuse is late. A merging assigner's row is late when the window that it
 *   would be part of is over.
 * - A window is over, and all that it kept forgotten, when time passes its last millisecond, plus the allowed
 *   lateness in event time.
 *
 * Invariants:
 * - A record is in state exactly as long as it has contents, states or timers.
 * - A key has a timer at or before every time that a record of it has.
 * - Rows see the new watermark once `advanceWatermark` was called with it; the engine sends none until all its
 *   timers fired.
 */
import type { CheckpointListener, FunctionSnapshotContext, TimeDomain } from '../engine/contract/functions.ts'
import type { StateSegment, StateTable, ValueCodec } from '../engine/contract/keyed-state.ts'
import type { Operator, OperatorContext, Output } from '../engine/contract/operator.ts'
import {
  type Evictor,
  MergingWindowAssigner,
  type TimestampedValue,
  TimeWindow,
  type Trigger,
  TriggerResult,
  type WindowAssigner,
} from '../engine/contract/windows.ts'
import { assert } from '../engine/core/assert.ts'
import { BATCH_ROWS_MAX, type Batch, type KeyColumn } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import type { RowReader } from '../engine/core/rows.ts'
import { WATERMARK_MAX, WATERMARK_MIN } from '../engine/core/time.ts'
import { CurrentKey } from './current-key.ts'
import { restoredWatermarks, type WatermarkFloors, watermarksToJson } from './restored-watermarks.ts'
import type { QueuedTimer } from './timer-queue.ts'
import { InternalTimerService } from './timers.ts'
import { asyncFunctionError, isPromise, RowSource, userFunctionError } from './user-function.ts'
import { type WindowFunctionOptions, WindowFunctionRunner } from './window-function.ts'
import { type ContentsKeeper, copyOf, ElementsKeeper, type KeptContents, keeperOf } from './window-keepers.ts'
import { KeyWindows, WindowRecord, windowRecordsCodec } from './window-records.ts'
import {
  assignedInvalid,
  checkLateness,
  LateRows,
  refuseOtherWindows,
  timestampMissing,
  triggerResultInvalid,
} from './window-rows.ts'
import { WindowTriggerContext } from './window-trigger-context.ts'

/** Each takes some ten microseconds: a call takes about one millisecond. */
const TIMERS_A_CALL = 100

export interface TriggeredWindowOptions extends WindowFunctionOptions {
  readonly assigner: WindowAssigner
  readonly trigger: Trigger
  /** With one, `kept` are elements of `evictableContents`. */
  readonly evictor: Evictor | null
  readonly kept: KeptContents
  /** Of the rows, where they are copied. */
  readonly elementCodec: ValueCodec
  readonly allowedLatenessMs?: number
  /** Side output for rows later than that; without one they are counted as `lateDropped`. */
  readonly lateTag?: string | null
}

/** Throws `WINDOW_INVALID` on a negative lateness, or a trigger that cannot follow merging windows. */
export function triggeredWindowOperator(options: TriggeredWindowOptions): Operator {
  checkLateness(options.allowedLatenessMs ?? 0)
  const { assigner, trigger } = options
  if (assigner instanceof MergingWindowAssigner && !trigger.canMerge()) {
    throw new MillraceError(
      'WINDOW_INVALID',
      `The trigger ${trigger} does not work with ${assigner}, which merges windows.`,
      {
        hint: 'Use a trigger whose canMerge() is true.',
      },
    )
  }
  return new TriggeredWindowOperator(options)
}

class TriggeredWindowOperator implements Operator {
  readonly batchInputs = ['sorted'] as const
  private readonly options: TriggeredWindowOptions
  private readonly assigner: WindowAssigner
  private readonly merging: MergingWindowAssigner | null
  private readonly isEventTime: boolean
  private readonly latenessMs: number
  private readonly late: LateRows
  private readonly slots = new Int32Array(BATCH_ROWS_MAX)
  private readonly rowsAhead = new Int32Array(BATCH_ROWS_MAX)
  private readonly firstRow = Int32Array.of(0)
  private readonly keeper: ContentsKeeper
  private context!: OperatorContext
  private table!: StateTable
  private timers!: InternalTimerService
  private trigger!: WindowTriggerContext
  private fn!: WindowFunctionRunner
  private rows!: RowSource
  private watermark = WATERMARK_MIN
  /** Key groups that were further when they were restored; null when all are past that. */
  private floors: WatermarkFloors | null = null
  private readonly current = new CurrentKey()
  private read: RowReader = () => undefined
  /** Rows were put into several windows, which may share objects now. */
  private sharesRows = false
  private readonly fireTimer = (timer: Readonly<QueuedTimer>, domain: TimeDomain) => this.onTimer(timer, domain)

  constructor(options: TriggeredWindowOptions) {
    this.options = options
    this.assigner = options.assigner
    this.merging = options.assigner instanceof MergingWindowAssigner ? options.assigner : null
    this.isEventTime = options.assigner.isEventTime()
    this.latenessMs = this.isEventTime ? (options.allowedLatenessMs ?? 0) : 0
    this.late = new LateRows(options.lateTag ?? null)
    this.keeper = keeperOf(options.kept, options.elementCodec)
    assert(options.evictor === null || this.keeper instanceof ElementsKeeper, 'evictors see elements')
  }

  open(context: OperatorContext): void {
    const { options } = this
    this.context = context
    refuseOtherWindows(context, this.signature)
    const { watermark, floors } = restoredWatermarks(context)
    this.watermark = watermark
    this.floors = floors
    this.rows = new RowSource(context)
    this.keeper.open(context.keyed)
    const codec = windowRecordsCodec(this.keeper.codec)
    this.table = context.keyed.table({ name: '$windows', version: 1, layout: { kind: 'object', codec } })
    this.timers = new InternalTimerService(context, { stepsMax: TIMERS_A_CALL })
    const { current } = this
    this.trigger = new WindowTriggerContext(options.trigger, {
      context,
      current,
      timers: this.timers,
      watermark: () => this.keyWatermark,
      codecOf: options.codecOf,
    })
    this.fn = new WindowFunctionRunner(options, {
      context,
      watermark: () => this.keyWatermark,
      current: this.trigger,
      key: current,
      windowsMerge: this.merging !== null,
    })
    this.guard(() => this.fn.open())
  }

  private get signature(): string {
    return `${this.assigner} ${this.keeper.signature}`
  }

  /** Of the current key. */
  private get keyWatermark(): number {
    return this.floors?.of(this.current.hash, this.watermark) ?? this.watermark
  }

  private guard<R>(call: () => R): R {
    try {
      return call()
    } catch (error) {
      throw userFunctionError(error, this.context.name)
    }
  }

  process(batch: Batch, from: number, output: Output): number {
    const { keys } = batch
    if (keys === null) {
      throw new MillraceError('STATE_NOT_KEYED', 'A window operator got rows without keys.', { domain: 'internal' })
    }
    if (output.blocked) return from
    const count = batch.length - from
    for (let j = 0; j < count; j++) this.rowsAhead[j] = from + j
    const segment = this.table.segment(0)
    segment.upsert(keys, this.rowsAhead, count, this.slots)
    this.fn.prefetch(keys, from, batch.length)
    this.read = this.rows.readerOf(batch)
    this.fn.begin(output)
    const next = this.guard(() => this.processRows(batch, keys, from, segment, output))
    this.removeEmpty(segment, count)
    this.finishCall(output)
    this.late.emit(batch, this.context, output)
    return next
  }

  private processRows(batch: Batch, keys: KeyColumn, from: number, segment: StateSegment, output: Output): number {
    const { objects } = segment
    for (let i = from; i < batch.length; i++) {
      if (i > from && this.fn.emitted && output.blocked) return i
      this.fn.emitted = false
      const slot = this.slots[i - from]
      let windows = objects[slot] as KeyWindows | undefined
      if (windows === undefined) {
        windows = new KeyWindows()
        objects[slot] = windows
      }
      this.setKey(keys, i, windows)
      this.addRow(batch, i, windows)
    }
    return batch.length
  }

  private setKey(keys: KeyColumn, row: number, windows: KeyWindows): void {
    this.trigger.setKey(keys, row, windows)
    this.keeper.select(keys, row, windows.records)
  }

  /** The look-up made an entry for each key: those that got no window go. */
  private removeEmpty(segment: StateSegment, count: number): void {
    const { objects } = segment
    for (let j = 0; j < count; j++) {
      const windows = objects[this.slots[j]] as KeyWindows | undefined
      if (windows === undefined || windows.records.length === 0) segment.remove(this.slots[j])
    }
  }

  private finishCall(output: Output): void {
    this.trigger.clearKey()
    this.fn.flush(output)
  }

  private addRow(batch: Batch, i: number, windows: KeyWindows): void {
    const timeMs = batch.eventTime[i]
    // Nothing orders such times: no watermark would end their windows.
    if (this.isEventTime && !Number.isFinite(timeMs)) throw timestampMissing(this.context.name)
    const row = this.read(batch, i)
    const assigned = this.assigner.assignWindows(row, timeMs, this.trigger)
    if (!Array.isArray(assigned)) throw assignedInvalid(this.context.name, this.assigner, assigned)
    if (assigned.length === 1 && windows.only !== null) {
      const record = this.onlyRecordFor(assigned[0], windows.only)
      if (record !== null && this.addTo(record, row, timeMs)) return
      if (record !== null) {
        this.settle(windows)
        return
      }
    }
    if (assigned.length > 1 && batch.schema.isOpaque) this.sharesRows = true
    let isSkipped = true
    for (let w = 0; w < assigned.length; w++) {
      const record = this.recordFor(assigned[w], windows.records)
      if (record === null) continue
      isSkipped = false
      this.addTo(record, w === 0 ? row : this.ownRow(batch, i, row, record), timeMs)
    }
    if (isSkipped && this.isEventTime && timeMs + this.latenessMs <= this.keyWatermark) this.late.add(i)
    this.settle(windows)
  }

  /** `only` if it is the record of a window without further ado, perhaps after it grew; null for the longer way. */
  private onlyRecordFor(window: TimeWindow, only: WindowRecord): WindowRecord | null {
    if (this.merging !== null) return this.merging.mergesTouching ? this.growInto(window, only) : null
    if (this.isLate(window)) return null
    if (only.window === window) return only
    if (!isSame(only.window, window)) return null
    // The assigner's own object: it is near, and the next row will most likely bring it again.
    only.window = window
    return only
  }

  /** Adds a row to a window; true when there is nothing more to do. */
  private addTo(record: WindowRecord, row: unknown, timeMs: number): boolean {
    const contents = this.keeper.add(record, row, timeMs)
    if (isPromise(contents)) throw asyncFunctionError(this.context.name)
    record.contents = contents
    const result = this.trigger.onElement(record, row, timeMs)
    const isQuiet = result === TriggerResult.CONTINUE && contents !== undefined
    if (!isQuiet) this.carryOut(record, result, false)
    if (!record.waitsForCleanup) this.registerCleanup(record)
    return isQuiet
  }

  /** Records may have come or gone. */
  private settle(windows: KeyWindows): void {
    dropIdle(windows.records)
    windows.settle()
    if (windows.records.length === 0) this.trigger.sleep()
  }

  /** The row for one more window, which may change what it keeps. */
  private ownRow(batch: Batch, i: number, row: unknown, record: WindowRecord): unknown {
    if (!batch.schema.isOpaque) return this.read(batch, i)
    const isKept = this.keeper.keepsFirstRow && record.contents === undefined
    return isKept ? copyOf(this.options.elementCodec, row) : row
  }

  /** The record of a window, made when absent; null when the window is over. */
  private recordFor(window: TimeWindow, windows: WindowRecord[]): WindowRecord | null {
    if (this.merging !== null) return this.mergeIn(this.merging, window, windows)
    if (this.isLate(window)) return null
    for (let w = 0; w < windows.length; w++) if (isSame(windows[w].window, window)) return windows[w]
    return addRecord(windows, window)
  }

  private isLate(window: TimeWindow): boolean {
    return this.isEventTime && this.cleanupTimeOf(window) <= this.keyWatermark
  }

  private cleanupTimeOf(window: TimeWindow): number {
    return window.maxTimestamp + this.latenessMs
  }

  private registerCleanup(record: WindowRecord): void {
    const timeMs = this.cleanupTimeOf(record.window)
    record.waitsForCleanup = true
    if (timeMs === Number.POSITIVE_INFINITY) return
    this.trigger.select(record)
    if (this.isEventTime) this.trigger.registerEventTimeTimer(timeMs)
    else this.trigger.registerProcessingTimeTimer(timeMs)
  }

  /** Adds a window to those of the key, merging what belongs together; null when the result is over. */
  private mergeIn(assigner: MergingWindowAssigner, added: TimeWindow, windows: WindowRecord[]): WindowRecord | null {
    if (assigner.mergesTouching && windows.length === 0) return this.isLate(added) ? null : addRecord(windows, added)
    let target = added
    const merges: { readonly sources: readonly WindowRecord[]; readonly result: TimeWindow }[] = []
    if (windows.length > 0) {
      assigner.mergeWindows([...windows.map((record) => record.window), added], (merged, result) => {
        if (merged.some((window) => isSame(window, added))) target = result
        const sources = windows.filter((record) => merged.some((window) => isSame(window, record.window)))
        merges.push({ sources, result })
      })
    }
    if (this.isLate(target)) return null
    for (const { sources, result } of merges) {
      // One window that took the new one in without growing stays as it is.
      if (sources.length === 1 && isSame(sources[0].window, result)) continue
      this.merge(sources, result, windows)
    }
    return windows.find((record) => isSame(record.window, target)) ?? addRecord(windows, target)
  }

  /** The key's only window where it takes a new one in; null when they do not touch, or by merging only. */
  private growInto(added: TimeWindow, only: WindowRecord): WindowRecord | null {
    const { window } = only
    if (window.start > added.end || added.start > window.end) return null
    const isInside = window.start <= added.start && added.end <= window.end
    const target = isInside
      ? window
      : new TimeWindow(Math.min(window.start, added.start), Math.max(window.end, added.end))
    if (this.isLate(target)) return null
    if (isInside) return only
    if (!this.trigger.onGrow(only, target)) return null
    const cleanupMs = this.cleanupTimeOf(window)
    if (this.isEventTime) this.trigger.deleteEventTimeTimer(cleanupMs)
    else this.trigger.deleteProcessingTimeTimer(cleanupMs)
    return only
  }

  /** Contents, trigger state and timers of `sources` become those of one window. */
  private merge(sources: readonly WindowRecord[], result: TimeWindow, windows: WindowRecord[]): void {
    const inOrder = [...sources].sort((a, b) => a.window.start - b.window.start)
    const record = new WindowRecord(result)
    windows.push(record)
    this.trigger.onMerge(record, inOrder)
    for (const source of inOrder) {
      this.trigger.clear(source)
      windows.splice(windows.indexOf(source), 1)
      if (source.contents !== undefined) this.keeper.merge(record, source)
    }
  }

  /** `isOver`: the window is forgotten next. */
  private carryOut(record: WindowRecord, result: TriggerResult, isOver: boolean): void {
    const purges = result === TriggerResult.PURGE || result === TriggerResult.FIRE_AND_PURGE
    if (result === TriggerResult.FIRE || result === TriggerResult.FIRE_AND_PURGE) this.fire(record, purges || isOver)
    if (purges) this.keeper.clear(record)
    else if (result !== TriggerResult.FIRE && result !== TriggerResult.CONTINUE) {
      throw triggerResultInvalid(this.context.name, this.options.trigger, result)
    }
  }

  private fire(record: WindowRecord, isLast: boolean): void {
    if (record.contents === undefined) return
    this.trigger.select(record)
    const { evictor } = this.options
    const isFree = isLast && !this.sharesRows
    if (evictor === null) this.fn.call(this.keeper.results(record, isFree))
    else this.fireEvicting(record, evictor, isFree, isLast)
  }

  private fireEvicting(record: WindowRecord, evictor: Evictor, isFree: boolean, isLast: boolean): void {
    const keeper = this.keeper as ElementsKeeper
    const { window } = record
    const elements = keeper.elements(record) as TimestampedValue<unknown>[]
    this.refusePromise(evictor.evictBefore(elements, elements.length, window, this.trigger))
    this.fn.call(keeper.resultsOf(elements, isFree))
    this.refusePromise(evictor.evictAfter(elements, elements.length, window, this.trigger))
    if (!isLast) keeper.retain(record, elements)
  }

  /** An evictor that waits would have its say too late. */
  private refusePromise(returned: unknown): void {
    if (isPromise(returned)) throw asyncFunctionError(this.context.name)
  }

  advanceWatermark(watermark: number, output: Output): boolean {
    this.watermark = Math.max(this.watermark, watermark)
    if (!this.fireDue(output, () => this.timers.advanceWatermark(watermark, output, this.fireTimer))) return false
    if (this.floors !== null) this.floors = this.floors.above(this.watermark)
    return true
  }

  endKey(output: Output): boolean {
    if (output.blocked) return false
    this.watermark = WATERMARK_MAX
    const done = this.fireDue(output, () => this.timers.endKey(output, this.fireTimer))
    if (done) this.watermark = WATERMARK_MIN
    return done
  }

  onProcessingTime(nowMs: number, output: Output): boolean {
    return this.fireDue(output, () => this.timers.onProcessingTime(nowMs, output, this.fireTimer))
  }

  private fireDue(output: Output, fire: () => boolean): boolean {
    this.fn.begin(output)
    const done = this.guard(fire)
    this.finishCall(output)
    return done
  }

  private onTimer(timer: Readonly<QueuedTimer>, domain: TimeDomain): void {
    const segment = this.table.segment(0)
    segment.find(timer.keys, this.firstRow, 1, this.slots)
    const slot = this.slots[0]
    if (slot < 0) return
    const windows = segment.objects[slot] as KeyWindows
    const { records } = windows
    const { timeMs } = timer
    this.setKey(timer.keys, 0, windows)
    this.trigger.woken(timeMs, domain)
    const due = records.filter((candidate) => timesOf(candidate, domain).includes(timeMs))
    for (const record of due) {
      const times = timesOf(record, domain)
      times.splice(times.indexOf(timeMs), 1)
      record.waitsForEnd = false
      record.waitsForCleanup = false
      this.fireRecord(record, timeMs, domain, records)
    }
    if (due.length > 0) segment.markDirty(slot)
    this.settle(windows)
    if (records.length > 0) this.trigger.wakeNext(domain)
    else segment.remove(slot)
  }

  private fireRecord(record: WindowRecord, timeMs: number, domain: TimeDomain, windows: WindowRecord[]): void {
    const ownDomain = (domain === 'EVENT_TIME') === this.isEventTime
    const isOver = ownDomain && timeMs === this.cleanupTimeOf(record.window)
    this.carryOut(record, this.trigger.onTimer(record, timeMs, domain), isOver)
    if (!isOver) return
    this.keeper.clear(record)
    this.trigger.clear(record)
    this.fn.clear()
    windows.splice(windows.indexOf(record), 1)
  }

  snapshot(context: FunctionSnapshotContext): JsonValue {
    const lists = this.guard(() => this.fn.snapshot(context))
    return { ...watermarksToJson(this.watermark, this.floors), signature: this.signature, lists }
  }

  get checkpointListener(): CheckpointListener {
    return this.fn.listener
  }

  close(): Promise<void> {
    return this.fn.close()
  }
}

const isSame = (a: TimeWindow, b: TimeWindow): boolean => a.start === b.start && a.end === b.end

function addRecord(windows: WindowRecord[], window: TimeWindow): WindowRecord {
  const record = new WindowRecord(window)
  windows.push(record)
  return record
}

const timesOf = (record: WindowRecord, domain: TimeDomain): number[] =>
  domain === 'EVENT_TIME' ? record.eventTimers : record.processingTimers

function dropIdle(windows: WindowRecord[]): void {
  for (let w = windows.length - 1; w >= 0; w--) if (windows[w].isIdle) windows.splice(w, 1)
}
