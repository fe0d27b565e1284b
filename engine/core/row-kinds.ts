/**
 * Change kinds: what a row does to the table that a stream stands for. A stream with them is a changelog.
 *
 * A batch of inserts only has no kinds at all (`Batch.kinds` is null), so that streams without changes cost nothing.
 * Names and values are Flink's `RowKind`. A changelog has one of two modes:
 * - `all`: a row is inserted (+I), deleted (-D), or replaced by a pair: -U is the row as it was, +U what it is now.
 *   What is taken back is, byte for byte, a row that was sent before and that nothing has taken back since.
 * - `upsert`: +I and +U say what the row of a key is now, -D that there is none; there is no -U. Its consumers know
 *   the key, and treat +I and +U alike.
 *
 * Invariants of mode `all`, on every channel and within every chain:
 * - A -U stands directly before its +U, in the same batch, and a +U directly after its -U. So no batch, barrier,
 *   spilled page or restore comes between them.
 * - Whoever lets only one of the two pass makes a change of its own of it: a -U alone becomes a -D, a +U alone a +I. A
 *   filter does that, and an exchange by a key that the change changes. `gatherKinds` is the one place where it is
 *   done; all that selects rows selects kinds by it. (Flink leaves halves of pairs; then a neighbour may be mistaken
 *   for the other half.)
 * - Changes of one row travel in order, through one subtask at a time: an edge must not spread them (planner.ts).
 */

export const RowKind = { INSERT: 0, UPDATE_BEFORE: 1, UPDATE_AFTER: 2, DELETE: 3 } as const
export type RowKind = (typeof RowKind)[keyof typeof RowKind]

/** One kind a row; null where all are inserts. */
export type RowKinds = Uint8Array | null

/** `insert-only`: no kinds; the others as above. */
export type ChangelogMode = 'insert-only' | 'upsert' | 'all'

/** How kinds are written for people, by their value. */
export const KIND_TEXTS = ['+I', '-U', '+U', '-D'] as const
export type KindText = (typeof KIND_TEXTS)[number]

const { INSERT, UPDATE_BEFORE, UPDATE_AFTER, DELETE } = RowKind

/** True for kinds that take a row back. */
export function isRetraction(kind: number): boolean {
  return kind === UPDATE_BEFORE || kind === DELETE
}

/** Kind of row `i`. */
export function kindAt(kinds: RowKinds, i: number): number {
  return kinds === null ? INSERT : kinds[i]!
}

/** True when rows `i` and `i + 1` are a pair. */
export function isPairAt(kinds: RowKinds, i: number): boolean {
  return kinds !== null && kinds[i] === UPDATE_BEFORE && i + 1 < kinds.length && kinds[i + 1] === UPDATE_AFTER
}

/** Where to cut rows [from, ...) near `at` without parting a pair: `at`, one less, or, where nothing were left, one more. */
export function cutBetweenPairs(kinds: RowKinds, from: number, at: number): number {
  if (kinds === null || at <= from || at >= kinds.length || !isPairAt(kinds, at - 1)) return at
  return at - 1 > from ? at - 1 : at + 1
}

/**
 * Kinds of the selected rows `rows[0..count)`, written to `to` from `at` on. `rows` is ascending where pairs are to stay
 * pairs; what a selection leaves of a pair becomes a change of its own.
 */
export function gatherKinds(kinds: Uint8Array, rows: Int32Array, count: number, to: Uint8Array, at = 0): void {
  for (let i = 0; i < count; i++) {
    const row = rows[i]!
    let kind = kinds[row]!
    if (kind === UPDATE_BEFORE) {
      if (i + 1 >= count || rows[i + 1] !== row + 1) kind = DELETE
    } else if (kind === UPDATE_AFTER && row > 0 && kinds[row - 1] === UPDATE_BEFORE) {
      if (i === 0 || rows[i - 1] !== row - 1) kind = INSERT
    }
    to[at + i] = kind
  }
}

/** The same into an array of their own. */
export function selectedKinds(kinds: Uint8Array, rows: Int32Array, count: number): Uint8Array {
  const selected = new Uint8Array(count)
  gatherKinds(kinds, rows, count, selected)
  return selected
}
