/**
 * The working set of one segment: key bytes to dense slots, values in columns by slot.
 *
 * Made and driven by keyed-table.ts; operators see it as `StateSegment`. The index is an open-addressing
 * table with linear probing; a slot's hash, key range and flags lie in one 16-byte record, so that a
 * look-up touches one cache line of the index, one record and the key bytes. What runs over many slots
 * between batches (eviction, encoding of a cut) is in keyed-sweeps.ts. It is longer than other files because
 * all its methods keep the same arrays in step.
 *
 * Values of layout `object` are encoded bytes, which are the truth, and decoded while they are used: a
 * look-up decodes, and a sweep after the batch encodes what changed and lets the oldest objects go.
 *
 * Invariants:
 * - Every entry, deleted ones that the store must still hear of included (tombstones), is in the index.
 * - An entry in memory always wins over the store's. What only the store holds is counted by `coldCount`
 *   and known to `coldKeys`; after a restore too large for memory (`isUnknown`) the store is always asked.
 * - PERSISTED is set whenever the store may hold the key, so that a removal leaves a tombstone.
 * - An entry of the cut is encoded before an operator can see it again (`attend`).
 * - Slots keep their number until they are removed, evicted, or `rebuild` is called, the latter between
 *   batches; while a scan is open, none is freed.
 */
import type { KeyGroupRange, SegmentScan, StateSegment, ValueLayout } from '../engine/contract/keyed-state.ts'
import type { Arena, KeyedStore } from '../engine/contract/keyed-store.ts'
import type { OperatorCounters } from '../engine/contract/operator.ts'
import { assert } from '../engine/core/assert.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import { compositeHash, ownerHash } from '../engine/core/composite-keys.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { keyGroupOf, murmur3 } from '../engine/core/keys.ts'
import { ByteSlab } from './byte-slab.ts'
import { ClearedOwners } from './cleared-owners.ts'
import { ColdKeys } from './cold-keys.ts'
import { KeyChains } from './keyed-chains.ts'
import {
  CAPTURED,
  DECODED,
  DIRTY,
  LIVE,
  objectBytes,
  PERSISTED,
  QUEUED,
  RETURNED,
  type SegmentMemory,
  STALE,
  TOMBSTONE,
  TOUCHED,
} from './keyed-flags.ts'
import {
  doubledIndex,
  findSlot,
  META,
  placeInIndex,
  readDoubles,
  removeFromIndex,
  TOUCH_SLOTS_MIN,
  touchAhead,
} from './keyed-index.ts'
import { KeyScan, removeKey } from './keyed-key-scan.ts'
import { keyPrefix, PieceArena, PREFIX_BYTES, setKeyGroup, type WriteBatchBuilder } from './keyed-layout.ts'
import { segmentScan } from './keyed-scan.ts'
import { SlotQueue } from './slot-queue.ts'

const INDEX_SIZE_MIN = 32
const LOAD_MAX = 0.6
/** From here on slots are reserved well ahead: untouched pages cost nothing, copies of large arrays do. */
const RESERVE_SLOTS_MIN = 1 << 17
const RESERVE_FACTOR = 8
const SLOTS_MAX = 1 << 29
/** What a rebuilt segment's bytes get of room, so that what comes next does not make them grow at once. */
const REBUILT_ROOM = 1.25
/** Larger segments are dropped rather than emptied. */
const EMPTIED_SLOTS_MAX = 64
/** Looking at a value that has to be decoded is this much dearer than at one that is not. */
const DECODE_LOOKS = 8
/** Over about how many objects the mean of their sizes is taken. */
const MEAN_OBJECTS = 64

/** What the segments of one table share. The backend owns it. */
export interface SegmentShared {
  readonly operatorId: number
  readonly stateId: number
  readonly tableName: string
  readonly layout: ValueLayout
  readonly keyGroups: KeyGroupRange
  readonly store: KeyedStore
  readonly counters: OperatorCounters
  readonly memory: SegmentMemory
  /** Bytes that all tables of the backend may take. */
  readonly memoryBudgetBytes: number
  /** Bytes that the filter of one segment's cold keys may take. */
  readonly coldKeysBytesMax: number
  readonly composite: boolean
  readonly isExpired: ((value: unknown) => boolean) | null
  /** Bytes that the open cut, or the last one, took from this table so far. */
  readonly cut: { bytes: number }
  /** Segments with `cleared` keys. */
  readonly clears: { segments: number }
  /** Stored entries of a key that clearing it may read. */
  readonly clearedEntriesMax: number
  /** Running mean of what changed objects of this table take when encoded, and over how many. */
  readonly encoded: { bytesMean: number; objects: number }
}

