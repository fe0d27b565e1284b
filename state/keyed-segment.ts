/**
 * The working set of one segment, as operators see it (`StateSegment`), over the slots of keyed-slots.ts.
 *
 * Made and driven by keyed-table.ts. What is not in memory is fetched from the store a batch at a time. What runs over
 * many slots between batches (eviction, encoding of a cut) is in keyed-sweeps.ts.
 *
 * Invariants:
 * - An entry in memory always wins over the store's. What only the store holds is counted by `coldCount`
 *   and known to `coldKeys`; after a restore too large for memory (`isUnknown`) the store is always asked.
 * - PERSISTED is set whenever the store may hold the key, so that a removal leaves a tombstone.
 * - An entry of the cut is encoded before an operator can see it again (`attend`).
 * - While a scan is open, no slot is freed.
 */
import type { SegmentScan, StateSegment } from '../engine/contract/keyed-state.ts'
import type { Arena } from '../engine/contract/keyed-store.ts'
import { assert } from '../engine/core/assert.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import { keyGroupOf } from '../engine/core/keys.ts'
import { ClearedOwners } from './cleared-owners.ts'
import { ColdKeys } from './cold-keys.ts'
import { CAPTURED, DECODED, LIVE, PERSISTED, QUEUED, STALE, TOMBSTONE, TOUCHED } from './keyed-flags.ts'
import { findSlot, META, readDoubles, TOUCH_SLOTS_MIN, touchAhead } from './keyed-index.ts'
import { KeyScan, removeKey } from './keyed-key-scan.ts'
import { PieceArena, PREFIX_BYTES, setKeyGroup, type WriteBatchBuilder } from './keyed-layout.ts'
import { segmentScan } from './keyed-scan.ts'
import { type SegmentShared, SegmentSlots } from './keyed-slots.ts'
import { SlotQueue } from './slot-queue.ts'

/** Larger segments are dropped rather than emptied. */
const EMPTIED_SLOTS_MAX = 64
/** Looking at a value that has to be decoded is this much dearer than at one that is not. */
const DECODE_LOOKS = 8

export class Segment extends SegmentSlots implements StateSegment {
  /** True when entries that exist may be anywhere in the store. */
  isUnknown: boolean
  /** Entries known to be in the store only; with `isUncounted` there may be fewer. */
  coldCount = 0
  /** Entries in the store went that nobody counted. */
  isUncounted = false
  /** Keys whose stored entries are gone; null for none. Tables of composite keys only. */
  cleared: ClearedOwners | null = null
  /** Scans that read this segment now; it must not be evicted under them. */
  scansOpen = 0
  lastUsedTurn = 0
  /** Entries of the open cut that are not encoded yet. */
  cutCount = 0
  /** Entries may carry CAPTURED. */
  capturedAny = false
  /** The store may hold, or may have held, entries of this segment. */
  persistedAny = false
  /** Chooses where eviction begins next: pseudo-random and the same in every run. */
  leap = 1
  private coldKeys: ColdKeys | null = null
  private missKeys: PieceArena | null = null

  constructor(namespace: number, shared: SegmentShared, complete: boolean) {
    super(namespace, shared)
    this.isUnknown = !complete
    this.persistedAny = !complete
    this.allocate(0, 0)
  }

  protected filterBytes(): number {
    return (this.coldKeys?.byteLength ?? 0) + (this.cleared?.memoryBytes ?? 0)
  }

  /** True when memory holds every entry that exists. */
  get complete(): boolean {
    return !this.isUnknown && this.coldCount === 0
  }

  upsert(keys: KeyColumn, rows: Int32Array | null, count: number, slots: Int32Array): void {
    const isLocated = !this.complete
    if (isLocated) this.locate(keys, rows, count, slots)
    this.place(keys, rows, count, slots, isLocated, false)
  }

  overwrite(keys: KeyColumn, rows: Int32Array | null, count: number, slots: Int32Array): void {
    this.place(keys, rows, count, slots, false, !this.complete)
  }

