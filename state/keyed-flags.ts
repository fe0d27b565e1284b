/**
 * Flags of a segment's slots, and the counters that the segments of one backend share.
 *
 * Used by the keyed segments and the sweeps over them. "Changed" takes two bits that swap roles at each
 * cut of a checkpoint: the bit of the open epoch marks changes since the cut, the other one what belongs
 * to the cut and is not encoded yet. So a cut costs nothing a slot, however many entries are dirty.
 */
import type { WriteBatchBuilder } from './keyed-layout.ts'

/** The slot holds an entry. */
export const LIVE = 1
/** The store may hold this key. */
export const PERSISTED = 2
/** Removed; kept until the store has heard of it. */
export const TOMBSTONE = 4
/** Encoded into the batch of a checkpoint that is not settled. */
export const CAPTURED = 8
/** Used since eviction last looked at it. */
export const TOUCHED = 16
/** The object of the slot is decoded. */
export const DECODED = 32
/** The decoded object is newer than the encoded bytes. */
export const STALE = 64
/** The slot is in its segment's queue of decoded slots; also on free slots. */
export const QUEUED = 512
/** The value was decoded from bytes: the entry came back after it had been put aside. */
export const RETURNED = 1_024
const DIRTY_A = 128
const DIRTY_B = 256
/** Changed, in the open epoch or in the cut. */
export const DIRTY = DIRTY_A | DIRTY_B

/** What the segments of one backend share, kept up to date as they grow and go. */
export interface SegmentMemory {
  /** Memory touched by typed arrays. */
  arrayBytes: number
  /** Objects that are decoded now. */
  decoded: number
  /** What they take when encoded, as far as is known; see `Segment.charges`. */
  decodedBytes: number
  /** Counts batches of work; tells cold segments from warm ones. */
  turn: number
  /** Entries made or loaded since the last relief. */
  inserted: number
  /** Entries changed since the last cut and not written since. */
  dirty: number
  /** The bit of the open epoch. */
  dirtyBit: number
  /** The bit of entries in the cut that are not encoded yet; 0 without an open cut. */
  cutBit: number
  /** Where entries of the cut go; null without an open cut. */
  cutInto: WriteBatchBuilder | null
  /** From a cut until its checkpoint is settled: a scan of the store may have to wait. */
  isCheckpointing: boolean
}

export function newSegmentMemory(): SegmentMemory {
  return {
    arrayBytes: 0,
    decoded: 0,
    decodedBytes: 0,
    turn: 0,
    inserted: 0,
    dirty: 0,
    dirtyBit: DIRTY_A,
    cutBit: 0,
    cutInto: null,
    isCheckpointing: false,
  }
}

/** Makes all that is dirty part of a cut. */
export function swapEpoch(memory: SegmentMemory, into: WriteBatchBuilder): void {
  memory.cutBit = memory.dirtyBit
  memory.dirtyBit = DIRTY ^ memory.dirtyBit
  memory.cutInto = into
  memory.dirty = 0
}

/** V8's form of an object takes a few times its encoding. */
export const OBJECT_FACTOR = 3

/** Estimate of the memory of decoded objects. */
export function objectBytes(count: number, encodedBytes: number): number {
  return count * 64 + encodedBytes * OBJECT_FACTOR
}
