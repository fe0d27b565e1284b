/**
 * The inner loops of a segment: its hash index and slot records, as functions over primitive arguments.
 *
 * Used by keyed-segment.ts only. The index is an open-addressing table with linear probing: two ints a
 * place, hash and slot + 1 (0 is empty); its size is a power of two, 2 ** (32 - shift). A slot's record in
 * `meta` holds hash, key start, key end and flags.
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
  const mask = (index.length >>> 1) - 1
  let at = Math.imul(hash, GOLDEN) >>> shift
  for (;;) {
    const slot = index[2 * at + 1] - 1
    if (slot < 0) return -1
    if (index[2 * at] === hash) {
      const from = meta[slot * META + 1]
      if (meta[slot * META + 2] - from === length) {
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
  for (let j = 0; j < count; j++) {
    const at = Math.imul(hashes[rows === null ? j : rows[j]], GOLDEN) >>> shift
    slots[j] = index[2 * at + 1]
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
  const mask = (index.length >>> 1) - 1
  let at = Math.imul(hash, GOLDEN) >>> shift
  while (index[2 * at + 1] !== 0) at = (at + 1) & mask
  index[2 * at] = hash
  index[2 * at + 1] = slot + 1
}

/** Takes a slot out of the index by backward-shift deletion: no marker stays behind. */
export function removeFromIndex(index: Int32Array, shift: number, hash: number, slot: number): void {
  const mask = (index.length >>> 1) - 1
  let hole = Math.imul(hash, GOLDEN) >>> shift
  while (index[2 * hole + 1] !== slot + 1) hole = (hole + 1) & mask
  let at = (hole + 1) & mask
  while (index[2 * at + 1] !== 0) {
    const home = Math.imul(index[2 * at], GOLDEN) >>> shift
    if (((at - home) & mask) >= ((at - hole) & mask)) {
      index[2 * hole] = index[2 * at]
      index[2 * hole + 1] = index[2 * at + 1]
      hole = at
    }
    at = (at + 1) & mask
  }
  index[2 * hole] = 0
  index[2 * hole + 1] = 0
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
