/**
 * What a trigger sees while it is asked about one window of one key, and the calls to it.
 *
 * Used by window-triggered.ts, which selects key and record before each call. Invariant: a time is in a record's
 * list exactly when the record waits for it, and the key has a timer for each time in any of its lists.
 */
import type { TimeDomain } from '../engine/contract/functions.ts'
import type { OperatorContext } from '../engine/contract/operator.ts'
import type {
  EvictorContext,
  MergingStateDescriptor,
  OnMergeContext,
  PartitionedState,
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
import type { WindowRecord } from './window-records.ts'
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
  private windows: readonly WindowRecord[] = []
  private selected: WindowRecord | null = null
  private merged: readonly WindowRecord[] = []

  constructor(trigger: Trigger, around: TriggerSurroundings) {
    this.trigger = trigger
    this.around = around
    const { context, codecOf } = around
    this.states = new WindowStates({ prefix: 'trigger.', record: () => this.record, codecOf, context })
    this.getPartitionedState = ((descriptor: { readonly kind: string }) =>
      this.states.of(descriptor)) as PartitionedState
  }

  /** `windows`: all records of the key. */
  setKey(keys: KeyColumn, row: number, windows: readonly WindowRecord[]): void {
    this.around.current.set(keys, row)
    this.windows = windows
    this.selected = null
  }

  clearKey(): void {
    this.around.current.clear()
    this.windows = []
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

  /** The trigger clears up, and what it left goes too. */
  clear(record: WindowRecord): void {
    this.selected = record
    this.trigger.clear(record.window, this)
    while (record.eventTimers.length > 0) this.deleteEventTimeTimer(record.eventTimers.at(-1)!)
    while (record.processingTimers.length > 0) this.deleteProcessingTimeTimer(record.processingTimers.at(-1)!)
  }

  mergePartitionedState(descriptor: MergingStateDescriptor): void {
    this.states.merge(descriptor, this.merged)
  }

  registerEventTimeTimer(timeMs: number): void {
    const { eventTimers } = this.record
    if (eventTimers.includes(timeMs)) return
    const { current, timers } = this.around
    timers.registerEventTimeTimer(current.require(), current.rows[0], timeMs)
    eventTimers.push(timeMs)
  }

  registerProcessingTimeTimer(timeMs: number): void {
    const { processingTimers } = this.record
    if (processingTimers.includes(timeMs)) return
    const { current, timers } = this.around
    timers.registerProcessingTimeTimer(current.require(), current.rows[0], timeMs)
    processingTimers.push(timeMs)
  }

  deleteEventTimeTimer(timeMs: number): void {
    const { eventTimers } = this.record
    const at = eventTimers.indexOf(timeMs)
    if (at < 0) return
    eventTimers.splice(at, 1)
    if (this.windows.some((record) => record.eventTimers.includes(timeMs))) return
    const { current, timers } = this.around
    timers.deleteEventTimeTimer(current.require(), current.rows[0], timeMs)
  }

  deleteProcessingTimeTimer(timeMs: number): void {
    const { processingTimers } = this.record
    const at = processingTimers.indexOf(timeMs)
    if (at < 0) return
    processingTimers.splice(at, 1)
    if (this.windows.some((record) => record.processingTimers.includes(timeMs))) return
    const { current, timers } = this.around
    timers.deleteProcessingTimeTimer(current.require(), current.rows[0], timeMs)
  }
}
