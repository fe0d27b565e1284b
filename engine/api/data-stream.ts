/**
 * Streams: what a program calls methods on. A stream is a handle on the graph; nothing runs until
 * `env.execute`.
 *
 * `DataStream`, `SingleOutputStreamOperator` and `KeyedStream` live in one file because each makes the
 * others and two extend the first.
 */
import type { RichObject } from '../../operators/process.ts'
import type { RollingKind } from '../../operators/rolling-aggregate.ts'
import type { KeyColumnKind } from '../../operators/window-columnar.ts'
import type {
  FilterFunction,
  FilterObject,
  FlatMapFunction,
  FlatMapObject,
  KeySelector,
  MapFunction,
  MapObject,
  MapStateDescriptor,
  OutputTag,
  Partitioner,
  ReduceFunction,
  ReduceObject,
} from '../contract/functions.ts'
import type { Sink } from '../contract/sink.ts'
import type { WindowAssigner } from '../contract/windows.ts'
import type { Batch, KeyColumn, Projection } from '../core/batch.ts'
import { MillraceError } from '../core/errors.ts'
import type { Partitioning } from '../core/graph.ts'
import type { Key } from '../core/keys.ts'
import { describeSchema, OPAQUE_SCHEMA, type Schema } from '../core/schema.ts'
import { BroadcastConnectedStream, BroadcastStream, KeyedBroadcastConnectedStream } from './broadcast-stream.ts'
import { checkFunction, checkInstance } from './check-function.ts'
import { type CloseableIterator, firstOf } from './closeable-iterator.ts'
import { ConnectedStreams, KeyedConnectedStreams } from './connected-streams.ts'
import { targetsFactory } from './custom-partitioner.ts'
import { functionSink, type SinkFunction } from './function-sink.ts'
import {
  checkMaxParallelism,
  checkParallelism,
  checkUid,
  type GraphBuilder,
  type Transformation,
  type TransformationBody,
  type Upstream,
} from './graph-builder.ts'
import { IntervalJoin } from './interval-join.ts'
import { CoGroupedStreams, JoinedStreams } from './joined-streams.ts'
import { type KeyField, keysFactory } from './key-selectors.ts'
import { makeOperator, type OperatorFactory } from './operators.ts'
import { perSubtaskOf } from './per-subtask.ts'
import {
  type KeyedProcessFunctionOrFactory,
  type ProcessFunctionOrFactory,
  processFunctionFactory,
  richFunctionFactory,
} from './process-functions.ts'
import { type ComparableField, checkRollingField, type SummableField } from './rolling-fields.ts'
import type { BoundedOutOfOrdernessTimestampExtractor } from './timestamp-extractor.ts'
import { WatermarkStrategy } from './watermark-strategy.ts'
import { GlobalWindows } from './window-assigners.ts'
import { AllWindowedStream, WindowedStream } from './windowed-stream.ts'

/** What streams need of their environment. */
export interface StreamHome {
  readonly builder: GraphBuilder
  /** A sink that prints rows on stdout or stderr, each line after `prefix`. */
  printSink(prefix: string | undefined, standardError: boolean): Sink
  /** Runs the job and resolves to the rows of one stream. */
  collect<T>(stream: DataStream<T>): Promise<T[]>
  /** Runs the job and gives the rows of one stream as they come. */
  iterate<T>(stream: DataStream<T>): CloseableIterator<T>
  /** The rows of one stream, once the job is run by other means. */
  iterateLater<T>(stream: DataStream<T>): CloseableIterator<T>
}

/** Options of steps whose results may have declared columns. */
export interface SchemaOption<R> {
  /** Columns of the result. Without it the result is passed on as it is. */
  readonly schema: Schema<R>
}

// biome-ignore lint/suspicious/noExplicitAny: a descriptor of any map
type AnyMapDescriptor = MapStateDescriptor<any, any>

/** `unknown` when rows of type `T` may go where rows of type `S` are wanted; otherwise nothing fits. */
export type Fits<T, S> = [T] extends [S] ? unknown : { readonly error: 'The rows of this stream do not fit the sink.' }

