/**
 * The working set of one segment: key bytes to dense slots, values in columns by slot.
 *
 * Made and driven by keyed-table.ts; operators see it as `StateSegment`. The index is an open-addressing
 * table with linear probing; a slot's hash, key range and flags lie in one 16-byte record, so that a
 * look-up touches one cache line of the index, one record and the key bytes. It is longer than other files
 * because all its methods keep the same arrays in step.
 *
 * Invariants:
 * - Every entry, deleted ones that the store must still hear of included (tombstones), is in the index.
 * - A complete segment holds every entry that exists; an incomplete one asks the store for the rest,
 *   and an entry in memory always wins over the store's.
 * - PERSISTED is set whenever the store may hold the key, so that a removal leaves a tombstone.
 * - Slots keep their number until they are removed or `evict` is called; while a scan is open, none is freed.
 */
import type { KeyGroupRange, SegmentScan, StateSegment, ValueLayout } from '../engine/contract/keyed-state.ts'
import type { Arena, KeyedStore } from '../engine/contract/keyed-store.ts'
import type { OperatorCounters } from '../engine/contract/operator.ts'
import { assert } from '../engine/core/assert.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import { compositeHash, ownerHash } from '../engine/core/composite-keys.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { keyGroupOf, murmur3 } from '../engine/core/keys.ts'
import { KeyChains } from './keyed-chains.ts'
import {
  findSlot,
  META,
  placeInIndex,
  readDoubles,
  removeFromIndex,
  TOUCH_SLOTS_MIN,
  touchAhead,
} from './keyed-index.ts'
import { KeyScan } from './keyed-key-scan.ts'
import { keyPrefix, PieceArena, PREFIX_BYTES, setKeyGroup, type WriteBatchBuilder } from './keyed-layout.ts'
import { segmentScan } from './keyed-scan.ts'

/** The slot holds an entry. */
export const LIVE = 1
/** Changed since it was last captured or written. */
const DIRTY = 2
/** The store may hold this key. */
const PERSISTED = 4
/** Removed; kept until the store has heard of it. */
const TOMBSTONE = 8
/** In the cut of a checkpoint that is not settled. */
const CAPTURED = 16
/** Used since the last eviction. */
const TOUCHED = 32

const INDEX_SIZE_MIN = 32
const LOAD_MAX = 0.6
const ARENA_BYTES_MIN = 256
const ARENA_BYTES_MAX = 0x7fff_ffff
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
  readonly composite: boolean
  readonly isExpired: ((value: unknown) => boolean) | null
}

/** Bytes held by the segments of a backend, kept up to date as they grow and go. */
export interface SegmentMemory {
  /** Typed arrays, exactly. */
  arrayBytes: number
  /** Live objects; their size is only estimated. */
  objects: number
  /** Running mean of what an object takes when encoded. */
  objectBytesMean: number
  /** Counts batches of work; tells cold segments from warm ones. */
  turn: number
}

export class Segment implements StateSegment {
  readonly namespace: number
  readonly shared: SegmentShared
  doubles: Float64Array[] = []
  objects: unknown[] = []
  /** False when the store may hold entries that are not here. */
  complete: boolean
  /** Scans that read this segment now; it must not be evicted under them. */
  scansOpen = 0
  lastUsedTurn = 0
  /** Live entries in memory. */
  liveCount = 0
  /** Slots ever given out: a bound for loops over slots. */
  slotCount = 0
  meta: Int32Array = new Int32Array(0)
  arena: Uint8Array = new Uint8Array(0)
  /** For composite keys. */
  readonly chains: KeyChains | null
  private index: Int32Array = new Int32Array(0)
  private shift = 0
  private slotCapacity = 0
  private usedCount = 0
  private freeHead = -1
  private arenaLength = 0
  private arenaDead = 0
  private dirtyAny = false
  private capturedAny = false
  private accountedBytes = 0
  private readonly prefix: Uint8Array
  private missKeys: PieceArena | null = null
  private readonly initial: readonly number[]

