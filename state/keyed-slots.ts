/**
 * The slots of one segment: an index of keys, and values in arrays by slot.
 *
 * `Segment` (keyed-segment.ts) extends it by what operators, checkpoints and the store ask. The index is an
 * open-addressing table with linear probing; a slot's hash, key range and flags lie in one 16-byte record, so that a
 * look-up touches one cache line of the index, one record and the key bytes. All methods that make, free, move or
 * measure slots are here, because they keep the same arrays in step.
 *
 * Values of layout `object` are encoded bytes, which are the truth, and decoded while they are used: a
 * look-up decodes, and a sweep after the batch encodes what changed and lets the oldest objects go.
 *
 * Invariants:
 * - Every entry, deleted ones that the store must still hear of included (tombstones), is in the index.
 * - Slots keep their number until they are freed, or `rebuild` is called, the latter between batches.
 * - What arrays and decoded objects take is in the table's `SegmentMemory`.
 */
import type { KeyGroupRange, ValueLayout } from '../engine/contract/keyed-state.ts'
import type { KeyedStore } from '../engine/contract/keyed-store.ts'
import type { OperatorCounters } from '../engine/contract/operator.ts'
import { compositeHash, ownerHash } from '../engine/core/composite-keys.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { murmur3 } from '../engine/core/keys.ts'
import { ByteSlab } from './byte-slab.ts'
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
} from './keyed-flags.ts'
import { doubledIndex, findSlot, META, placeInIndex, removeFromIndex } from './keyed-index.ts'
import { keyPrefix, PREFIX_BYTES } from './keyed-layout.ts'
import { SlotQueue } from './slot-queue.ts'

const INDEX_SIZE_MIN = 32
const LOAD_MAX = 0.6
/** From here on slots are reserved well ahead: untouched pages cost nothing, copies of large arrays do. */
const RESERVE_SLOTS_MIN = 1 << 17
const RESERVE_FACTOR = 8
const SLOTS_MAX = 1 << 29
/** What a rebuilt segment's bytes get of room, so that what comes next does not make them grow at once. */
const REBUILT_ROOM = 1.25
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

/** Slots, their keys and their values; see above. */
export abstract class SegmentSlots {
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
  /** Where sweeps go on: eviction, the draining of changes, the encoding of a cut, its settlement. */
  hand = 0
  drainAt = 0
  cutAt = 0
  settleAt = 0
  measureAt = 0
  protected index: Int32Array = new Int32Array(0)
  protected shift = 0
  private indexRoom = 0
  private slotCapacity = 0
  private freeHead = -1
  protected accountedBytes = 0
  protected readonly initial: readonly number[]

  /** Without arrays yet: whoever extends this calls `allocate`. */
  constructor(namespace: number, shared: SegmentShared) {
    this.namespace = namespace
    this.shared = shared
    this.isObjects = shared.layout.kind === 'object'
    this.initial = shared.layout.kind === 'doubles' ? shared.layout.initial : []
    this.prefix = keyPrefix(shared.operatorId, shared.stateId, namespace)
    this.chains = shared.composite ? new KeyChains() : null
  }

  /** What filters over keys that are not in slots take. */
  protected abstract filterBytes(): number

  /** Fresh, empty arrays for about `entries` entries with `slabBytes` of keys and encoded values. */
  protected allocate(entries: number, slabBytes: number): void {
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

  /** Tells the backend what this segment's arrays take. */
  account(): void {
    const slots = this.slotCapacity < RESERVE_SLOTS_MIN ? this.slotCapacity : this.slotCount
    const slotBytes = META * 4 + this.doubles.length * 8 + (this.isObjects ? 20 : 0)
    const bytes =
      this.index.byteLength +
      slots * slotBytes +
      this.slab.touchedBytes +
      (this.chains?.memoryBytes ?? 0) +
      this.filterBytes()
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

  /** Adds a key that is not here; its value is the layout's initial one. */
  protected insert(hash: number, bytes: Uint8Array, start: number, end: number, flags: number): number {
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

  protected revive(slot: number): void {
    const at = slot * META + 3
    this.meta[at] = (this.meta[at] & (CAPTURED | DIRTY | QUEUED)) | LIVE | PERSISTED | (this.isObjects ? DECODED : 0)
    for (let k = 0; k < this.doubles.length; k++) this.doubles[k][slot] = this.initial[k]
    this.liveCount++
    if (this.isObjects) this.countDecoded(slot, Math.round(this.shared.encoded.bytesMean))
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

  protected countDirty(by: number): void {
    this.dirtyCount += by
    this.shared.memory.dirty += by
  }

  protected encoded(slot: number): Uint8Array {
    const { layout, encoded } = this.shared
    if (layout.kind !== 'object') throw new TypeError('doubles are not encoded one by one')
    const bytes = layout.codec.encode(this.objects[slot])
    encoded.objects = Math.min(encoded.objects + 1, MEAN_OBJECTS)
    encoded.bytesMean += (bytes.length - encoded.bytesMean) / encoded.objects
    this.addCharge(bytes.length - this.charges[slot])
    this.charges[slot] = bytes.length
    return bytes
  }

  /** Learns what a decoded object takes now. */
  measure(slot: number): void {
    try {
      this.encoded(slot)
    } catch {
      // What cannot be encoded is refused when it has to be saved; it may be gone or mended by then.
    }
  }

  protected addCharge(bytes: number): void {
    this.decodedBytes += bytes
    this.shared.memory.decodedBytes += bytes
  }

  protected decode(slot: number): void {
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

  protected storeValue(slot: number, bytes: Uint8Array, from: number, to: number): void {
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

  /** Gives up a slot's encoded and decoded value. */
  protected dropValue(slot: number): void {
    if (!this.isObjects) return
    if ((this.meta[slot * META + 3] & DECODED) !== 0) this.forgetDecoded(slot)
    if (this.spans[slot * 2 + 1] >= 0) this.slab.free(this.spans[slot * 2], this.spans[slot * 2 + 1])
    this.spans[slot * 2 + 1] = -1
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
}

function grownInts(old: Int32Array, length: number): Int32Array {
  const grown = new Int32Array(length)
  grown.set(old)
  return grown
}
