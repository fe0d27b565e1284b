/**
 * The functions that users write, with Flink's names.
 *
 * Every function but AsyncFunction is synchronous: a returned promise is an error that names the async operator.
 *
 * An element of a stream with columns is an object of its function's own. Other elements are handed on within a thread
 * as they are, which is Flink's object reuse: whoever got or collected one must not change it afterwards. Between threads
 * they go as plain data.
 */
import type { Accumulator, DoubleCounter, HistogramAccumulator, IntCounter, LongCounter } from '../core/accumulators.ts'
import type { Key } from '../core/keys.ts'
import type { Schema } from '../core/schema.ts'
import type { MetricGroup } from '../core/user-metrics.ts'
import type { StateMigrations } from './keyed-state.ts'
import type { TimeWindow } from './windows.ts'

export type MapFunction<T, R> = (value: T) => R
export type FilterFunction<T> = (value: T) => boolean
/** Returns any number of results, or pushes them through `collect`. */
// biome-ignore lint/suspicious/noConfusingVoidType: a function without a return statement is meant
export type FlatMapFunction<T, R> = (value: T, collect: (result: R) => void) => Iterable<R> | void
export type ReduceFunction<T> = (accumulated: T, value: T) => T
export type KeySelector<T, K extends Key> = (value: T) => K

/** The partition, from 0 to `numPartitions` - 1, that elements with this key go to. */
export type Partitioner<K> =
  | ((key: K, numPartitions: number) => number)
  | { partition(key: K, numPartitions: number): number }

/**
 * Incremental aggregation. The accumulator may be a class instance: state restores it onto the
 * prototype of a fresh `createAccumulator()`. `#private` fields cannot be restored and are refused.
 */
export interface AggregateFunction<In, Acc, Out> {
  createAccumulator(): Acc
  /** May change and return the same accumulator. */
  add(value: In, accumulator: Acc): Acc
  getResult(accumulator: Acc): Out
  /** May change and return `a`. */
  merge(a: Acc, b: Acc): Acc
  /**
   * Promises that `merge` is commutative and associative, and that adding values to two accumulators and merging
   * these gives what adding all of them to one gives. Overlapping windows then share accumulators (slices) instead
   * of adding each value to every window.
   */
  readonly mergesInAnyOrder?: boolean
  /** Of the shape of the accumulator, 1 by default: count it up when the shape changes. */
  readonly version?: number
  /** What each version changed, for accumulators that earlier ones saved; as in a state's descriptor. */
  readonly migrations?: StateMigrations
}

/** Names a side output; `T` is its row type. */
export interface OutputTag<T> {
  readonly id: string
  /** Type only; never set. */
  readonly type?: T
}

export interface ProcessWindowContext<K> {
  readonly key: K
  readonly window: TimeWindow
  readonly currentWatermark: number
  readonly currentProcessingTime: number
  output<X>(tag: OutputTag<X>, value: X): void
}

/** Keyed state by descriptor, of whatever scope. */
export interface KeyedStateStore {
  getState<V>(descriptor: ValueStateDescriptor<V>): ValueState<V>
  getListState<V>(descriptor: ListStateDescriptor<V>): ListState<V>
  getMapState<MK extends Key, V>(descriptor: MapStateDescriptor<MK, V>): MapState<MK, V>
  getReducingState<V>(descriptor: ReducingStateDescriptor<V>): ReducingState<V>
  getAggregatingState<In, Acc, Out>(descriptor: AggregatingStateDescriptor<In, Acc, Out>): AggregatingState<In, Out>
}

/** What a `ProcessWindowFunction` sees: state too. */
export interface StatefulProcessWindowContext<K> extends ProcessWindowContext<K> {
  /** State of this key and window; drop it in `clear`. Windows that merge have none: `WINDOW_STATE_MERGING`. */
  windowState(): KeyedStateStore
  /** State of this key over all its windows. */
  globalState(): KeyedStateStore
}

/** Called once a key and window when it fires, with the aggregate (or all elements, without one). */
export type ProcessWindowCallback<In, Out, K> = (
  context: ProcessWindowContext<K>,
  elements: Iterable<In>,
  collect: (result: Out) => void,
) => void

/**
 * A `ProcessWindowCallback` with state and a life of its own: states asked for in `open` are those of
 * `globalState()`. A fresh one is made for each subtask.
 */
