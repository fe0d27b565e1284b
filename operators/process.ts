/**
 * Per-record logic of the user's own: Flink's ProcessFunction and KeyedProcessFunction, and functions with a life
 * (`map`, `flatMap`, `filter` objects with `open`), which are process functions of one kind of result.
 */
import type {
  FilterObject,
  FlatMapObject,
  KeyedProcessFunction,
  MapObject,
  ProcessFunction,
} from '../engine/contract/functions.ts'
import type { Operator } from '../engine/contract/operator.ts'
import { type Collect, type ElementFunction, ProcessOperator, type ProcessOptions } from './process-operator.ts'
import { isPromise } from './user-function.ts'

/** Logic on keyed rows. `create` makes a fresh function for each subtask. */
export function keyedProcessOperator<K, In, Out>(
  create: () => KeyedProcessFunction<K, In, Out>,
  options: ProcessOptions,
): Operator {
  const fn = create() as KeyedProcessFunction<unknown, unknown, unknown>
  return new ProcessOperator(
    {
      fn,
      elements: [(value, context, collect) => fn.processElement(value, context, collect)],
      keyed: [true],
      batchInputs: ['sorted'],
      onTimer: (timeMs, context, collect) => fn.onTimer?.(timeMs, context, collect),
    },
    options,
  )
}

/** Logic on rows without keys. `create` makes a fresh function for each subtask. */
export function processOperator<In, Out>(create: () => ProcessFunction<In, Out>, options: ProcessOptions): Operator {
  const fn = create() as ProcessFunction<unknown, unknown>
  const element: ElementFunction = (value, context, collect) => fn.processElement(value, context, collect)
  return new ProcessOperator({ fn, elements: [element], keyed: [false] }, options)
}

/** A `map`, `flatMap` or `filter` object; `isKeyed` when it follows a keyBy. */
export function richOperator(create: () => RichObject, options: ProcessOptions & { isKeyed: boolean }): Operator {
  const fn = create()
  return new ProcessOperator(
    {
      fn,
      elements: [elementFunctionOf(fn)],
      keyed: [options.isKeyed],
      isFilter: 'filter' in fn,
      ...(options.isKeyed ? { batchInputs: ['sorted'] } : {}),
    },
    options,
  )
}

export type RichObject = MapObject<unknown, unknown> | FlatMapObject<unknown, unknown> | FilterObject<unknown>

function elementFunctionOf(fn: RichObject): ElementFunction {
  if ('map' in fn) return (value, _context, collect) => collect(fn.map(value))
  if ('filter' in fn) {
    return (value, _context, collect) => {
      const keeps: unknown = fn.filter(value)
      if (keeps) collect(isPromise(keeps) ? keeps : value)
    }
  }
  return (value, _context, collect) => collectAll(fn.flatMap(value, collect), collect)
}

/** What a flatMap function returned. */
export function collectAll(results: unknown, collect: Collect): void {
  if (results === undefined) return
  if (isPromise(results)) collect(results)
  else for (const result of results as Iterable<unknown>) collect(result)
}
