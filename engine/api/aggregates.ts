/**
 * Aggregates that the engine computes on columns, without calling JavaScript per record:
 * `.aggregate({ flights: count(), delay: avg('delay') })`. Results are doubles: over integers beyond 2^53 they are rounded.
 * An AggregateFunction over `bigint` is exact.
 */
import type { BuiltInAggregate } from '../contract/functions.ts'

/** A built-in aggregate that needs the field `F`. */
export type FieldAggregate<F extends string> = {
  readonly kind: 'sum' | 'min' | 'max' | 'avg'
  readonly field: F
}

export interface CountAggregate {
  readonly kind: 'count'
}

/** Rows of the window. */
export const count = (): CountAggregate => ({ kind: 'count' })
/** Sum of the values that are not NULL; NULL when there are none. */
export const sum = <F extends string>(field: F): FieldAggregate<F> => ({ kind: 'sum', field })
/** Smallest value that is not NULL; NULL when there are none. */
export const min = <F extends string>(field: F): FieldAggregate<F> => ({ kind: 'min', field })
/** Greatest value that is not NULL; NULL when there are none. */
export const max = <F extends string>(field: F): FieldAggregate<F> => ({ kind: 'max', field })
/** Mean of the values that are not NULL; NULL when there are none. */
export const avg = <F extends string>(field: F): FieldAggregate<F> => ({ kind: 'avg', field })

/** Names of fields that hold numbers, NULL allowed. */
export type NumericField<T> = {
  [F in keyof T & string]-?: T[F] extends number | bigint | null ? F : never
}[keyof T & string]

/** Result columns by name, over rows of `T`. */
export type AggregateRecord<T> = Readonly<Record<string, CountAggregate | FieldAggregate<NumericField<T>>>>

/** Results of an aggregate record over rows of `T`: numbers, NULL only where the field may be NULL. */
export type AggregateRow<T, A> = {
  [N in keyof A]: A[N] extends FieldAggregate<infer F>
    ? F extends keyof T
      ? null extends T[F]
        ? number | null
        : number
      : never
    : number
}

export function isAggregateRecord(value: object): value is Readonly<Record<string, BuiltInAggregate>> {
  if (typeof value !== 'object' || value === null) return false
  const prototype = Object.getPrototypeOf(value) as unknown
  if (prototype !== Object.prototype && prototype !== null) return false
  const entries = Object.values(value)
  return entries.length > 0 && entries.every((entry) => typeof (entry as { kind?: unknown } | null)?.kind === 'string')
}
