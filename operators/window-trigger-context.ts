/**
 * What a trigger sees while it is asked about one window of one key, and the calls to it.
 *
 * Used by window-triggered.ts, which selects key and record before each call. Invariant: a time is in a record's
 * list exactly when the record waits for it, and the key has a timer at or before the earliest time in any of its lists.
 */
import type { TimeDomain } from '../engine/contract/functions.ts'
import type { OperatorContext } from '../engine/contract/operator.ts'
import type {
  EvictorContext,
  MergingStateDescriptor,
  OnMergeContext,
  PartitionedState,
  TimeWindow,
  Trigger,
  TriggerResult,
  WindowAssignerContext,
} from '../engine/contract/windows.ts'
import { assert } from '../engine/core/assert.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import type { Key } from '../engine/core/keys.ts'
import type { CurrentKey } from './current-key.ts'
import type { InternalTimerService } from './timers.ts'
import type { CodecFactory } from './user-state.ts'
import { KeyWindows, type WindowRecord } from './window-records.ts'
import { WindowStates } from './window-state.ts'

export interface TriggerSurroundings {
  readonly context: OperatorContext
  readonly current: CurrentKey
  readonly timers: InternalTimerService
  readonly watermark: () => number
  readonly codecOf: CodecFactory
}

export class WindowTriggerContext implements OnMergeContext, EvictorContext, WindowAssignerContext {
  readonly getPartitionedState: PartitionedState
  private readonly trigger: Trigger
  private readonly around: TriggerSurroundings
  private readonly states: WindowStates
  private windows = new KeyWindows()
  private readonly growing: Trigger | null
  private selected: WindowRecord | null = null
  private merged: readonly WindowRecord[] = []

  constructor(trigger: Trigger, around: TriggerSurroundings) {
    this.trigger = trigger
    // One that a subclass inherited says nothing of what the subclass does.
    this.growing = Object.hasOwn(Object.getPrototypeOf(trigger) as object, 'onGrow') ? trigger : null
    this.around = around
    const { context, codecOf } = around
    this.states = new WindowStates({ prefix: 'trigger.', record: () => this.record, codecOf, context })
    this.getPartitionedState = ((descriptor: { readonly kind: string }) =>
      this.states.of(descriptor)) as PartitionedState
  }

  setKey(keys: KeyColumn, row: number, windows: KeyWindows): void {
    this.around.current.set(keys, row)
    this.windows = windows
    this.selected = null
  }

  clearKey(): void {
    this.around.current.clear()
    this.selected = null
  }

  select(record: WindowRecord): void {
    this.selected = record
  }

  get record(): WindowRecord {
    assert(this.selected !== null, 'a window is selected')
    return this.selected
  }

  get key(): Key {
    return this.around.current.get()
  }

  get currentWatermark(): number {
    return this.around.watermark()
  }

  get currentProcessingTime(): number {
    return this.around.context.worker.nowMs()
  }

  onElement(record: WindowRecord, element: unknown, timeMs: number): TriggerResult {
    this.selected = record
    return this.trigger.onElement(element, timeMs, record.window, this)
  }

  onTimer(record: WindowRecord, timeMs: number, domain: TimeDomain): TriggerResult {
    this.selected = record
    return domain === 'EVENT_TIME'
      ? this.trigger.onEventTime(timeMs, record.window, this)
      : this.trigger.onProcessingTime(timeMs, record.window, this)
  }

  onMerge(record: WindowRecord, sources: readonly WindowRecord[]): void {
    this.selected = record
    this.merged = sources
    this.trigger.onMerge(record.window, this)
    this.merged = []
  }

  /** Tells the trigger that a record's window grew; false when it has to be told by merging. */
  onGrow(record: WindowRecord, window: TimeWindow): boolean {
    if (this.growing === null) return false
    const before = record.window
    record.window = window
    record.waitsForEnd = false
    record.waitsForCleanup = false
    this.selected = record
    this.growing.onGrow!(before, window, this)
    return true
  }

