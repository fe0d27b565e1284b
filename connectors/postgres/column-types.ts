/**
 * Columns of a target table, and how a row's values become the JSON that Postgres reads back.
 *
 * Called by the sink (to build its statements) and by its writers (to encode rows). A value that the
 * column cannot hold is found here, in the writer, where the row and the column can still be named: once a
 * row is part of a checkpoint, a refusal by the database would come back with every restart.
 */
import { MillraceError } from '../../engine/core/errors.ts'
import type { Schema } from '../../engine/core/schema.ts'

export interface TargetColumn {
  readonly name: string
  /** SQL type without `not null`. */
  readonly type: string
  readonly nullable: boolean
  readonly encode: Encode
}

/** Value to JSON text; throws `Refusal`. Never sees null and undefined. */
type Encode = (value: unknown) => string

/** Why a value cannot be stored. Becomes `ROW_REFUSED` or a dead letter. */
export class Refusal extends Error {
  readonly column: string
  constructor(column: string, reason: string) {
    super(reason)
    this.name = 'Refusal'
    this.column = column
  }
}

const TYPE_PATTERN = /^[a-z][a-z0-9_]*( [a-z][a-z0-9_]*)*(\(\d+(, ?\d+)?\))?( with(out)? time zone)?(\[\])?$/

