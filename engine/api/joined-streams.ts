/**
 * Window joins: what `DataStream.join` and `DataStream.coGroup` return.
 *
 *   orders.join(payments).where('id').equalTo('orderId').window(TumblingEventTimeWindows.of(minutes(5))).apply(fn)
 *
 * `join` calls its function for each pair with the same key in the same window; `coGroup` once a key and window, also
 * for keys that only one stream has. Results carry the window's last millisecond as event time. Elements that come too
 * late for their window are counted and dropped.
 */
import { type CoGroup, groupInOne, innerJoin, taggedCodec, taggedInputs } from '../../operators/co-group.ts'
import type { KeySelector, ProcessWindowCallback, RichFunction } from '../contract/functions.ts'
import type {
  CoGroupFunction,
  CoGroupObject,
  FlatJoinFunction,
  JoinFunction,
  TaggedUnion,
} from '../contract/joint-functions.ts'
import type { Evictor, Trigger, WindowAssigner } from '../contract/windows.ts'
import type { Key } from '../core/keys.ts'
import { OPAQUE_SCHEMA, type Schema } from '../core/schema.ts'
import type { Duration } from '../core/time.ts'
import type { DataStream, KeyedStream, SchemaOption, SingleOutputStreamOperator } from './data-stream.ts'
import { addJoint, jointInputs } from './joint-inputs.ts'
import type { KeyField } from './key-selectors.ts'
import { type OperatorFactory, rowCodec } from './operators.ts'
import { perSubtask, perSubtaskOf } from './per-subtask.ts'
import { hasLife, richFunctionFactory } from './process-functions.ts'
import { RichJoinFunction } from './rich-functions.ts'
import { type WindowProcess, windowOperatorFactory } from './window-operators.ts'
import { checkLateness } from './windowed-stream.ts'

/** Two streams that will meet by key. */
abstract class StreamPair<A, B> {
  private readonly first: DataStream<A>
  private readonly second: DataStream<B>

  /** @internal Throws `STREAMS_UNRELATED` for streams of different environments. */
  constructor(first: DataStream<A>, second: DataStream<B>) {
    jointInputs(first, second)
    this.first = first
    this.second = second
  }

  /** @internal */
  protected keyed(first: unknown, second: unknown): readonly [KeyedStream<A, Key>, KeyedStream<B, Key>] {
    return [this.first.keyBy(first as never), this.second.keyBy(second as never)]
  }
}

/** What is left to say of the key: where the second stream has it. */
export interface EqualTo<B, K extends Key, Windows> {
  equalTo(field: KeyField<B>): Windows
  equalTo(selector: KeySelector<B, K>): Windows
}

/** What is left to say of the windows. */
export interface InWindow<A, B, Joined> {
  window(assigner: WindowAssigner<TaggedUnion<A, B>>): Joined
}

export class JoinedStreams<A, B> extends StreamPair<A, B> {
  /** The key of the first stream's elements: a field, or a function. */
  where<F extends KeyField<A>>(field: F): EqualTo<B, Extract<A[F], Key>, InWindow<A, B, WindowedJoin<A, B>>>
  where<K extends Key>(selector: KeySelector<A, K>): EqualTo<B, K, InWindow<A, B, WindowedJoin<A, B>>>
  where(first: unknown): EqualTo<B, never, InWindow<A, B, WindowedJoin<A, B>>> {
    return {
      equalTo: (second: unknown) => ({
        window: (assigner) => new WindowedJoin<A, B>(...this.keyed(first, second), assigner),
      }),
    }
  }
}

export class CoGroupedStreams<A, B> extends StreamPair<A, B> {
  /** The key of the first stream's elements: a field, or a function. */
  where<F extends KeyField<A>>(field: F): EqualTo<B, Extract<A[F], Key>, InWindow<A, B, WindowedCoGroup<A, B>>>
  where<K extends Key>(selector: KeySelector<A, K>): EqualTo<B, K, InWindow<A, B, WindowedCoGroup<A, B>>>
  where(first: unknown): EqualTo<B, never, InWindow<A, B, WindowedCoGroup<A, B>>> {
    return {
      equalTo: (second: unknown) => ({
        window: (assigner) => new WindowedCoGroup<A, B>(...this.keyed(first, second), assigner),
      }),
    }
  }
}

abstract class WindowedPair<A, B> {
  private readonly first: KeyedStream<A, Key>
  private readonly second: KeyedStream<B, Key>
  private readonly assigner: WindowAssigner<TaggedUnion<A, B>>
  private chosenTrigger: Trigger<TaggedUnion<A, B>> | null = null
  private chosenEvictor: Evictor<TaggedUnion<A, B>> | null = null
  private latenessMs = 0

  /** @internal */
  constructor(first: KeyedStream<A, Key>, second: KeyedStream<B, Key>, assigner: WindowAssigner<TaggedUnion<A, B>>) {
    this.first = first
    this.second = second
    this.assigner = assigner
  }

  /** When windows fire, instead of as the assigner has it. */
  trigger(trigger: Trigger<TaggedUnion<A, B>>): this {
    this.chosenTrigger = trigger
    return this
  }

  /** Drops elements of a window around the call of its function. */
  evictor(evictor: Evictor<TaggedUnion<A, B>>): this {
    this.chosenEvictor = evictor
    return this
  }

