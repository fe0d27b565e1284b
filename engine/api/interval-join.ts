/**
 * Interval joins: what `KeyedStream.intervalJoin` returns.
 *
 * An element of the left stream at time t meets those of the right stream with the same key from t + lower to
 * t + upper. Results carry the later of the two times.
 */
import type { OutputTag } from '../contract/functions.ts'
import type { ProcessJoinFunction } from '../contract/joint-functions.ts'
import { MillraceError } from '../core/errors.ts'
import type { Key } from '../core/keys.ts'
import { OPAQUE_SCHEMA, type Schema } from '../core/schema.ts'
import { type Duration, toMs } from '../core/time.ts'
import type { KeyedStream, SchemaOption, SingleOutputStreamOperator } from './data-stream.ts'
import { addJoint, jointInputs } from './joint-inputs.ts'
import { makeOperator } from './operators.ts'
import { processFunctionFactory } from './process-functions.ts'

export class IntervalJoin<L, R> {
  private readonly left: KeyedStream<L, Key>
  private readonly right: KeyedStream<R, Key>

  /** @internal */
  constructor(left: KeyedStream<L, Key>, right: KeyedStream<R, Key>) {
    jointInputs(left, right)
    this.left = left
    this.right = right
  }

  /**
   * How much later a right element may be than the left one; both bounds are included and may be negative. A number
   * is milliseconds. Throws `INTERVAL_INVALID` unless lower <= upper.
   */
  between(lowerBound: Duration | number, upperBound: Duration | number): IntervalJoined<L, R> {
    const lowerMs = toMs(lowerBound)
    const upperMs = toMs(upperBound)
    if (!(Number.isFinite(lowerMs) && Number.isFinite(upperMs) && lowerMs <= upperMs)) {
      throw new MillraceError('INTERVAL_INVALID', `There is nothing between ${lowerMs} ms and ${upperMs} ms.`, {
        hint: 'Give the lower bound first, for example between(minutes(-5), minutes(5)).',
      })
    }
    return new IntervalJoined<L, R>(this.left, this.right, lowerMs, upperMs)
  }
}

export class IntervalJoined<L, R> {
  private readonly left: KeyedStream<L, Key>
  private readonly right: KeyedStream<R, Key>
  private readonly lowerMs: number
  private readonly upperMs: number
  private lowerExclusive = false
  private upperExclusive = false
  private leftLateTag: string | null = null
  private rightLateTag: string | null = null

  /** @internal */
  constructor(left: KeyedStream<L, Key>, right: KeyedStream<R, Key>, lowerMs: number, upperMs: number) {
    this.left = left
    this.right = right
    this.lowerMs = lowerMs
    this.upperMs = upperMs
  }

  /** Leaves out pairs that are exactly the lower bound apart. */
  lowerBoundExclusive(): this {
    this.lowerExclusive = true
    return this
  }

  /** Leaves out pairs that are exactly the upper bound apart. */
  upperBoundExclusive(): this {
    this.upperExclusive = true
    return this
  }

  /** Left elements behind the watermark go to this side output; without one they are counted. */
  sideOutputLeftLateData(tag: OutputTag<L>): this {
    this.leftLateTag = tag.id
    return this
  }

  /** Right elements behind the watermark go to this side output; without one they are counted. */
  sideOutputRightLateData(tag: OutputTag<R>): this {
    this.rightLateTag = tag.id
    return this
  }

  /**
   * Calls `fn` once for each pair. Give an instance of a class, or a function that makes it; each subtask gets its own
   * copy. Throws `PROCESS_FUNCTION_SHARED` for an object that cannot be copied.
   */
  process<Out>(
    fn: ProcessJoinFunction<L, R, Out> | (() => ProcessJoinFunction<L, R, Out>),
  ): SingleOutputStreamOperator<Out>
  process<Out>(
    fn: ProcessJoinFunction<L, R, NoInfer<Out>> | (() => ProcessJoinFunction<L, R, NoInfer<Out>>),
    options: SchemaOption<Out>,
  ): SingleOutputStreamOperator<Out>
  process<Out>(
    fn: ProcessJoinFunction<L, R, Out> | (() => ProcessJoinFunction<L, R, Out>),
    options?: SchemaOption<Out>,
  ): SingleOutputStreamOperator<Out> {
    const { left, right, lowerMs, upperMs, lowerExclusive, upperExclusive, leftLateTag, rightLateTag } = this
    const outputSchema = options?.schema ?? (OPAQUE_SCHEMA as Schema<Out>)
    const create = makeOperator.intervalJoin(
      processFunctionFactory<ProcessJoinFunction<L, R, Out>>(fn, 'processElement'),
      { lowerMs, upperMs, lowerExclusive, upperExclusive, leftLateTag, rightLateTag, outputSchema },
      left.schema,
      right.schema,
    )
    const { stream, node } = addJoint(left, right, { name: 'Interval Join', outputSchema, isKeyed: true, create })
    if (leftLateTag !== null) node.sideSchemas.set(leftLateTag, left.schema)
    if (rightLateTag !== null) node.sideSchemas.set(rightLateTag, right.schema)
    return stream
  }
}
