/**
 * Start-up check of values that users put into state: what could not be restored is refused with advice
 * before the first record, not at the first crash.
 *
 * Called by `objectCodec` and by whoever accepts a user's accumulator. JavaScript gives no way to see
 * private fields of an instance, so the source text of its classes is read; a class whose source cannot
 * be read (native code) passes.
 */
import { MillraceError } from '../engine/core/errors.ts'

const DEPTH_MAX = 32

/**
 * Throws `STATE_PRIVATE_FIELDS` when `template` or a part of it is an instance of a class with `#private`
 * members, and `STATE_FUNCTION_FIELD` when it has a function as a property. `what` names it in messages.
 */
export function checkRestorable(template: unknown, what: string): void {
  check(template, what, 0)
}

function check(value: unknown, what: string, depth: number): void {
  if (value === null || typeof value !== 'object' || depth > DEPTH_MAX || ArrayBuffer.isView(value)) return
  checkClasses(value, what)
  for (const [name, property] of Object.entries(Object.getOwnPropertyDescriptors(value))) {
    const part: unknown = property.value
    if (typeof part === 'function') {
      throw new MillraceError('STATE_FUNCTION_FIELD', `${what} has a function in its property ${name}.`, {
        hint: `State keeps data only: make ${name} a method of the class, or a function outside it.`,
      })
    }
    check(part, `${what}.${name}`, depth + 1)
  }
  if (value instanceof Map) for (const part of value.values()) check(part, `${what}'s map value`, depth + 1)
  else if (value instanceof Set) for (const part of value) check(part, `${what}'s set member`, depth + 1)
}

function checkClasses(value: object, what: string): void {
  let prototype: unknown = Object.getPrototypeOf(value)
  while (prototype !== null && typeof prototype === 'object' && prototype !== Object.prototype) {
    const owner = Object.hasOwn(prototype, 'constructor') ? (prototype.constructor as unknown) : null
    if (typeof owner === 'function') {
      const member = privateMember(Function.prototype.toString.call(owner))
      if (member !== null) {
        throw new MillraceError(
          'STATE_PRIVATE_FIELDS',
          `${what} is an instance of ${owner.name || 'a class'} with the private member ${member}, which cannot be saved.`,
          { hint: `Use an ordinary property (TypeScript's \`private\` is fine) instead of ${member}.` },
        )
      }
    }
    prototype = Object.getPrototypeOf(prototype)
  }
}

const DECLARATION = /[{};\n]\s*(?:(?:async|get|set)\s+)?\*?\s*(#[\p{ID_Start}$_][\p{ID_Continue}$]*)/u

/** The first `#private` instance member that a class's source declares. */
function privateMember(source: string): string | null {
  return DECLARATION.exec(withoutText(source))?.[1] ?? null
}

/** The source without comments, strings, templates and (as far as can be told) regular expressions. */
function withoutText(source: string): string {
  const text =
    /\/\*[\s\S]*?\*\/|\/\/[^\n]*|'(?:\\[\s\S]|[^'\\\n])*'|"(?:\\[\s\S]|[^"\\\n])*"|`(?:\\[\s\S]|[^`\\])*`|(?<=[=(,:[!&|?{};]\s*|return\s+)\/(?![*/])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n])+\//g
  return source.replace(text, ' ')
}