export class DataStream<T> {
  /** @internal */
  readonly home: StreamHome
  /** @internal */
  readonly upstreams: readonly Upstream[]
  /** Columns of this stream's rows. */
  readonly schema: Schema<T>

  /** @internal */
  constructor(home: StreamHome, upstreams: readonly Upstream[], schema: Schema<T>) {
    this.home = home
    this.upstreams = upstreams
    this.schema = schema
  }

  /** One result for each element. An object with `map` may have `open` and `close` too. */
  map<R>(fn: MapFunction<T, R> | MapObject<T, R>): SingleOutputStreamOperator<R>
  map<R>(
    fn: MapFunction<T, NoInfer<R>> | MapObject<T, NoInfer<R>>,
    options: SchemaOption<R>,
  ): SingleOutputStreamOperator<R>
  map<R>(fn: MapFunction<T, R> | MapObject<T, R>, options?: SchemaOption<R>): SingleOutputStreamOperator<R> {
    const output = outputSchema(options)
    return this.functionStep('Map', 'map', output, fn as AnyFunction<MapFunction<T, R>>, makeOperator.map)
  }

  /**
   * Any number of results for each element: return them, or pass each to `collect`. An object with `flatMap` may
   * have `open` and `close` too.
   */
  flatMap<R>(fn: FlatMapFunction<T, R> | FlatMapObject<T, R>): SingleOutputStreamOperator<R>
  flatMap<R>(
    fn: FlatMapFunction<T, NoInfer<R>> | FlatMapObject<T, NoInfer<R>>,
    options: SchemaOption<R>,
  ): SingleOutputStreamOperator<R>
  flatMap<R>(
    fn: FlatMapFunction<T, R> | FlatMapObject<T, R>,
    options?: SchemaOption<R>,
  ): SingleOutputStreamOperator<R> {
    const output = outputSchema(options)
    return this.functionStep(
      'Flat Map',
      'flatMap',
      output,
      fn as AnyFunction<FlatMapFunction<T, R>>,
      makeOperator.flatMap,
    )
  }

  /** Keeps the elements for which `predicate` is true. An object with `filter` may have `open` and `close` too. */
  filter<S extends T>(predicate: (value: T) => value is S): SingleOutputStreamOperator<S>
  filter(predicate: FilterFunction<T> | FilterObject<T>): SingleOutputStreamOperator<T>
  filter(predicate: FilterFunction<T> | FilterObject<T>): SingleOutputStreamOperator<T> {
    const fn = predicate as AnyFunction<FilterFunction<T>>
    return this.functionStep('Filter', 'filter', this.schema, fn, makeOperator.filter)
  }

  /**
   * Logic of your own: any number of results, and side outputs. Give a function that makes it, or an instance of a
   * class; each subtask gets its own copy. Keyed state and timers need a keyBy before it.
   */
  process<R>(fn: ProcessFunctionOrFactory<T, R>): SingleOutputStreamOperator<R>
  process<R>(fn: ProcessFunctionOrFactory<T, NoInfer<R>>, options: SchemaOption<R>): SingleOutputStreamOperator<R>
  process<R>(fn: ProcessFunctionOrFactory<T, R>, options?: SchemaOption<R>): SingleOutputStreamOperator<R> {
    const output = outputSchema(options)
    return this.step('Process', output, makeOperator.process(processFunctionFactory(fn, 'processElement'), output))
  }

  /**
   * Meets the elements of another stream that have the same key in the same window: name the keys by `where` and
   * `equalTo`. Throws `STREAMS_UNRELATED` for streams of different environments.
   */
  join<B>(other: DataStream<B>): JoinedStreams<T, B> {
    return new JoinedStreams<T, B>(this, other)
  }

  /**
   * As `join`, for a function that sees the elements of a key and window of both streams at once, also where one has
   * none.
   */
  coGroup<B>(other: DataStream<B>): CoGroupedStreams<T, B> {
    return new CoGroupedStreams<T, B>(this, other)
  }

