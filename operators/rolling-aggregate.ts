/**
 * Reduce functions of the rolling aggregates of keyed streams: sum, min, max, minBy, maxBy of one field.
 *
 * Used with reduce.ts. Flink's rules: sum, min and max give the first element with the field replaced; minBy and
 * maxBy give whole elements, of equal ones the first (or, if asked for, the last). A field that is null or
 * undefined does not count, unless all are. NaN is greater than every other number.
 */
import type { ReduceFunction } from '../engine/contract/functions.ts'
import { MillraceError } from '../engine/core/errors.ts'

type Fields = Record<string | number, unknown>

export type RollingKind = 'sum' | 'min' | 'max' | 'minBy' | 'maxBy'

export interface RollingOptions {
  readonly kind: RollingKind
  readonly field: string | number
  /**
   * True where results are copied into columns at once: then the accumulated row itself is changed. Otherwise each
   * result is an object of its own, because downstream may keep the last one.
   */
  readonly inPlace: boolean
  /** For minBy and maxBy: of equal elements the first counts, otherwise the last. */
  readonly first?: boolean
}

export function rollingReduce({ kind, field, inPlace, first = true }: RollingOptions): ReduceFunction<unknown> {
  const set = inPlace ? assign : replace
  switch (kind) {
    case 'sum':
      return (a, b) => set(a as Fields, field, added((a as Fields)[field], (b as Fields)[field], field))
    case 'min':
    case 'max': {
      const isMin = kind === 'min'
      return (a, b) => {
        const before = (a as Fields)[field]
        const value = (b as Fields)[field]
        if (!isBetter(value, before, isMin, true)) return a
        return set(a as Fields, field, value)
      }
    }
    default: {
      const isMin = kind === 'minBy'
      return (a, b) => (isBetter((b as Fields)[field], (a as Fields)[field], isMin, first) ? b : a)
    }
  }
}

function isMissing(value: unknown): value is null | undefined {
  return value === null || value === undefined
}

/** True when `value` takes the place of `before`; of equal ones only if the first does not count. */
function isBetter(value: unknown, before: unknown, isMin: boolean, first: boolean): boolean {
  if (isMissing(value)) return false
  if (isMissing(before)) return true
  const isLess = comesBefore(value as number, before as number)
  const isMore = comesBefore(before as number, value as number)
  if (!isLess && !isMore) return !first
  return isMin ? isLess : isMore
}

/** Whatever the order in which elements come, NaN must not hide the others. */
function comesBefore(a: number, b: number): boolean {
  return a < b || (Number.isNaN(b) && !Number.isNaN(a))
}

function added(a: unknown, b: unknown, field: string | number): unknown {
  if (isMissing(b)) return a
  if (isMissing(a)) return b
  if (typeof a === 'number' && typeof b === 'number') return a + b
  if (typeof a === 'bigint' && typeof b === 'bigint') return a + b
  throw new MillraceError('SUM_INVALID', `Field ${JSON.stringify(field)} is no number in every element.`, {
    hint: `Got ${typeof a} and ${typeof b}. Sum a field of numbers, or of bigints.`,
  })
}

function assign(row: Fields, field: string | number, value: unknown): Fields {
  row[field] = value
  return row
}

/** A copy with another value of the field, of the same class. */
function replace(row: Fields, field: string | number, value: unknown): Fields {
  if (Array.isArray(row)) {
    const copy = row.slice() as unknown as Fields
    copy[field] = value
    return copy
  }
  const prototype: unknown = Object.getPrototypeOf(row)
  if (prototype === Object.prototype) return { ...row, [field]: value }
  return Object.assign(Object.create(prototype as object | null) as Fields, row, { [field]: value })
}