  /**
   * Slots of entries to be changed, made where they are not here: those that `slots` has already when
   * `isLocated`. With `isBlind` the store was not asked, and may hold what is not here.
   */
  private place(
    keys: KeyColumn,
    rows: Int32Array | null,
    count: number,
    slots: Int32Array,
    isLocated: boolean,
    isBlind: boolean,
  ): void {
    const { memory } = this.shared
    this.lastUsedTurn = memory.turn
    const { bytes, starts, ends, hashes } = keys
    const { dirtyBit } = memory
    const mark = this.isObjects ? dirtyBit | TOUCHED | STALE : dirtyBit | TOUCHED
    const calm = this.isObjects ? DECODED : 0
    const attention = calm | TOMBSTONE | memory.cutBit
    let { index, meta } = this
    let arena = this.slab.bytes
    let dirtied = 0
    if (!isLocated && this.slotCount > TOUCH_SLOTS_MIN) {
      touchAhead(index, this.shift, meta, arena, hashes, rows, count, slots)
    }
    for (let j = 0; j < count; j++) {
      const i = rows === null ? j : rows[j]
      const start = starts[i]
      let slot = isLocated ? slots[j] : -1
      if (slot < 0) slot = findSlot(index, this.shift, meta, arena, hashes[i], bytes, start, ends[i] - start)
      if (slot < 0) {
        const persisted = isBlind && this.mayBeCold(hashes[i]) ? PERSISTED : 0
        slot = this.insert(hashes[i], bytes, start, ends[i], LIVE | mark | calm | persisted)
        if (persisted !== 0) this.persistedAny = true
        dirtied++
        index = this.index
        meta = this.meta
        arena = this.slab.bytes
      } else {
        let flags = meta[slot * META + 3]
        if ((flags & attention) !== calm) {
          flags = this.attend(slot, true)
          arena = this.slab.bytes
        }
        if ((flags & dirtyBit) === 0) dirtied++
        meta[slot * META + 3] = flags | mark
      }
      slots[j] = slot
    }
    this.dirtyCount += dirtied
    memory.dirty += dirtied
  }

  find(keys: KeyColumn, rows: Int32Array | null, count: number, slots: Int32Array): void {
    const { memory } = this.shared
    this.lastUsedTurn = memory.turn
    const isLocated = !this.complete
    if (isLocated) this.locate(keys, rows, count, slots)
    const { bytes, starts, ends, hashes } = keys
    const calm = this.isObjects ? DECODED : 0
    const attention = calm | TOMBSTONE | memory.cutBit
    const { index, meta } = this
    const arena = this.slab.bytes
    if (!isLocated && this.slotCount > TOUCH_SLOTS_MIN) {
      touchAhead(index, this.shift, meta, arena, hashes, rows, count, slots)
    }
    for (let j = 0; j < count; j++) {
      const i = rows === null ? j : rows[j]
      const start = starts[i]
      const slot = isLocated
        ? slots[j]
        : findSlot(index, this.shift, meta, arena, hashes[i], bytes, start, ends[i] - start)
      slots[j] = slot
      if (slot < 0) continue
      let flags = meta[slot * META + 3]
      if ((flags & attention) !== calm) flags = this.attend(slot, false)
      if ((flags & LIVE) === 0) slots[j] = -1
      else meta[slot * META + 3] = flags | TOUCHED
    }
  }

  findAtHand(keys: KeyColumn, bytesMax: number, slots: Int32Array): void {
    if (this.isObjects && this.shared.encoded.bytesMean > bytesMax) {
      const slot = this.slotOf(keys.hashes[0], keys.bytes, keys.starts[0], keys.ends[0])
      if (slot < 0 || (this.meta[slot * META + 3] & DECODED) === 0) {
        slots[0] = -1
        return
      }
    }
    this.find(keys, null, 1, slots)
  }

  /** What a look-up has to do before an operator may use the slot; returns its flags. */
  private attend(slot: number, revives: boolean): number {
    const at = slot * META + 3
    if ((this.meta[at] & this.shared.memory.cutBit) !== 0) this.captureForCut(slot)
    if ((this.meta[at] & TOMBSTONE) !== 0) {
      if (revives) this.revive(slot)
    } else if (this.isObjects && (this.meta[at] & DECODED) === 0) this.decode(slot)
    return this.meta[at]
  }

