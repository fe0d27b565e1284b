/**
 * The functions that users write over two inputs, with Flink's names.
 *
 * As in functions.ts every function is synchronous. One object serves both inputs, so what it keeps in fields or
 * state is shared by them; elements of the two inputs come in any order.
 */
import type { Key } from '../core/keys.ts'
import type {
  AggregatingState,
  AggregatingStateDescriptor,
  ListState,
  ListStateDescriptor,
  MapState,
  MapStateDescriptor,
  OnTimerContext,
  OutputTag,
  ProcessContext,
  ProcessFunctionContext,
  ReducingState,
  ReducingStateDescriptor,
  RichFunction,
  ValueState,
  ValueStateDescriptor,
} from './functions.ts'

/** One result for each element of either input. With `open`, on inputs with keys, it may use keyed state. */
export interface CoMapFunction<A, B, Out> extends RichFunction {
  map1(value: A): Out
  map2(value: B): Out
}

/** Any number of results for each element: returned, or passed to `collect`. */
export interface CoFlatMapFunction<A, B, Out> extends RichFunction {
  // biome-ignore lint/suspicious/noConfusingVoidType: a function without a return statement is meant
  flatMap1(value: A, collect: (result: Out) => void): Iterable<Out> | void
  // biome-ignore lint/suspicious/noConfusingVoidType: a function without a return statement is meant
  flatMap2(value: B, collect: (result: Out) => void): Iterable<Out> | void
}

/** Logic over two inputs without keys. A fresh one is made for each subtask. */
export interface CoProcessFunction<A, B, Out> extends RichFunction {
  processElement1(value: A, context: ProcessFunctionContext, collect: (result: Out) => void): void
  processElement2(value: B, context: ProcessFunctionContext, collect: (result: Out) => void): void
}

/** Logic over two inputs with keys: both see the state and timers of the element's key. */
export interface KeyedCoProcessFunction<K, A, B, Out> extends RichFunction {
  processElement1(value: A, context: ProcessContext<K>, collect: (result: Out) => void): void
  processElement2(value: B, context: ProcessContext<K>, collect: (result: Out) => void): void
  /** What it collects has the timer's time as event time, or none for a processing-time timer. */
  onTimer?(timeMs: number, context: OnTimerContext<K>, collect: (result: Out) => void): void
}

/** What a `ProcessJoinFunction` is called with. */
export interface ProcessJoinContext {
  /** Event time of the left element. */
  readonly leftTimestamp: number
  /** Event time of the right element. */
  readonly rightTimestamp: number
  /** The later of the two: the event time of results. */
  readonly timestamp: number
  output<X>(tag: OutputTag<X>, value: X): void
}

/** Called once for each pair of elements of an interval join. A fresh one is made for each subtask. */
export interface ProcessJoinFunction<L, R, Out> extends RichFunction {
  /** The elements stay in state: do not change them. */
  processElement(left: L, right: R, context: ProcessJoinContext, collect: (result: Out) => void): void
}

/** A map that every subtask has a copy of, read only. Keys are compared by value. */
export interface ReadOnlyBroadcastState<MK extends Key, V> {
  get(key: MK): V | undefined
  contains(key: MK): boolean
  isEmpty(): boolean
  keys(): Iterable<MK>
  values(): Iterable<V>
  entries(): Iterable<[MK, V]>
}

/**
 * A map that every subtask has a copy of. All copies must be changed alike: by the broadcast elements alone. A value that
 * is changed in place is kept when it is put again.
 */
export interface BroadcastState<MK extends Key, V> extends ReadOnlyBroadcastState<MK, V> {
  put(key: MK, value: V): void
  putAll(entries: Iterable<readonly [MK, V]>): void
  remove(key: MK): void
  clear(): void
}

/** Looks at broadcast state; what it returns may not be changed. Throws `BROADCAST_STATE_UNKNOWN`. */
interface ReadsBroadcastState {
  getBroadcastState<MK extends Key, V>(descriptor: MapStateDescriptor<MK, V>): ReadOnlyBroadcastState<MK, V>
}