  /** Brings elements with the same value of a field together. */
  keyBy<F extends KeyField<T>>(field: F): KeyedStream<T, Extract<T[F], Key>>
  /** Brings elements with the same key together. Keys are compared by value; arrays are composite keys. */
  keyBy<K extends Key>(selector: KeySelector<T, K>): KeyedStream<T, K>
  keyBy(selector: string | KeySelector<T, Key>): KeyedStream<T, Key> {
    const createKeys = keysFactory(this.schema, selector)
    const field = this.schema.isOpaque ? undefined : this.schema.fields.find((known) => known.name === selector)
    const keyKind = field?.kind === 'string' ? 'string' : 'opaque'
    return new KeyedStream<T, Key>(this.home, this.through('hash', createKeys), this.schema, keyKind)
  }

  /**
   * This stream and others of the same schema as one. Elements of different streams mix in any order; a stream that is
   * named twice gives each element twice. Throws `UNION_INVALID`.
   */
  union(...others: readonly DataStream<T>[]): DataStream<T> {
    const all: Upstream[] = [...this.upstreams]
    for (const other of others) {
      if (other.home.builder !== this.home.builder) {
        throw new MillraceError('UNION_INVALID', 'Streams of different environments cannot be united.')
      }
      if (describeSchema(other.schema) !== describeSchema(this.schema)) {
        throw new MillraceError(
          'UNION_INVALID',
          `Streams of different schemas cannot be united: ${describeSchema(this.schema)} and ${describeSchema(other.schema)}.`,
          { hint: 'Map them to the same schema first.' },
        )
      }
      all.push(...other.upstreams)
    }
    return new DataStream<T>(this.home, all, this.schema)
  }

  /**
   * Gives elements event times and makes watermarks. Directly after a source this becomes part of it,
   * with a watermark for each split; do it there if you can.
   */
  assignTimestampsAndWatermarks(
    strategy: WatermarkStrategy<T> | BoundedOutOfOrdernessTimestampExtractor<NoInfer<T>>,
  ): SingleOutputStreamOperator<T> {
    const chosen: WatermarkStrategy<T> =
      strategy instanceof WatermarkStrategy ? strategy : strategy.toStrategy(this.schema)
    const plan = chosen.toPlan(this.schema)
    return this.add('Timestamps/Watermarks', this.schema, {
      role: 'watermarks',
      plan,
      create: makeOperator.assignTimestamps(plan),
    })
  }

  /** Spreads elements evenly over the next operator's subtasks. */
  rebalance(): DataStream<T> {
    return this.partitioned({ partitioning: 'rebalance' })
  }

  /**
   * As `rebalance`, but each subtask serves only its share of the next operator's, or shares one with others:
   * fewer connections, and even only where the subtasks before it are.
   */
  rescale(): DataStream<T> {
    return this.partitioned({ partitioning: 'rescale' })
  }

  /** Sends each element to a subtask of the next operator chosen at random. */
  shuffle(): DataStream<T> {
    return this.partitioned({ partitioning: 'shuffle' })
  }

  /** Keeps elements in the subtask of the same index. The next operator must have as many: `FORWARD_PARALLELISM`. */
  forward(): DataStream<T> {
    return this.partitioned({ partitioning: 'forward', mustForward: true })
  }

  /**
   * Sends each element where `partitioner` says, from its key: a field, or what a function makes of the
   * element. The job fails with `PARTITION_INVALID` when that is no partition. State by key needs `keyBy`.
   */
  partitionCustom<F extends keyof T & string>(partitioner: Partitioner<T[F]>, field: F): DataStream<T>
  partitionCustom<K>(partitioner: Partitioner<K>, keySelector: (value: T) => K): DataStream<T>
  partitionCustom<K>(partitioner: Partitioner<K>, selector: string | ((value: T) => K)): DataStream<T> {
    checkFunction('partitionCustom', partitioner, 'partition')
    return this.partitioned({
      partitioning: 'custom',
      createTargets: targetsFactory(this.schema, partitioner, selector),
    })
  }

