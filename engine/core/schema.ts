/**
 * Schemas: the names and kinds of a batch's columns, and the row type that TypeScript infers.
 *
 * A stream whose rows have no declared schema (what a lambda returned) uses the opaque schema: one
 * column `value` of kind `opaque`, whose row *is* the value.
 */
import { MillraceError } from './errors.ts'

/** How a column is laid out; see batch.ts. `timestamp` is Float64 milliseconds since 1970 UTC. */
export type ColumnKind = 'boolean' | 'int32' | 'int64' | 'float64' | 'timestamp' | 'string' | 'opaque'

/** A field before it has a name: what the `t` builders return. `Value` is the row's property type. */
export interface FieldType<Value = unknown> {
  readonly kind: ColumnKind
  readonly nullable: boolean
  /** Type only; never set. */
  readonly value?: Value
}

export interface Field {
  readonly name: string
  readonly kind: ColumnKind
  readonly nullable: boolean
}

export interface Schema<Row = unknown> {
  readonly fields: readonly Field[]
  /** True for the opaque schema: the row is the only column's value. */
  readonly isOpaque: boolean
  /** Type only; never set. */
  readonly row?: Row
}

/** Row type of a record of field types. */
export type RowOf<F extends Record<string, FieldType>> = {
  [K in keyof F]: F[K] extends FieldType<infer V> ? V : never
}

function field<V>(kind: ColumnKind): FieldType<V> {
  return { kind, nullable: false }
}

/** Builders of field types: `schema({ id: t.string(), delay: t.nullable(t.float64()) })`. */
export const t = {
  boolean: () => field<boolean>('boolean'),
  int32: () => field<number>('int32'),
  /** 64-bit integers, `bigint` in rows. */
  int64: () => field<bigint>('int64'),
  float64: () => field<number>('float64'),
  /** Milliseconds since 1970 UTC; the JSON decoder also reads ISO 8601 text. */
  timestamp: () => field<number>('timestamp'),
  string: () => field<string>('string'),
  /** Any JSON value, as a JavaScript value. */
  json: <V = unknown>() => field<V>('opaque'),
  nullable: <V>(type: FieldType<V>): FieldType<V | null> => ({ kind: type.kind, nullable: true }),
} as const

/** Declares a schema; field order is column order. Throws `SCHEMA_INVALID` on names that rows cannot carry. */
export function schema<F extends Record<string, FieldType>>(fields: F): Schema<RowOf<F>> {
  const entries = Object.entries(fields)
  if (entries.length === 0) {
    throw new MillraceError('SCHEMA_INVALID', 'A schema needs at least one field.')
  }
  for (const [name] of entries) {
    if (name === '__proto__' || name === '') {
      throw new MillraceError('SCHEMA_INVALID', `A field cannot be named ${JSON.stringify(name)}.`)
    }
  }
  return {
    fields: entries.map(([name, type]) => ({ name, kind: type.kind, nullable: type.nullable })),
    isOpaque: false,
  }
}

/** The schema of streams without a declared one. */
export const OPAQUE_SCHEMA: Schema = Object.freeze({
  fields: Object.freeze([Object.freeze({ name: 'value', kind: 'opaque', nullable: true } as const)]),
  isOpaque: true,
})

/** Position of a field. Throws `FIELD_UNKNOWN`, naming the fields that exist. */
export function fieldIndex(schema: Schema, name: string): number {
  const index = schema.fields.findIndex((f) => f.name === name)
  if (index < 0) {
    const known = schema.isOpaque ? 'the stream has no declared schema' : schema.fields.map((f) => f.name).join(', ')
    throw new MillraceError('FIELD_UNKNOWN', `There is no field ${JSON.stringify(name)}.`, {
      hint: `Known: ${known}.`,
    })
  }
  return index
}

/** Stable text of a schema, part of the graph hash. */
export function describeSchema(schema: Schema): string {
  if (schema.isOpaque) return 'opaque'
  return schema.fields.map((f) => `${f.name}:${f.kind}${f.nullable ? '?' : ''}`).join(',')
}
