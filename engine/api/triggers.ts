/**
 * Built-in triggers, with Flink's names: when a window's function is called. Given to `WindowedStream.trigger`,
 * which replaces the assigner's own.
 */
import {
  type OnMergeContext,
  type TimeWindow,
  Trigger,
  type TriggerContext,
  TriggerResult,
} from '../contract/windows.ts'
import { MillraceError } from '../core/errors.ts'
import { type Duration, toMs } from '../core/time.ts'
import { ReducingStateDescriptor, ValueStateDescriptor } from './state-descriptors.ts'

const { CONTINUE, FIRE, FIRE_AND_PURGE } = TriggerResult

/** A number for each key and window; `reduce` is commutative and associative. */
const numberState = (name: string, reduce: (a: number, b: number) => number): ReducingStateDescriptor<number> =>
  new ReducingStateDescriptor<number>(name, reduce)

function positive(value: number, what: string): number {
  if (value > 0 && Number.isFinite(value)) return value
  throw new MillraceError('WINDOW_INVALID', `A trigger with ${what} ${value} is not possible.`, {
    hint: 'Give a finite number above 0.',
  })
}

/** Fires when the watermark passes the window's end, and then for every late element that lateness allows. */
export class EventTimeTrigger extends Trigger {
  static create(): EventTimeTrigger {
    return new EventTimeTrigger()
  }
  onElement(_element: unknown, _timestamp: number, window: TimeWindow, context: TriggerContext): TriggerResult {
    if (window.maxTimestamp <= context.currentWatermark) return FIRE
    context.registerEventTimeTimer(window.maxTimestamp)
    return CONTINUE
  }
  onEventTime(timeMs: number, window: TimeWindow): TriggerResult {
    return timeMs === window.maxTimestamp ? FIRE : CONTINUE
  }
  onProcessingTime(): TriggerResult {
    return CONTINUE
  }
  override canMerge(): boolean {
    return true
  }
  override onMerge(window: TimeWindow, context: OnMergeContext): void {
    // A window that is due already fires with the element that comes next.
    if (window.maxTimestamp > context.currentWatermark) context.registerEventTimeTimer(window.maxTimestamp)
  }
  override onGrow(before: TimeWindow, window: TimeWindow, context: TriggerContext): void {
    context.deleteEventTimeTimer(before.maxTimestamp)
    if (window.maxTimestamp > context.currentWatermark) context.registerEventTimeTimer(window.maxTimestamp)
  }
  clear(window: TimeWindow, context: TriggerContext): void {
    context.deleteEventTimeTimer(window.maxTimestamp)
  }
}

/** Fires when the machine's clock passes the window's end. */
export class ProcessingTimeTrigger extends Trigger {
  static create(): ProcessingTimeTrigger {
    return new ProcessingTimeTrigger()
  }
  onElement(_element: unknown, _timestamp: number, window: TimeWindow, context: TriggerContext): TriggerResult {
    context.registerProcessingTimeTimer(window.maxTimestamp)
    return CONTINUE
  }
  onEventTime(): TriggerResult {
    return CONTINUE
  }
  onProcessingTime(): TriggerResult {
    return FIRE
  }
  override canMerge(): boolean {
    return true
  }
  override onMerge(window: TimeWindow, context: OnMergeContext): void {
    if (window.maxTimestamp > context.currentProcessingTime) context.registerProcessingTimeTimer(window.maxTimestamp)
  }
  override onGrow(before: TimeWindow, window: TimeWindow, context: TriggerContext): void {
    context.deleteProcessingTimeTimer(before.maxTimestamp)
    if (window.maxTimestamp > context.currentProcessingTime) context.registerProcessingTimeTimer(window.maxTimestamp)
  }
  clear(window: TimeWindow, context: TriggerContext): void {
    context.deleteProcessingTimeTimer(window.maxTimestamp)
  }
}

/** Fires when a window has got `maxCount` elements, and again after as many more. */
export class CountTrigger extends Trigger {
  private readonly maxCount: number
  private readonly count = numberState('count', (a, b) => a + b)

  private constructor(maxCount: number) {
    super()
    this.maxCount = positive(maxCount, 'count')
  }
  /** Throws `WINDOW_INVALID`. */
  static of(maxCount: number): CountTrigger {
    return new CountTrigger(maxCount)
  }
  onElement(_element: unknown, _timestamp: number, _window: TimeWindow, context: TriggerContext): TriggerResult {
    const count = context.getPartitionedState(this.count)
    count.add(1)
    if ((count.get() ?? 0) < this.maxCount) return CONTINUE
    count.clear()
    return FIRE
  }
  onEventTime(): TriggerResult {
    return CONTINUE
  }
  onProcessingTime(): TriggerResult {
    return CONTINUE
  }
  override canMerge(): boolean {
    return true
  }
  override onMerge(_window: TimeWindow, context: OnMergeContext): void {
    context.mergePartitionedState(this.count)
  }
  override onGrow(): void {}
  clear(_window: TimeWindow, context: TriggerContext): void {
    context.getPartitionedState(this.count).clear()
  }
  override toString(): string {
    return `CountTrigger(${this.maxCount})`
  }
}

