/**
 * From user functions to factories of operators: the one place where the API meets `operators/`.
 *
 * Each returns a function that makes a fresh operator for every subtask.
 */

import { assignTimestampsOperator } from '../../operators/assign-timestamps.ts'
import { type AsyncWaitOptions, asyncWaitOperator } from '../../operators/async-wait.ts'
import { filterOperator } from '../../operators/filter.ts'
import { flatMapOperator } from '../../operators/flat-map.ts'
import { type IntervalJoinOptions, intervalJoinOperator } from '../../operators/interval-join.ts'
import { mapOperator } from '../../operators/map.ts'
import { keyedProcessOperator, processOperator, type RichObject, richOperator } from '../../operators/process.ts'
import { reduceOperator } from '../../operators/reduce.ts'
import { type RollingKind, rollingReduce } from '../../operators/rolling-aggregate.ts'
import { windowOperator } from '../../operators/window-aggregate.ts'
import { cumulativeWindows, slidingWindows, tumblingWindows } from '../../operators/window-assigner.ts'
import { columnarKernel } from '../../operators/window-columnar.ts'
import { aggregateKernel, processKernel, reduceKernel } from '../../operators/window-kernels.ts'
import { cumulativeSlices, type SliceScheme, slidingSlices } from '../../operators/window-slices.ts'
import { isMerging, slicedWindowOperator } from '../../operators/window-slices-operator.ts'
import { schemaCodec, stateCodec } from '../../state/schema-codec.ts'
import { objectCodec } from '../../state/value-codec.ts'
import type {
  AggregateFunction,
  AsyncFunction,
  BuiltInAggregate,
  FilterFunction,
  FlatMapFunction,
  KeyedProcessFunction,
  MapFunction,
  ProcessFunction,
  ProcessWindowFunction,
  ReduceFunction,
} from '../contract/functions.ts'
import type { ProcessJoinFunction } from '../contract/joint-functions.ts'
import type { ValueCodec } from '../contract/keyed-state.ts'
import type { Operator } from '../contract/operator.ts'
import type { WatermarkPlan } from '../core/graph.ts'
import type { ColumnKind, Schema } from '../core/schema.ts'
import type { WindowAssigner } from './window-assigners.ts'

export type OperatorFactory = () => Operator

export type IntervalJoinSettings = Omit<IntervalJoinOptions, 'leftCodec' | 'rightCodec' | 'codecOf'>

export interface WindowSettings {
  readonly assigner: WindowAssigner
  readonly allowedLatenessMs: number
  readonly lateTag: string | null
}

/** What happens to the elements of a window. */
export type WindowWork =
  | {
      readonly kind: 'aggregate'
      readonly fn: AggregateFunction<unknown, unknown, unknown>
      readonly process: ProcessWindowFunction<unknown, unknown, unknown> | null
    }
  | {
      readonly kind: 'reduce'
      readonly fn: ReduceFunction<unknown>
      /** Of the elements, and so of what they are reduced to. */
      readonly schema: Schema
      readonly process: ProcessWindowFunction<unknown, unknown, unknown> | null
    }
  | { readonly kind: 'process'; readonly fn: ProcessWindowFunction<unknown, unknown, unknown> }
  | {
      readonly kind: 'columnar'
      readonly aggregates: Readonly<Record<string, BuiltInAggregate>>
      readonly inputSchema: Schema
      readonly keyKind: 'string' | 'opaque'
    }

function assignerOf(windows: WindowAssigner) {
  switch (windows.kind) {
    case 'tumbling-event-time':
      return tumblingWindows(windows.sizeMs, windows.offsetMs)
    case 'sliding-event-time':
      return slidingWindows(windows.sizeMs, windows.slideMs, windows.offsetMs)
    case 'cumulative-event-time':
      return cumulativeWindows(windows.sizeMs, windows.stepMs, windows.offsetMs)
  }
}

/** How overlapping windows share state; null for windows that do not overlap. */
function slicesOf(windows: WindowAssigner): SliceScheme | null {
  switch (windows.kind) {
    case 'sliding-event-time':
      return slidingSlices(windows.sizeMs, windows.slideMs, windows.offsetMs)
    case 'cumulative-event-time':
      return cumulativeSlices(windows.sizeMs, windows.stepMs, windows.offsetMs)
    default:
      return null
  }
}

/**
 * The codec of rows in state: compact where columns are declared. A row that does not fit, as with NULLs, is stored in
 * the general form.
 */