  constructor(namespace: number, shared: SegmentShared, complete: boolean) {
    this.namespace = namespace
    this.shared = shared
    this.complete = complete
    this.initial = shared.layout.kind === 'doubles' ? shared.layout.initial : []
    this.prefix = keyPrefix(shared.operatorId, shared.stateId, namespace)
    this.chains = shared.composite ? new KeyChains() : null
    this.allocate()
  }

  private allocate(): void {
    this.index = new Int32Array(INDEX_SIZE_MIN * 2)
    this.shift = 32 - Math.log2(INDEX_SIZE_MIN)
    this.slotCapacity = Math.floor(INDEX_SIZE_MIN * LOAD_MAX)
    this.meta = new Int32Array(this.slotCapacity * META)
    this.arena = new Uint8Array(ARENA_BYTES_MIN)
    this.doubles = this.initial.map(() => new Float64Array(this.slotCapacity))
    this.objects = []
    this.slotCount = 0
    this.usedCount = 0
    this.shared.memory.objects -= this.isObjects ? this.liveCount : 0
    this.liveCount = 0
    this.freeHead = -1
    this.arenaLength = 0
    this.arenaDead = 0
    this.chains?.clear()
    this.account()
  }

  private get isObjects(): boolean {
    return this.shared.layout.kind === 'object'
  }

  private account(): void {
    const bytes =
      this.index.byteLength +
      this.meta.byteLength +
      this.arena.length +
      this.doubles.length * this.slotCapacity * 8 +
      (this.chains?.memoryBytes ?? 0)
    this.shared.memory.arrayBytes += bytes - this.accountedBytes
    this.accountedBytes = bytes
  }

  /** Estimate of what evicting this segment would free. */
  memoryBytes(): number {
    return this.accountedBytes + (this.isObjects ? this.liveCount * objectBytes(this.shared.memory) : 0)
  }

  get needsCapture(): boolean {
    return this.dirtyAny
  }

  upsert(keys: KeyColumn, rows: Int32Array | null, count: number, slots: Int32Array): void {
    this.lastUsedTurn = this.shared.memory.turn
    if (!this.complete) this.loadMisses(keys, rows, count)
    this.place(keys, rows, count, slots, LIVE | DIRTY | TOUCHED)
  }

  overwrite(keys: KeyColumn, rows: Int32Array | null, count: number, slots: Int32Array): void {
    this.lastUsedTurn = this.shared.memory.turn
    // What is not here may be in the store, which nobody has asked.
    this.place(keys, rows, count, slots, LIVE | DIRTY | TOUCHED | (this.complete ? 0 : PERSISTED))
  }

  /** Slots of entries to be changed; those that are not here are made with `freshFlags`. */
  private place(keys: KeyColumn, rows: Int32Array | null, count: number, slots: Int32Array, freshFlags: number): void {
    this.dirtyAny = true
    const { bytes, starts, ends, hashes } = keys
    let index = this.index
    let meta = this.meta
    let arena = this.arena
    if (this.slotCount > TOUCH_SLOTS_MIN) touchAhead(index, this.shift, meta, arena, hashes, rows, count, slots)
    for (let j = 0; j < count; j++) {
      const i = rows === null ? j : rows[j]
      const start = starts[i]
      let slot = findSlot(index, this.shift, meta, arena, hashes[i], bytes, start, ends[i] - start)
      if (slot < 0) {
        slot = this.insert(hashes[i], bytes, start, ends[i], freshFlags)
        index = this.index
        meta = this.meta
        arena = this.arena
      } else {
        const flags = meta[slot * META + 3]
        if ((flags & TOMBSTONE) !== 0) this.revive(slot)
        else meta[slot * META + 3] = flags | DIRTY | TOUCHED
      }
      slots[j] = slot
    }
  }