export class Segment implements StateSegment {
  readonly namespace: number
  readonly shared: SegmentShared
  readonly isObjects: boolean
  readonly prefix: Uint8Array
  doubles: Float64Array[] = []
  objects: unknown[] = []
  /** Start and length of a slot's encoded value, for layout `object`; length -1 for none. */
  spans: Int32Array = new Int32Array(0)
  meta: Int32Array = new Int32Array(0)
  /** Key bytes and encoded values. */
  slab = new ByteSlab()
  /** For composite keys. */
  readonly chains: KeyChains | null
  /**
   * By slot, what a decoded object takes when encoded: as it was when last encoded, or, before that, the mean of its
   * table. What it grew since is part of what the next cut copies, and as bounded (`dirtyBytes`).
   */
  charges: Int32Array = new Int32Array(0)
  /** Entries whose object is decoded. */
  decodedCount = 0
  /** The sum of their charges. */
  decodedBytes = 0
  /** Their slots, oldest first; may hold slots that are not decoded any more. */
  decodedSlots = new SlotQueue()
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
  /** Last turn in which an entry was made or loaded. */
  lastInsertTurn = 0
  /** Live entries in memory. */
  liveCount = 0
  /** Slots in use, tombstones included. */
  usedCount = 0
  /** Slots ever given out: a bound for loops over slots. */
  slotCount = 0
  /** Entries with the open epoch's dirty bit. */
  dirtyCount = 0
  /** Entries of the open cut that are not encoded yet. */
  cutCount = 0
  /** Entries may carry CAPTURED. */
  capturedAny = false
  /** The store may hold, or may have held, entries of this segment. */
  persistedAny = false
  /** Where sweeps go on: eviction, the draining of changes, the encoding of a cut, its settlement. */
  hand = 0
  drainAt = 0
  cutAt = 0
  settleAt = 0
  measureAt = 0
  /** Chooses where eviction begins next: pseudo-random and the same in every run. */
  leap = 1
  private index: Int32Array = new Int32Array(0)
  private shift = 0
  private indexRoom = 0
  private slotCapacity = 0
  private freeHead = -1
  private accountedBytes = 0
  private coldKeys: ColdKeys | null = null
  private missKeys: PieceArena | null = null
  private readonly initial: readonly number[]

  constructor(namespace: number, shared: SegmentShared, complete: boolean) {
    this.namespace = namespace
    this.shared = shared
    this.isUnknown = !complete
    this.persistedAny = !complete
    this.isObjects = shared.layout.kind === 'object'
    this.initial = shared.layout.kind === 'doubles' ? shared.layout.initial : []
    this.prefix = keyPrefix(shared.operatorId, shared.stateId, namespace)
    this.chains = shared.composite ? new KeyChains() : null
    this.allocate(0, 0)
  }

  /** Fresh, empty arrays for about `entries` entries with `slabBytes` of keys and encoded values. */
  private allocate(entries: number, slabBytes: number): void {
    let size = INDEX_SIZE_MIN
    while (size * LOAD_MAX < entries) size *= 2
    this.index = new Int32Array(size)
    this.shift = 32 - Math.log2(size)
    this.indexRoom = Math.floor(size * LOAD_MAX)
    this.slotCapacity = Math.max(Math.floor(INDEX_SIZE_MIN * LOAD_MAX), entries)
    this.meta = new Int32Array(this.slotCapacity * META)
    this.slab = new ByteSlab(slabBytes)
    this.doubles = this.initial.map(() => new Float64Array(this.slotCapacity))
    if (this.isObjects) {
      this.spans = new Int32Array(this.slotCapacity * 2)
      this.charges = new Int32Array(this.slotCapacity)
    }
    this.objects = []
    this.decodedSlots = new SlotQueue()
    this.decodedCount = 0
    this.decodedBytes = 0
    this.slotCount = 0
    this.usedCount = 0
    this.liveCount = 0
    this.freeHead = -1
    this.hand = 0
    this.drainAt = 0
    this.cutAt = 0
    this.settleAt = 0
    this.measureAt = 0
    this.chains?.clear()
    this.account()
  }