export interface BroadcastReadOnlyContext extends ProcessFunctionContext, ReadsBroadcastState {}
export interface KeyedBroadcastReadOnlyContext<K> extends ProcessContext<K>, ReadsBroadcastState {}
export interface KeyedBroadcastOnTimerContext<K> extends OnTimerContext<K>, ReadsBroadcastState {}

export interface BroadcastContext extends ProcessFunctionContext {
  /** Throws `BROADCAST_STATE_UNKNOWN` for a descriptor that was not given to `broadcast`. */
  getBroadcastState<MK extends Key, V>(descriptor: MapStateDescriptor<MK, V>): BroadcastState<MK, V>
}

/** Calls a function for every key of this subtask that has a state. */
export interface ApplyToKeyedState<K> {
  <V>(descriptor: ValueStateDescriptor<V>, apply: (key: K, state: ValueState<V>) => void): void
  <V>(descriptor: ListStateDescriptor<V>, apply: (key: K, state: ListState<V>) => void): void
  <MK extends Key, V>(descriptor: MapStateDescriptor<MK, V>, apply: (key: K, state: MapState<MK, V>) => void): void
  <V>(descriptor: ReducingStateDescriptor<V>, apply: (key: K, state: ReducingState<V>) => void): void
  <In, Acc, Out>(
    descriptor: AggregatingStateDescriptor<In, Acc, Out>,
    apply: (key: K, state: AggregatingState<In, Out>) => void,
  ): void
}

export interface KeyedBroadcastContext<K> extends BroadcastContext {
  /**
   * Calls `apply` once for each key of this subtask that has an entry in a state declared in `open`; it may change
   * or clear that. All of it happens within the call: it costs a pass over the keys.
   */
  readonly applyToKeyedState: ApplyToKeyedState<K>
}

/** Elements without keys beside broadcast elements. A fresh one is made for each subtask. */
export interface BroadcastProcessFunction<In, B, Out> extends RichFunction {
  processElement(value: In, context: BroadcastReadOnlyContext, collect: (result: Out) => void): void
  /** Called in every subtask for every broadcast element: change broadcast state alike in all of them. */
  processBroadcastElement(value: B, context: BroadcastContext, collect: (result: Out) => void): void
}

/** Elements with keys beside broadcast elements. A fresh one is made for each subtask. */
export interface KeyedBroadcastProcessFunction<K, In, B, Out> extends RichFunction {
  processElement(value: In, context: KeyedBroadcastReadOnlyContext<K>, collect: (result: Out) => void): void
  /** Called in every subtask for every broadcast element: change broadcast state alike in all of them. */
  processBroadcastElement(value: B, context: KeyedBroadcastContext<K>, collect: (result: Out) => void): void
  onTimer?(timeMs: number, context: KeyedBroadcastOnTimerContext<K>, collect: (result: Out) => void): void
}

/** An element of two joined streams, as triggers, evictors and assigners see it. */
export type TaggedUnion<A, B> = { readonly isOne: true; readonly one: A } | { readonly isOne: false; readonly two: B }

/** Called once a key and window when it fires, with the elements of both streams; either may be empty. */
export type CoGroupFunction<A, B, Out> = (
  first: Iterable<A>,
  second: Iterable<B>,
  collect: (result: Out) => void,
) => void

/** A `CoGroupFunction` with a life; it may use state of the key, over all windows. */
export interface CoGroupObject<A, B, Out> extends RichFunction {
  coGroup(first: Iterable<A>, second: Iterable<B>, collect: (result: Out) => void): void
}

/** One result for each pair of elements with the same key in the same window. */
export type JoinFunction<A, B, Out> = (first: A, second: B) => Out

/** Any number of results for each pair. With `open` it may use state of the key, over all windows. */
export interface FlatJoinFunction<A, B, Out> extends RichFunction {
  join(first: A, second: B, collect: (result: Out) => void): void
}
