/**
 * From user functions to factories of operators: where the API meets `operators/`, besides window-operators.ts.
 *
 * Each returns a function that makes a fresh operator for every subtask.
 */

import { assignTimestampsOperator } from '../../operators/assign-timestamps.ts'
import { type AsyncWaitOptions, asyncWaitOperator } from '../../operators/async-wait.ts'
import { broadcastProcessOperator } from '../../operators/broadcast-process.ts'
import type { BroadcastDescriptor } from '../../operators/broadcast-state.ts'
import { coFlatMapOperator, coMapOperator, coProcessOperator } from '../../operators/co-process.ts'
import { filterOperator } from '../../operators/filter.ts'
import { flatMapOperator } from '../../operators/flat-map.ts'
import { type IntervalJoinOptions, intervalJoinOperator } from '../../operators/interval-join.ts'
import { mapOperator } from '../../operators/map.ts'
import { keyedProcessOperator, processOperator, type RichObject, richOperator } from '../../operators/process.ts'
import { reduceOperator } from '../../operators/reduce.ts'
import { type RollingKind, rollingReduce } from '../../operators/rolling-aggregate.ts'
import { schemaCodec, stateCodec } from '../../state/schema-codec.ts'
import { objectCodec } from '../../state/value-codec.ts'
import type {
  AsyncFunction,
  FilterFunction,
  FlatMapFunction,
  KeyedProcessFunction,
  MapFunction,
  ProcessFunction,
  ReduceFunction,
  ReduceObject,
} from '../contract/functions.ts'
import type {
  BroadcastProcessFunction,
  CoFlatMapFunction,
  CoMapFunction,
  CoProcessFunction,
  KeyedBroadcastProcessFunction,
  KeyedCoProcessFunction,
  ProcessJoinFunction,
} from '../contract/joint-functions.ts'
import type { ValueCodec } from '../contract/keyed-state.ts'
import type { Operator } from '../contract/operator.ts'
import type { WatermarkPlan } from '../core/graph.ts'
import type { ColumnKind, Schema } from '../core/schema.ts'

export type OperatorFactory = () => Operator

export type IntervalJoinSettings = Omit<IntervalJoinOptions, 'leftCodec' | 'rightCodec' | 'codecOf'>

/**
 * The codec of rows in state: compact where columns are declared. A row that does not fit, as with NULLs, is stored in
 * the general form.
 */
export function rowCodec(schema: Schema): ValueCodec {
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
    <T>(create: () => ReduceFunction<T> | ReduceObject<T>, schema: Schema): OperatorFactory =>
    () =>
      reduceOperator(create(), { codec: rowCodec(schema), codecOf: stateCodec, outputSchema: schema }),
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
  coMap:
    <A, B, R>(create: () => CoMapFunction<A, B, R>, outputSchema: Schema, isKeyed: boolean): OperatorFactory =>
    () =>
      coMapOperator(create, { codecOf: stateCodec, outputSchema, isKeyed }),
  coFlatMap:
    <A, B, R>(create: () => CoFlatMapFunction<A, B, R>, outputSchema: Schema, isKeyed: boolean): OperatorFactory =>
    () =>
      coFlatMapOperator(create, { codecOf: stateCodec, outputSchema, isKeyed }),
  coProcess:
    <K, A, B, R>(
      create: () => CoProcessFunction<A, B, R> | KeyedCoProcessFunction<K, A, B, R>,
      outputSchema: Schema,
      isKeyed: boolean,
    ): OperatorFactory =>
    () =>
      coProcessOperator(create, { codecOf: stateCodec, outputSchema, isKeyed }),
  broadcastProcess:
    <K, A, B, R>(
      create: () => BroadcastProcessFunction<A, B, R> | KeyedBroadcastProcessFunction<K, A, B, R>,
      outputSchema: Schema,
      isKeyed: boolean,
      descriptors: readonly BroadcastDescriptor[],
    ): OperatorFactory =>
    () =>
      broadcastProcessOperator(create, { codecOf: stateCodec, outputSchema, isKeyed, descriptors }),
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
} as const
