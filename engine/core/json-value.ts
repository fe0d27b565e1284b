/** JSON as a type, and what is checked of what users say is JSON. Used by whatever goes into a manifest. */
import { MillraceError } from './errors.ts'

/** What survives a trip through JSON unchanged: positions of splits, committables, manifests. */
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | { readonly [key: string]: JsonValue }

/** Throws `NOT_JSON` when JSON would refuse `value`, or give back another one. `what` is said to hold it. */
export function checkJson(value: unknown, what: string): asserts value is JsonValue {
  const odd = oddPart(value, '')
  if (odd === null) return
  throw new MillraceError('NOT_JSON', `${what} cannot be saved: ${odd}.`, {
    hint: 'Use null, booleans, finite numbers, strings, and arrays and plain objects of them; a bigint as a string.',
  })
}

/** What in `value` is not JSON and where, or null. */
function oddPart(value: unknown, at: string): string | null {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return null
  if (typeof value === 'number' && Number.isFinite(value)) return null
  const place = at === '' ? 'it' : at
  if (typeof value !== 'object') return `${place} is ${typeof value === 'number' ? value : `of type ${typeof value}`}`
  const prototype: unknown = Object.getPrototypeOf(value)
  if (!Array.isArray(value) && prototype !== Object.prototype && prototype !== null) {
    return `${place} is an instance of ${value.constructor?.name ?? 'a class'}`
  }
  for (const [key, part] of Object.entries(value)) {
    const odd = oddPart(part, `${at}.${key}`)
    if (odd !== null) return odd
  }
  return null
}