  find(keys: KeyColumn, rows: Int32Array | null, count: number, slots: Int32Array): void {
    this.lastUsedTurn = this.shared.memory.turn
    if (!this.complete) this.loadMisses(keys, rows, count)
    const { bytes, starts, ends, hashes } = keys
    const { index, meta, arena } = this
    if (this.slotCount > TOUCH_SLOTS_MIN) touchAhead(index, this.shift, meta, arena, hashes, rows, count, slots)
    for (let j = 0; j < count; j++) {
      const i = rows === null ? j : rows[j]
      const start = starts[i]
      const slot = findSlot(index, this.shift, meta, arena, hashes[i], bytes, start, ends[i] - start)
      if (slot < 0) slots[j] = -1
      else {
        const flags = meta[slot * META + 3]
        meta[slot * META + 3] = flags | TOUCHED
        slots[j] = (flags & TOMBSTONE) !== 0 ? -1 : slot
      }
    }
  }

  /** The hash of a key as it is stored. */
  hashOf(bytes: Uint8Array, start: number, end: number): number {
    const { composite, keyGroups } = this.shared
    return composite ? compositeHash(bytes, start, end, keyGroups.total) : murmur3(bytes, start, end)
  }

  /** Where the key is in memory, as an entry or as a tombstone; -1 when it is not. */
  slotOf(hash: number, bytes: Uint8Array, start: number, end: number): number {
    return findSlot(this.index, this.shift, this.meta, this.arena, hash, bytes, start, end - start)
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
    return true
  }

  markDirty(slot: number): void {
    if ((this.meta[slot * META + 3] & LIVE) === 0) return
    this.meta[slot * META + 3] |= DIRTY | TOUCHED
    this.dirtyAny = true
  }

  remove(slot: number): void {
    const flags = this.meta[slot * META + 3]
    if ((flags & LIVE) === 0) return
    this.liveCount--
    if (this.isObjects) this.shared.memory.objects--
    this.lastUsedTurn = this.shared.memory.turn
    if ((flags & PERSISTED) === 0 && this.scansOpen === 0) {
      this.free(slot)
      return
    }
    this.meta[slot * META + 3] = (flags & CAPTURED) | TOMBSTONE | PERSISTED | DIRTY
    if (this.isObjects) this.objects[slot] = undefined
    this.dirtyAny = true
  }

  scan(): SegmentScan {
    return segmentScan(this, this.prefix)
  }

  scanKey(owner: Uint8Array, hash: number): SegmentScan {
    assert(this.chains !== null, 'only tables of composite keys list the entries of a key')
    if (this.complete) return new KeyScan(this, owner, hash, null)
    setKeyGroup(this.prefix, keyGroupOf(hash, this.shared.keyGroups.total))
    const stored = new Uint8Array(PREFIX_BYTES + owner.length)
    stored.set(this.prefix)
    stored.set(owner, PREFIX_BYTES)
    return new KeyScan(this, owner, hash, stored)
  }

  /** Leaves a tombstone for a key that the store holds and memory does not. */
  bury(hash: number, bytes: Uint8Array, start: number, end: number): void {
    this.remove(this.insert(hash, bytes, start, end, LIVE | PERSISTED))
  }

  /** Removes expired entries among the slots from `slot` on, at most `count`; returns the slot after them. */
  sweep(slot: number, count: number): number {
    const isExpired = this.shared.isExpired
    const to = Math.min(this.slotCount, slot + count)
    if (isExpired === null || this.scansOpen > 0) return to
    for (let at = slot; at < to; at++) {
      if ((this.meta[at * META + 3] & LIVE) !== 0 && isExpired(this.objects[at])) this.remove(at)
    }
    return to
  }

  private revive(slot: number): void {
    const flags = this.meta[slot * META + 3]
    this.meta[slot * META + 3] = (flags & CAPTURED) | LIVE | DIRTY | PERSISTED | TOUCHED
    for (let k = 0; k < this.doubles.length; k++) this.doubles[k][slot] = this.initial[k]
    this.liveCount++
    if (this.isObjects) this.shared.memory.objects++
  }