  /** Encodes an entry of the open cut before it changes. */
  captureForCut(slot: number): void {
    const { memory } = this.shared
    const into = memory.cutInto!
    const before = into.byteLength
    this.appendChange(slot, into)
    this.shared.cut.bytes += into.byteLength - before
    const at = slot * META + 3
    this.meta[at] = (this.meta[at] & ~memory.cutBit) | PERSISTED | CAPTURED
    this.cutCount--
    this.capturedAny = true
    this.persistedAny = true
  }

  /** Appends a slot's put or delete. */
  appendChange(slot: number, into: WriteBatchBuilder): void {
    const { meta, prefix, slab } = this
    const at = slot * META
    setKeyGroup(prefix, (meta[at] >>> 0) % this.shared.keyGroups.total)
    if ((meta[at + 3] & LIVE) === 0) {
      into.keys.addPrefixed(prefix, slab.bytes, meta[at + 1], meta[at + 2])
      into.endDelete()
      return
    }
    if (!this.isObjects) {
      for (const column of this.doubles) into.values.addDouble(column[slot])
    } else if ((meta[at + 3] & STALE) !== 0) {
      const encoded = this.encoded(slot)
      into.values.add(encoded, 0, encoded.length)
    } else {
      const start = this.spans[slot * 2]
      into.values.add(slab.bytes, start, start + this.spans[slot * 2 + 1])
    }
    into.keys.addPrefixed(prefix, slab.bytes, meta[at + 1], meta[at + 2])
    into.endPut()
  }

  /** True when the store may hold a key that is not here. */
  private mayBeCold(hash: number): boolean {
    return this.isUnknown || this.coldKeys?.mayHold(hash) === true
  }

  /** As `holds`; what is held is now known to be in the store. */
  adoptPersisted(hash: number, bytes: Uint8Array, start: number, end: number): boolean {
    const slot = this.slotOf(hash, bytes, start, end)
    if (slot < 0) return false
    this.meta[slot * META + 3] |= PERSISTED
    this.persistedAny = true
    return true
  }

  markDirty(slot: number): void {
    const { memory } = this.shared
    const flags = this.meta[slot * META + 3]
    if ((flags & LIVE) === 0) return
    if ((flags & memory.dirtyBit) === 0) this.countDirty(1)
    this.meta[slot * META + 3] = flags | memory.dirtyBit | TOUCHED | (this.isObjects ? STALE : 0)
  }

  remove(slot: number): void {
    const { memory } = this.shared
    const at = slot * META + 3
    if ((this.meta[at] & LIVE) === 0) return
    this.lastUsedTurn = memory.turn
    if ((this.meta[at] & memory.cutBit) !== 0) this.captureForCut(slot)
    if ((this.meta[at] & PERSISTED) === 0 && this.scansOpen === 0) {
      this.free(slot)
      return
    }
    this.dropValue(slot)
    this.liveCount--
    const flags = this.meta[at]
    if ((flags & memory.dirtyBit) === 0) this.countDirty(1)
    this.meta[at] = (flags & (CAPTURED | QUEUED)) | TOMBSTONE | PERSISTED | memory.dirtyBit
  }

  scan(): SegmentScan {
    return segmentScan(this, this.prefix)
  }

  scanKey(owner: Uint8Array, hash: number): SegmentScan {
    assert(this.chains !== null, 'only tables of composite keys list the entries of a key')
    if (this.complete || this.cleared?.hasOwner(owner) === true) return new KeyScan(this, owner, hash, null)
    return new KeyScan(this, owner, hash, this.storePrefixOf(owner, hash))
  }

  removeKey(owner: Uint8Array, hash: number): void {
    assert(this.chains !== null, 'only tables of composite keys list the entries of a key')
    removeKey(this, owner, hash, this.complete ? null : this.storePrefixOf(owner, hash))
  }

  /** What the entries of a key begin with in the store. */
  private storePrefixOf(owner: Uint8Array, hash: number): Uint8Array {
    setKeyGroup(this.prefix, keyGroupOf(hash, this.shared.keyGroups.total))
    const stored = new Uint8Array(PREFIX_BYTES + owner.length)
    stored.set(this.prefix)
    stored.set(owner, PREFIX_BYTES)
    return stored
  }