  /** True when memory holds every entry that exists. */
  get complete(): boolean {
    return !this.isUnknown && this.coldCount === 0
  }

  /** Tells the backend what this segment's arrays take. */
  account(): void {
    const slots = this.slotCapacity < RESERVE_SLOTS_MIN ? this.slotCapacity : this.slotCount
    const slotBytes = META * 4 + this.doubles.length * 8 + (this.isObjects ? 20 : 0)
    const bytes =
      this.index.byteLength +
      slots * slotBytes +
      this.slab.touchedBytes +
      (this.coldKeys?.byteLength ?? 0) +
      (this.cleared?.memoryBytes ?? 0) +
      (this.chains?.memoryBytes ?? 0)
    this.shared.memory.arrayBytes += bytes - this.accountedBytes
    this.accountedBytes = bytes
  }

  /** What evicting all of this segment would free. */
  memoryBytes(): number {
    return this.accountedBytes + objectBytes(this.decodedCount, this.decodedBytes)
  }

  /** Bytes of a stored row, on average; 0 without entries. */
  rowBytesMean(): number {
    if (this.usedCount === 0) return 0
    const pieces = (this.slab.endBytes - this.slab.freeBytes) / this.usedCount
    return PREFIX_BYTES + pieces + this.doubles.length * 8
  }