  /** Adds a key that is not here; its value is the layout's initial one. */
  private insert(hash: number, bytes: Uint8Array, start: number, end: number, flags: number): number {
    if (this.usedCount >= this.slotCapacity) this.grow()
    const size = end - start
    if (this.arenaLength + size > this.arena.length) this.growArena(size)
    const slot = this.takeSlot()
    const from = this.arenaLength
    const arena = this.arena
    for (let i = 0; i < size; i++) arena[from + i] = bytes[start + i]
    this.arenaLength = from + size
    const at = slot * META
    this.meta[at] = hash
    this.meta[at + 1] = from
    this.meta[at + 2] = from + size
    this.meta[at + 3] = flags
    placeInIndex(this.index, this.shift, hash, slot)
    this.chains?.add(slot, ownerHash(bytes, start))
    for (let k = 0; k < this.doubles.length; k++) this.doubles[k][slot] = this.initial[k]
    this.usedCount++
    this.liveCount++
    if (this.isObjects) this.shared.memory.objects++
    return slot
  }

  private takeSlot(): number {
    const free = this.freeHead
    if (free >= 0) {
      this.freeHead = this.meta[free * META + 1]
      return free
    }
    if (this.isObjects) this.objects.push(undefined)
    return this.slotCount++
  }

  private grow(): void {
    const size = this.index.length
    if (size >= 0x4000_0000) {
      throw new MillraceError(
        'STATE_SEGMENT_FULL',
        `Table ${this.shared.tableName} holds too many keys in one window.`,
        {
          hint: 'Raise the parallelism or lower the memory budget of keyed state.',
        },
      )
    }
    const index = new Int32Array(size * 2)
    this.shift--
    for (let at = 0; at < size; at += 2) {
      if (this.index[at + 1] !== 0) placeInIndex(index, this.shift, this.index[at], this.index[at + 1] - 1)
    }
    this.index = index
    this.slotCapacity = Math.floor(size * LOAD_MAX)
    const meta = new Int32Array(this.slotCapacity * META)
    meta.set(this.meta)
    this.meta = meta
    this.doubles = this.doubles.map((old) => {
      const column = new Float64Array(this.slotCapacity)
      column.set(old)
      return column
    })
    this.account()
  }

  private growArena(extra: number): void {
    if (this.arenaDead > this.arenaLength / 2) this.compactArena()
    const needed = this.arenaLength + extra
    if (needed <= this.arena.length) return
    if (needed > ARENA_BYTES_MAX) {
      throw new MillraceError('STATE_SEGMENT_FULL', `Table ${this.shared.tableName} holds more than 2 GiB of keys.`, {
        hint: 'Raise the parallelism or lower the memory budget of keyed state.',
      })
    }
    const arena = new Uint8Array(Math.min(ARENA_BYTES_MAX, Math.max(needed, this.arena.length * 2)))
    arena.set(this.arena.subarray(0, this.arenaLength))
    this.arena = arena
    this.account()
  }

  /** Rewrites the key bytes without the dead ones, into new memory: emitted views stay intact. */
  private compactArena(): void {
    const arena = new Uint8Array(Math.max(ARENA_BYTES_MIN, (this.arenaLength - this.arenaDead) * 2))
    let length = 0
    for (let at = 0; at < this.slotCount * META; at += META) {
      if ((this.meta[at + 3] & (LIVE | TOMBSTONE)) === 0) continue
      const start = this.meta[at + 1]
      const end = this.meta[at + 2]
      arena.set(this.arena.subarray(start, end), length)
      this.meta[at + 1] = length
      length += end - start
      this.meta[at + 2] = length
    }
    this.arena = arena
    this.arenaLength = length
    this.arenaDead = 0
    this.account()
  }

  /** Gives a slot back. The caller has taken it out of `liveCount`. */
  private free(slot: number): void {
    const at = slot * META
    removeFromIndex(this.index, this.shift, this.meta[at], slot)
    this.chains?.remove(slot, ownerHash(this.arena, this.meta[at + 1]))
    this.arenaDead += this.meta[at + 2] - this.meta[at + 1]
    this.meta[at + 1] = this.freeHead
    this.meta[at + 2] = 0
    this.meta[at + 3] = 0
    this.freeHead = slot
    if (this.isObjects) this.objects[slot] = undefined
    this.usedCount--
    if (this.arenaDead > 4_096 && this.arenaDead > this.arenaLength / 2) this.compactArena()
  }

