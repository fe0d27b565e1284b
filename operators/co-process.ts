/**
 * The user's own logic over two inputs: Flink's CoMap, CoFlatMap, CoProcess and KeyedCoProcess functions.
 *
 * Each is a `ProcessLogic` of two inputs; with keys both see the same state and timers.
 */
import type {
  CoFlatMapFunction,
  CoMapFunction,
  CoProcessFunction,
  KeyedCoProcessFunction,
} from '../engine/contract/joint-functions.ts'
import type { Operator } from '../engine/contract/operator.ts'
import { collectAll } from './process.ts'
import { type ProcessLogic, ProcessOperator, type ProcessOptions } from './process-operator.ts'

export interface CoProcessOptions extends ProcessOptions {
  /** True when both inputs have keys. */
  readonly isKeyed: boolean
}

/** What each input is, for `ProcessLogic`. */
function inputsOf({ isKeyed }: CoProcessOptions): Pick<ProcessLogic, 'keyed' | 'batchInputs'> {
  return { keyed: [isKeyed, isKeyed], ...(isKeyed ? { batchInputs: ['sorted', 'sorted'] } : {}) }
}

type AnyCoProcess = KeyedCoProcessFunction<unknown, unknown, unknown, unknown>

/** `create` makes a fresh function for each subtask. */
export function coProcessOperator<K, A, B, Out>(
  create: () => KeyedCoProcessFunction<K, A, B, Out> | CoProcessFunction<A, B, Out>,
  options: CoProcessOptions,
): Operator {
  const fn = create() as AnyCoProcess
  return new ProcessOperator(
    {
      fn,
      elements: [
        (value, context, collect) => fn.processElement1(value, context, collect),
        (value, context, collect) => fn.processElement2(value, context, collect),
      ],
      ...inputsOf(options),
      onTimer: (timeMs, context, collect) => fn.onTimer?.(timeMs, context, collect),
    },
    options,
  )
}

/** `create` makes a fresh function for each subtask. */
export function coMapOperator<A, B, Out>(create: () => CoMapFunction<A, B, Out>, options: CoProcessOptions): Operator {
  const fn = create() as CoMapFunction<unknown, unknown, unknown>
  return new ProcessOperator(
    {
      fn,
      elements: [
        (value, _context, collect) => collect(fn.map1(value)),
        (value, _context, collect) => collect(fn.map2(value)),
      ],
      ...inputsOf(options),
    },
    options,
  )
}

/** `create` makes a fresh function for each subtask. */
export function coFlatMapOperator<A, B, Out>(
  create: () => CoFlatMapFunction<A, B, Out>,
  options: CoProcessOptions,
): Operator {
  const fn = create() as CoFlatMapFunction<unknown, unknown, unknown>
  return new ProcessOperator(
    {
      fn,
      elements: [
        (value, _context, collect) => collectAll(fn.flatMap1(value, collect), collect),
        (value, _context, collect) => collectAll(fn.flatMap2(value, collect), collect),
      ],
      ...inputsOf(options),
    },
    options,
  )
}
