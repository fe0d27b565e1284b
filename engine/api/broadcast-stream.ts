/**
 * Broadcast streams with state: what `DataStream.broadcast(descriptor)` returns, and what a stream becomes that is
 * connected with one. Every subtask sees every broadcast element, and keeps a copy of the maps they fill.
 */
import type { MapStateDescriptor } from '../contract/functions.ts'
import type { BroadcastProcessFunction, KeyedBroadcastProcessFunction } from '../contract/joint-functions.ts'
import { MillraceError } from '../core/errors.ts'
import type { Key } from '../core/keys.ts'
import { OPAQUE_SCHEMA, type Schema } from '../core/schema.ts'
import type { DataStream, KeyedStream, SchemaOption, SingleOutputStreamOperator } from './data-stream.ts'
import { addJoint, jointInputs } from './joint-inputs.ts'
import { makeOperator } from './operators.ts'
import { processFunctionFactory } from './process-functions.ts'

/** Elements that go to every subtask, with the states that they may change. */
export class BroadcastStream<B> {
  /** @internal */
  readonly elements: DataStream<B>
  /** @internal */
  readonly descriptors: readonly MapStateDescriptor<Key, unknown>[]

  /** @internal Throws `STATE_DECLARED_TWICE` or `TTL_INVALID`. */
  constructor(elements: DataStream<B>, descriptors: readonly MapStateDescriptor<Key, unknown>[]) {
    for (const [i, { name, ttl }] of descriptors.entries()) {
      const shown = JSON.stringify(name)
      if (descriptors.findIndex((other) => other.name === name) !== i) {
        throw new MillraceError('STATE_DECLARED_TWICE', `Broadcast state ${shown} is declared twice.`, {
          hint: 'Give each state its own name.',
        })
      }
      if (ttl !== undefined) {
        throw new MillraceError('TTL_INVALID', `Broadcast state ${shown} cannot have a time to live.`, {
          hint: 'Only keyed state can: copies would forget at different times.',
        })
      }
    }
    this.elements = elements
    this.descriptors = descriptors
  }
}

abstract class BroadcastConnection<A, B> {
  private readonly first: DataStream<A>
  private readonly broadcast: BroadcastStream<B>

  /** @internal Throws `STREAMS_UNRELATED` for streams of different environments. */
  constructor(first: DataStream<A>, broadcast: BroadcastStream<B>) {
    jointInputs(first, broadcast.elements)
    this.first = first
    this.broadcast = broadcast
  }

  /** @internal */
  protected add<R>(
    name: string,
    create: () => KeyedBroadcastProcessFunction<never, A, B, R>,
    isKeyed: boolean,
    options: SchemaOption<R> | undefined,
  ): SingleOutputStreamOperator<R> {
    const { first, broadcast } = this
    const outputSchema = options?.schema ?? (OPAQUE_SCHEMA as Schema<R>)
    const operator = makeOperator.broadcastProcess(create, outputSchema, isKeyed, broadcast.descriptors)
    return addJoint(first, broadcast.elements, {
      name,
      outputSchema,
      isKeyed,
      create: operator,
    }).stream
  }
}

/** A stream without keys beside a broadcast stream. */
export class BroadcastConnectedStream<A, B> extends BroadcastConnection<A, B> {
  /**
   * Logic of your own. Give a function that makes it, or an instance of a class; each subtask gets its own copy.
   */
  process<R>(
    fn: BroadcastProcessFunction<A, B, R> | (() => BroadcastProcessFunction<A, B, R>),
  ): SingleOutputStreamOperator<R>
  process<R>(
    fn: BroadcastProcessFunction<A, B, NoInfer<R>> | (() => BroadcastProcessFunction<A, B, NoInfer<R>>),
    options: SchemaOption<R>,
  ): SingleOutputStreamOperator<R>
  process<R>(
    fn: BroadcastProcessFunction<A, B, R> | (() => BroadcastProcessFunction<A, B, R>),
    options?: SchemaOption<R>,
  ): SingleOutputStreamOperator<R> {
    return this.add('Broadcast Process', processFunctionFactory(fn, 'processElement'), false, options)
  }
}

/** A stream with keys beside a broadcast stream. */
export class KeyedBroadcastConnectedStream<K extends Key, A, B> extends BroadcastConnection<A, B> {
  /** Type only; never set. */
  declare readonly key?: K

  /** @internal Throws `STREAMS_UNRELATED` for streams of different environments. */
  constructor(first: KeyedStream<A, K>, broadcast: BroadcastStream<B>) {
    super(first, broadcast)
  }

  /**
   * Logic of your own, with keyed state and timers. Give a function that makes it, or an instance of a class; each
   * subtask gets its own copy.
   */
  process<R>(
    fn: KeyedBroadcastProcessFunction<K, A, B, R> | (() => KeyedBroadcastProcessFunction<K, A, B, R>),
  ): SingleOutputStreamOperator<R>
  process<R>(
    fn: KeyedBroadcastProcessFunction<K, A, B, NoInfer<R>> | (() => KeyedBroadcastProcessFunction<K, A, B, NoInfer<R>>),
    options: SchemaOption<R>,
  ): SingleOutputStreamOperator<R>
  process<R>(
    fn: KeyedBroadcastProcessFunction<K, A, B, R> | (() => KeyedBroadcastProcessFunction<K, A, B, R>),
    options?: SchemaOption<R>,
  ): SingleOutputStreamOperator<R> {
    return this.add('Keyed Broadcast Process', processFunctionFactory(fn, 'processElement'), true, options)
  }
}