export interface ProcessWindowFunction<In, Out, K> extends RichFunction {
  process(context: StatefulProcessWindowContext<K>, elements: Iterable<In>, collect: (result: Out) => void): void
  /** The window is over: drop what `windowState` keeps for it. */
  clear?(context: StatefulProcessWindowContext<K>): void
}

/** Flink's WindowFunction, for `apply`: the key and the window as plain arguments. */
export type WindowFunction<In, Out, K> = (
  key: K,
  window: TimeWindow,
  elements: Iterable<In>,
  collect: (result: Out) => void,
) => void

/** One value for the current key. */
export interface ValueState<V> {
  value(): V | undefined
  update(value: V): void
  clear(): void
}

/** Values of the current key in the order in which they came. Adding one costs the same however many there are. */
export interface ListState<V> {
  /** Read as it is iterated, within the call that asked for it; empty when there is none. */
  get(): Iterable<V>
  add(value: V): void
  addAll(values: Iterable<V>): void
  /** Replaces the list. */
  update(values: Iterable<V>): void
  clear(): void
}

/**
 * Values by a key of their own, for the current key; each is an entry of the state store. What iterates reads as
 * it goes, in no particular order, within the call that asked for it; entries may be removed meanwhile.
 */
export interface MapState<MK extends Key, V> {
  get(key: MK): V | undefined
  put(key: MK, value: V): void
  putAll(entries: Iterable<readonly [MK, V]>): void
  remove(key: MK): void
  contains(key: MK): boolean
  isEmpty(): boolean
  keys(): Iterable<MK>
  values(): Iterable<V>
  entries(): Iterable<[MK, V]>
  clear(): void
}

/** Values reduced to one, on the fly, for the current key. */
export interface ReducingState<V> {
  add(value: V): void
  /** Undefined while empty. */
  get(): V | undefined
  clear(): void
}

/** Aggregated on the fly for the current key. */
export interface AggregatingState<In, Out> {
  add(value: In): void
  /** Undefined while empty. */
  get(): Out | undefined
  clear(): void
}

/** How long entries of a state live, by processing time. */
export interface StateTtl {
  readonly timeToLiveMs: number
  /** What counts as use: writing, or reading too. */
  readonly updateType: 'OnCreateAndWrite' | 'OnReadAndWrite'
  /** Whether what has expired may be seen once more while it is still there. */
  readonly stateVisibility: 'NeverReturnExpired' | 'ReturnExpiredIfNotCleanedUp'
}

interface StateDescriptor<Kind extends string, V> {
  readonly kind: Kind
  /** Unique in its operator, and the same over versions of the job. */
  readonly name: string
  /** Of the shape of the values: count it up when the shape changes. */
  readonly version: number
  /**
   * What each version changed, for values that earlier ones saved. Without an entry fields are only added (with
   * the template's value) and removed. A change of type without a function is refused at the start.
   */
  readonly migrations?: StateMigrations | undefined
  /** A fresh value of the right shape: stored class instances are restored onto its prototype. */
  readonly template?: (() => V) | undefined
  /** Values are rows of this schema. */
  readonly schema?: Schema<V> | undefined
  readonly ttl?: StateTtl | undefined
}

export type ValueStateDescriptor<V> = StateDescriptor<'value', V>

/** `template` makes one element. */
export type ListStateDescriptor<V> = StateDescriptor<'list', V>

/** `template` makes the value of one entry. `MK` is the type of the entries' keys. */
export interface MapStateDescriptor<MK extends Key, V> extends StateDescriptor<'map', V> {
  /** Type only; never set. */
  readonly key?: MK
}

export interface ReducingStateDescriptor<V> extends StateDescriptor<'reducing', V> {
  readonly reduce: ReduceFunction<V>
}

export interface AggregatingStateDescriptor<In, Acc, Out> {
  readonly kind: 'aggregating'
  readonly name: string
  readonly version: number
  /** Of the accumulator; as in other states. */
  readonly migrations?: StateMigrations | undefined
  readonly aggregate: AggregateFunction<In, Acc, Out>
  readonly ttl?: StateTtl | undefined
}

/** What a timer goes by: the watermark, or the machine's clock. */
export type TimeDomain = 'EVENT_TIME' | 'PROCESSING_TIME'

/** Timers of the current key. Each is kept once for a key and time, in state. */
export interface TimerService {
  currentWatermark(): number
  currentProcessingTime(): number
  /** Fires when the watermark reaches `timeMs`. Throws `TIMER_INVALID`. */
  registerEventTimeTimer(timeMs: number): void
  deleteEventTimeTimer(timeMs: number): void
  /** Fires when the machine's clock has passed `timeMs`; not any more after the end of input. Throws `TIMER_INVALID`. */
  registerProcessingTimeTimer(timeMs: number): void
  deleteProcessingTimeTimer(timeMs: number): void
}