  /** Sends every element to every subtask of the next operator. */
  broadcast(): DataStream<T>
  /**
   * Sends every element to every subtask of the operator that this is connected to, where it may change these states.
   * Throws `STATE_DECLARED_TWICE` or `TTL_INVALID`.
   */
  broadcast(...descriptors: [AnyMapDescriptor, ...AnyMapDescriptor[]]): BroadcastStream<T>
  broadcast(...descriptors: AnyMapDescriptor[]): DataStream<T> | BroadcastStream<T> {
    const everywhere = this.partitioned({ partitioning: 'broadcast' })
    return descriptors.length === 0 ? everywhere : new BroadcastStream<T>(everywhere, descriptors)
  }

  /**
   * This stream and another, of whatever type, as the inputs of one operator. Throws `STREAMS_UNRELATED` for streams
   * of different environments.
   */
  connect<B>(broadcast: BroadcastStream<B>): BroadcastConnectedStream<T, B>
  connect<B>(other: DataStream<B>): ConnectedStreams<T, B>
  connect<B>(other: DataStream<B> | BroadcastStream<B>): unknown {
    return other instanceof BroadcastStream
      ? new BroadcastConnectedStream<T, B>(this, other)
      : new ConnectedStreams<T, B>(this, other)
  }

  /** Sends every element to the next operator's first subtask. */
  global(): DataStream<T> {
    return this.partitioned({ partitioning: 'global' })
  }

  /** Groups all elements into windows, in one subtask. Prefer windows by key: they spread over subtasks. */
  windowAll(assigner: WindowAssigner<T>): AllWindowedStream<T> {
    const createKeys = keysFactory(this.schema, () => null)
    const inOne = new KeyedStream<T, null>(this.home, this.through('hash', createKeys), this.schema, 'none')
    return new AllWindowedStream<T>(inOne, assigner)
  }

  /** As `KeyedStream.countWindow` over all elements, in one subtask. */
  countWindowAll(size: number, slide?: number): AllWindowedStream<T> {
    return this.windowAll(GlobalWindows.create()).inCounts(size, slide)
  }

  /** Ends the stream in a sink. Its guarantee is the sink's own; its rows may have fewer fields than the stream's. */
  sinkTo(sink: Sink<T>): DataStreamSink
  sinkTo<S>(sink: Sink<S> & Fits<T, S>): DataStreamSink
  sinkTo(sink: Sink): DataStreamSink {
    checkInstance('sinkTo', sink, 'createWriter')
    return this.endIn(sink)
  }

  /**
   * As `sinkTo`; also takes a function or an object with `invoke`, called for each element at least once
   * (again for those after the last checkpoint when the job restarts). Functions that open something: RichSinkFunction.
   */
  addSink(sink: Sink<T>): DataStreamSink
  addSink(sink: SinkFunction<T>): DataStreamSink
  addSink<S>(sink: Sink<S> & Fits<T, S>): DataStreamSink
  addSink(sink: Sink | SinkFunction<T>): DataStreamSink {
    if (isSink(sink)) return this.endIn(sink)
    checkFunction('addSink', sink, 'invoke')
    return this.endIn(functionSink(sink))
  }

  /** Prints each element as a line on stdout, after `PREFIX> ` if one is given: a string as it is, else JSON. */
  print(prefix?: string): DataStreamSink {
    return this.endIn(this.home.printSink(prefix, false)).name('Print to Std. Out')
  }

  /** As `print`, on stderr. */
  printToErr(prefix?: string): DataStreamSink {
    return this.endIn(this.home.printSink(prefix, true)).name('Print to Std. Err')
  }

  /** Runs the job and resolves to this stream's elements. Needs bounded input that fits in memory. */
  executeAndCollect(): Promise<T[]>
  /** Runs the job until this stream has given `limit` elements, and resolves to them. Input may be unbounded. */
  executeAndCollect(limit: number): Promise<T[]>
  executeAndCollect(limit?: number): Promise<T[]> {
    return limit === undefined ? this.home.collect(this) : firstOf(this.home.iterate(this), limit)
  }

  /**
   * Runs the job on the calling thread and gives this stream's elements as they come; the job waits while nobody
   * asks for one. Leaving a `for await` loop, or `close`, cancels the job. Input may be unbounded.
   */
  executeAndCollectAsync(): CloseableIterator<T> {
    return this.home.iterate(this)
  }