  /** Brings in what the batch needs and the store holds: one multi-get. */
  private loadMisses(keys: KeyColumn, rows: Int32Array | null, count: number): void {
    this.missKeys ??= new PieceArena()
    const missKeys = this.missKeys
    missKeys.clear()
    const missRows: number[] = []
    const { bytes, starts, ends, hashes } = keys
    for (let j = 0; j < count; j++) {
      const i = rows === null ? j : rows[j]
      if (this.holds(hashes[i], bytes, starts[i], ends[i])) continue
      setKeyGroup(this.prefix, (hashes[i] >>> 0) % this.shared.keyGroups.total)
      missKeys.addPrefixed(this.prefix, bytes, starts[i], ends[i])
      missKeys.endRow()
      missRows.push(i)
    }
    if (missRows.length === 0) return
    this.shared.counters.coldReads += missRows.length
    const { values, found } = this.shared.store.multiGet(missKeys)
    for (let m = 0; m < missRows.length; m++) {
      if (found[m] === 0) continue
      const i = missRows[m]
      if (this.holds(hashes[i], bytes, starts[i], ends[i])) continue
      this.load(hashes[i], bytes, starts[i], ends[i], values, m)
    }
  }

  /** Adds an entry as the store holds it; the key must not be here. */
  load(hash: number, bytes: Uint8Array, start: number, end: number, values: Arena, row: number): void {
    const slot = this.insert(hash, bytes, start, end, LIVE | PERSISTED | TOUCHED)
    const from = values.offsets[row]
    const to = values.offsets[row + 1]
    const layout = this.shared.layout
    if (layout.kind === 'doubles') {
      readDoubles(values.bytes, from, to, this.doubles, slot, this.shared.tableName)
      return
    }
    const value = layout.codec.decode(values.bytes, from, to)
    this.objects[slot] = value
    if (this.shared.isExpired?.(value)) this.remove(slot)
  }

  /**
   * Appends every change since the last capture or write. `isCut` marks them as part of a checkpoint
   * that is not settled; otherwise the caller writes them at once and then calls `written`.
   */
  captureChanges(into: WriteBatchBuilder, isCut: boolean): void {
    if (!this.dirtyAny) return
    this.removeExpired()
    const { meta, arena, prefix } = this
    const layout = this.shared.layout
    const total = this.shared.keyGroups.total
    const staged = new Float64Array(this.doubles.length)
    const stagedBytes = new Uint8Array(staged.buffer)
    const memory = this.shared.memory
    for (let slot = 0; slot < this.slotCount; slot++) {
      const at = slot * META
      const flags = meta[at + 3]
      if ((flags & DIRTY) === 0) continue
      setKeyGroup(prefix, (meta[at] >>> 0) % total)
      if ((flags & LIVE) === 0) {
        into.keys.addPrefixed(prefix, arena, meta[at + 1], meta[at + 2])
        into.endDelete()
      } else {
        if (layout.kind === 'object') {
          const encoded = layout.codec.encode(this.objects[slot])
          memory.objectBytesMean += (encoded.length - memory.objectBytesMean) / 64
          into.values.add(encoded, 0, encoded.length)
        } else {
          for (let k = 0; k < staged.length; k++) staged[k] = this.doubles[k][slot]
          into.values.add(stagedBytes, 0, stagedBytes.length)
        }
        into.keys.addPrefixed(prefix, arena, meta[at + 1], meta[at + 2])
        into.endPut()
      }
      meta[at + 3] = (flags & ~DIRTY) | PERSISTED | (isCut ? CAPTURED : 0)
    }
    this.dirtyAny = false
    if (isCut) this.capturedAny = true
  }

  /** What has expired is not saved any more. */
  private removeExpired(): void {
    const isExpired = this.shared.isExpired
    if (isExpired === null) return
    for (let slot = 0; slot < this.slotCount; slot++) {
      const flags = this.meta[slot * META + 3]
      if ((flags & (LIVE | DIRTY)) === (LIVE | DIRTY) && isExpired(this.objects[slot])) this.remove(slot)
    }
  }

