/**
 * A stream cut into windows: what `KeyedStream.window`, `countWindow` and `DataStream.windowAll` return. Each of
 * `aggregate`, `reduce`, `process`, `apply` and the aggregations of a field makes one operator.
 *
 * By default a window fires when time passes its end, and again for each late element that lateness allows.
 * Results carry the window's last millisecond as event time.
 */
import { type RollingKind, rollingReduce } from '../../operators/rolling-aggregate.ts'
import { columnarOutputSchema } from '../../operators/window-columnar.ts'
import type {
  AggregateFunction,
  BuiltInAggregate,
  OutputTag,
  ProcessWindowCallback,
  ReduceFunction,
  WindowFunction,
} from '../contract/functions.ts'
import { type Evictor, MergingWindowAssigner, type Trigger, type WindowAssigner } from '../contract/windows.ts'
import type { Projection } from '../core/batch.ts'
import { MillraceError } from '../core/errors.ts'
import type { Key } from '../core/keys.ts'
import { fieldIndex, OPAQUE_SCHEMA, type Schema } from '../core/schema.ts'
import { type Duration, toMs } from '../core/time.ts'
import { type AggregateRecord, type AggregateRow, isAggregateRecord } from './aggregates.ts'
import { checkFunction, checkInstance, noFactory } from './check-function.ts'
import type { KeyedStream, SchemaOption, SingleOutputStreamOperator } from './data-stream.ts'
import { CountEvictor } from './evictors.ts'
import { perSubtask, perSubtaskOf } from './per-subtask.ts'
import { refuseLife } from './process-functions.ts'
import { type ComparableField, checkRollingField, type SummableField } from './rolling-fields.ts'
import { CountTrigger, PurgingTrigger } from './triggers.ts'
import { AlignedWindows } from './window-assigners.ts'
import { type WindowProcess, type WindowWork, windowOperatorFactory } from './window-operators.ts'

/** The first column of `aggregate({ ... })` on a keyed stream. */
export interface KeyOfWindow<K> {
  readonly key: K
}

/** Rows of `aggregate({ ... })`: the key where there is one, the window, and a column for each aggregate. */
export type WindowRow<T, KeyPart, A> = KeyPart & {
  /** Milliseconds since 1970 UTC. */
  readonly windowStart: number
  /** Exclusive, milliseconds since 1970 UTC. */
  readonly windowEnd: number
} & AggregateRow<T, A>

/** `KeyPart` is what the key adds to rows of built-in aggregates. */
export class WindowedStream<T, K extends Key, KeyPart = KeyOfWindow<K>> {
  private readonly input: KeyedStream<T, K>
  private readonly assigner: WindowAssigner<T>
  private chosenTrigger: Trigger<T> | null = null
  private chosenEvictor: Evictor<T> | null = null
  private latenessMs = 0
  private lateTag: string | null = null

  /** @internal */
  constructor(input: KeyedStream<T, K>, assigner: WindowAssigner<T>) {
    checkInstance('window', assigner, 'assignWindows')
    this.input = input
    this.assigner = assigner
  }

  /** When windows fire, instead of as the assigner has it. */
  trigger(trigger: Trigger<T>): this {
    checkInstance('trigger', trigger, 'onElement')
    this.chosenTrigger = trigger
    return this
  }

  /** Drops elements of a window around the call of its function. Windows then keep all their elements. */
  evictor(evictor: Evictor<T>): this {
    checkInstance('evictor', evictor, 'evictBefore')
    this.chosenEvictor = evictor
    return this
  }

  /** Keeps an event-time window this long after it fired, and fires it again for each late element. */
  allowedLateness(lateness: Duration | number): this {
    this.latenessMs = checkLateness(lateness)
    return this
  }

  /** Elements too late for their window go to this side output; without one they are counted. */
  sideOutputLateData(tag: OutputTag<T>): this {
    this.lateTag = tag.id
    return this
  }