  /** The trigger clears up, and what it left goes too. */
  clear(record: WindowRecord): void {
    this.selected = record
    this.trigger.clear(record.window, this)
    record.waitsForEnd = false
    record.waitsForCleanup = false
    record.eventTimers.length = 0
    record.processingTimers.length = 0
  }

  mergePartitionedState(descriptor: MergingStateDescriptor): void {
    this.states.merge(descriptor, this.merged)
  }

  registerEventTimeTimer(timeMs: number): void {
    const { record } = this
    const isEnd = timeMs === record.window.maxTimestamp
    if (isEnd && record.waitsForEnd) return
    const { eventTimers } = record
    if (!eventTimers.includes(timeMs)) {
      if (this.around.timers.isBatchEnd) return
      this.wakeInEventTime(timeMs)
      eventTimers.push(timeMs)
    }
    if (isEnd) record.waitsForEnd = true
  }

  registerProcessingTimeTimer(timeMs: number): void {
    const { processingTimers } = this.record
    if (processingTimers.includes(timeMs) || this.around.timers.isBatchEnd) return
    this.wakeInProcessingTime(timeMs)
    processingTimers.push(timeMs)
  }

  deleteEventTimeTimer(timeMs: number): void {
    const { record } = this
    if (!remove(record.eventTimers, timeMs)) return
    record.waitsForEnd = false
    record.waitsForCleanup = false
  }

  deleteProcessingTimeTimer(timeMs: number): void {
    if (remove(this.record.processingTimers, timeMs)) this.record.waitsForCleanup = false
  }

  /** Sees to it that the key has a timer at or before `timeMs`. Throws `TIMER_INVALID`. */
  private wakeInEventTime(timeMs: number): void {
    const { windows } = this
    // False for what is no time, which the timers refuse, and where no timer is known.
    if (timeMs >= windows.eventWakeMs) return
    const { current, timers } = this.around
    timers.wakeInEventTime(current.require(), current.rows[0], timeMs)
    windows.eventWakeMs = timeMs
  }

  private wakeInProcessingTime(timeMs: number): void {
    const { windows } = this
    if (timeMs >= windows.processingWakeMs) return
    const { current, timers } = this.around
    timers.wakeInProcessingTime(current.require(), current.rows[0], timeMs)
    windows.processingWakeMs = timeMs
  }

  /** The key's timer at `timeMs` has fired. */
  woken(timeMs: number, domain: TimeDomain): void {
    const { windows } = this
    if (domain === 'EVENT_TIME' && windows.eventWakeMs <= timeMs) windows.eventWakeMs = Number.NaN
    if (domain !== 'EVENT_TIME' && windows.processingWakeMs <= timeMs) {
      windows.processingWakeMs = Number.NaN
    }
  }

  /** The key waits for nothing: a timer that lies far ahead would only take room until then. */
  sleep(): void {
    const { current, timers } = this.around
    const { eventWakeMs, processingWakeMs } = this.windows
    if (!Number.isNaN(eventWakeMs)) timers.deleteEventTimeTimer(current.require(), current.rows[0], eventWakeMs)
    if (!Number.isNaN(processingWakeMs)) {
      timers.deleteProcessingTimeTimer(current.require(), current.rows[0], processingWakeMs)
    }
    this.windows.eventWakeMs = Number.NaN
    this.windows.processingWakeMs = Number.NaN
  }

  /** Sets the key's next timer. */
  wakeNext(domain: TimeDomain): void {
    const isEventTime = domain === 'EVENT_TIME'
    let next: number | null = null
    for (const { eventTimers, processingTimers } of this.windows.records) {
      for (const timeMs of isEventTime ? eventTimers : processingTimers) {
        if (next === null || timeMs < next) next = timeMs
      }
    }
    if (next === null) return
    if (isEventTime) this.wakeInEventTime(next)
    else this.wakeInProcessingTime(next)
  }
}

function remove(times: number[], timeMs: number): boolean {
  const at = times.indexOf(timeMs)
  if (at < 0) return false
  if (at === times.length - 1) times.pop()
  else times.splice(at, 1)
  return true
}
