/**
 * Base classes of functions with a life, with Flink's names. Each subtask gets its own copy of the instance; see
 * per-subtask.ts.
 *
 * `open` comes before the first element and `close` after the last, also when the job fails. On a keyed stream a
 * rich function may use keyed state. A plain object with the method of the same name serves as well.
 */
import type { FilterObject, FlatMapObject, MapObject, ReduceObject, RuntimeContext } from '../contract/functions.ts'
import type { CoFlatMapFunction, CoGroupObject, CoMapFunction, FlatJoinFunction } from '../contract/joint-functions.ts'
import type { SinkContext } from '../contract/sink.ts'
import { MillraceError } from '../core/errors.ts'
import type { SinkObject } from './function-sink.ts'

abstract class AbstractRichFunction {
  private runtimeContext: RuntimeContext | null = null

  /** @internal */
  setRuntimeContext(context: RuntimeContext): void {
    this.runtimeContext = context
  }

  /** The context that `open` got. Throws `RUNTIME_CONTEXT_MISSING` before that. */
  getRuntimeContext(): RuntimeContext {
    if (this.runtimeContext !== null) return this.runtimeContext
    throw new MillraceError('RUNTIME_CONTEXT_MISSING', 'The runtime context was asked for before the function ran.', {
      hint: 'Use it in open or later, not in the constructor.',
    })
  }

  open(_context: RuntimeContext): void {}

  close(): void | Promise<void> {}
}

export abstract class RichMapFunction<T, R> extends AbstractRichFunction implements MapObject<T, R> {
  abstract map(value: T): R
}

export abstract class RichFlatMapFunction<T, R> extends AbstractRichFunction implements FlatMapObject<T, R> {
  /** Returns results, or passes each to `collect`. */
  // biome-ignore lint/suspicious/noConfusingVoidType: a method without a return statement is meant
  abstract flatMap(value: T, collect: (result: R) => void): Iterable<R> | void
}

/** For `KeyedStream.reduce`; windows refuse functions with a life. */
export abstract class RichReduceFunction<T> extends AbstractRichFunction implements ReduceObject<T> {
  abstract reduce(accumulated: T, value: T): T
}

/**
 * For `DataStream.addSink`. `invoke`, `finish`, `open` and `close` may return promises; those of `invoke` are waited for by
 * the next checkpoint. It has metrics and accumulators but no keyed state; a CheckpointedFunction has state of its subtask.
 */
export abstract class RichSinkFunction<T> extends AbstractRichFunction implements SinkObject<T> {
  abstract invoke(value: T, context: SinkContext): void | Promise<void>

  finish(): void | Promise<void> {}

  override open(_context: RuntimeContext): void | Promise<void> {}

  override close(): void | Promise<void> {}
}

export abstract class RichFilterFunction<T> extends AbstractRichFunction implements FilterObject<T> {
  abstract filter(value: T): boolean
}

/** For `connect(...).map`. */
export abstract class RichCoMapFunction<A, B, R> extends AbstractRichFunction implements CoMapFunction<A, B, R> {
  abstract map1(value: A): R
  abstract map2(value: B): R
}

/** For `connect(...).flatMap`. */
export abstract class RichCoFlatMapFunction<A, B, R>
  extends AbstractRichFunction
  implements CoFlatMapFunction<A, B, R>
{
  // biome-ignore lint/suspicious/noConfusingVoidType: a method without a return statement is meant
  abstract flatMap1(value: A, collect: (result: R) => void): Iterable<R> | void
  // biome-ignore lint/suspicious/noConfusingVoidType: a method without a return statement is meant
  abstract flatMap2(value: B, collect: (result: R) => void): Iterable<R> | void
}

/** For window joins: one result of each pair. */
export abstract class RichJoinFunction<A, B, R> extends AbstractRichFunction {
  abstract join(first: A, second: B): R
}

/** For window joins: any number of results of each pair. */
export abstract class RichFlatJoinFunction<A, B, R> extends AbstractRichFunction implements FlatJoinFunction<A, B, R> {
  abstract join(first: A, second: B, collect: (result: R) => void): void
}

/** For `coGroup`: called once a key and window. */
export abstract class RichCoGroupFunction<A, B, R> extends AbstractRichFunction implements CoGroupObject<A, B, R> {
  abstract coGroup(first: Iterable<A>, second: Iterable<B>, collect: (result: R) => void): void
}