  /** The store holds all that was captured. */
  written(): void {
    this.capturedAny = false
    for (let slot = 0; slot < this.slotCount; slot++) {
      const at = slot * META + 3
      const flags = this.meta[at] & ~CAPTURED
      this.meta[at] = flags
      // A scan that began before the delete still sees the key in its view of the store.
      if ((flags & TOMBSTONE) !== 0 && (flags & DIRTY) === 0 && this.scansOpen === 0) this.free(slot)
    }
  }

  /** A checkpoint's fate is known: what it captured is in the store, or has to be captured again. */
  settle(succeeded: boolean): void {
    if (!this.capturedAny) return
    if (succeeded) {
      this.written()
      return
    }
    this.capturedAny = false
    for (let slot = 0; slot < this.slotCount; slot++) {
      const at = slot * META + 3
      if ((this.meta[at] & CAPTURED) !== 0) this.meta[at] = (this.meta[at] & ~CAPTURED) | DIRTY
    }
    this.dirtyAny = true
  }

  /** Appends deletes of all that the store may hold, except keys that `successor` speaks for. */
  captureDeletes(into: WriteBatchBuilder, successors: readonly Segment[]): void {
    for (let slot = 0; slot < this.slotCount; slot++) {
      const at = slot * META
      if ((this.meta[at + 3] & PERSISTED) === 0) continue
      const hash = this.meta[at]
      const start = this.meta[at + 1]
      const end = this.meta[at + 2]
      let spokenFor = false
      for (const successor of successors) {
        if (successor.adoptPersisted(hash, this.arena, start, end)) spokenFor = true
      }
      if (spokenFor) continue
      setKeyGroup(this.prefix, (hash >>> 0) % this.shared.keyGroups.total)
      into.keys.addPrefixed(this.prefix, this.arena, start, end)
      into.endDelete()
    }
  }

  /** True when the store may hold entries that are in memory here. */
  persistedAny(): boolean {
    for (let at = 3; at < this.slotCount * META; at += META) if ((this.meta[at] & PERSISTED) !== 0) return true
    return false
  }

  /**
   * Forgets what was not used lately, at least half; everything must be written and no scan open.
   * Slots are renumbered, and from now on the store is asked for what is missing.
   */
  evict(): void {
    const old = { meta: this.meta, arena: this.arena, doubles: this.doubles, objects: this.objects }
    const kept: number[] = []
    const keptMax = this.liveCount >> 1
    for (let slot = 0; slot < this.slotCount && kept.length < keptMax; slot++) {
      if ((old.meta[slot * META + 3] & (LIVE | TOUCHED)) === (LIVE | TOUCHED)) kept.push(slot)
    }
    // Where nearly everything is warm, there is no cold half to tell apart: start afresh.
    if (kept.length === keptMax) kept.length = 0
    this.allocate()
    this.complete = false
    for (const slot of kept) {
      const at = slot * META
      const flags = old.meta[at + 3] & ~TOUCHED
      const to = this.insert(old.meta[at], old.arena, old.meta[at + 1], old.meta[at + 2], flags)
      for (let k = 0; k < this.doubles.length; k++) this.doubles[k][to] = old.doubles[k][slot]
      if (this.isObjects) this.objects[to] = old.objects[slot]
    }
  }

  /** Gives up the values of a dropped segment; keys stay for `captureDeletes`. */
  release(): void {
    if (this.isObjects) this.shared.memory.objects -= this.liveCount
    this.liveCount = 0
    this.doubles = []
    this.objects = []
    this.chains?.clear()
    this.account()
  }

  /** The last call: nothing of this segment is needed any more. */
  dispose(): void {
    this.release()
    this.shared.memory.arrayBytes -= this.accountedBytes
    this.accountedBytes = 0
  }
}

/** Estimate of an object's memory: V8's form takes a few times its encoding. */
export function objectBytes(memory: SegmentMemory): number {
  return 64 + memory.objectBytesMean * 3
}
