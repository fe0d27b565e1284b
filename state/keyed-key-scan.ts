/**
 * Scans of the entries of one key, for tables of composite keys: what is in memory first, then what only the
 * store holds.
 *
 * Called by `Segment.scanKey` and `removeKey`. Unlike a scan of the whole segment it goes on while the segment changes: users
 * remove and put entries as they iterate. Invariants:
 * - Each entry that exists from beginning to end comes once; a removed one does not come after its removal;
 *   one that was added meanwhile may come or not.
 * - While it is open the segment frees no slot and is not evicted.
 */
import type { SegmentChunk, SegmentScan } from '../engine/contract/keyed-state.ts'
import type { Arena, Scan, ScanChunk } from '../engine/contract/keyed-store.ts'
import { LIVE } from './keyed-flags.ts'
import { META } from './keyed-index.ts'
import { PieceArena, PREFIX_BYTES, prefixEnd } from './keyed-layout.ts'
import { copyOf } from './keyed-scan.ts'
import type { Segment } from './keyed-segment.ts'

const STORE_CHUNK_BYTES = 16 << 10

/** Whether the key at `start` is one of an owner's entries. */
function startsWith(bytes: Uint8Array, start: number, owner: Uint8Array): boolean {
  for (let i = 0; i < owner.length; i++) if (bytes[start + i] !== owner[i]) return false
  return true
}

/**
 * Deletes the entries of one key, those that only the store holds as well; no value is read. What memory has is deleted one
 * by one, and so is what the store has where that is little; else the key is noted, and the store told later. Parameters
 * as `KeyScan`'s.
 */
export function removeKey(
  segment: Segment,
  owner: Uint8Array,
  ownerHash: number,
  storePrefix: Uint8Array | null,
): void {
  const { chains, meta, slab } = segment
  for (let slot = chains!.first(ownerHash); slot >= 0; ) {
    const after = chains!.after(slot)
    const at = slot * META
    if ((meta[at + 3] & LIVE) !== 0 && startsWith(slab.bytes, meta[at + 1], owner)) segment.remove(slot)
    slot = after
  }
  if (storePrefix === null || segment.cleared?.hasOwner(owner) === true) return
  if (!buryFew(segment, storePrefix)) segment.noteCleared(owner.slice(), storePrefix)
}

/** Leaves tombstones for what only the store has of a key; false when that is too much, or the store is busy. */
function buryFew(segment: Segment, storePrefix: Uint8Array): boolean {
  if (segment.shared.memory.isCheckpointing) return false
  return eachOfFew(segment, storePrefix, (hash, { bytes, offsets }, row) => {
    segment.bury(hash, bytes, offsets[row] + PREFIX_BYTES, offsets[row + 1])
  })
}

/**
 * Calls `visit` for the stored entries of a key that memory does not have: `row` of `keys`. False when there are more than
 * one may read to clear a key; then not all were visited.
 */
export function eachOfFew(
  segment: Segment,
  storePrefix: Uint8Array,
  visit: (hash: number, keys: Arena, row: number) => void,
): boolean {
  const { counters, store, clearedEntriesMax } = segment.shared
  counters.coldReads++
  const scan = store.scan(storePrefix, prefixEnd(storePrefix))
  try {
    let read = 0
    for (let chunk = scan.next(STORE_CHUNK_BYTES); chunk !== null; chunk = scan.next(STORE_CHUNK_BYTES)) {
      const { keys } = chunk
      read += keys.count
      if (read > clearedEntriesMax) return false
      for (let row = 0; row < keys.count; row++) {
        const from = keys.offsets[row] + PREFIX_BYTES
        const to = keys.offsets[row + 1]
        const hash = segment.hashOf(keys.bytes, from, to)
        if (segment.slotOf(hash, keys.bytes, from, to) < 0) visit(hash, keys, row)
      }
    }
    return true
  } finally {
    scan.close()
  }
}

export class KeyScan implements SegmentScan {
  private readonly segment: Segment
  /** What the composite keys begin with. */
  private readonly owner: Uint8Array
  private readonly ownerHash: number
  /** The slot to look at next; -1 when memory is done. */
  private slot: number
  /** Slots filled since the scan began: entries that it had not met in memory. */
  private readonly late = new Set<number>()
  private lateFrom: number
  private store: Scan | null = null
  private chunk: ScanChunk | null = null
  private chunkRow = 0
  private open = true

