/**
 * How list state is stored: a head a key, and pieces of its list under a table name of their own. Fixed, as
 * composite-keys.ts is: old checkpoints depend on it. operators/list-state.ts reads and writes it for jobs,
 * engine/runtime/savepoint-transform.ts and savepoint-reader.ts without them.
 *
 * A head is three doubles, little-endian: pieces, values of the last of them, and when the newest
 * value was used. A piece, whose number is its entry's key, has for each value a u32 length and its bytes.
 */

/** Values a piece at most. */
export const PIECE_VALUES = 64

/** The description of heads. */
export const LIST_HEAD = 'list head'

/** The description of pieces begins with this; that of their values follows. */
export const LIST_OF = 'list of '

/** The name of the table of pieces is that of the state and this. */
export const LIST_PIECES = '$pieces'

export const LIST_HEAD_BYTES = 24

/** Writes a head to the beginning of `into`. */
export function writeListHead(pieces: number, lastLength: number, newestAtMs: number, into: Buffer): void {
  into.writeDoubleLE(pieces, 0)
  into.writeDoubleLE(lastLength, 8)
  into.writeDoubleLE(newestAtMs, 16)
}
