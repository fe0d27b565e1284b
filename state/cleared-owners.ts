/**
 * Keys of a table of composite keys whose stored entries are gone, though the store has yet to hear of it.
 *
 * A key with many entries in the store, as a large map has, is cleared by noting it here: look-ups and scans pass over what
 * the store still has of it. keyed-table.ts tells the store between batches and before each cut. Used by
 * keyed-segment.ts. Invariants:
 * - What memory has of a noted key came after it was cleared, or is a tombstone.
 * - Nothing of a noted key is written to the store before the store has heard of the clearing.
 */
import { entryStart } from '../engine/core/composite-keys.ts'
import { asBuffer } from '../engine/core/strings.ts'

/** A Map's entry, two strings' heads and an array's, about. */
const OWNER_BYTES = 200

export class ClearedOwners {
  /** By the bytes that the composite keys begin with, what they begin with in the store. */
  private readonly stored = new Map<string, Uint8Array>()
  private ownerBytes = 0

  /** `stored` is kept. */
  add(owner: Uint8Array, stored: Uint8Array): void {
    this.stored.set(textOf(owner, 0, owner.length), stored)
    this.ownerBytes += owner.length + stored.length + OWNER_BYTES
  }

  hasOwner(owner: Uint8Array): boolean {
    return this.stored.has(textOf(owner, 0, owner.length))
  }

  /** Whether the composite key at `start` is an entry of one of them. */
  hasEntry(bytes: Uint8Array, start: number): boolean {
    return this.stored.has(textOf(bytes, start, entryStart(bytes, start)))
  }

  /** Takes out the one that was noted first, and returns what its entries begin with in the store. */
  take(): Uint8Array | null {
    for (const [owner, stored] of this.stored) {
      this.stored.delete(owner)
      this.ownerBytes -= owner.length + stored.length + OWNER_BYTES
      return stored
    }
    return null
  }

  get count(): number {
    return this.stored.size
  }

  get memoryBytes(): number {
    return this.ownerBytes
  }
}

const textOf = (bytes: Uint8Array, start: number, end: number): string => asBuffer(bytes).latin1Slice(start, end)
