/**
 * From what a user gives to `KeyedStream.process` to a fresh function object for each subtask.
 *
 * Invariant: two subtasks on one thread never share a function's fields, because `open` stores state
 * handles there.
 */
import type { KeyedProcessFunction } from '../contract/functions.ts'
import { MillraceError } from '../core/errors.ts'

/** An instance of a class, or a function that makes a process function. */
export type KeyedProcessFunctionOrFactory<K, In, Out> =
  | KeyedProcessFunction<K, In, Out>
  | (() => KeyedProcessFunction<K, In, Out>)

/** Throws `PROCESS_FUNCTION_SHARED` for an object that cannot be copied for each subtask. */
export function processFunctionFactory<K, In, Out>(
  fn: KeyedProcessFunctionOrFactory<K, In, Out>,
): () => KeyedProcessFunction<K, In, Out> {
  if (typeof fn === 'function') return fn
  const prototype = Object.getPrototypeOf(fn) as object | null
  const isPlain = prototype === Object.prototype || prototype === null
  const bound = Object.entries(fn).find(([, value]) => typeof value === 'function')?.[0]
  // Methods of a plain object may close over variables, and arrow functions in fields keep their first
  // `this`: copies of such objects would still share what `open` stores.
  const isShared = isPlain ? fn.open !== undefined : bound !== undefined
  if (isShared) {
    throw new MillraceError(
      'PROCESS_FUNCTION_SHARED',
      isPlain
        ? 'A process function with `open` cannot be a plain object, because subtasks would share its variables.'
        : `The process function keeps a function in its field "${bound}", so it cannot be copied for each subtask.`,
      { hint: 'Pass a function that makes it: process(() => ({ ... })) or process(() => new MyFunction()).' },
    )
  }
  return () => Object.assign(Object.create(prototype) as KeyedProcessFunction<K, In, Out>, fn)
}