/** The next time to fire at: with merged windows the earliest of theirs. */
const nextFireState = () => numberState('fire-time', (a, b) => Math.min(a, b))

/** Fires every `interval` of event time, as long as a window has elements, and at the window's end. */
export class ContinuousEventTimeTrigger extends Trigger {
  private readonly intervalMs: number
  private readonly nextFire = nextFireState()

  private constructor(interval: Duration | number) {
    super()
    this.intervalMs = positive(toMs(interval), 'interval')
  }
  /** Throws `WINDOW_INVALID`. */
  static of(interval: Duration | number): ContinuousEventTimeTrigger {
    return new ContinuousEventTimeTrigger(interval)
  }
  onElement(_element: unknown, timestamp: number, window: TimeWindow, context: TriggerContext): TriggerResult {
    if (window.maxTimestamp <= context.currentWatermark) return FIRE
    context.registerEventTimeTimer(window.maxTimestamp)
    if (context.getPartitionedState(this.nextFire).get() === undefined) {
      this.registerNext(timestamp - (timestamp % this.intervalMs), window, context)
    }
    return CONTINUE
  }
  onEventTime(timeMs: number, window: TimeWindow, context: TriggerContext): TriggerResult {
    if (timeMs === window.maxTimestamp) return FIRE
    const nextFire = context.getPartitionedState(this.nextFire)
    if (nextFire.get() !== timeMs) return CONTINUE
    nextFire.clear()
    this.registerNext(timeMs, window, context)
    return FIRE
  }
  onProcessingTime(): TriggerResult {
    return CONTINUE
  }
  private registerNext(timeMs: number, window: TimeWindow, context: TriggerContext): void {
    // At the end of input every finite time is due: a window without end would fire for ever.
    const isEndless =
      window.maxTimestamp === Number.POSITIVE_INFINITY && context.currentWatermark === window.maxTimestamp
    const next = isEndless ? window.maxTimestamp : Math.min(timeMs + this.intervalMs, window.maxTimestamp)
    context.getPartitionedState(this.nextFire).add(next)
    context.registerEventTimeTimer(next)
  }
  override canMerge(): boolean {
    return true
  }
  override onMerge(_window: TimeWindow, context: OnMergeContext): void {
    context.mergePartitionedState(this.nextFire)
    const next = context.getPartitionedState(this.nextFire).get()
    if (next !== undefined) context.registerEventTimeTimer(next)
  }
  clear(_window: TimeWindow, context: TriggerContext): void {
    const nextFire = context.getPartitionedState(this.nextFire)
    const next = nextFire.get()
    if (next === undefined) return
    context.deleteEventTimeTimer(next)
    nextFire.clear()
  }
  override toString(): string {
    return `ContinuousEventTimeTrigger(${this.intervalMs})`
  }
}

/** Fires every `interval` by the machine's clock, as long as elements come. */
export class ContinuousProcessingTimeTrigger extends Trigger {
  private readonly intervalMs: number
  private readonly nextFire = nextFireState()

  private constructor(interval: Duration | number) {
    super()
    this.intervalMs = positive(toMs(interval), 'interval')
  }
  /** Throws `WINDOW_INVALID`. */
  static of(interval: Duration | number): ContinuousProcessingTimeTrigger {
    return new ContinuousProcessingTimeTrigger(interval)
  }
  onElement(_element: unknown, _timestamp: number, window: TimeWindow, context: TriggerContext): TriggerResult {
    if (context.getPartitionedState(this.nextFire).get() === undefined) {
      const nowMs = context.currentProcessingTime
      this.registerNext(nowMs - (nowMs % this.intervalMs), window, context)
    }
    return CONTINUE
  }
  onEventTime(): TriggerResult {
    return CONTINUE
  }
  onProcessingTime(timeMs: number, window: TimeWindow, context: TriggerContext): TriggerResult {
    const nextFire = context.getPartitionedState(this.nextFire)
    if (nextFire.get() !== timeMs) return CONTINUE
    nextFire.clear()
    this.registerNext(timeMs, window, context)
    return FIRE
  }
  private registerNext(timeMs: number, window: TimeWindow, context: TriggerContext): void {
    const next = Math.min(timeMs + this.intervalMs, window.maxTimestamp)
    // Past the window's end there is no next time: the timer would fire at once, again and again.
    if (next <= timeMs) return
    context.getPartitionedState(this.nextFire).add(next)
    context.registerProcessingTimeTimer(next)
  }
  override canMerge(): boolean {
    return true
  }
  override onMerge(_window: TimeWindow, context: OnMergeContext): void {
    context.mergePartitionedState(this.nextFire)
    const next = context.getPartitionedState(this.nextFire).get()
    if (next !== undefined) context.registerProcessingTimeTimer(next)
  }
  clear(_window: TimeWindow, context: TriggerContext): void {
    const nextFire = context.getPartitionedState(this.nextFire)
    const next = nextFire.get()
    if (next === undefined) return
    context.deleteProcessingTimeTimer(next)
    nextFire.clear()
  }
  override toString(): string {
    return `ContinuousProcessingTimeTrigger(${this.intervalMs})`
  }
}