/** What a function on a stream without keys is called with. */
export interface ProcessFunctionContext {
  /** Event time of the record; NaN when there is none. */
  readonly timestamp: number
  /** Timers need keys; time can be read anywhere. */
  readonly timerService: Pick<TimerService, 'currentWatermark' | 'currentProcessingTime'>
  /** Emits to a side output, which `getSideOutput` of the result reads. */
  output<X>(tag: OutputTag<X>, value: X): void
}

export interface ProcessContext<K> extends ProcessFunctionContext {
  readonly currentKey: K
  /** Event time of the record, or time of the timer; NaN when there is none. */
  readonly timestamp: number
  readonly timerService: TimerService
}

export interface OnTimerContext<K> extends ProcessContext<K> {
  readonly timeDomain: TimeDomain
}

/** Which job a function is part of. */
export interface JobInfo {
  /** As the status and the REST answers name it: another one when the program is started again, the same over restarts. */
  readonly jobId: string
  readonly jobName: string
}

/**
 * Where a function runs, and what it may ask for. Keyed state is declared in `open`, and used where a key is
 * current; throws `STATE_NOT_KEYED` without keys.
 */
export interface RuntimeContext extends KeyedStateStore {
  readonly taskName: string
  readonly indexOfThisSubtask: number
  readonly numberOfParallelSubtasks: number
  /** How often the job was started before, 0 at first. */
  readonly attemptNumber: number
  readonly jobInfo: JobInfo
  /** What `env.config` holds: the `--set KEY=VALUE` pairs, or what `createEnvironment` was given. */
  readonly globalJobParameters: Readonly<Record<string, string | undefined>>
  /** Shown under `/metrics` as `millrace_user_NAME`, one sample a subtask. */
  readonly metricGroup: MetricGroup
  /** Merged over all subtasks of the job, in its result. Throws `ACCUMULATOR_EXISTS`. */
  addAccumulator(name: string, accumulator: Accumulator): void
  /** Undefined when this function added none of that name. */
  getAccumulator(name: string): Accumulator | undefined
  /** The accumulator of that name, added when there is none; so are the next three. */
  getIntCounter(name: string): IntCounter
  getLongCounter(name: string): LongCounter
  getDoubleCounter(name: string): DoubleCounter
  getHistogram(name: string): HistogramAccumulator
}

/** State of a subtask rather than of a key: lists that are dealt out again when the parallelism changes. */
export interface OperatorStateStore {
  /** Each element goes to one subtask after a restore; at the same parallelism to the one that had it. */
  getListState<V>(descriptor: ListStateDescriptor<V>): ListState<V>
  /** Each subtask gets all elements of all subtasks after a restore. */
  getUnionListState<V>(descriptor: ListStateDescriptor<V>): ListState<V>
}

export interface FunctionInitializationContext {
  readonly isRestored: boolean
  readonly operatorStateStore: OperatorStateStore
  /** State by key, as in `open`. Throws `STATE_NOT_KEYED` where there are no keys. */
  readonly keyedStateStore: KeyedStateStore
}

/** Of the checkpoint that is being cut. */
export interface FunctionSnapshotContext {
  /**
   * Greater than that of every earlier one, restarts included; some are left out. It is the `id` that
   * `/api/jobs/ID/checkpoints` and the events of a job show, not the epoch of the sinks or the manifest's number.
   */
  readonly checkpointId: number
}

/** A function that keeps state of its subtask. Small: all of it is in every checkpoint. */
export interface CheckpointedFunction {
  /** Comes before `open`: declare state here, and read what was restored. */
  initializeState(context: FunctionInitializationContext): void
  /** Comes at each checkpoint's cut: put what is to be kept into the state. */
  snapshotState(context: FunctionSnapshotContext): void
}

/**
 * A function that learns how checkpoints end: to make visible elsewhere what was done before a cut, for example. Calls
 * come between elements, with no key current, in order of the ids; what they throw fails the job, as anything that a
 * function throws does. Not every checkpoint brings a call. None comes when the subtask fails first, though the job may
 * go on from that very checkpoint, nor when it is not known whether the checkpoint will be found. So a call speaks for all
 * earlier checkpoints too, and what must not be missed is in the function's state.
 */