  /**
   * This stream's elements as they come, once `execute` or `executeAsync` runs the job; other sinks and other iterators
   * may be part of it. The job runs on the calling thread and waits while nobody asks for an element, so ask while it
   * runs. Leaving a `for await` loop, or `close`, cancels the job.
   */
  collectAsync(): CloseableIterator<T> {
    return this.home.iterateLater(this)
  }

  private endIn(sink: Sink): DataStreamSink {
    if (sink.guarantee === 'exactly-once' && sink.createCommitter === undefined) {
      throw new MillraceError('SINK_INVALID', `The sink ${sink.kind} promises exactly once, but has no committer.`, {
        hint: 'Give it `createCommitter`, which makes output visible with its marker, or promise at-least-once.',
      })
    }
    return new DataStreamSink(this.addNode(`Sink: ${sink.kind}`, this.schema, { role: 'sink', sink }))
  }

  private partitioned(how: Pick<Upstream, 'partitioning' | 'createTargets' | 'mustForward'>): DataStream<T> {
    const upstreams = this.upstreams.map(({ from, sideTag }) => ({ from, sideTag, createKeys: null, ...how }))
    return new DataStream<T>(this.home, upstreams, this.schema)
  }

  /** @internal Edges into the next operator with another partitioning. */
  protected through(partitioning: Partitioning, createKeys: (() => (batch: Batch) => KeyColumn) | null): Upstream[] {
    return this.upstreams.map(({ from, sideTag }) => ({ from, sideTag, partitioning, createKeys }))
  }

  /** @internal Adds a node that reads this stream. */
  addNode(name: string, output: Schema, body: TransformationBody): Transformation {
    return this.home.builder.add({ name, outputSchema: output, inputs: this.upstreams, body })
  }

  /** @internal */
  add<R>(name: string, output: Schema<R>, body: TransformationBody): SingleOutputStreamOperator<R> {
    return new SingleOutputStreamOperator<R>(this.home, this.addNode(name, output, body), output)
  }

  private functionStep<R, F extends (...args: never[]) => unknown>(
    name: string,
    step: 'map' | 'flatMap' | 'filter',
    output: Schema<R>,
    fn: AnyFunction<F>,
    ofPlain: (fn: F, output: Schema) => OperatorFactory,
  ): SingleOutputStreamOperator<R> {
    checkFunction(step, fn, step)
    const { isKeyed } = this
    const ofRich = (object: () => RichObject) => makeOperator.rich(object, output, isKeyed)
    const made = perSubtaskOf(fn)
    if (made === null && typeof fn === 'function') return this.step(name, output, ofPlain(fn, output))
    const create: OperatorFactory =
      made === null
        ? ofRich(richFunctionFactory(fn as RichObject))
        : () => {
            const own = made()
            return typeof own === 'function' ? ofPlain(own, output)() : ofRich(() => own)()
          }
    return this.add(name, output, { role: 'operator', isKeyed, create })
  }

  /** @internal Whether elements with the same key meet in one subtask. */
  protected get isKeyed(): boolean {
    return false
  }

  private step<R>(name: string, output: Schema<R>, create: OperatorFactory): SingleOutputStreamOperator<R> {
    return this.add(name, output, { role: 'operator', isKeyed: false, create })
  }
}

/** A stream that an operator or a source makes, with that operator's settings. */
export class SingleOutputStreamOperator<T> extends DataStream<T> {
  private readonly node: Transformation

  /** @internal */
  constructor(home: StreamHome, node: Transformation, schema: Schema<T>) {
    super(home, [{ from: node, partitioning: 'forward', createKeys: null, sideTag: null }], schema)
    this.node = node
  }

  /** Shown in the graph, metrics and messages. */
  name(name: string): this {
    this.node.name = name
    return this
  }

  /** Identity of this operator's state over versions of the job. Throws `UID_INVALID`. */
  uid(uid: string): this {
    this.node.uid = checkUid(uid)
    return this
  }

  /** Subtasks of this operator, whatever the job's default is. */
  setParallelism(parallelism: number): this {
    this.node.parallelism = checkParallelism(parallelism)
    return this
  }

