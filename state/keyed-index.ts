/**
 * The inner loops of a segment: its hash index and slot records, as functions over primitive arguments.
 *
 * Used by keyed-slots.ts and keyed-segment.ts. The index is an open-addressing table with linear probing; its size is a power
 * of two, 2 ** (32 - shift). A slot's record in `meta` holds hash, key start, key end and flags.
 *
 * A place is one int, 0 when it is empty. Its low bits, as many as number the places, are slot + 1, which fits
 * because places outnumber slots; the bits above are those of the slot's hash (its tag), so that a place of another
 * hash is nearly always passed without a look at its record.
 *
 * A hash's home is taken from its product with the golden ratio (Fibonacci hashing, Knuth vol. 3, 6.4),
 * because the key groups of one subtask leave the low bits of its hashes alike.
 */
import { MillraceError } from '../engine/core/errors.ts'

const GOLDEN = 0x9e3779b1 | 0
/** Ints a slot in `meta`: hash, key start, key end, flags. */
export const META = 4

/** The slot of a key, or -1. Standalone over primitives so that it is compiled once and inlined. */
export function findSlot(
  index: Int32Array,
  shift: number,
  meta: Int32Array,
  arena: Uint8Array,
  hash: number,
  bytes: Uint8Array,
  start: number,
  length: number,
): number {
  const mask = index.length - 1
  let at = Math.imul(hash, GOLDEN) >>> shift
  for (;;) {
    const place = index[at]
    if (place === 0) return -1
    if (((place ^ hash) & ~mask) === 0) {
      const slot = (place & mask) - 1
      const from = meta[slot * META + 1]
      if (meta[slot * META] === hash && meta[slot * META + 2] - from === length) {
        let i = 0
        while (i < length && arena[from + i] === bytes[start + i]) i++
        if (i === length) return slot
      }
    }
    at = (at + 1) & mask
  }
}

/** Below this many slots the tables lie in the CPU's caches anyway. */
export const TOUCH_SLOTS_MIN = 4_096

/**
 * Loads what a batch's look-ups will need, step by step over the whole batch: loads of one step do not
 * depend on each other, so their cache misses overlap. Halves an upsert's time at a million keys. `slots`
 * is scratch; writing to it also keeps the loads from being optimised away.
 */
export function touchAhead(
  index: Int32Array,
  shift: number,
  meta: Int32Array,
  arena: Uint8Array,
  hashes: Int32Array,
  rows: Int32Array | null,
  count: number,
  slots: Int32Array,
): void {
  const mask = index.length - 1
  for (let j = 0; j < count; j++) {
    const at = Math.imul(hashes[rows === null ? j : rows[j]], GOLDEN) >>> shift
    slots[j] = index[at] & mask
  }
  for (let j = 0; j < count; j++) {
    const tagged = slots[j]
    slots[j] = tagged === 0 ? 0 : meta[(tagged - 1) * META + 1]
  }
  let sum = 0
  for (let j = 0; j < count; j++) sum ^= arena[slots[j]]
  if (count > 0) slots[0] = sum
}

/** Adds a slot whose key is not in the index; there must be room. */
export function placeInIndex(index: Int32Array, shift: number, hash: number, slot: number): void {
  const mask = index.length - 1
  let at = Math.imul(hash, GOLDEN) >>> shift
  while (index[at] !== 0) at = (at + 1) & mask
  index[at] = (hash & ~mask) | (slot + 1)
}

/** Takes a slot out of the index by backward-shift deletion: no marker stays behind. */
export function removeFromIndex(index: Int32Array, shift: number, meta: Int32Array, hash: number, slot: number): void {
  const mask = index.length - 1
  let hole = Math.imul(hash, GOLDEN) >>> shift
  while ((index[hole] & mask) !== slot + 1) hole = (hole + 1) & mask
  let at = (hole + 1) & mask
  while (index[at] !== 0) {
    const home = Math.imul(meta[((index[at] & mask) - 1) * META], GOLDEN) >>> shift
    if (((at - home) & mask) >= ((at - hole) & mask)) {
      index[hole] = index[at]
      hole = at
    }
    at = (at + 1) & mask
  }
  index[hole] = 0
}

/** Places whose records are read together, so that their cache misses overlap. */
const GROW_PLACES = 1_024

/** The index with twice as many places. Homes are the top bits of a product, so old and new ones are walked in step. */
export function doubledIndex(index: Int32Array, shift: number, meta: Int32Array): Int32Array {
  const mask = index.length - 1
  const doubled = new Int32Array(index.length * 2)
  const hashes = new Int32Array(GROW_PLACES)
  for (let from = 0; from < index.length; from += GROW_PLACES) {
    const to = Math.min(index.length, from + GROW_PLACES)
    for (let at = from; at < to; at++) {
      if (index[at] !== 0) hashes[at - from] = meta[((index[at] & mask) - 1) * META]
    }
    for (let at = from; at < to; at++) {
      if (index[at] !== 0) placeInIndex(doubled, shift - 1, hashes[at - from], (index[at] & mask) - 1)
    }
  }
  return doubled
}

/** Reads bytes[from, to) as one double a column into `slot`. Throws `STATE_CORRUPT` on another length. */
export function readDoubles(
  bytes: Uint8Array,
  from: number,
  to: number,
  columns: readonly Float64Array[],
  slot: number,
  tableName: string,
): void {
  if (to - from !== columns.length * 8) {
    throw new MillraceError('STATE_CORRUPT', `An entry of table ${tableName} has ${to - from} bytes.`, {
      domain: 'external',
      hint: `${columns.length * 8} were expected; restore an older checkpoint.`,
    })
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset + from, to - from)
  for (let k = 0; k < columns.length; k++) columns[k][slot] = view.getFloat64(k * 8, true)
}