function rowCodec(schema: Schema): ValueCodec {
  if (schema.isOpaque) return objectCodec()
  const row = Object.fromEntries(schema.fields.map(({ name, kind }) => [name, SAMPLE_VALUES[kind]]))
  return objectCodec(() => row, { what: 'the row' })
}

const SAMPLE_VALUES: Readonly<Record<ColumnKind, unknown>> = {
  boolean: false,
  int32: 0,
  int64: 0n,
  float64: 0,
  timestamp: 0,
  string: '',
  opaque: null,
}

function accumulatorCodec(fn: AggregateFunction<unknown, unknown, unknown>) {
  const { version = 1, migrations } = fn
  return objectCodec(() => fn.createAccumulator(), { what: 'the accumulator', version, migrations })
}

function kernelOf(work: WindowWork, outputSchema: Schema) {
  switch (work.kind) {
    case 'aggregate': {
      const { fn, process } = work
      return aggregateKernel(fn, { codec: accumulatorCodec(fn), outputSchema }, process)
    }
    case 'reduce':
      return reduceKernel(work.fn, { codec: rowCodec(work.schema), outputSchema }, work.process)
    case 'process':
      return processKernel(work.fn, { codec: objectCodec(), outputSchema })
    case 'columnar':
      return columnarKernel(work)
  }
}

export const makeOperator = {
  map:
    <T, R>(fn: MapFunction<T, R>, output: Schema): OperatorFactory =>
    () =>
      mapOperator(fn, output),
  flatMap:
    <T, R>(fn: FlatMapFunction<T, R>, output: Schema): OperatorFactory =>
    () =>
      flatMapOperator(fn, output),
  filter:
    <T>(predicate: FilterFunction<T>): OperatorFactory =>
    () =>
      filterOperator(predicate),
  asyncWait:
    <T, R>(create: () => AsyncFunction<T, R>, options: Omit<AsyncWaitOptions, 'codec'>): OperatorFactory =>
    () =>
      asyncWaitOperator(create, { ...options, codec: objectCodec(undefined, { what: 'an element under way' }) }),
  assignTimestamps:
    (plan: WatermarkPlan): OperatorFactory =>
    () =>
      assignTimestampsOperator(plan),
  reduce:
    <T>(fn: ReduceFunction<T>, schema: Schema): OperatorFactory =>
    () =>
      reduceOperator(fn, { codec: rowCodec(schema), outputSchema: schema }),
  /** State holds rows of the stream's schema in its own encoding. */
  rolling:
    (kind: RollingKind, field: string | number, first: boolean, schema: Schema): OperatorFactory =>
    () => {
      const inPlace = !schema.isOpaque && kind !== 'minBy' && kind !== 'maxBy'
      return reduceOperator(rollingReduce({ kind, field, first, inPlace }), {
        codec: schemaCodec(schema, { what: 'The aggregated row' }),
        outputSchema: schema,
        isPure: true,
      })
    },
  keyedProcess:
    <K, T, R>(create: () => KeyedProcessFunction<K, T, R>, outputSchema: Schema): OperatorFactory =>
    () =>
      keyedProcessOperator(create, { codecOf: stateCodec, outputSchema }),
  process:
    <T, R>(create: () => ProcessFunction<T, R>, outputSchema: Schema): OperatorFactory =>
    () =>
      processOperator(create, { codecOf: stateCodec, outputSchema }),
  /** A `map`, `flatMap` or `filter` object. */
  rich:
    (create: () => RichObject, outputSchema: Schema, isKeyed: boolean): OperatorFactory =>
    () =>
      richOperator(create, { codecOf: stateCodec, outputSchema, isKeyed }),
  intervalJoin:
    <L, R, Out>(
      create: () => ProcessJoinFunction<L, R, Out>,
      settings: IntervalJoinSettings,
      left: Schema,
      right: Schema,
    ): OperatorFactory =>
    () =>
      intervalJoinOperator(create, {
        ...settings,
        leftCodec: rowCodec(left),
        rightCodec: rowCodec(right),
        codecOf: stateCodec,
      }),
  /** Checks the combination now: an operator that cannot be made fails where the program declares it. */
  window(settings: WindowSettings, work: WindowWork, output: Schema): OperatorFactory {
    const { allowedLatenessMs, lateTag } = settings
    const create = (): Operator => {
      const kernel = kernelOf(work, output)
      const slices = isMerging(kernel) ? slicesOf(settings.assigner) : null
      return slices !== null && isMerging(kernel)
        ? slicedWindowOperator({ slices, kernel, allowedLatenessMs, lateTag })
        : windowOperator({ assigner: assignerOf(settings.assigner), kernel, allowedLatenessMs, lateTag })
    }
    create()
    return create
  },
} as const
