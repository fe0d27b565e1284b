/** Types of rates.js, for its tests. */
export const historyMs: number
export class RateTracker {
  observe(atMs: number, counters: ReadonlyMap<string, number>): void
  rate(key: string): number | null
}
export class History {
  readonly points: readonly { readonly atMs: number; readonly values: readonly (number | null)[] }[]
  add(atMs: number, values: readonly (number | null)[]): void
}
