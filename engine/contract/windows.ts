/**
 * What windows are made of, with Flink's names: assigners say which windows an element belongs to, triggers
 * when a window's function is called, evictors what it sees then.
 *
 * Built-in ones are in engine/api (window-assigners.ts, triggers.ts, evictors.ts); users write their own by
 * extending these classes. Invariant: none of them keeps state of its own beyond caches, because all subtasks
 * of a thread share one object. What a trigger must remember goes into `getPartitionedState`.
 */
import type { Key } from '../core/keys.ts'
import type {
  AggregatingState,
  AggregatingStateDescriptor,
  ListState,
  ListStateDescriptor,
  MapState,
  MapStateDescriptor,
  ReducingState,
  ReducingStateDescriptor,
  ValueState,
  ValueStateDescriptor,
} from './functions.ts'

/** [start, end) in milliseconds since 1970 UTC. The one global window reaches from -Infinity to Infinity. */
export class TimeWindow {
  readonly start: number
  readonly end: number
  /** end - 1: the event time of the window's results. */
  readonly maxTimestamp: number

  constructor(start: number, end: number) {
    this.start = start
    this.end = end
    this.maxTimestamp = end - 1
  }
}

export interface WindowAssignerContext {
  readonly currentProcessingTime: number
}

export abstract class WindowAssigner<T = unknown> {
  /**
   * The windows of an element, in the order in which the trigger is to be asked. `timestamp` is NaN when the
   * element has none. The array may be handed out again, so nobody changes it.
   */
  abstract assignWindows(element: T, timestamp: number, context: WindowAssignerContext): readonly TimeWindow[]

  /** The trigger of streams that set none. */
  abstract getDefaultTrigger(): Trigger<T>

  /** True when windows end by watermarks, so that elements can be late; false for processing time. */
  abstract isEventTime(): boolean

  /** Part of the state's signature: another text means that stored windows mean something else. */
  toString(): string {
    return this.constructor.name
  }
}

/** An assigner whose windows of one key grow together. Windows that are merged are never apart again. */
export abstract class MergingWindowAssigner<T = unknown> extends WindowAssigner<T> {
  /** True when `mergeWindows` makes one of all windows that overlap or touch, and leaves the others alone. */
  readonly mergesTouching: boolean = false

  /** Calls `merge` once for each set of two or more windows that become one. */
  abstract mergeWindows(
    windows: readonly TimeWindow[],
    merge: (merged: readonly TimeWindow[], result: TimeWindow) => void,
  ): void
}

/** What becomes of a window: FIRE calls its function, PURGE forgets its elements. */
export const TriggerResult = {
  CONTINUE: 'CONTINUE',
  FIRE: 'FIRE',
  PURGE: 'PURGE',
  FIRE_AND_PURGE: 'FIRE_AND_PURGE',
} as const
export type TriggerResult = (typeof TriggerResult)[keyof typeof TriggerResult]

/** State that a trigger keeps, for one key and window. */
export interface PartitionedState {
  <V>(descriptor: ValueStateDescriptor<V>): ValueState<V>
  <V>(descriptor: ReducingStateDescriptor<V>): ReducingState<V>
  <V>(descriptor: ListStateDescriptor<V>): ListState<V>
  <MK extends Key, V>(descriptor: MapStateDescriptor<MK, V>): MapState<MK, V>
  <In, Acc, Out>(descriptor: AggregatingStateDescriptor<In, Acc, Out>): AggregatingState<In, Out>
}

/** Descriptors of states that can be merged. */
export type MergingStateDescriptor =
  // biome-ignore lint/suspicious/noExplicitAny: values of any type; the functions of one descriptor agree
  ReducingStateDescriptor<any> | ListStateDescriptor<any> | AggregatingStateDescriptor<any, any, any>

/** Everything here belongs to the key and window that the trigger was called for. */
export interface TriggerContext {
  readonly currentWatermark: number
  readonly currentProcessingTime: number
  registerEventTimeTimer(timeMs: number): void
  registerProcessingTimeTimer(timeMs: number): void
  deleteEventTimeTimer(timeMs: number): void
  deleteProcessingTimeTimer(timeMs: number): void
  readonly getPartitionedState: PartitionedState
}

export interface OnMergeContext extends TriggerContext {
  /** Merges what the merged windows kept under this descriptor into the state of the window they became. */
  mergePartitionedState(descriptor: MergingStateDescriptor): void
}

export abstract class Trigger<T = unknown> {
  /** An element was added to a window. */
  abstract onElement(element: T, timestamp: number, window: TimeWindow, context: TriggerContext): TriggerResult

  /** A processing-time timer of this window fired, or its clean-up time came. */
  abstract onProcessingTime(timeMs: number, window: TimeWindow, context: TriggerContext): TriggerResult

  /** An event-time timer of this window fired, or its clean-up time came. */
  abstract onEventTime(timeMs: number, window: TimeWindow, context: TriggerContext): TriggerResult

  /** True when the trigger works with windows that merge; then `onMerge` must be there. */
  canMerge(): boolean {
    return false
  }

  /** Windows became `window`: bring their state and timers over. */
  onMerge(_window: TimeWindow, _context: OnMergeContext): void {
    throw new Error(`${this} does not support merging windows.`)
  }

  /**
   * A window grew to `window`, and no other one became part of it; what the trigger keeps stays as it is, timers too.
   * Does what `onMerge` and then `clear` of the window before would have come to, for less. Optional, and called only
   * where the trigger's own class defines it.
   */
  onGrow?(before: TimeWindow, window: TimeWindow, context: TriggerContext): void

  /** The window is over: drop its timers and state. */
  abstract clear(window: TimeWindow, context: TriggerContext): void

  toString(): string {
    return this.constructor.name
  }
}

/** An element of a window; `timestamp` is NaN when it has none. */
export interface TimestampedValue<T> {
  readonly value: T
  readonly timestamp: number
}

export interface EvictorContext {
  readonly currentWatermark: number
  readonly currentProcessingTime: number
}

/** Removes elements from a window, in place, around the call of its function. They come in arrival order. */
export interface Evictor<T = unknown> {
  evictBefore(elements: TimestampedValue<T>[], size: number, window: TimeWindow, context: EvictorContext): void
  evictAfter(elements: TimestampedValue<T>[], size: number, window: TimeWindow, context: EvictorContext): void
}