  /** The stored entries of a key, which begin with `stored` there, are gone from now on. Both are kept. */
  noteCleared(owner: Uint8Array, stored: Uint8Array): void {
    if (this.cleared === null) {
      this.cleared = new ClearedOwners()
      this.shared.clears.segments++
    }
    this.cleared.add(owner, stored)
    this.persistedAny = true
    this.account()
  }

  /** Whether the store's entry of the composite key at `start` is gone. */
  isCleared(bytes: Uint8Array, start: number): boolean {
    return this.cleared?.hasEntry(bytes, start) === true
  }

  /** Takes out one key that the store has to be told of; null for none. */
  takeCleared(): Uint8Array | null {
    const stored = this.cleared?.take() ?? null
    if (this.cleared?.count === 0) this.forgetCleared()
    return stored
  }

  private forgetCleared(): void {
    if (this.cleared === null) return
    this.cleared = null
    this.shared.clears.segments--
    this.account()
  }

  /** Leaves a tombstone for a key that the store holds and memory does not. */
  bury(hash: number, bytes: Uint8Array, start: number, end: number): void {
    this.coldCount--
    this.remove(this.insert(hash, bytes, start, end, LIVE | PERSISTED))
  }

  /** True for a live entry past its time to live. */
  isExpired(slot: number): boolean {
    const { isExpired } = this.shared
    return isExpired !== null && (this.meta[slot * META + 3] & LIVE) !== 0 && isExpired(this.valueAt(slot))
  }

  /** Removes expired entries among the slots from `slot` on, at most `count`; returns the slot after them. */
  sweep(slot: number, count: number): number {
    let looks = count
    let at = slot
    for (; at < this.slotCount && looks > 0; at++) {
      const isDecoded = (this.meta[at * META + 3] & DECODED) !== 0
      looks -= isDecoded ? 1 : DECODE_LOOKS
      if (this.scansOpen === 0 && this.isExpired(at)) this.remove(at)
    }
    return at
  }

  /** An expired entry of the open cut is not saved: it goes as if it had been removed before the cut. */
  expireInCut(slot: number): void {
    const at = slot * META + 3
    this.dropValue(slot)
    if ((this.meta[at] & PERSISTED) === 0 && this.scansOpen === 0) {
      this.cutCount--
      this.free(slot)
      return
    }
    this.liveCount--
    this.meta[at] = (this.meta[at] & (QUEUED | this.shared.memory.cutBit)) | TOMBSTONE | PERSISTED
    this.captureForCut(slot)
  }

  /** The slot's change was appended to a batch that the caller writes at once. */
  settleWritten(slot: number): void {
    const at = slot * META + 3
    if ((this.meta[at] & this.shared.memory.dirtyBit) !== 0) this.countDirty(-1)
    // The store's value is newer than what an unsettled checkpoint captured, which need not come again.
    this.meta[at] = (this.meta[at] & ~(this.shared.memory.dirtyBit | CAPTURED)) | PERSISTED
    this.persistedAny = true
  }

  /** Frees all entries of a small segment that the store has not heard of; false when it is not one. */
  empty(): boolean {
    const isSmall = this.slotCount <= EMPTIED_SLOTS_MAX && this.scansOpen === 0
    if (!isSmall || this.persistedAny || !this.complete || this.cutCount > 0) return false
    for (let slot = 0; slot < this.slotCount; slot++) {
      if ((this.meta[slot * META + 3] & (LIVE | TOMBSTONE)) !== 0) this.free(slot)
    }
    return true
  }

  /** Forgets a clean entry, which only the store holds from now on. */
  evict(slot: number): void {
    const at = slot * META
    if ((this.meta[at + 3] & LIVE) !== 0) {
      this.coldCount++
      if (!this.isUnknown) {
        this.coldKeys ??= new ColdKeys(this.shared.coldKeysBytesMax)
        this.coldKeys.add(this.meta[at])
      }
    }
    this.free(slot)
  }