/** How far a later element is from an earlier one. */
export type DeltaFunction<T> = (earlier: T, later: T) => number

/** Fires when an element is further than `threshold` from the one that fired last (at first: from the first). */
export class DeltaTrigger<T> extends Trigger<T> {
  private readonly threshold: number
  private readonly delta: DeltaFunction<T>
  private readonly last: ValueStateDescriptor<T>

  private constructor(threshold: number, delta: DeltaFunction<T>) {
    super()
    this.threshold = threshold
    this.delta = delta
    this.last = new ValueStateDescriptor<T>('last-element')
  }
  static of<T>(threshold: number, delta: DeltaFunction<T>): DeltaTrigger<T> {
    return new DeltaTrigger(threshold, delta)
  }
  onElement(element: T, _timestamp: number, _window: TimeWindow, context: TriggerContext): TriggerResult {
    const last = context.getPartitionedState(this.last)
    const before = last.value()
    if (before !== undefined && !(this.delta(before, element) > this.threshold)) return CONTINUE
    last.update(element)
    return before === undefined ? CONTINUE : FIRE
  }
  onEventTime(): TriggerResult {
    return CONTINUE
  }
  onProcessingTime(): TriggerResult {
    return CONTINUE
  }
  clear(_window: TimeWindow, context: TriggerContext): void {
    context.getPartitionedState(this.last).clear()
  }
  override toString(): string {
    return `DeltaTrigger(${this.threshold})`
  }
}

/** Another trigger, whose every FIRE also forgets the window's elements. */
export class PurgingTrigger<T> extends Trigger<T> {
  private readonly nested: Trigger<T>

  private constructor(nested: Trigger<T>) {
    super()
    this.nested = nested
  }
  static of<T>(nested: Trigger<T>): PurgingTrigger<T> {
    return new PurgingTrigger(nested)
  }
  onElement(element: T, timestamp: number, window: TimeWindow, context: TriggerContext): TriggerResult {
    return purging(this.nested.onElement(element, timestamp, window, context))
  }
  onEventTime(timeMs: number, window: TimeWindow, context: TriggerContext): TriggerResult {
    return purging(this.nested.onEventTime(timeMs, window, context))
  }
  onProcessingTime(timeMs: number, window: TimeWindow, context: TriggerContext): TriggerResult {
    return purging(this.nested.onProcessingTime(timeMs, window, context))
  }
  override canMerge(): boolean {
    return this.nested.canMerge()
  }
  override onMerge(window: TimeWindow, context: OnMergeContext): void {
    this.nested.onMerge(window, context)
  }
  clear(window: TimeWindow, context: TriggerContext): void {
    this.nested.clear(window, context)
  }
  override toString(): string {
    return `PurgingTrigger(${this.nested})`
  }
}

function purging(result: TriggerResult): TriggerResult {
  return result === FIRE ? FIRE_AND_PURGE : result
}

/** The trigger of `GlobalWindows.create()`: never fires. */
export class NeverTrigger extends Trigger {
  static create(): NeverTrigger {
    return new NeverTrigger()
  }
  onElement(): TriggerResult {
    return CONTINUE
  }
  onEventTime(): TriggerResult {
    return CONTINUE
  }
  onProcessingTime(): TriggerResult {
    return CONTINUE
  }
  override canMerge(): boolean {
    return true
  }
  override onMerge(): void {}
  clear(): void {}
}

/** Fires once, at the end of bounded input. */
export class EndOfStreamTrigger extends Trigger {
  static create(): EndOfStreamTrigger {
    return new EndOfStreamTrigger()
  }
  onElement(_element: unknown, _timestamp: number, _window: TimeWindow, context: TriggerContext): TriggerResult {
    context.registerEventTimeTimer(Number.POSITIVE_INFINITY)
    return CONTINUE
  }
  onEventTime(timeMs: number): TriggerResult {
    return timeMs === Number.POSITIVE_INFINITY ? FIRE : CONTINUE
  }
  onProcessingTime(): TriggerResult {
    return CONTINUE
  }
  override canMerge(): boolean {
    return true
  }
  override onMerge(_window: TimeWindow, context: OnMergeContext): void {
    context.registerEventTimeTimer(Number.POSITIVE_INFINITY)
  }
  clear(_window: TimeWindow, context: TriggerContext): void {
    context.deleteEventTimeTimer(Number.POSITIVE_INFINITY)
  }
}