  /** Aggregates as elements come; with `process`, its result goes through that function once a firing. */
  aggregate<Acc, R>(fn: AggregateFunction<T, Acc, R>): SingleOutputStreamOperator<R>
  aggregate<Acc, M, R>(fn: AggregateFunction<T, Acc, M>, process: WindowProcess<M, R, K>): SingleOutputStreamOperator<R>
  /** Built-in aggregates of columns, computed without calling JavaScript per element where windows allow it. */
  aggregate<const A extends AggregateRecord<T>>(aggregates: A): SingleOutputStreamOperator<WindowRow<T, KeyPart, A>>
  aggregate(aggregates: object, process: object | null = null): unknown {
    if (!isAggregateRecord(aggregates)) {
      refuseLife(aggregates, 'aggregate')
      this.checkAggregate(aggregates)
      return this.operator('Window(Aggregate)', OPAQUE_SCHEMA as Schema<never>, {
        kind: 'aggregate',
        fn: aggregates as AggregateFunction<unknown, unknown, unknown>,
        process: ofWindow('aggregate', process),
      })
    }
    const { schema, keyKind } = this.input
    if (schema.isOpaque) {
      throw new MillraceError('SCHEMA_REQUIRED', 'Built-in aggregates need a stream with declared columns.', {
        hint: 'Give the step before the keyBy a schema, as in map(fn, { schema }), or use an AggregateFunction.',
      })
    }
    const output = columnarOutputSchema({ aggregates, inputSchema: schema, keyKind }) as Schema<never>
    const work = { kind: 'columnar', aggregates, keyKind } as const
    return this.operator(
      'Window(Aggregate)',
      output,
      work,
      this.needsWholeRows ? null : projectionOf(schema, aggregates),
    )
  }

  private checkAggregate(fn: object): void {
    if (perSubtaskOf(fn) !== null) return
    const merge = this.assigner instanceof MergingWindowAssigner ? ['merge'] : []
    for (const method of ['createAccumulator', 'add', 'getResult', ...merge]) checkInstance('aggregate', fn, method)
  }

  /** Late elements of a side output must leave whole, and user code may look at any field. */
  private get needsWholeRows(): boolean {
    if (this.lateTag !== null || this.chosenTrigger !== null || this.chosenEvictor !== null) return true
    return !(this.assigner instanceof AlignedWindows)
  }

  /** Combines two elements into one as they come. */
  reduce(fn: ReduceFunction<T>): SingleOutputStreamOperator<T>
  reduce<R>(fn: ReduceFunction<T>, process: WindowProcess<T, R, K>): SingleOutputStreamOperator<R>
  reduce(fn: ReduceFunction<T>, process: object | null = null): unknown {
    refuseLife(fn, 'reduce')
    checkFunction('reduce', fn, null)
    return this.operator('Window(Reduce)', process === null ? this.input.schema : (OPAQUE_SCHEMA as Schema<unknown>), {
      kind: 'reduce',
      fn: fn as ReduceFunction<unknown>,
      process: ofWindow('reduce', process),
    })
  }

  /** Keeps all elements of a window and hands them over when it fires. */
  process<R>(fn: WindowProcess<T, R, K>): SingleOutputStreamOperator<R>
  process<R>(fn: WindowProcess<T, NoInfer<R>, K>, options: SchemaOption<R>): SingleOutputStreamOperator<R>
  process<R>(fn: WindowProcess<T, R, K>, options?: SchemaOption<R>): SingleOutputStreamOperator<R> {
    checkFunction('process', fn, 'process')
    const output = options?.schema ?? (OPAQUE_SCHEMA as Schema<R>)
    return this.operator('Window(Process)', output, { kind: 'process', process: ofWindow('process', fn) })
  }

  /** As `process`, for a function of key, window and elements. */
  apply<R>(fn: WindowFunction<T, R, K>): SingleOutputStreamOperator<R>
  apply<R>(fn: WindowFunction<T, NoInfer<R>, K>, options: SchemaOption<R>): SingleOutputStreamOperator<R>
  apply<R>(fn: WindowFunction<T, R, K>, options?: SchemaOption<R>): SingleOutputStreamOperator<R> {
    const output = options?.schema ?? (OPAQUE_SCHEMA as Schema<R>)
    const asProcess = (own: WindowFunction<T, R, K>): ProcessWindowCallback<T, R, K> => {
      return ({ key, window }, elements, collect) => own(key, window, elements, collect)
    }
    checkFunction('apply', fn, null)
    const create = perSubtaskOf(fn)
    const process = create === null ? asProcess(fn) : perSubtask(() => asProcess(create()))
    return this.operator('Window(Apply)', output, { kind: 'process', process: process as AnyProcess })
  }