  /** Never more subtasks than this: a lower limit than the job's. Throws `PARALLELISM_INVALID`. */
  setMaxParallelism(maxParallelism: number): this {
    this.node.maxParallelism = checkMaxParallelism(maxParallelism)
    return this
  }

  /** What this operator does, shown with the graph. */
  setDescription(description: string): this {
    this.node.description = description
    return this
  }

  /** Runs this operator in one call with those after it, but not with the one before it. */
  startNewChain(): this {
    this.node.chaining = 'head'
    return this
  }

  /** Never runs this operator in one call with another one. */
  disableChaining(): this {
    this.node.chaining = 'never'
    return this
  }

  /** What this operator put out under a tag. */
  getSideOutput<S>(tag: OutputTag<S>): DataStream<S> {
    const schema = (this.node.sideSchemas.get(tag.id) ?? OPAQUE_SCHEMA) as Schema<S>
    const upstream: Upstream = { from: this.node, partitioning: 'forward', createKeys: null, sideTag: tag.id }
    return new DataStream<S>(this.home, [upstream], schema)
  }
}

/** A stream whose elements with the same key meet in one subtask. Keys end with the next operator. */
export class KeyedStream<T, K extends Key> extends DataStream<T> {
  /** @internal Kind of a column that holds the key in the results of windows. */
  readonly keyKind: KeyColumnKind
  /** Type only; never set. */
  declare readonly key?: K

  /** @internal */
  constructor(home: StreamHome, upstreams: readonly Upstream[], schema: Schema<T>, keyKind: KeyColumnKind) {
    super(home, upstreams, schema)
    this.keyKind = keyKind
  }

  /** Groups elements of a key into windows. */
  window(assigner: WindowAssigner<T>): WindowedStream<T, K> {
    return new WindowedStream<T, K>(this, assigner)
  }

  /**
   * Windows of `size` elements of a key. With `slide`, one fires after that many elements and has the last `size`.
   * Throws `WINDOW_INVALID`.
   */
  countWindow(size: number, slide?: number): WindowedStream<T, K> {
    return this.window(GlobalWindows.create()).inCounts(size, slide)
  }

  /** Emits the running reduction of each key after every element. An object with `reduce` may have `open` and `close`. */
  reduce(fn: ReduceFunction<T>): SingleOutputStreamOperator<T>
  reduce(fn: ReduceObject<T>): SingleOutputStreamOperator<T>
  reduce(fn: ReduceFunction<T> | ReduceObject<T>): SingleOutputStreamOperator<T> {
    checkFunction('reduce', fn, 'reduce')
    const create: () => ReduceFunction<T> | ReduceObject<T> =
      perSubtaskOf(fn) ?? (typeof fn === 'function' ? () => fn : richFunctionFactory(fn))
    return this.addKeyed('Reduce', this.schema, makeOperator.reduce(create, this.schema))
  }

  /** Emits each key's running sum of a field, in its first element. Elements without a value do not count. */
  sum<F extends SummableField<T>>(field: F): SingleOutputStreamOperator<T> {
    return this.rolling('sum', field)
  }

  /** Emits each key's least value of a field so far, in its first element. */
  min<F extends ComparableField<T>>(field: F): SingleOutputStreamOperator<T> {
    return this.rolling('min', field)
  }

  /** Emits each key's greatest value of a field so far, in its first element. */
  max<F extends ComparableField<T>>(field: F): SingleOutputStreamOperator<T> {
    return this.rolling('max', field)
  }

  /** Emits each key's element with the least value of a field so far; of equal ones the first, or else the last. */
  minBy<F extends ComparableField<T>>(field: F, first = true): SingleOutputStreamOperator<T> {
    return this.rolling('minBy', field, first)
  }

  /** Emits each key's element with the greatest value of a field so far; of equal ones the first, or else the last. */
  maxBy<F extends ComparableField<T>>(field: F, first = true): SingleOutputStreamOperator<T> {
    return this.rolling('maxBy', field, first)
  }

  private rolling(kind: RollingKind, field: string | number, first = true): SingleOutputStreamOperator<T> {
    checkRollingField(this.schema, kind, field)
    const create = makeOperator.rolling(kind, field, first, this.schema)
    return this.addKeyed(kind, this.schema, create)
  }

