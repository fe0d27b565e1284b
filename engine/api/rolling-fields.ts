/**
 * The fields that rolling aggregates of keyed streams take: their types, and the check when the program runs.
 */
import { MillraceError } from '../core/errors.ts'
import { type ColumnKind, fieldIndex, type Schema } from '../core/schema.ts'

type Numeric = number | bigint | null | undefined
type Comparable = Numeric | string | boolean | Date

/** Names of fields of objects, positions in tuples. */
type FieldOf<T, V> = T extends readonly unknown[]
  ? number extends T['length']
    ? number
    : { [I in keyof T]: T[I] extends V ? (I extends `${infer N extends number}` ? N : never) : never }[number]
  : { [F in keyof T & string]-?: T[F] extends V ? F : never }[keyof T & string]

/** Fields of `T` that have a sum. */
export type SummableField<T> = FieldOf<T, Numeric>

/** Fields of `T` whose values are ordered. */
export type ComparableField<T> = FieldOf<T, Comparable>

const SUMMABLE: ReadonlySet<ColumnKind> = new Set<ColumnKind>(['int32', 'int64', 'float64', 'opaque'])

/** Throws `FIELD_UNKNOWN` or `FIELD_NOT_SUMMABLE` for streams with declared columns. */
export function checkRollingField(schema: Schema, kind: string, field: string | number): void {
  if (schema.isOpaque) return
  const { name, kind: column } = schema.fields[fieldIndex(schema, String(field))]!
  if (kind !== 'sum' || SUMMABLE.has(column)) return
  throw new MillraceError('FIELD_NOT_SUMMABLE', `Field ${JSON.stringify(name)} of kind ${column} has no sum.`, {
    hint: 'Sum a field of numbers.',
  })
}