  /** The first element of each window, with the sum of a field over all. Elements without a value do not count. */
  sum<F extends SummableField<T>>(field: F): SingleOutputStreamOperator<T> {
    return this.ofField('sum', field)
  }

  /** The first element of each window, with the least value of a field. */
  min<F extends ComparableField<T>>(field: F): SingleOutputStreamOperator<T> {
    return this.ofField('min', field)
  }

  /** The first element of each window, with the greatest value of a field. */
  max<F extends ComparableField<T>>(field: F): SingleOutputStreamOperator<T> {
    return this.ofField('max', field)
  }

  /** The element of each window that has the least value of a field; of equal ones the first, or the last. */
  minBy<F extends ComparableField<T>>(field: F, first = true): SingleOutputStreamOperator<T> {
    return this.ofField('minBy', field, first)
  }

  /** The element of each window that has the greatest value of a field; of equal ones the first, or the last. */
  maxBy<F extends ComparableField<T>>(field: F, first = true): SingleOutputStreamOperator<T> {
    return this.ofField('maxBy', field, first)
  }

  private ofField(kind: RollingKind, field: string | number, first = true): SingleOutputStreamOperator<T> {
    checkRollingField(this.input.schema, kind, field)
    return this.reduce(rollingReduce({ kind, field, first, inPlace: false }) as ReduceFunction<T>)
  }

  private operator<R>(
    name: string,
    output: Schema<R>,
    work: WindowWork,
    projection: Projection | null = null,
  ): SingleOutputStreamOperator<R> {
    const { schema } = this.input
    const settings = {
      assigner: this.assigner as WindowAssigner,
      trigger: this.chosenTrigger as Trigger | null,
      evictor: this.chosenEvictor as Evictor | null,
      allowedLatenessMs: this.latenessMs,
      lateTag: this.lateTag,
      inputSchema: projection?.schema ?? schema,
    }
    return this.added(
      this.input.addKeyed(
        name,
        output,
        windowOperatorFactory(settings, work, output),
        // Late elements leave as they came.
        this.lateTag === null ? null : { tag: this.lateTag, schema },
        projection ?? undefined,
      ),
    )
  }

  /** @internal Flink's count windows, over global windows. */
  inCounts(size: number, slide: number | undefined): this {
    if (slide === undefined) return this.trigger(PurgingTrigger.of(CountTrigger.of(size)))
    return this.evictor(CountEvictor.of(size)).trigger(CountTrigger.of(slide))
  }

  /** @internal */
  protected added<R>(operator: SingleOutputStreamOperator<R>): SingleOutputStreamOperator<R> {
    return operator
  }
}

type AnyProcess = WindowProcess<unknown, unknown, unknown>

function ofWindow<F extends object | null>(step: string, process: F): AnyProcess | Extract<F, null> {
  const given = process as AnyProcess | Extract<F, null>
  return given === null || perSubtaskOf(given) !== null ? given : noFactory(step, 'process', given)
}

/** Windows over all elements of a stream: one subtask does the work. Contexts have the key null, and rows of aggregates none. */
export class AllWindowedStream<T> extends WindowedStream<T, null, unknown> {
  /** @internal */
  protected override added<R>(operator: SingleOutputStreamOperator<R>): SingleOutputStreamOperator<R> {
    return operator.setMaxParallelism(1)
  }
}

/** The columns that built-in aggregates read. */
function projectionOf(input: Schema, aggregates: Readonly<Record<string, BuiltInAggregate>>): Projection {
  const names = new Set(Object.values(aggregates).flatMap((made) => (made.kind === 'count' ? [] : [made.field])))
  const indices = [...names].map((name) => fieldIndex(input, name))
  return { indices, schema: { fields: indices.map((index) => input.fields[index]!), isOpaque: false } }
}

/** Milliseconds. Throws `WINDOW_INVALID`. */
export function checkLateness(lateness: Duration | number): number {
  const latenessMs = toMs(lateness)
  if (latenessMs >= 0 && latenessMs < Number.POSITIVE_INFINITY) return latenessMs
  throw new MillraceError('WINDOW_INVALID', `An allowed lateness of ${latenessMs} ms is not possible.`, {
    hint: 'Give a duration of 0 or more.',
  })
}
