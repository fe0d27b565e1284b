/**
 * From what a user gives to `process`, `map`, `flatMap` or `filter` to a fresh function object for each subtask.
 *
 * Invariant: two subtasks on one thread never share a function's fields, because `open` stores state
 * handles there.
 */
import type { KeyedProcessFunction, ProcessFunction, RichFunction } from '../contract/functions.ts'
import { MillraceError } from '../core/errors.ts'
import { checkedFactory, checkFunction, checkInstance } from './check-function.ts'
import { perSubtaskOf } from './per-subtask.ts'

/** An instance of a class, or a function that makes one. */
export type KeyedProcessFunctionOrFactory<K, In, Out> =
  | KeyedProcessFunction<K, In, Out>
  | (() => KeyedProcessFunction<K, In, Out>)

/** An instance of a class, or a function that makes a process function. */
export type ProcessFunctionOrFactory<In, Out> = ProcessFunction<In, Out> | (() => ProcessFunction<In, Out>)

/**
 * `method` is the one that makes it a process function. Throws `PROCESS_FUNCTION_SHARED` for an object that cannot be
 * copied for each subtask, and `FUNCTION_INVALID`.
 */
export function processFunctionFactory<F extends RichFunction>(fn: F | (() => F), method: keyof F & string): () => F {
  checkFunction('process', fn, method)
  const create = perSubtaskOf(fn as F)
  if (create !== null) return checkedFactory('process', method, create)
  if (typeof fn === 'function') return checkedFactory('process', method, fn)
  return copies(fn, 'Pass a function that makes it: process(() => ({ ... })) or process(() => new MyFunction()).')
}

/**
 * As `processFunctionFactory`, for the objects that `map`, `flatMap`, `filter` and sinks take besides functions.
 * `base` is the class that the message advises to extend.
 */
export function richFunctionFactory<F extends Copied>(fn: F, base = 'RichMapFunction'): () => F {
  return (
    perSubtaskOf(fn) ??
    copies(
      fn,
      `Write perSubtask(() => ({ ... })), or make it a class, for example one that extends ${base}, whose functions are methods; keep what open gets in \`this\`.`,
    )
  )
}

/** As `richFunctionFactory` where a step takes no plain function. Throws `FUNCTION_INVALID`, too. */
export function objectFactory<F extends Copied>(fn: F, step: string, method: keyof F & string): () => F {
  const create = perSubtaskOf(fn)
  if (create !== null) return checkedFactory(step, method, create)
  checkInstance(step, fn, method)
  return richFunctionFactory(fn)
}

/** Whether a function object is opened, closed, keeps state of its subtask, or is told how checkpoints end. */
export function hasLife(fn: object): boolean {
  const { open, close, initializeState, setRuntimeContext } = fn as RichFunction
  const { notifyCheckpointComplete, notifyCheckpointAborted } = fn as RichFunction
  const life = [open, close, initializeState, setRuntimeContext, notifyCheckpointComplete, notifyCheckpointAborted]
  return life.some((method) => method !== undefined)
}

/** Throws `RICH_FUNCTION_NOT_ALLOWED` for a function that windows would have to open; as in Flink. */
export function refuseLife(fn: object, step: 'reduce' | 'aggregate'): void {
  const { open, close, initializeState } = (fn ?? {}) as RichFunction
  if (open === undefined && close === undefined && initializeState === undefined) return
  throw new MillraceError(
    'RICH_FUNCTION_NOT_ALLOWED',
    `The function of a window's ${step} cannot have a life of its own.`,
    {
      hint: `Do what needs \`open\` in a ProcessWindowFunction: ${step}(fn, new MyWindowFunction()).`,
    },
  )
}

/** What tells whether a copy would share what `open` stores. */
type Copied = { readonly open?: unknown; readonly initializeState?: unknown }

function copies<F extends Copied>(fn: F, hint: string): () => F {
  const prototype = Object.getPrototypeOf(fn) as object | null
  const isPlain = prototype === Object.prototype || prototype === null
  const bound = Object.entries(fn).find(([, value]) => typeof value === 'function')?.[0]
  // Methods of a plain object may close over variables, and arrow functions in fields keep their first
  // `this`: copies of such objects would still share what `open` stores.
  const isShared = isPlain ? fn.open !== undefined || fn.initializeState !== undefined : bound !== undefined
  if (isShared) {
    throw new MillraceError(
      'PROCESS_FUNCTION_SHARED',
      isPlain
        ? 'A function with `open` cannot be a plain object, because subtasks would share its variables.'
        : `The function object keeps a function in its field "${bound}", so it cannot be copied for each subtask.`,
      { hint },
    )
  }
  return () => Object.assign(Object.create(prototype) as F, fn)
}