  /** `storePrefix` are the bytes that the entries have in the store, or null when memory holds them all. */
  constructor(segment: Segment, owner: Uint8Array, ownerHash: number, storePrefix: Uint8Array | null) {
    this.segment = segment
    this.owner = owner.slice()
    this.ownerHash = ownerHash
    this.slot = segment.chains!.first(ownerHash)
    this.lateFrom = this.slot
    segment.scansOpen++
    segment.lastUsedTurn = segment.shared.memory.turn
    if (storePrefix === null) return
    segment.shared.counters.coldReads++
    this.store = segment.shared.store.scan(storePrefix, prefixEnd(storePrefix))
  }

  next(maxEntries: number): SegmentChunk | null {
    if (!this.open) return null
    return this.nextInMemory(maxEntries) ?? this.nextInStore(maxEntries)
  }

  close(): void {
    if (!this.open) return
    this.open = false
    this.segment.scansOpen--
    this.store?.close()
    this.store = null
    this.chunk = null
  }

  private nextInMemory(maxEntries: number): SegmentChunk | null {
    const { meta, slab, chains, shared } = this.segment
    const found: number[] = []
    for (; this.slot >= 0 && found.length < maxEntries; this.slot = chains!.after(this.slot)) {
      const at = this.slot * META
      if ((meta[at + 3] & LIVE) === 0 || !startsWith(slab.bytes, meta[at + 1], this.owner)) continue
      // Users may change the objects that they get.
      if ((meta[at + 3] & shared.memory.cutBit) !== 0) this.segment.captureForCut(this.slot)
      found.push(this.slot)
    }
    if (found.length === 0) return null
    const column = (k: number) => Int32Array.from(found, (slot) => meta[slot * META + k])
    return {
      count: found.length,
      keys: { bytes: slab.bytes, starts: column(1), ends: column(2), hashes: column(0) },
      doubles: [],
      objects: found.map((slot) => this.segment.valueAt(slot)),
    }
  }

  private nextInStore(maxEntries: number): SegmentChunk | null {
    const { segment } = this
    const { layout } = segment.shared
    const keys = new PieceArena()
    const hashes: number[] = []
    const objects: unknown[] = []
    while (hashes.length < maxEntries) {
      const chunk = this.storeChunk()
      if (chunk === null) break
      const row = this.chunkRow++
      const from = chunk.keys.offsets[row] + PREFIX_BYTES
      const to = chunk.keys.offsets[row + 1]
      const hash = segment.hashOf(chunk.keys.bytes, from, to)
      const slot = segment.slotOf(hash, chunk.keys.bytes, from, to)
      if (slot >= 0 && !this.cameLate(slot)) continue
      const value =
        slot >= 0
          ? segment.valueAt(slot)
          : layout.kind === 'object'
            ? layout.codec.decode(chunk.values.bytes, chunk.values.offsets[row], chunk.values.offsets[row + 1])
            : undefined
      if (segment.shared.isExpired?.(value)) continue
      keys.add(chunk.keys.bytes, from, to)
      keys.endRow()
      hashes.push(hash)
      objects.push(value)
    }
    if (hashes.length === 0) return null
    const { bytes, offsets, count } = keys
    return {
      count,
      keys: {
        bytes,
        starts: Int32Array.from(offsets.subarray(0, count)),
        ends: Int32Array.from(offsets.subarray(1, count + 1)),
        hashes: Int32Array.from(hashes),
      },
      doubles: [],
      objects,
    }
  }

  /** True for a live entry that came into memory after this scan had passed it. */
  private cameLate(slot: number): boolean {
    const { chains, meta } = this.segment
    const head = chains!.first(this.ownerHash)
    for (let at = head; at !== this.lateFrom && at >= 0; at = chains!.after(at)) this.late.add(at)
    this.lateFrom = head
    return this.late.has(slot) && (meta[slot * META + 3] & LIVE) !== 0
  }

  private storeChunk(): ScanChunk | null {
    // Cleared since the scan began.
    if (this.segment.cleared?.hasOwner(this.owner) === true) return null
    if (this.chunk !== null && this.chunkRow < this.chunk.keys.count) return this.chunk
    if (this.store === null) return null
    this.chunk = copyOf(this.store.next(STORE_CHUNK_BYTES))
    this.chunkRow = 0
    if (this.chunk === null) {
      this.store.close()
      this.store = null
    }
    return this.chunk
  }
}
