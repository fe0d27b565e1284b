/**
 * Two streams that meet in one operator: what `DataStream.connect` returns. Their elements may be of different
 * types; one function object sees both, so state that one input writes the other can read.
 */
import type { KeySelector } from '../contract/functions.ts'
import type {
  CoFlatMapFunction,
  CoMapFunction,
  CoProcessFunction,
  KeyedCoProcessFunction,
} from '../contract/joint-functions.ts'
import type { Key } from '../core/keys.ts'
import { OPAQUE_SCHEMA, type Schema } from '../core/schema.ts'
import type { DataStream, KeyedStream, SchemaOption, SingleOutputStreamOperator } from './data-stream.ts'
import { addJoint, jointInputs } from './joint-inputs.ts'
import type { KeyField } from './key-selectors.ts'
import { makeOperator, type OperatorFactory } from './operators.ts'
import { objectFactory, processFunctionFactory } from './process-functions.ts'

/** An instance of a class, or a function that makes one. */
type OrFactory<F> = F | (() => F)

export class ConnectedStreams<A, B> {
  /** @internal */
  readonly first: DataStream<A>
  /** @internal */
  readonly second: DataStream<B>

  /** @internal Throws `STREAMS_UNRELATED` for streams of different environments. */
  constructor(first: DataStream<A>, second: DataStream<B>) {
    jointInputs(first, second)
    this.first = first
    this.second = second
  }

  /** Brings elements of both streams together by the values of a field of each. */
  keyBy<F extends KeyField<A>, G extends KeyField<B>>(
    field1: F,
    field2: G,
  ): KeyedConnectedStreams<Extract<A[F], Key> | Extract<B[G], Key>, A, B>
  /** Brings elements of both streams with the same key together. Keys are compared by value. */
  keyBy<K extends Key>(selector1: KeySelector<A, K>, selector2: KeySelector<B, K>): KeyedConnectedStreams<K, A, B>
  keyBy(first: unknown, second: unknown): unknown {
    return new KeyedConnectedStreams<Key, A, B>(this.first.keyBy(first as never), this.second.keyBy(second as never))
  }

  /** One result for each element of either stream: an object with `map1` and `map2`. */
  map<R>(fn: CoMapFunction<A, B, R>): SingleOutputStreamOperator<R>
  map<R>(fn: CoMapFunction<A, B, NoInfer<R>>, options: SchemaOption<R>): SingleOutputStreamOperator<R>
  map<R>(fn: CoMapFunction<A, B, R>, options?: SchemaOption<R>): SingleOutputStreamOperator<R> {
    const output = schemaOf(options)
    return this.add('Co-Map', output, makeOperator.coMap(objectFactory(fn, 'map', 'map1'), output, this.isKeyed))
  }

  /** Any number of results for each element of either stream: an object with `flatMap1` and `flatMap2`. */
  flatMap<R>(fn: CoFlatMapFunction<A, B, R>): SingleOutputStreamOperator<R>
  flatMap<R>(fn: CoFlatMapFunction<A, B, NoInfer<R>>, options: SchemaOption<R>): SingleOutputStreamOperator<R>
  flatMap<R>(fn: CoFlatMapFunction<A, B, R>, options?: SchemaOption<R>): SingleOutputStreamOperator<R> {
    const output = schemaOf(options)
    const create = objectFactory(fn, 'flatMap', 'flatMap1')
    return this.add('Co-Flat Map', output, makeOperator.coFlatMap(create, output, this.isKeyed))
  }

  /**
   * Logic of your own over both streams. Give a function that makes it, or an instance of a class; each subtask gets
   * its own copy. Keyed state and timers need a keyBy on both sides.
   */
  process<R>(fn: OrFactory<CoProcessFunction<A, B, R>>): SingleOutputStreamOperator<R>
  process<R>(
    fn: OrFactory<CoProcessFunction<A, B, NoInfer<R>>>,
    options: SchemaOption<R>,
  ): SingleOutputStreamOperator<R>
  process<R>(fn: OrFactory<CoProcessFunction<A, B, R>>, options?: SchemaOption<R>): SingleOutputStreamOperator<R> {
    const output = schemaOf(options)
    const create = processFunctionFactory(fn, 'processElement1')
    return this.add('Co-Process', output, makeOperator.coProcess(create, output, this.isKeyed))
  }

  protected get isKeyed(): boolean {
    return false
  }

  /** @internal */
  protected add<R>(name: string, outputSchema: Schema<R>, create: OperatorFactory): SingleOutputStreamOperator<R> {
    const { first, second, isKeyed } = this
    return addJoint(first, second, { name, outputSchema, isKeyed, create }).stream
  }
}

/** Two streams by key: elements with the same key meet in one subtask, with the same state and timers. */
export class KeyedConnectedStreams<K extends Key, A, B> extends ConnectedStreams<A, B> {
  /** Type only; never set. */
  declare readonly key?: K

  /** @internal Throws `STREAMS_UNRELATED` for streams of different environments. */
  constructor(first: KeyedStream<A, K>, second: KeyedStream<B, K>) {
    super(first, second)
  }

  /**
   * Logic of your own over both streams, with state and timers that both share by key. Give a function that makes it,
   * or an instance of a class; each subtask gets its own copy.
   */
  override process<R>(fn: OrFactory<KeyedCoProcessFunction<K, A, B, R>>): SingleOutputStreamOperator<R>
  override process<R>(
    fn: OrFactory<KeyedCoProcessFunction<K, A, B, NoInfer<R>>>,
    options: SchemaOption<R>,
  ): SingleOutputStreamOperator<R>
  override process<R>(
    fn: OrFactory<KeyedCoProcessFunction<K, A, B, R>>,
    options?: SchemaOption<R>,
  ): SingleOutputStreamOperator<R> {
    const output = schemaOf(options)
    const create = processFunctionFactory(fn, 'processElement1')
    return this.add('Keyed Co-Process', output, makeOperator.coProcess(create, output, true))
  }

  protected override get isKeyed(): boolean {
    return true
  }
}

function schemaOf<R>(options: SchemaOption<R> | undefined): Schema<R> {
  return options?.schema ?? (OPAQUE_SCHEMA as Schema<R>)
}
