/**
 * Accumulators: what user functions count over a whole job, merged over all subtasks at its end; Flink's names.
 *
 * A subtask registers them in `open`; their local values travel with status reports as plain data, and the job
 * master merges them by name. Like Flink's they are no state: a restart begins them again.
 */
import { MillraceError } from './errors.ts'

/** Local value of an accumulator, as plain data. */
export type AccumulatorValue =
  | { readonly kind: 'integer' | 'double' | 'minimum' | 'maximum'; readonly value: number }
  | { readonly kind: 'average'; readonly sum: number; readonly count: number }
  | { readonly kind: 'histogram'; readonly counts: readonly (readonly [number, number])[] }

/** Something that `add` accumulates into a result of type `R`. */
export interface Accumulator<R = unknown> {
  add(value: number): void
  /** The result of this subtask alone. */
  getLocalValue(): R
  resetLocal(): void
  /** @internal */
  readonly kind: AccumulatorValue['kind']
  /** @internal */
  snapshot(): AccumulatorValue
}

/** Adds whole numbers. */
export class IntCounter implements Accumulator<number> {
  readonly kind = 'integer'
  private value = 0

  /** Throws `ACCUMULATOR_VALUE_INVALID` for numbers that are not whole. */
  add(value: number): void {
    if (!Number.isInteger(value)) {
      throw new MillraceError('ACCUMULATOR_VALUE_INVALID', `A counter of whole numbers cannot add ${value}.`, {
        hint: 'Use DoubleCounter for numbers with fractions.',
      })
    }
    this.value += value
  }
  getLocalValue(): number {
    return this.value
  }
  resetLocal(): void {
    this.value = 0
  }
  snapshot(): AccumulatorValue {
    return { kind: this.kind, value: this.value }
  }
}

/** Adds whole numbers, exactly up to 2 ** 53. */
export class LongCounter extends IntCounter {}

/** Adds numbers. */
export class DoubleCounter implements Accumulator<number> {
  readonly kind = 'double'
  private value = 0
  add(value: number): void {
    this.value += value
  }
  getLocalValue(): number {
    return this.value
  }
  resetLocal(): void {
    this.value = 0
  }
  snapshot(): AccumulatorValue {
    return { kind: this.kind, value: this.value }
  }
}

/** The least number added; Infinity without any. */
export class DoubleMinimum implements Accumulator<number> {
  readonly kind = 'minimum'
  private value = Number.POSITIVE_INFINITY
  add(value: number): void {
    this.value = Math.min(this.value, value)
  }
  getLocalValue(): number {
    return this.value
  }
  resetLocal(): void {
    this.value = Number.POSITIVE_INFINITY
  }
  snapshot(): AccumulatorValue {
    return { kind: this.kind, value: this.value }
  }
}

/** The greatest number added; -Infinity without any. */
export class DoubleMaximum implements Accumulator<number> {
  readonly kind = 'maximum'
  private value = Number.NEGATIVE_INFINITY
  add(value: number): void {
    this.value = Math.max(this.value, value)
  }
  getLocalValue(): number {
    return this.value
  }
  resetLocal(): void {
    this.value = Number.NEGATIVE_INFINITY
  }
  snapshot(): AccumulatorValue {
    return { kind: this.kind, value: this.value }
  }
}

/** The mean of the numbers added; 0 without any. */
export class AverageAccumulator implements Accumulator<number> {
  readonly kind = 'average'
  private sum = 0
  private count = 0
  add(value: number): void {
    this.sum += value
    this.count++
  }
  getLocalValue(): number {
    return this.count === 0 ? 0 : this.sum / this.count
  }
  resetLocal(): void {
    this.sum = 0
    this.count = 0
  }
  snapshot(): AccumulatorValue {
    return { kind: this.kind, sum: this.sum, count: this.count }
  }
}

/** How often each number was added; for a limited number of different ones. */
export class HistogramAccumulator implements Accumulator<ReadonlyMap<number, number>> {
  readonly kind = 'histogram'
  private counts = new Map<number, number>()
  add(value: number): void {
    this.counts.set(value, (this.counts.get(value) ?? 0) + 1)
  }
  getLocalValue(): ReadonlyMap<number, number> {
    return this.counts
  }
  resetLocal(): void {
    this.counts = new Map()
  }
  snapshot(): AccumulatorValue {
    return { kind: this.kind, counts: [...this.counts] }
  }
}

/** The accumulators of one operator subtask. */
export class AccumulatorRegistry {
  private readonly byName = new Map<string, Accumulator>()

  /** Throws `ACCUMULATOR_EXISTS`. */
  add(name: string, accumulator: Accumulator): void {
    if (this.byName.has(name)) {
      throw new MillraceError('ACCUMULATOR_EXISTS', `Accumulator ${JSON.stringify(name)} is there already.`, {
        hint: 'Give each accumulator of an operator its own name.',
      })
    }
    this.byName.set(name, accumulator)
  }

  /** Undefined when no such accumulator was added. */
  get(name: string): Accumulator | undefined {
    return this.byName.get(name)
  }

  snapshot(): Record<string, AccumulatorValue> {
    return Object.fromEntries([...this.byName].map(([name, accumulator]) => [name, accumulator.snapshot()]))
  }
}

/** The result of accumulators of one name. Throws `ACCUMULATOR_MISMATCH` when they are of different kinds. */
export function mergeAccumulators(name: string, values: readonly AccumulatorValue[]): unknown {
  const kinds = new Set(values.map(({ kind }) => kind))
  if (kinds.size > 1) {
    throw new MillraceError(
      'ACCUMULATOR_MISMATCH',
      `Accumulator ${JSON.stringify(name)} is of several kinds: ${[...kinds].join(', ')}.`,
      { hint: 'Give accumulators of different kinds different names.' },
    )
  }
  return merged(values)
}

function merged(values: readonly AccumulatorValue[]): unknown {
  const numbers = values.map((value) => ('value' in value ? value.value : 0))
  const first = values[0]!
  switch (first.kind) {
    case 'integer':
    case 'double':
      return numbers.reduce((a, b) => a + b, 0)
    case 'minimum':
      return numbers.reduce((a, b) => Math.min(a, b))
    case 'maximum':
      return numbers.reduce((a, b) => Math.max(a, b))
    case 'average': {
      let sum = 0
      let count = 0
      for (const value of values as readonly (typeof first)[]) {
        sum += value.sum
        count += value.count
      }
      return count === 0 ? 0 : sum / count
    }
    case 'histogram': {
      const counts = new Map<number, number>()
      for (const value of values as readonly (typeof first)[]) {
        for (const [of, count] of value.counts) counts.set(of, (counts.get(of) ?? 0) + count)
      }
      return new Map([...counts].sort(([a], [b]) => a - b))
    }
  }
}