  /** Keeps an event-time window this long after it fired, and fires it again for each late element. */
  allowedLateness(lateness: Duration | number): this {
    this.latenessMs = checkLateness(lateness)
    return this
  }

  /** @internal `asGroup` makes of the user's function what is called for the elements of a key and window. */
  protected grouped<F extends object, R>(
    name: string,
    fn: F,
    asGroup: (own: F) => CoGroupFunction<A, B, R>,
    options: SchemaOption<R> | undefined,
  ): SingleOutputStreamOperator<R> {
    const { first, second } = this
    const outputSchema = options?.schema ?? (OPAQUE_SCHEMA as Schema<R>)
    const create = perSubtaskOf(fn) ?? (hasLife(fn) ? richFunctionFactory(fn, 'RichFlatJoinFunction') : () => fn)
    const factoryOf = (own: F) => this.operatorFactory(asGroup(own), hasLife(own) ? own : null, outputSchema)
    // What cannot be combined fails where the program declares it.
    factoryOf(fn)
    const operator: OperatorFactory = () => taggedInputs(factoryOf(create())())
    return addJoint(first, second, { name, outputSchema, isKeyed: true, create: operator }).stream
  }

  private operatorFactory<R>(
    group: CoGroupFunction<A, B, R>,
    life: RichFunction | null,
    outputSchema: Schema<R>,
  ): OperatorFactory {
    const { first, second } = this
    return windowOperatorFactory(
      {
        assigner: this.assigner as WindowAssigner,
        trigger: this.chosenTrigger as Trigger | null,
        evictor: this.chosenEvictor as Evictor | null,
        allowedLatenessMs: this.latenessMs,
        lateTag: null,
        inputSchema: OPAQUE_SCHEMA,
        createElementCodec: () => taggedCodec(rowCodec(first.schema), rowCodec(second.schema)),
      },
      {
        kind: 'coGroup',
        createEarlier: () => groupInOne(rowCodec(first.schema), rowCodec(second.schema)),
        process: processOf(group as CoGroupFunction<unknown, unknown, unknown>, life),
      },
      outputSchema,
    )
  }
}

/** A window's function that passes the two sides of a group on; `life` is the user's object, if it has one. */
function processOf(
  group: CoGroupFunction<unknown, unknown, unknown>,
  life: RichFunction | null,
): WindowProcess<unknown, unknown, unknown> {
  const process: ProcessWindowCallback<unknown, unknown, unknown> = (_context, groups, collect) => {
    const [{ one, two }] = groups as unknown as readonly [CoGroup]
    return group(one, two, collect)
  }
  if (life === null) return process
  return perSubtask(() => ({
    process,
    setRuntimeContext: (context) => life.setRuntimeContext?.(context),
    open: (context) => life.open?.(context),
    close: () => life.close?.(),
    initializeState: (context) => life.initializeState?.(context),
    snapshotState: (context) => life.snapshotState?.(context),
    notifyCheckpointComplete: (checkpointId) => life.notifyCheckpointComplete?.(checkpointId),
    notifyCheckpointAborted: (checkpointId) => life.notifyCheckpointAborted?.(checkpointId),
  }))
}

/** What a window join calls for each pair: a function for one result of each, an object with `join` for any number. */
type AnyJoin<A, B, R> = JoinFunction<A, B, R> | FlatJoinFunction<A, B, R> | RichJoinFunction<A, B, R>

export class WindowedJoin<A, B> extends WindowedPair<A, B> {
  /** A function makes one result of each pair, as a RichJoinFunction does; an object with `join` any number. */
  apply<R>(fn: AnyJoin<A, B, R>): SingleOutputStreamOperator<R>
  apply<R>(fn: AnyJoin<A, B, NoInfer<R>>, options: SchemaOption<R>): SingleOutputStreamOperator<R>
  apply<R>(fn: AnyJoin<A, B, R>, options?: SchemaOption<R>): SingleOutputStreamOperator<R> {
    return this.grouped('Join', fn, pairsOf<A, B, R>, options)
  }
}

function pairsOf<A, B, R>(fn: AnyJoin<A, B, R>): CoGroupFunction<A, B, R> {
  if (typeof fn === 'function') return innerJoin<A, B, R>((left, right, collect) => collect(fn(left, right)))
  if (fn instanceof RichJoinFunction) {
    return innerJoin<A, B, R>((left, right, collect) => collect(fn.join(left, right)))
  }
  return innerJoin<A, B, R>((left, right, collect) => fn.join(left, right, collect))
}

type AnyCoGroup<A, B, R> = CoGroupFunction<A, B, R> | CoGroupObject<A, B, R>

export class WindowedCoGroup<A, B> extends WindowedPair<A, B> {
  /** Called once a key and window, with the elements of both streams: a function, or an object with `coGroup`. */
  apply<R>(fn: AnyCoGroup<A, B, R>): SingleOutputStreamOperator<R>
  apply<R>(fn: AnyCoGroup<A, B, NoInfer<R>>, options: SchemaOption<R>): SingleOutputStreamOperator<R>
  apply<R>(fn: AnyCoGroup<A, B, R>, options?: SchemaOption<R>): SingleOutputStreamOperator<R> {
    const asGroup = (own: AnyCoGroup<A, B, R>): CoGroupFunction<A, B, R> =>
      typeof own === 'function' ? own : (first, second, collect) => own.coGroup(first, second, collect)
    return this.grouped('CoGroup', fn, asGroup, options)
  }
}
