/**
 * Built-in aggregates for windows that cannot keep columns (sessions, custom triggers, evictors): one accumulator
 * object a window, the same results as the columnar kernel's.
 */
import type { AggregateFunction, BuiltInAggregate, ProcessWindowCallback } from '../contract/functions.ts'

type Row = Readonly<Record<string, unknown>>
type Aggregates = Readonly<Record<string, BuiltInAggregate>>
/** For the k-th aggregate `v<k>`, and `n<k>`: how many values that were not NULL it has seen. */
type Columns = Record<string, number>

const INITIAL = { count: 0, sum: 0, avg: 0, min: Number.POSITIVE_INFINITY, max: Number.NEGATIVE_INFINITY } as const

function combine(kind: BuiltInAggregate['kind'], a: number, b: number): number {
  if (kind === 'min') return Math.min(a, b)
  if (kind === 'max') return Math.max(a, b)
  return a + b
}

/** Gives the values of the result columns, in order; NULL where no value was seen. */
export function aggregateOfColumns(aggregates: Aggregates): AggregateFunction<Row, Columns, (number | null)[]> {
  const kinds = Object.values(aggregates)
  return {
    createAccumulator: () =>
      Object.fromEntries(
        kinds.flatMap(({ kind }, k) => [
          [`v${k}`, INITIAL[kind]],
          [`n${k}`, 0],
        ]),
      ),
    add(row, columns) {
      for (let k = 0; k < kinds.length; k++) {
        const made = kinds[k]!
        const value = made.kind === 'count' ? 1 : row[made.field]
        if (value === null || value === undefined) continue
        columns[`v${k}`] = combine(made.kind, columns[`v${k}`]!, Number(value))
        columns[`n${k}`]! += 1
      }
      return columns
    },
    merge(a, b) {
      for (let k = 0; k < kinds.length; k++) {
        a[`v${k}`] = combine(kinds[k]!.kind, a[`v${k}`]!, b[`v${k}`]!)
        a[`n${k}`]! += b[`n${k}`]!
      }
      return a
    },
    getResult: (columns) =>
      kinds.map(({ kind }, k) => {
        const value = columns[`v${k}`]!
        const seen = columns[`n${k}`]!
        if (seen === 0 && kind !== 'count') return null
        return kind === 'avg' ? value / seen : value
      }),
  }
}

/** From those values to rows of the schema that `columnarOutputSchema` gives. */
export function columnResults(
  aggregates: Aggregates,
  hasKey: boolean,
): ProcessWindowCallback<unknown, unknown, unknown> {
  const names = Object.keys(aggregates)
  return ({ key, window }, results, collect) => {
    for (const values of results as Iterable<readonly (number | null)[]>) {
      const columns = Object.fromEntries(names.map((name, k) => [name, values[k]]))
      const row = { windowStart: window.start, windowEnd: window.end, ...columns }
      collect(hasKey ? { key, ...row } : row)
    }
  }
}
