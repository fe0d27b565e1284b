/**
 * The keys of a state table, copied, for calls that go over all of them and may change the table meanwhile.
 */
import type { StateTable } from '../engine/contract/keyed-state.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import { COMPOSITE_LENGTH_BYTES, entryStart, ownerHash } from '../engine/core/composite-keys.ts'
import { ByteArena } from '../engine/core/strings.ts'

const SCAN_ENTRIES = 2_000

/** Keys of namespace 0; of a table of composite keys those that the entries belong to, each once. */
export function copyOfKeys(table: StateTable, isComposite: boolean): { keys: KeyColumn; count: number } {
  const arena = new ByteArena(1_024)
  const starts: number[] = []
  const ends: number[] = []
  const hashes: number[] = []
  const seen = new Set<string>()
  const scan = table.existing(0)?.scan()
  for (let chunk = scan?.next(SCAN_ENTRIES) ?? null; chunk !== null; chunk = scan!.next(SCAN_ENTRIES)) {
    const { bytes } = chunk.keys
    for (let i = 0; i < chunk.count; i++) {
      let start = chunk.keys.starts[i]
      let end = chunk.keys.ends[i]
      let hash = chunk.keys.hashes[i]
      if (isComposite) {
        hash = ownerHash(bytes, start)
        end = entryStart(bytes, start)
        start += COMPOSITE_LENGTH_BYTES
        const text = Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString('latin1')
        if (seen.has(text)) continue
        seen.add(text)
      }
      starts.push(arena.length)
      arena.writeBytes(bytes, start, end)
      ends.push(arena.length)
      hashes.push(hash)
    }
  }
  scan?.close()
  return {
    keys: {
      bytes: arena.bytes,
      starts: Int32Array.from(starts),
      ends: Int32Array.from(ends),
      hashes: Int32Array.from(hashes),
    },
    count: starts.length,
  }
}