  /**
   * Logic of your own with keyed state and timers. Give a function that makes it, or an instance of a
   * class; each subtask gets its own copy.
   */
  override process<R>(fn: KeyedProcessFunctionOrFactory<K, T, R>): SingleOutputStreamOperator<R>
  override process<R>(
    fn: KeyedProcessFunctionOrFactory<K, T, NoInfer<R>>,
    options: SchemaOption<R>,
  ): SingleOutputStreamOperator<R>
  override process<R>(
    fn: KeyedProcessFunctionOrFactory<K, T, R>,
    options?: SchemaOption<R>,
  ): SingleOutputStreamOperator<R> {
    const output = outputSchema(options)
    const create = processFunctionFactory(fn, 'processElement')
    return this.addKeyed('KeyedProcess', output, makeOperator.keyedProcess(create, output))
  }

  protected override get isKeyed(): boolean {
    return true
  }

  /**
   * This stream and another as the inputs of one operator; by key when the other has keys too. Throws
   * `STREAMS_UNRELATED` for streams of different environments.
   */
  override connect<B>(broadcast: BroadcastStream<B>): KeyedBroadcastConnectedStream<K, T, B>
  override connect<B>(other: KeyedStream<B, K>): KeyedConnectedStreams<K, T, B>
  override connect<B>(other: DataStream<B>): ConnectedStreams<T, B>
  override connect<B>(other: DataStream<B> | BroadcastStream<B>): unknown {
    if (other instanceof BroadcastStream) return new KeyedBroadcastConnectedStream<K, T, B>(this, other)
    return other instanceof KeyedStream
      ? new KeyedConnectedStreams<K, T, B>(this, other)
      : new ConnectedStreams<T, B>(this, other)
  }

  /**
   * Meets the elements of another stream with the same key whose event time is near: name how near by `between`.
   * Throws `STREAMS_UNRELATED` for streams of different environments.
   */
  intervalJoin<R>(other: KeyedStream<R, K>): IntervalJoin<T, R> {
    return new IntervalJoin<T, R>(this, other)
  }

  /** @internal */
  addKeyed<R>(
    name: string,
    output: Schema<R>,
    create: OperatorFactory,
    side: { readonly tag: string; readonly schema: Schema } | null = null,
    projection?: Projection,
  ): SingleOutputStreamOperator<R> {
    const reads = projection === undefined ? {} : { projection }
    const node = this.addNode(name, output, { role: 'operator', isKeyed: true, create, ...reads })
    if (side !== null) node.sideSchemas.set(side.tag, side.schema)
    return new SingleOutputStreamOperator<R>(this.home, node, output)
  }
}

/** The end of a stream. */
export class DataStreamSink {
  private readonly node: Transformation

  /** @internal */
  constructor(node: Transformation) {
    this.node = node
  }

  name(name: string): this {
    this.node.name = name
    return this
  }

  /** Identity of this sink's marker over versions of the job. Throws `UID_INVALID`. */
  uid(uid: string): this {
    this.node.uid = checkUid(uid)
    return this
  }

  setParallelism(parallelism: number): this {
    this.node.parallelism = checkParallelism(parallelism)
    return this
  }

  /** Never more subtasks than this. Throws `PARALLELISM_INVALID`. */
  setMaxParallelism(maxParallelism: number): this {
    this.node.maxParallelism = checkMaxParallelism(maxParallelism)
    return this
  }

  /** What this sink is for, shown with the graph. */
  setDescription(description: string): this {
    this.node.description = description
    return this
  }

  /** Never runs this sink in one call with the operator before it. */
  disableChaining(): this {
    this.node.chaining = 'never'
    return this
  }
}

/** A function, or an object with a life. */
type AnyFunction<F> = F | RichObject

function outputSchema<R>(options: SchemaOption<R> | undefined): Schema<R> {
  return options?.schema ?? (OPAQUE_SCHEMA as Schema<R>)
}

function isSink<T>(sink: Sink | SinkFunction<T>): sink is Sink {
  return typeof sink === 'object' && sink !== null && 'createWriter' in sink
}