  /** Bytes that the next cut would copy, about. */
  dirtyBytes(): number {
    if (!this.isObjects) return this.dirtyCount * this.rowBytesMean()
    return this.dirtyCount * (PREFIX_BYTES + this.shared.encoded.bytesMean)
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

  private encoded(slot: number): Uint8Array {
    const { layout, encoded } = this.shared
    if (layout.kind !== 'object') throw new TypeError('doubles are not encoded one by one')
    const bytes = layout.codec.encode(this.objects[slot])
    encoded.objects = Math.min(encoded.objects + 1, MEAN_OBJECTS)
    encoded.bytesMean += (bytes.length - encoded.bytesMean) / encoded.objects
    this.addCharge(bytes.length - this.charges[slot])
    this.charges[slot] = bytes.length
    return bytes
  }

  private addCharge(bytes: number): void {
    this.decodedBytes += bytes
    this.shared.memory.decodedBytes += bytes
  }

  /** Learns what a decoded object takes now. */
  measure(slot: number): void {
    try {
      this.encoded(slot)
    } catch {
      // What cannot be encoded is refused when it has to be saved; it may be gone or mended by then.
    }
  }

  private decode(slot: number): void {
    this.objects[slot] = this.valueAt(slot)
    this.meta[slot * META + 3] |= DECODED | RETURNED
    this.countDecoded(slot, this.spans[slot * 2 + 1])
  }

  private countDecoded(slot: number, charge: number): void {
    this.decodedCount++
    this.shared.memory.decoded++
    this.charges[slot] = charge
    this.addCharge(charge)
    const at = slot * META + 3
    if ((this.meta[at] & QUEUED) !== 0) return
    this.meta[at] |= QUEUED
    this.decodedSlots.push(slot)
  }

  private forgetDecoded(slot: number): void {
    this.objects[slot] = undefined
    this.meta[slot * META + 3] &= ~(DECODED | STALE)
    this.decodedCount--
    this.shared.memory.decoded--
    this.addCharge(-this.charges[slot])
  }

  /** The object of a slot, without keeping it decoded. */
  valueAt(slot: number): unknown {
    const { layout } = this.shared
    if ((this.meta[slot * META + 3] & DECODED) !== 0 || layout.kind !== 'object') return this.objects[slot]
    const start = this.spans[slot * 2]
    return layout.codec.decode(this.slab.bytes, start, start + this.spans[slot * 2 + 1])
  }

  /** Puts a decoded object back into bytes. */
  undecode(slot: number): void {
    const at = slot * META + 3
    if ((this.meta[at] & STALE) !== 0) {
      const encoded = this.encoded(slot)
      this.storeValue(slot, encoded, 0, encoded.length)
    }
    this.forgetDecoded(slot)
  }

  private storeValue(slot: number, bytes: Uint8Array, from: number, to: number): void {
    const { slab, spans } = this
    const size = to - from
    const before = spans[slot * 2 + 1]
    if (before < 0 || !ByteSlab.fits(before, size)) {
      if (before >= 0) slab.free(spans[slot * 2], before)
      const touched = slab.endBytes
      spans[slot * 2] = slab.allocate(size)
      if (slab.endBytes >>> 16 !== touched >>> 16) this.account()
    }
    spans[slot * 2 + 1] = size
    slab.bytes.set(bytes.subarray(from, to), spans[slot * 2])
  }

  /** True when the store may hold a key that is not here. */
  private mayBeCold(hash: number): boolean {
    return this.isUnknown || this.coldKeys?.mayHold(hash) === true
  }

  /** The hash of a key as it is stored. */
  hashOf(bytes: Uint8Array, start: number, end: number): number {
    const { composite, keyGroups } = this.shared
    return composite ? compositeHash(bytes, start, end, keyGroups.total) : murmur3(bytes, start, end)
  }

  /** Where the key is in memory, as an entry or as a tombstone; -1 when it is not. */
  slotOf(hash: number, bytes: Uint8Array, start: number, end: number): number {
    return findSlot(this.index, this.shift, this.meta, this.slab.bytes, hash, bytes, start, end - start)
  }

  /** True when the key is in memory, as an entry or as a tombstone. */
  holds(hash: number, bytes: Uint8Array, start: number, end: number): boolean {
    return this.slotOf(hash, bytes, start, end) >= 0
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

  private countDirty(by: number): void {
    this.dirtyCount += by
    this.shared.memory.dirty += by
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

  /** Gives up a slot's encoded and decoded value. */
  private dropValue(slot: number): void {
    if (!this.isObjects) return
    if ((this.meta[slot * META + 3] & DECODED) !== 0) this.forgetDecoded(slot)
    if (this.spans[slot * 2 + 1] >= 0) this.slab.free(this.spans[slot * 2], this.spans[slot * 2 + 1])
    this.spans[slot * 2 + 1] = -1
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

  private revive(slot: number): void {
    const at = slot * META + 3
    this.meta[at] = (this.meta[at] & (CAPTURED | DIRTY | QUEUED)) | LIVE | PERSISTED | (this.isObjects ? DECODED : 0)
    for (let k = 0; k < this.doubles.length; k++) this.doubles[k][slot] = this.initial[k]
    this.liveCount++
    if (this.isObjects) this.countDecoded(slot, Math.round(this.shared.encoded.bytesMean))
  }

  /** Adds a key that is not here; its value is the layout's initial one. */
  private insert(hash: number, bytes: Uint8Array, start: number, end: number, flags: number): number {
    if (this.usedCount >= this.indexRoom) this.growIndex()
    const slot = this.takeSlot()
    const size = end - start
    const from = this.slab.allocate(size)
    const arena = this.slab.bytes
    for (let i = 0; i < size; i++) arena[from + i] = bytes[start + i]
    const at = slot * META
    this.meta[at] = hash
    this.meta[at + 1] = from
    this.meta[at + 2] = from + size
    this.meta[at + 3] = flags | (this.meta[at + 3] & QUEUED)
    placeInIndex(this.index, this.shift, hash, slot)
    this.chains?.add(slot, ownerHash(bytes, start))
    for (let k = 0; k < this.doubles.length; k++) this.doubles[k][slot] = this.initial[k]
    if (this.isObjects) {
      this.spans[slot * 2 + 1] = -1
      if ((flags & DECODED) !== 0) this.countDecoded(slot, Math.round(this.shared.encoded.bytesMean))
    }
    this.usedCount++
    if ((flags & LIVE) !== 0) this.liveCount++
    this.shared.memory.inserted++
    this.lastInsertTurn = this.shared.memory.turn
    return slot
  }

  private takeSlot(): number {
    const free = this.freeHead
    if (free >= 0) {
      this.freeHead = this.meta[free * META + 1]
      return free
    }
    if (this.slotCount >= this.slotCapacity) this.growSlots()
    if (this.isObjects) this.objects.push(undefined)
    const slot = this.slotCount++
    if ((slot & 0xfff) === 0) this.account()
    return slot
  }

  private growIndex(): void {
    this.index = doubledIndex(this.index, this.shift, this.meta)
    this.shift--
    this.indexRoom = Math.floor(this.index.length * LOAD_MAX)
    this.account()
  }

  private growSlots(): void {
    if (this.slotCapacity >= SLOTS_MAX) {
      throw new MillraceError(
        'STATE_SEGMENT_FULL',
        `Table ${this.shared.tableName} holds too many keys in one window.`,
        { hint: 'Raise the parallelism or lower the memory budget of keyed state.' },
      )
    }
    const capacity = Math.min(SLOTS_MAX, this.nextCapacity())
    this.slotCapacity = capacity
    this.meta = grownInts(this.meta, capacity * META)
    if (this.isObjects) {
      this.spans = grownInts(this.spans, capacity * 2)
      this.charges = grownInts(this.charges, capacity)
    }
    this.doubles = this.doubles.map((old) => {
      const column = new Float64Array(capacity)
      column.set(old)
      return column
    })
    this.account()
  }

  /** Large arrays grow as seldom as can be, because what they were copied from stays until it is collected. */
  private nextCapacity(): number {
    const { slotCapacity } = this
    if (slotCapacity < RESERVE_SLOTS_MIN) return slotCapacity * 2
    const ahead = slotCapacity * RESERVE_FACTOR
    const affordable = Math.ceil(this.shared.memoryBudgetBytes / (this.accountedBytes / this.usedCount))
    return affordable > ahead * 2 ? ahead : Math.max(affordable, slotCapacity * 2)
  }

  /** The slot's change was appended to a batch that the caller writes at once. */
  settleWritten(slot: number): void {
    const at = slot * META + 3
    if ((this.meta[at] & this.shared.memory.dirtyBit) !== 0) this.countDirty(-1)
    // The store's value is newer than what an unsettled checkpoint captured, which need not come again.
    this.meta[at] = (this.meta[at] & ~(this.shared.memory.dirtyBit | CAPTURED)) | PERSISTED
    this.persistedAny = true
  }

  /** Gives a slot back and forgets its entry. */
  free(slot: number): void {
    const at = slot * META
    removeFromIndex(this.index, this.shift, this.meta, this.meta[at], slot)
    this.chains?.remove(slot, ownerHash(this.slab.bytes, this.meta[at + 1]))
    this.slab.free(this.meta[at + 1], this.meta[at + 2] - this.meta[at + 1])
    this.dropValue(slot)
    const flags = this.meta[at + 3]
    if ((flags & this.shared.memory.dirtyBit) !== 0) this.countDirty(-1)
    if ((flags & LIVE) !== 0) this.liveCount--
    this.meta[at + 1] = this.freeHead
    this.meta[at + 2] = 0
    this.meta[at + 3] = flags & QUEUED
    this.freeHead = slot
    this.usedCount--
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

  /** Moves all entries into arrays of their own size; slots are renumbered. No scan may be open. */
  rebuild(): void {
    const { meta, slab, doubles, objects, spans, charges, slotCount, dirtyCount } = this
    const { memory } = this.shared
    memory.decoded -= this.decodedCount
    memory.decodedBytes -= this.decodedBytes
    const inserted = memory.inserted
    this.allocate(this.usedCount, (slab.endBytes - slab.freeBytes) * REBUILT_ROOM)
    for (let slot = 0; slot < slotCount; slot++) {
      const at = slot * META
      const flags = meta[at + 3] & ~QUEUED
      if ((flags & (LIVE | TOMBSTONE)) === 0) continue
      const to = this.insert(meta[at], slab.bytes, meta[at + 1], meta[at + 2], flags)
      for (let k = 0; k < doubles.length; k++) this.doubles[k][to] = doubles[k][slot]
      if (!this.isObjects) continue
      this.objects[to] = objects[slot]
      if ((flags & DECODED) !== 0) {
        this.addCharge(charges[slot] - this.charges[to])
        this.charges[to] = charges[slot]
      }
      const start = spans[slot * 2]
      if (spans[slot * 2 + 1] >= 0) this.storeValue(to, slab.bytes, start, start + spans[slot * 2 + 1])
    }
    this.dirtyCount = dirtyCount
    memory.inserted = inserted
    this.account()
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
    this.release()
    this.shared.memory.arrayBytes -= this.accountedBytes
    this.accountedBytes = 0
  }
}

function grownInts(old: Int32Array, length: number): Int32Array {
  const grown = new Int32Array(length)
  grown.set(old)
  return grown
}