/** JSON.rawJSON writes a text as it is; TypeScript does not know it yet. */
const rawJson = (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON

/** Quotes a name after checking it: `name`, or `schema.name` with two parts. Throws `IDENTIFIER_INVALID`. */
export function quoteIdentifier(name: string, what: string, partsMax: 1 | 2): string {
  const parts = name.split('.')
  if (parts.length > partsMax || !parts.every((part) => /^[A-Za-z_][A-Za-z0-9_]*$/.test(part))) {
    throw new MillraceError('IDENTIFIER_INVALID', `${JSON.stringify(name)} cannot be the name of a ${what}.`, {
      hint: 'Use letters, digits and underscores, not starting with a digit; a schema and a dot may precede a table.',
    })
  }
  return parts.map((part) => `"${part}"`).join('.')
}

/** A column from its name and declaration, as `bigint` or `text not null`. Throws `COLUMN_TYPE_INVALID`. */
export function targetColumn(name: string, declaration: string): TargetColumn {
  quoteIdentifier(name, 'column', 1)
  const words = declaration.trim().toLowerCase().replace(/\s+/g, ' ')
  const nullable = !words.endsWith(' not null')
  const type = nullable ? words : words.slice(0, -' not null'.length)
  if (
    !TYPE_PATTERN.test(type) ||
    /\b(default|primary|references|unique|check|null)\b|^(big|small)?serial$/.test(type)
  ) {
    throw new MillraceError('COLUMN_TYPE_INVALID', `Column ${name} has the type ${JSON.stringify(declaration)}.`, {
      hint: 'Write a type and optionally "not null"; for defaults and constraints pass your own DDL as createTable.',
    })
  }
  return { name, type, nullable, encode: encoderOf(name, type) }
}

/** Column declarations that fit a schema's fields. */
export function columnsOfSchema(schema: Schema): Record<string, string> {
  const types = {
    boolean: 'boolean',
    int32: 'integer',
    int64: 'bigint',
    float64: 'double precision',
    timestamp: 'timestamptz',
    string: 'text',
    opaque: 'jsonb',
  } as const
  const entries = schema.fields.map((field) => [
    field.name,
    // A JSON value may be null whatever the field says.
    field.nullable || field.kind === 'opaque' ? types[field.kind] : `${types[field.kind]} not null`,
  ])
  return Object.fromEntries(entries)
}

/** Encodes rows to JSON objects of the columns; throws `Refusal` naming the column. */
export function rowEncoder(columns: readonly TargetColumn[]): (row: unknown) => string {
  return (row) => {
    if (row === null || typeof row !== 'object') throw new Refusal('', `a row must be an object, got ${nameOf(row)}`)
    let text = ''
    for (const column of columns) {
      const value = (row as Record<string, unknown>)[column.name]
      if (value === null || value === undefined) {
        if (!column.nullable) throw new Refusal(column.name, 'the column is not null and the value is missing')
      } else {
        text += `${text === '' ? '' : ','}"${column.name}":${column.encode(value)}`
      }
    }
    return `{${text}}`
  }
}

function encoderOf(column: string, type: string): Encode {
  const refuse = (reason: string): never => {
    throw new Refusal(column, reason)
  }
  if (type.endsWith('[]') || type === 'json' || type === 'jsonb') return (value) => encodeJson(value, refuse)
  const base = type.replace(/\(.*\)/, '')
  switch (base) {
    case 'smallint':
    case 'int2':
      return integerEncoder(16, refuse)
    case 'integer':
    case 'int':
    case 'int4':
      return integerEncoder(32, refuse)
    case 'bigint':
    case 'int8':
      return integerEncoder(64, refuse)
    case 'double precision':
    case 'float8':
    case 'float':
      return (value) =>
        typeof value === 'number' ? floatText(value) : refuse(`a number is needed, got ${nameOf(value)}`)
    case 'real':
    case 'float4':
      return realEncoder(refuse)
    case 'numeric':
    case 'decimal':
      return numericEncoder(refuse)
    case 'boolean':
    case 'bool':
      return (value) =>
        typeof value === 'boolean' ? String(value) : refuse(`a boolean is needed, got ${nameOf(value)}`)
    case 'timestamp':
    case 'timestamptz':
    case 'timestamp with time zone':
    case 'timestamp without time zone':
      return timeEncoder((text) => text, refuse)
    case 'date':
      return timeEncoder((text) => text.slice(0, 10), refuse)
    case 'bytea':
      return bytesEncoder(refuse)
    case 'uuid':
      return (value) =>
        typeof value === 'string' && /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(value)
          ? `"${value}"`
          : refuse('a UUID as 8-4-4-4-12 hexadecimal digits is needed')
    case 'text':
      return textEncoder(null, refuse)
    case 'varchar':
    case 'character varying':
      return textEncoder(lengthOf(type), refuse)
    case 'char':
    case 'character':
      return textEncoder(lengthOf(type) ?? 1, refuse)
    default:
      return otherEncoder(refuse)
  }
}

type Refuse = (reason: string) => never

function lengthOf(type: string): number | null {
  const match = /\((\d+)\)/.exec(type)
  return match === null ? null : Number(match[1])
}

function nameOf(value: unknown): string {
  if (value === null) return 'null'
  if (typeof value === 'number' && !Number.isFinite(value)) return String(value)
  return typeof value === 'object' ? (value.constructor?.name ?? 'object') : typeof value
}

function integerEncoder(bits: number, refuse: Refuse): Encode {
  const max = 2n ** BigInt(bits - 1)
  const maxNumber = Number(max)
  return (value) => {
    if (typeof value === 'number') {
      if (!Number.isInteger(value)) return refuse(`an integer is needed, got ${value}`)
      // Above 2^53 a number no longer says which integer was meant, but every such double is one.
      if (value < -maxNumber || value >= maxNumber) return refuse(`${value} does not fit ${bits} bits`)
      return Number.isSafeInteger(value) ? String(value + 0) : BigInt(value).toString()
    }
    if (typeof value === 'bigint') {
      if (value < -max || value >= max) return refuse(`${value} does not fit ${bits} bits`)
      return value.toString()
    }
    return refuse(`an integer is needed, got ${nameOf(value)}`)
  }
}

/** JSON has no NaN and no infinity; Postgres reads these texts. */
function floatText(value: number): string {
  if (Object.is(value, -0)) return '-0'
  return Number.isFinite(value) ? String(value) : `"${value}"`
}

function realEncoder(refuse: Refuse): Encode {
  return (value) => {
    if (typeof value !== 'number') return refuse(`a number is needed, got ${nameOf(value)}`)
    const single = Math.fround(value)
    if ((Number.isFinite(value) && !Number.isFinite(single)) || (value !== 0 && single === 0)) {
      return refuse(`${value} does not fit a 4-byte float`)
    }
    return floatText(value)
  }
}

function numericEncoder(refuse: Refuse): Encode {
  return (value) => {
    if (typeof value === 'number') return floatText(value)
    if (typeof value === 'bigint') return value.toString()
    if (typeof value === 'string' && /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i.test(value)) return `"${value}"`
    return refuse(`a number is needed, got ${nameOf(value)}`)
  }
}

/** Milliseconds since 1970 UTC, kept to the microsecond. */
function timeEncoder(cut: (text: string) => string, refuse: Refuse): Encode {
  return (value) => {
    if (typeof value === 'string') return JSON.stringify(checkText(value, refuse))
    const ms = value instanceof Date ? value.getTime() : value
    if (typeof ms !== 'number') return refuse(`milliseconds, a Date or a text are needed, got ${nameOf(value)}`)
    if (ms === Number.POSITIVE_INFINITY) return '"infinity"'
    if (ms === Number.NEGATIVE_INFINITY) return '"-infinity"'
    const whole = Math.floor(ms)
    // Years 1 to 9999: outside, the texts of JavaScript and Postgres differ.
    if (!(whole >= -62_135_596_800_000 && whole <= 253_402_300_799_999)) {
      return refuse(`${ms} is no time between the years 1 and 9999`)
    }
    const text = new Date(whole).toISOString()
    // Cut, not rounded: the last microsecond of a second must not become 1,000,000.
    const micros = Math.floor((ms - whole) * 1_000)
    return `"${cut(micros === 0 ? text : `${text.slice(0, -1)}${String(micros).padStart(3, '0')}Z`)}"`
  }
}

function textEncoder(lengthMax: number | null, refuse: Refuse): Encode {
  return (value) => {
    if (typeof value !== 'string') return refuse(`a text is needed, got ${nameOf(value)}`)
    if (lengthMax !== null && value.length > lengthMax && [...value].length > lengthMax) {
      return refuse(`the text is longer than ${lengthMax} characters`)
    }
    return JSON.stringify(checkText(value, refuse))
  }
}

function bytesEncoder(refuse: Refuse): Encode {
  return (value) =>
    value instanceof Uint8Array
      ? `"\\\\x${Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('hex')}"`
      : refuse(`bytes are needed, got ${nameOf(value)}`)
}

/** Types that this file does not know: scalars pass, the rest as JSON. The database has the last word. */
function otherEncoder(refuse: Refuse): Encode {
  return (value) => {
    if (typeof value === 'number') return floatText(value)
    return encodeJson(value, refuse)
  }
}

function checkText(text: string, refuse: Refuse): string {
  if (text.includes('\0')) return refuse('the text holds U+0000, which Postgres cannot store')
  if (!text.isWellFormed()) return refuse('the text holds half a surrogate pair, which has no UTF-8 form')
  return text
}

/** JSON text of a value, refusing what JSON or Postgres would lose or change. */
function encodeJson(value: unknown, refuse: Refuse): string {
  const text = JSON.stringify(value, (key, inner: unknown) => {
    checkText(key, refuse)
    switch (typeof inner) {
      case 'string':
        return checkText(inner, refuse)
      case 'number':
        return Number.isFinite(inner) ? inner : refuse(`JSON cannot hold ${inner}`)
      case 'bigint':
        return rawJson(inner.toString())
      case 'object':
        return inner instanceof Map || inner instanceof Set ? refuse(`JSON cannot hold a ${nameOf(inner)}`) : inner
      default:
        return inner
    }
  }) as string | undefined
  // Functions and symbols have no JSON.
  return text ?? refuse(`JSON cannot hold a ${nameOf(value)}`)
}
