/**
 * Functions that are made once for each subtask. Used by every step that takes a user's function.
 *
 * Whose instance a subtask calls:
 * - A function, and an object without a life (an AggregateFunction, a plain object with `map`): every subtask of a thread
 *   calls the same one, so it must keep nothing between calls.
 * - An object with a life (`open`, `close`, operator state, `notifyCheckpointComplete`; every process function): each
 *   subtask gets a copy of it, as it was when the job started.
 * - What `perSubtask` is given: each subtask calls it, and gets what it makes. `process` takes such a function as it is.
 */
import { MillraceError } from '../core/errors.ts'

/** In the registry, because a job may load its own copy of this package. */
const CREATE = Symbol.for('millrace.perSubtask')

interface Marked<F> {
  readonly [CREATE]?: () => F
}

/**
 * A function or function object of which each subtask has its own: `create` is called once for each, with what it
 * closes over or caches for that subtask alone. Stands wherever a step takes a function, a key selector included:
 * `stream.map(perSubtask(() => { let n = 0; return (word) => ({ word, n: n++ }) }))`.
 */
export function perSubtask<F extends object>(create: () => F): F {
  const marked = (): never => {
    throw new MillraceError('PER_SUBTASK_MISPLACED', 'perSubtask does not make functions for this place.', {
      hint: 'Pass the function itself.',
    })
  }
  return Object.assign(marked, { [CREATE]: create }) as unknown as F
}

/** What `perSubtask` was given, or null. */
export function perSubtaskOf<F>(fn: F): (() => F) | null {
  return typeof fn === 'function' ? ((fn as Marked<F>)[CREATE] ?? null) : null
}

/** The instance of one subtask: made for it, or shared. */
export function ownFunction<F>(fn: F): F {
  return perSubtaskOf(fn)?.() ?? fn
}
