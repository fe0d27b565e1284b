/**
 * The one place where generated source becomes functions.
 *
 * Used by all code that is generated for a schema: rows, JSON, CSV, values of state, aggregates. V8 never optimises a function
 * of more than 61,440 bytes of bytecode, and takes long for half as much, so that a field of a wide schema would cost many times
 * what one of a narrow schema does. Source is therefore cut into functions of bounded size.
 *
 * Invariants:
 * - No generated function has more than `FUNCTION_CHARS_MAX` characters of code, whatever the schema. Texts and literals of
 *   constants do not count: they are no instructions.
 * - Functions with identical source share inline caches, which would make them megamorphic; so the source begins with a comment
 *   that names whom it is for.
 */
import { assert } from './assert.ts'

/** About as many bytes of bytecode. */
export const FUNCTION_CHARS_MAX = 24 * 1_024
/** Steps that are more than this go into functions of their own; two or three such lists may be in one function. */
const STEPS_CHARS_MAX = 8 * 1_024

export interface GeneratedFunction {
  readonly name: string
  readonly params: string
  readonly body: string
  /** The body makes an object of constants only, which is one instruction however many they are. */
  readonly isLiteral?: true
}

export interface GeneratedSource {
  /** For whom the source is: what it does, and an id that no other of its kind has (any text). */
  readonly what: string
  readonly id: string
  /** What the source refers to, by name. */
  readonly helpers?: Readonly<Record<string, unknown>>
  /** Runs once: what the functions share. */
  readonly declarations?: string
  readonly functions: readonly GeneratedFunction[]
  /** An expression of the functions. */
  readonly result: string
}

/** Makes the functions and gives the result. */
export function compile<T>({ what, id, helpers = {}, declarations = '', functions, result }: GeneratedSource): T {
  for (const made of functions) assert(isBounded(made), `function ${made.name} of the ${what} can be optimised`)
  const source = `'use strict' ${sourceComment(what, id)}
${declarations}
${functions.map(({ name, params, body }) => `function ${name}(${params}) {\n${body}\n}`).join('\n')}
return ${result}`
  return new Function(...Object.keys(helpers), source)(...Object.values(helpers)) as T
}

/** Whether a function is small enough to be optimised. */
export function isBounded({ body, isLiteral }: GeneratedFunction): boolean {
  return isLiteral === true || codeChars(body) <= FUNCTION_CHARS_MAX
}

function sourceComment(what: string, id: string): string {
  return `/* ${what} ${JSON.stringify(id).replaceAll('*/', '* /')} */`
}

/** Characters of source without what is inside of texts in double quotes, such as names of fields. */
function codeChars(source: string): number {
  return source.replace(/"(?:[^"\\]|\\.)*"/g, '""').length
}

/** Consecutive items in groups, each with source for one function. */
export function groupsBySource<T>(
  items: readonly T[],
  sourceOf: (item: T) => string,
  charsMax = STEPS_CHARS_MAX,
): T[][] {
  const groups: T[][] = []
  let left = 0
  for (const item of items) {
    const chars = codeChars(sourceOf(item))
    if (chars > left) {
      groups.push([])
      left = charsMax
    }
    groups.at(-1)!.push(item)
    left -= chars
  }
  return groups
}

/** Statements that run one after the other. */
export interface Steps {
  readonly steps: readonly string[]
  /** The functions that they go into, when they are many, are named by this and a number. */
  readonly name: string
  /** What the statements refer to beside the declarations; handed on to such functions. */
  readonly params: string
  /** Statements at the beginning and at the end of each such function. */
  readonly head?: string
  readonly tail?: string
  /** The statement that calls it; a plain call when left out. */
  readonly call?: (name: string) => string
}

/** The steps themselves when they are few (after `head`, without `tail`), otherwise calls of functions that hold them. */
export function inFunctions(what: Steps): {
  readonly body: string
  readonly functions: readonly GeneratedFunction[]
  readonly isSplit: boolean
} {
  const { steps, name, params, head = '', tail = '', call = (part) => `${part}(${params})` } = what
  const groups = groupsBySource(steps, (step) => step)
  if (groups.length <= 1) return { body: `${head}\n${steps.join('\n')}`, functions: [], isSplit: false }
  const parts = groups.map((group, i) => ({
    name: `${name}${i}`,
    params,
    body: `${head}\n${group.join('\n')}\n${tail}`,
  }))
  const calls = inFunctions({ ...what, name: `${name}_`, steps: parts.map((part) => call(part.name)) })
  return { body: calls.body, functions: [...parts, ...calls.functions], isSplit: true }
}

export interface RowMaking extends Omit<Steps, 'steps'> {
  readonly fields: readonly { readonly name: string }[]
  /** The body of the function for a row of few fields. */
  readonly narrow: string
  /** The statement that sets `target` to the value of field `k`. */
  readonly set: (k: number, target: string) => string
}

/**
 * The body of a function that makes a row object and returns it. A row of many fields is a literal of NULLs whose fields are
 * then set: V8 copies such a literal at once, also where it keeps the properties in a dictionary (over 1,020 of them), and would
 * add them one by one otherwise.
 */
export function rowMaking(what: RowMaking): {
  readonly body: string
  readonly functions: readonly GeneratedFunction[]
} {
  const names = what.fields.map(({ name }) => JSON.stringify(name))
  const setting = inFunctions({
    ...what,
    params: `row, ${what.params}`,
    steps: names.map((name, k) => what.set(k, `row[${name}]`)),
  })
  if (!setting.isSplit) return { body: what.narrow, functions: [] }
  const literal = `return { ${names.map((name) => `${name}: null`).join(', ')} }`
  return {
    body: `const row = emptyRow()\n${setting.body}\nreturn row`,
    functions: [{ name: 'emptyRow', params: '', body: literal, isLiteral: true }, ...setting.functions],
  }
}
