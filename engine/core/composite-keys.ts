/**
 * Composite keys: entries that belong to a key, as those of a map state do. Fixed for ever, as keys.ts is.
 *
 *   u32 big-endian length of the key's encoding | the key's encoding | the entry's own encoding
 *
 * The length makes all that belongs to one key a range of bytes of its own. Invariant: the hash of a composite
 * key falls into the key group of its key, so entries lie and move with their key.
 */
import type { KeyColumn } from './batch.ts'
import { encodeKey, encodeKeyBytes, keyGroupOf, murmur3 } from './keys.ts'
import { ByteArena } from './strings.ts'

export const COMPOSITE_LENGTH_BYTES = 4
const GOLDEN = 0x9e3779b1 | 0

/** Where the entry's own encoding begins in the composite key at `start`. */
export function entryStart(bytes: Uint8Array, start: number): number {
  const length = (bytes[start]! << 24) | (bytes[start + 1]! << 16) | (bytes[start + 2]! << 8) | bytes[start + 3]!
  return start + COMPOSITE_LENGTH_BYTES + length
}

/** Hash of the key of the composite key at `start`. */
export function ownerHash(bytes: Uint8Array, start: number): number {
  return murmur3(bytes, start + COMPOSITE_LENGTH_BYTES, entryStart(bytes, start))
}

/** Hash of the composite key in bytes[start, end). */
export function compositeHash(bytes: Uint8Array, start: number, end: number, keyGroups: number): number {
  const entry = entryStart(bytes, start)
  return mixHashes(murmur3(bytes, start + COMPOSITE_LENGTH_BYTES, entry), murmur3(bytes, entry, end), keyGroups)
}

function mixHashes(owner: number, entry: number, keyGroups: number): number {
  const mixed = (owner ^ Math.imul(entry, GOLDEN)) >>> 0
  const inGroup = mixed - (mixed % keyGroups) + keyGroupOf(owner, keyGroups)
  return (inGroup > 0xffff_ffff ? inGroup - keyGroups : inGroup) | 0
}

/** Composes the keys of entries of one key after the other. Reused: what `keys` shows is valid until `begin`. */
export class CompositeKeys {
  private readonly arena = new ByteArena(256)
  private readonly keyGroups: number
  private starts = new Int32Array(1)
  private ends = new Int32Array(1)
  private hashes = new Int32Array(1)
  private owner = 0
  private ownerLength = 0
  count = 0

  constructor(keyGroups: number) {
    this.keyGroups = keyGroups
  }

  /** Entries of key `row` of `keys` follow. */
  begin(keys: KeyColumn, row: number): void {
    const { arena } = this
    const length = keys.ends[row]! - keys.starts[row]!
    arena.clear()
    arena.reserve(COMPOSITE_LENGTH_BYTES)
    arena.length = arena.bytes.writeUInt32BE(length, 0)
    arena.writeBytes(keys.bytes, keys.starts[row]!, keys.ends[row]!)
    this.owner = keys.hashes[row]!
    this.ownerLength = arena.length
    this.count = 0
  }

  /** Forgets the entries, not the key. */
  restart(): void {
    this.arena.length = this.ownerLength
    this.count = 0
  }

  /** Throws `KEY_INVALID`. */
  add(entry: unknown): void {
    const start = this.beginEntry()
    encodeKey(entry, this.arena)
    this.endEntry(start)
  }

  /** An entry whose key is bytes[start, end). */
  addBytes(bytes: Uint8Array, start: number, end: number): void {
    const entry = this.beginEntry()
    encodeKeyBytes(bytes, start, end, this.arena)
    this.endEntry(entry)
  }

  /** The first entry is written behind the prefix that `begin` left; the others begin with a copy of it. */
  private beginEntry(): number {
    const { arena, count } = this
    if (count === this.starts.length) this.grow()
    if (count === 0) return 0
    return arena.writeBytes(arena.bytes, 0, this.ownerLength)
  }

  private endEntry(start: number): void {
    const { arena, count } = this
    const at = start + this.ownerLength
    this.starts[count] = start
    this.ends[count] = arena.length
    this.hashes[count] = mixHashes(this.owner, murmur3(arena.bytes, at, arena.length), this.keyGroups)
    this.count = count + 1
  }

  private grow(): void {
    const larger = (old: Int32Array<ArrayBuffer>): Int32Array<ArrayBuffer> => {
      const grown = new Int32Array(old.length * 2)
      grown.set(old)
      return grown
    }
    this.starts = larger(this.starts)
    this.ends = larger(this.ends)
    this.hashes = larger(this.hashes)
  }

  /** The composed keys, rows 0 to `count`. */
  get keys(): KeyColumn {
    const { arena, starts, ends, hashes } = this
    return { bytes: arena.bytes, starts, ends, hashes }
  }

  /** The bytes with which all entries of the key begin. */
  get prefix(): Uint8Array {
    return this.arena.bytes.subarray(0, this.ownerLength)
  }

  get ownerHash(): number {
    return this.owner
  }
}
