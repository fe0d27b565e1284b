/**
 * Whether what a program gives to a step can be called, for programs that no type checker has seen. Used by the steps of
 * streams; it looks at the shape alone, and calls nothing.
 */
import { MillraceError } from '../core/errors.ts'

/** Throws `FUNCTION_INVALID` unless `fn` is a function or, given `method`, an object that has it. `step` got it. */
export function checkFunction(step: string, fn: unknown, method: string | null): void {
  if (typeof fn === 'function') {
    if (!isClass(fn)) return
    throw invalid(
      `${step} got ${named(fn)} itself.`,
      `Make an instance of it: ${step}(new ${fn.name || 'MyFunction'}()).`,
    )
  }
  if (method !== null && has(fn, method)) return
  const orObject = method === null ? '' : `, or an object with the method \`${method}\``
  throw invalid(`${step} got ${shown(fn)}.`, `Give it a function${orObject}.`)
}

/** Throws `FUNCTION_INVALID` when what `create` makes has no `method`. */
export function checkedFactory<F>(step: string, method: string, create: () => F): () => F {
  return () => {
    const made = create()
    if (has(made, method)) return made
    throw invalid(
      `The function given to ${step} made ${shown(made)} instead of an object with the method \`${method}\`.`,
      `It is called once for each subtask, without arguments: ${step}(() => ({ ${method}(...) { ... } })).`,
    )
  }
}

/**
 * A function that is called for each window, and not for each subtask. It throws `FUNCTION_INVALID` when it makes an object
 * with `method`: other steps take functions that make them.
 */
export function noFactory<F>(step: string, method: string, fn: F): F {
  if (typeof fn !== 'function' || fn.length > 0) return fn
  const checked = (...given: unknown[]): unknown => {
    const returned: unknown = fn(...given)
    if (!has(returned, method)) return returned
    throw invalid(
      `The function given to ${step} made an object with the method \`${method}\`, each time that a window fired.`,
      `Say that it makes one for each subtask: ${step}(perSubtask(() => ({ ${method}(...) { ... } }))).`,
    )
  }
  return checked as F
}

/** Throws `FUNCTION_INVALID` unless `made` is an instance of a class with `method`. */
export function checkInstance(step: string, made: unknown, method: string): void {
  if (has(made, method)) return
  throw invalid(
    `${step} got ${typeof made === 'function' ? `${named(made)} itself` : shown(made)}.`,
    `Give it an object with the method \`${method}\`, as an instance of a class is.`,
  )
}

const isClass = (fn: object): boolean => /^class\b/.test(Function.prototype.toString.call(fn))

const named = (fn: { readonly name: string }): string =>
  `${fn.name === '' ? 'a' : 'the'} ${isClass(fn) ? 'class' : 'function'}${fn.name === '' ? '' : ` ${fn.name}`}`

function has(made: unknown, method: string): boolean {
  return typeof made === 'object' && made !== null && typeof (made as Record<string, unknown>)[method] === 'function'
}

function shown(value: unknown): string {
  if (typeof value === 'object' && value !== null) {
    const names = Object.keys(value).slice(0, 5)
    return names.length === 0 ? 'an object without fields' : `an object of ${names.join(', ')}`
  }
  return typeof value === 'string' ? JSON.stringify(value) : String(value)
}

function invalid(message: string, hint: string): MillraceError {
  return new MillraceError('FUNCTION_INVALID', message, { hint })
}
