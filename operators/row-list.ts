/**
 * Encoded rows in state: the layouts of operators that keep one row, or a few, of a key.
 */
import type { ValueCodec } from '../engine/contract/keyed-state.ts'
import { ByteArena } from '../engine/core/strings.ts'

/** Rows of a key, oldest first, with the stamp of the last write. */
export interface RowList {
  rows: Uint8Array[]
  atMs: number
}

/** Stamp f64, then for each row u32 length and bytes. `description` names what the rows are. */
export function rowListCodec(description: string): ValueCodec {
  const arena = new ByteArena(1_024)
  return {
    description: `rows of ${description}`,
    encode(value) {
      const { rows, atMs } = value as RowList
      arena.clear()
      arena.reserve(8)
      arena.length = arena.bytes.writeDoubleLE(atMs, 0)
      for (const row of rows) {
        arena.reserve(4)
        arena.length = arena.bytes.writeUInt32LE(row.length, arena.length)
        arena.writeBytes(row, 0, row.length)
      }
      return arena.view()
    },
    decode(bytes, start, end): RowList {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      const rows: Uint8Array[] = []
      for (let at = start + 8; at < end; ) {
        const to = at + 4 + view.getUint32(at, true)
        rows.push(new Uint8Array(bytes.subarray(at + 4, to)))
        at = to
      }
      return { rows, atMs: view.getFloat64(start, true) }
    },
  }
}

export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}
