/**
 * A keyed stream cut into windows: what `KeyedStream.window` returns. Each of `aggregate`, `reduce` and
 * `process` makes one operator.
 *
 * A window fires when the watermark passes its end, and again for each late element that lateness allows.
 * Results carry the window's last millisecond as event time.
 */
import { columnarOutputSchema } from '../../operators/window-columnar.ts'
import type {
  AggregateFunction,
  BuiltInAggregate,
  OutputTag,
  ProcessWindowFunction,
  ReduceFunction,
} from '../contract/functions.ts'
import type { Projection } from '../core/batch.ts'
import { MillraceError } from '../core/errors.ts'
import type { Key } from '../core/keys.ts'
import { fieldIndex, OPAQUE_SCHEMA, type Schema } from '../core/schema.ts'
import { type Duration, toMs } from '../core/time.ts'
import { type AggregateRecord, type AggregateRow, isAggregateRecord } from './aggregates.ts'
import type { KeyedStream, SingleOutputStreamOperator } from './data-stream.ts'
import { makeOperator, type WindowWork } from './operators.ts'
import type { WindowAssigner } from './window-assigners.ts'

/** Rows of `aggregate({ ... })`: the key, the window, and a column for each aggregate. */
export type WindowRow<T, K, A> = {
  readonly key: K
  /** Milliseconds since 1970 UTC. */
  readonly windowStart: number
  /** Exclusive, milliseconds since 1970 UTC. */
  readonly windowEnd: number
} & AggregateRow<T, A>

export class WindowedStream<T, K extends Key> {
  private readonly input: KeyedStream<T, K>
  private readonly assigner: WindowAssigner
  private latenessMs = 0
  private lateTag: string | null = null

  /** @internal */
  constructor(input: KeyedStream<T, K>, assigner: WindowAssigner) {
    this.input = input
    this.assigner = assigner
  }

  /** Keeps a window this long after it fired, and fires it again for each late element. */
  allowedLateness(lateness: Duration | number): this {
    const latenessMs = toMs(lateness)
    if (!(latenessMs >= 0 && latenessMs < Number.POSITIVE_INFINITY)) {
      throw new MillraceError('WINDOW_INVALID', `An allowed lateness of ${latenessMs} ms is not possible.`, {
        hint: 'Give a duration of 0 or more.',
      })
    }
    this.latenessMs = latenessMs
    return this
  }

  /** Elements too late for their window go to this side output; without one they are counted. */
  sideOutputLateData(tag: OutputTag<T>): this {
    this.lateTag = tag.id
    return this
  }

  /** Aggregates as elements come; with `process`, its result goes through that function once a firing. */
  aggregate<Acc, R>(fn: AggregateFunction<T, Acc, R>): SingleOutputStreamOperator<R>
  aggregate<Acc, M, R>(
    fn: AggregateFunction<T, Acc, M>,
    process: ProcessWindowFunction<M, R, K>,
  ): SingleOutputStreamOperator<R>
  /** Built-in aggregates of columns, computed without calling JavaScript per element. */
  aggregate<const A extends AggregateRecord<T>>(aggregates: A): SingleOutputStreamOperator<WindowRow<T, K, A>>
  aggregate(
    aggregates: object,
    process: ProcessWindowFunction<unknown, unknown, K> | null = null,
  ): SingleOutputStreamOperator<never> {
    if (!isAggregateRecord(aggregates)) {
      const fn = aggregates as AggregateFunction<unknown, unknown, unknown>
      return this.operator('Window(Aggregate)', OPAQUE_SCHEMA as Schema<never>, {
        kind: 'aggregate',
        fn,
        process: process as ProcessWindowFunction<unknown, unknown, unknown> | null,
      })
    }
    const inputSchema = this.input.schema
    if (inputSchema.isOpaque) {
      throw new MillraceError('SCHEMA_REQUIRED', 'Built-in aggregates need a stream with declared columns.', {
        hint: 'Give the step before the keyBy a schema, as in map(fn, { schema }), or use an AggregateFunction.',
      })
    }
    const options = { aggregates, inputSchema, keyKind: this.input.keyKind }
    const output = columnarOutputSchema(options) as Schema<never>
    // Late elements of a side output must leave whole.
    if (this.lateTag !== null) return this.operator('Window(Aggregate)', output, { kind: 'columnar', ...options })
    const projection = projectionOf(inputSchema, aggregates)
    const work = { kind: 'columnar', ...options, inputSchema: projection.schema } as const
    return this.operator('Window(Aggregate)', output, work, projection)
  }

  /** Combines two elements into one as they come. */
  reduce(fn: ReduceFunction<T>): SingleOutputStreamOperator<T>
  reduce<R>(fn: ReduceFunction<T>, process: ProcessWindowFunction<T, R, K>): SingleOutputStreamOperator<R>
  reduce(
    fn: ReduceFunction<T>,
    process: ProcessWindowFunction<T, unknown, K> | null = null,
  ): SingleOutputStreamOperator<unknown> {
    return this.operator('Window(Reduce)', process === null ? this.input.schema : (OPAQUE_SCHEMA as Schema<unknown>), {
      kind: 'reduce',
      fn: fn as ReduceFunction<unknown>,
      schema: this.input.schema,
      process: process as ProcessWindowFunction<unknown, unknown, unknown> | null,
    })
  }

  /** Keeps all elements of a window and hands them over when it fires. */
  process<R>(fn: ProcessWindowFunction<T, R, K>): SingleOutputStreamOperator<R> {
    return this.operator('Window(Process)', OPAQUE_SCHEMA as Schema<R>, {
      kind: 'process',
      fn: fn as ProcessWindowFunction<unknown, unknown, unknown>,
    })
  }

  private operator<R>(
    name: string,
    output: Schema<R>,
    work: WindowWork,
    projection?: Projection,
  ): SingleOutputStreamOperator<R> {
    const settings = { assigner: this.assigner, allowedLatenessMs: this.latenessMs, lateTag: this.lateTag }
    return this.input.addKeyed(
      name,
      output,
      makeOperator.window(settings, work, output),
      // Late elements leave as they came.
      this.lateTag === null ? null : { tag: this.lateTag, schema: this.input.schema },
      projection,
    )
  }
}

/** The columns that built-in aggregates read. */
function projectionOf(input: Schema, aggregates: Readonly<Record<string, BuiltInAggregate>>): Projection {
  const names = new Set(Object.values(aggregates).flatMap((made) => (made.kind === 'count' ? [] : [made.field])))
  const indices = [...names].map((name) => fieldIndex(input, name))
  return { indices, schema: { fields: indices.map((index) => input.fields[index]!), isOpaque: false } }
}