export interface CheckpointListener {
  /** The job can go on from this checkpoint: `checkpointId` is that of `snapshotState`. */
  notifyCheckpointComplete(checkpointId: number): void
  /** The checkpoint was given up, perhaps before its cut reached this subtask. What was done since the last one is not lost. */
  notifyCheckpointAborted?(checkpointId: number): void
}

/** What functions with a life have: `open` once before the first element, `close` once at the end, which waits for its promise. */
export interface RichFunction extends Partial<CheckpointedFunction>, Partial<CheckpointListener> {
  /** @internal Comes before `open`, for the abstract classes of the API. */
  setRuntimeContext?(context: RuntimeContext): void
  open?(context: RuntimeContext): void
  close?(): void | Promise<void>
}

/** A `map` with a life; on a keyed stream it may use keyed state. */
export interface MapObject<T, R> extends RichFunction {
  map(value: T): R
}

/** A `flatMap` with a life; on a keyed stream it may use keyed state. */
export interface FlatMapObject<T, R> extends RichFunction {
  // biome-ignore lint/suspicious/noConfusingVoidType: a function without a return statement is meant
  flatMap(value: T, collect: (result: R) => void): Iterable<R> | void
}

/** A `filter` with a life; on a keyed stream it may use keyed state. */
export interface FilterObject<T> extends RichFunction {
  filter(value: T): boolean
}

/** A `reduce` with a life, for keyed streams; it may use further keyed state. */
export interface ReduceObject<T> extends RichFunction {
  reduce(accumulated: T, value: T): T
}

/** Per-record logic without keys: any number of results, and side outputs. A fresh one is made for each subtask. */
export interface ProcessFunction<In, Out> extends RichFunction {
  processElement(value: In, context: ProcessFunctionContext, collect: (result: Out) => void): void
}

/** Per-record logic with keyed state and timers. A fresh one is made for each subtask. */
export interface KeyedProcessFunction<K, In, Out> extends RichFunction {
  processElement(value: In, context: ProcessContext<K>, collect: (result: Out) => void): void
  /** What it collects has the timer's time as event time, or none for a processing-time timer. */
  onTimer?(timeMs: number, context: OnTimerContext<K>, collect: (result: Out) => void): void
}

/** One column computed by the engine without calling JavaScript per record. NULL inputs are skipped. */
export type BuiltInAggregate =
  | { readonly kind: 'count' }
  | { readonly kind: 'sum' | 'min' | 'max' | 'avg'; readonly field: string }

/** Any number of results; nothing stands for none. */
// biome-ignore lint/suspicious/noConfusingVoidType: a function without a return statement is meant
export type AsyncResults<Out> = Iterable<Out> | null | undefined | void

/** What is known about one call of an async function. */
export interface AsyncRequest {
  /** 1 for the first call, one more for each retry. */
  readonly attempt: number
  /** Aborted when the request has timed out or the job stops: give it to `fetch` and its like. */
  readonly signal: AbortSignal
}

/** Which subtask of which job a function serves. */
export type AsyncFunctionContext = Pick<
  RuntimeContext,
  'taskName' | 'indexOfThisSubtask' | 'numberOfParallelSubtasks' | 'jobInfo' | 'globalJobParameters'
>

/**
 * Asks another system about each element. Requests that are under way at a checkpoint are made again when the
 * job is restored from it, so they must bear repeating. The element must not be changed.
 */
export interface AsyncFunction<In, Out> extends Partial<CheckpointListener> {
  /** Before the first call; calls wait for its promise. */
  open?(context: AsyncFunctionContext): void | Promise<void>
  /** Resolves to the element's results. A rejection fails the job, unless a retry strategy takes it. */
  asyncInvoke(value: In, request: AsyncRequest): AsyncResults<Out> | Promise<AsyncResults<Out>>
  /** The results of an element whose request took too long. Without it that fails the job. */
  timeout?(value: In): AsyncResults<Out> | Promise<AsyncResults<Out>>
  close?(): void | Promise<void>
}

/** When a request is made again; see AsyncRetryStrategies. */
export interface AsyncRetryStrategy {
  /** Retries of one element at most. */
  readonly maxAttempts: number
  /** Time from the answer of call number `attempt` (1 for the first) to the next call. */
  backoffMs(attempt: number): number
  shouldRetryResult(results: readonly unknown[]): boolean
  shouldRetryException(error: unknown): boolean
}