  /** Finds a batch's slots, -1 for absent keys, after bringing in what only the store holds: one multi-get. */
  private locate(keys: KeyColumn, rows: Int32Array | null, count: number, slots: Int32Array): void {
    const { bytes, starts, ends, hashes } = keys
    const missRows: number[] = []
    this.missKeys ??= new PieceArena()
    const missKeys = this.missKeys
    missKeys.clear()
    if (this.slotCount > TOUCH_SLOTS_MIN) {
      touchAhead(this.index, this.shift, this.meta, this.slab.bytes, hashes, rows, count, slots)
    }
    for (let j = 0; j < count; j++) {
      const i = rows === null ? j : rows[j]
      const start = starts[i]
      const slot = this.slotOf(hashes[i], bytes, start, ends[i])
      slots[j] = slot
      if (slot >= 0 || !this.mayBeCold(hashes[i]) || this.isCleared(bytes, start)) continue
      setKeyGroup(this.prefix, (hashes[i] >>> 0) % this.shared.keyGroups.total)
      missKeys.addPrefixed(this.prefix, bytes, start, ends[i])
      missKeys.endRow()
      missRows.push(j)
    }
    if (missRows.length > 0) this.loadMisses(keys, rows, missRows, slots)
  }

  private loadMisses(keys: KeyColumn, rows: Int32Array | null, misses: readonly number[], slots: Int32Array): void {
    const { bytes, starts, ends, hashes } = keys
    this.shared.counters.coldReads += misses.length
    const { values, found } = this.shared.store.multiGet(this.missKeys!)
    for (let m = 0; m < misses.length; m++) {
      if (found[m] === 0) continue
      const j = misses[m]
      const i = rows === null ? j : rows[j]
      const start = starts[i]
      // A key may come twice in a batch.
      const before = this.slotOf(hashes[i], bytes, start, ends[i])
      if (before >= 0) slots[j] = before
      else {
        slots[j] = this.load(hashes[i], bytes, start, ends[i], values, m)
        this.coldCount--
      }
    }
    if (this.isUnknown || this.coldCount > 0) return
    this.coldKeys?.clear()
    this.account()
  }

  /** Adds an entry as the store holds it; the key must not be here. */
  load(hash: number, bytes: Uint8Array, start: number, end: number, values: Arena, row: number): number {
    const slot = this.insert(hash, bytes, start, end, LIVE | PERSISTED | TOUCHED)
    this.persistedAny = true
    const from = values.offsets[row]
    const to = values.offsets[row + 1]
    if (this.isObjects) this.storeValue(slot, values.bytes, from, to)
    else readDoubles(values.bytes, from, to, this.doubles, slot, this.shared.tableName)
    if (this.isExpired(slot)) this.remove(slot)
    return slot
  }

  /** Appends deletes of all that the store may hold, except keys that a successor speaks for. */
  captureDeletes(into: WriteBatchBuilder, successors: readonly Segment[], fromSlot: number, toSlot: number): void {
    const { meta } = this
    const arena = this.slab.bytes
    for (let slot = fromSlot; slot < toSlot; slot++) {
      const at = slot * META
      if ((meta[at + 3] & PERSISTED) === 0) continue
      let spokenFor = false
      for (const successor of successors) {
        if (successor.adoptPersisted(meta[at], arena, meta[at + 1], meta[at + 2])) spokenFor = true
      }
      if (spokenFor) continue
      setKeyGroup(this.prefix, (meta[at] >>> 0) % this.shared.keyGroups.total)
      into.keys.addPrefixed(this.prefix, arena, meta[at + 1], meta[at + 2])
      into.endDelete()
    }
  }

  /** Gives up the values of a dropped segment; keys stay for `captureDeletes`. */
  release(): void {
    this.shared.memory.decoded -= this.decodedCount
    this.decodedCount = 0
    this.addCharge(-this.decodedBytes)
    this.countDirty(-this.dirtyCount)
    for (let at = 3; at < this.slotCount * META; at += META) this.meta[at] &= PERSISTED
    this.liveCount = 0
    this.doubles = []
    this.objects = []
    this.spans = new Int32Array(0)
    this.charges = new Int32Array(0)
    this.coldKeys = null
    this.forgetCleared()
    this.chains?.clear()
    this.decodedSlots = new SlotQueue()
    this.account()
  }

  /** The last call: nothing of this segment is needed any more. */
  dispose(): void {
    // Nobody looks at its slots any more: giving up millions of entries costs no more than giving up a few.
    this.slotCount = 0
    this.release()
    this.shared.memory.arrayBytes -= this.accountedBytes
    this.accountedBytes = 0
  }
}
