/**
 * Aggregates that the engine computes on columns, without calling JavaScript per record:
 * `.aggregate({ flights: count(), delay: avg('delay') })`.
 */
import type { BuiltInAggregate } from '../contract/functions.ts'

/** A built-in aggregate; `F` is the field that it needs, `R` what it results in. */
export type TypedAggregate<F extends string = string, R = unknown> = BuiltInAggregate & {
  /** Type only; never set. */
  readonly needs?: F
  /** Type only; never set. */
  readonly result?: R
}

/** Rows of the window. */
export const count = (): TypedAggregate<never, number> => ({ kind: 'count' })
/** Sum of the values that are not NULL; NULL when there are none. */
export const sum = <F extends string>(field: F): TypedAggregate<F, number> => ({ kind: 'sum', field })
/** Smallest value that is not NULL; NULL when there are none. */
export const min = <F extends string>(field: F): TypedAggregate<F, number> => ({ kind: 'min', field })
/** Greatest value that is not NULL; NULL when there are none. */
export const max = <F extends string>(field: F): TypedAggregate<F, number> => ({ kind: 'max', field })
/** Mean of the values that are not NULL; NULL when there are none. */
export const avg = <F extends string>(field: F): TypedAggregate<F, number> => ({ kind: 'avg', field })

/** Names of fields that hold numbers, NULL allowed. */
export type NumericField<T> = {
  [F in keyof T & string]-?: T[F] extends number | bigint | null ? F : never
}[keyof T & string]

/** Result columns by name, over rows of `T`. */
export type AggregateRecord<T> = Readonly<Record<string, TypedAggregate<NumericField<T>, unknown>>>

/** Row of results of an aggregate record. */
export type AggregateRow<A> = { [N in keyof A]: A[N] extends TypedAggregate<string, infer R> ? R : never }

export function isAggregateRecord(value: object): value is Readonly<Record<string, BuiltInAggregate>> {
  const prototype = Object.getPrototypeOf(value) as unknown
  if (prototype !== Object.prototype && prototype !== null) return false
  const entries = Object.values(value)
  return entries.length > 0 && entries.every((entry) => typeof (entry as { kind?: unknown } | null)?.kind === 'string')
}
