/**
 * Scans of one segment: what is in memory first, then what only the store holds.
 *
 * Called by `Segment.scan`. The two halves are merged by asking memory for each stored key, so a scan
 * writes nothing and is right at any time, inside a checkpoint too. Invariants:
 * - Each live entry comes once; an entry or tombstone in memory hides the store's.
 * - The segment counts its open scans and is not evicted under them.
 */
import type { SegmentChunk, SegmentScan } from '../engine/contract/keyed-state.ts'
import type { Arena, Scan, ScanChunk } from '../engine/contract/keyed-store.ts'
import { LIVE } from './keyed-flags.ts'
import { META, readDoubles } from './keyed-index.ts'
import { PieceArena, PREFIX_BYTES, prefixEnd, setKeyGroup } from './keyed-layout.ts'
import type { Segment } from './keyed-segment.ts'

/** Bytes asked of the store at a time. */
const STORE_CHUNK_BYTES = 64 << 10

/** A scan over all entries of `segment`; `prefix` is copied. */
export function segmentScan(segment: Segment, prefix: Uint8Array): SegmentScan {
  return new MergedScan(segment, prefix.slice())
}

class MergedScan implements SegmentScan {
  private readonly segment: Segment
  private readonly prefix: Uint8Array
  private slot = 0
  private keyGroup: number
  private store: Scan | null = null
  private chunk: ScanChunk | null = null
  private chunkRow = 0
  private readonly storedKeys = new PieceArena()
  private open = true
  private capacity = 0
  private starts = new Int32Array(0)
  private ends = new Int32Array(0)
  private hashes = new Int32Array(0)
  private doubles: Float64Array[] = []
  private objects: unknown[] = []

  constructor(segment: Segment, prefix: Uint8Array) {
    this.segment = segment
    this.prefix = prefix
    this.keyGroup = segment.complete ? segment.shared.keyGroups.to : segment.shared.keyGroups.from
    segment.scansOpen++
    segment.lastUsedTurn = segment.shared.memory.turn
  }

  next(maxEntries: number): SegmentChunk | null {
    if (!this.open) return null
    this.reserve(maxEntries)
    if (this.segment.shared.layout.kind === 'object') this.objects = []
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

  private reserve(entries: number): void {
    if (entries <= this.capacity) return
    this.capacity = entries
    this.starts = new Int32Array(entries)
    this.ends = new Int32Array(entries)
    this.hashes = new Int32Array(entries)
    const layout = this.segment.shared.layout
    this.doubles = layout.kind === 'doubles' ? layout.initial.map(() => new Float64Array(entries)) : []
  }

  private result(count: number, bytes: Uint8Array): SegmentChunk {
    return {
      count,
      keys: { bytes, starts: this.starts, ends: this.ends, hashes: this.hashes },
      doubles: this.doubles,
      objects: this.objects,
    }
  }

  private nextInMemory(maxEntries: number): SegmentChunk | null {
    const { meta, slotCount, doubles, isObjects } = this.segment
    const { cutBit } = this.segment.shared.memory
    let count = 0
    let slot = this.slot
    for (; slot < slotCount && count < maxEntries; slot++) {
      const at = slot * META
      if ((meta[at + 3] & LIVE) === 0) continue
      // Whoever scans may change the objects that it gets.
      if ((meta[at + 3] & cutBit) !== 0) this.segment.captureForCut(slot)
      this.hashes[count] = meta[at]
      this.starts[count] = meta[at + 1]
      this.ends[count] = meta[at + 2]
      for (let k = 0; k < doubles.length; k++) this.doubles[k][count] = doubles[k][slot]
      if (isObjects) this.objects.push(this.segment.valueAt(slot))
      count++
    }
    this.slot = slot
    return count === 0 ? null : this.result(count, this.segment.slab.bytes)
  }

  private nextInStore(maxEntries: number): SegmentChunk | null {
    const { shared } = this.segment
    const keys = this.storedKeys
    keys.clear()
    let count = 0
    while (count < maxEntries) {
      const chunk = this.storeChunk()
      if (chunk === null) break
      const row = this.chunkRow++
      const from = chunk.keys.offsets[row] + PREFIX_BYTES
      const to = chunk.keys.offsets[row + 1]
      const hash = this.segment.hashOf(chunk.keys.bytes, from, to)
      if (this.segment.holds(hash, chunk.keys.bytes, from, to) || this.segment.isCleared(chunk.keys.bytes, from))
        continue
      keys.add(chunk.keys.bytes, from, to)
      keys.endRow()
      this.hashes[count] = hash
      this.starts[count] = keys.offsets[count]
      this.ends[count] = keys.offsets[count + 1]
      const { bytes, offsets } = chunk.values
      if (shared.layout.kind === 'object') {
        this.objects.push(shared.layout.codec.decode(bytes, offsets[row], offsets[row + 1]))
      } else {
        readDoubles(bytes, offsets[row], offsets[row + 1], this.doubles, count, shared.tableName)
      }
      count++
    }
    return count === 0 ? null : this.result(count, keys.bytes)
  }

  /** The stored chunk that `chunkRow` points into; null at the end of the last key group. */
  private storeChunk(): ScanChunk | null {
    for (;;) {
      if (this.chunk !== null && this.chunkRow < this.chunk.keys.count) return this.chunk
      if (this.store === null) {
        if (this.keyGroup >= this.segment.shared.keyGroups.to) return null
        setKeyGroup(this.prefix, this.keyGroup++)
        this.store = this.segment.shared.store.scan(this.prefix, prefixEnd(this.prefix))
      }
      this.chunk = copyOf(this.store.next(STORE_CHUNK_BYTES))
      this.chunkRow = 0
      if (this.chunk === null) {
        this.store.close()
        this.store = null
      }
    }
  }
}

/** A private copy: the store's memory may be overwritten before the rest of the chunk is handed out. */
export function copyOf(chunk: ScanChunk | null): ScanChunk | null {
  if (chunk === null) return null
  return { keys: copyOfArena(chunk.keys), values: copyOfArena(chunk.values) }
}

function copyOfArena(arena: Arena): Arena {
  const { offsets, count } = arena
  return { bytes: new Uint8Array(arena.bytes.subarray(0, offsets[count])), offsets: offsets.slice(0, count + 1), count }
}
