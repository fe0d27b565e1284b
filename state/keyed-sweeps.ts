/**
 * Work over many slots of a segment, cut into pieces that fit between two batches.
 *
 * Called by keyed-backend.ts. Each sweep goes on where its last call stopped and takes a budget of slots
 * or entries, so that no turn grows with the state's size.
 */
import { CAPTURED, DECODED, DIRTY, LIVE, QUEUED, RETURNED, TOMBSTONE, TOUCHED } from './keyed-flags.ts'
import { META } from './keyed-index.ts'
import type { WriteBatchBuilder } from './keyed-layout.ts'
import type { Segment } from './keyed-segment.ts'

/** Looking at a slot is this much cheaper than encoding an entry. */
const LOOKS_AN_ENTRY = 32
/** Objects that are measured at a time, and how large a known one may be for that. */
const MEASURED_OBJECTS = 8
const MEASURED_BYTES_MAX = 256 << 10
/** After so many bytes no further one is measured: a turn may have had few rows. */
const MEASURED_BYTES_TURN = 4_096

/** Encodes up to `entriesMax` entries of the open cut; returns what is left of the budget. */
export function captureSome(segment: Segment, entriesMax: number): number {
  const { cutBit } = segment.shared.memory
  let looks = entriesMax * LOOKS_AN_ENTRY
  for (; segment.cutCount > 0 && looks > 0; segment.cutAt++) {
    if (segment.cutAt >= segment.slotCount) segment.cutAt = 0
    looks--
    if ((segment.meta[segment.cutAt * META + 3] & cutBit) === 0) continue
    if (segment.isExpired(segment.cutAt)) segment.expireInCut(segment.cutAt)
    else segment.captureForCut(segment.cutAt)
    looks -= LOOKS_AN_ENTRY
  }
  return Math.floor(looks / LOOKS_AN_ENTRY)
}

/**
 * A settled checkpoint holds what it captured: forgets the marks of up to `slotsMax` slots, and tombstones
 * that the store has heard of. Returns true at the end.
 */
export function settleSome(segment: Segment, slotsMax: number): boolean {
  if (!segment.capturedAny) return true
  const to = Math.min(segment.slotCount, segment.settleAt + slotsMax)
  for (let slot = segment.settleAt; slot < to; slot++) {
    const at = slot * META + 3
    const flags = segment.meta[at]
    if ((flags & CAPTURED) === 0) continue
    segment.meta[at] = flags & ~CAPTURED
    // A scan that began before the delete still sees the key in its view of the store.
    if ((flags & TOMBSTONE) !== 0 && (flags & DIRTY) === 0 && segment.scansOpen === 0) segment.free(slot)
  }
  segment.settleAt = to
  if (to < segment.slotCount) return false
  segment.capturedAny = false
  segment.settleAt = 0
  return true
}

/** A checkpoint failed: what it captured, and what it had yet to capture, has changed again. */
export function recapture(segment: Segment): void {
  const { memory } = segment.shared
  if (!segment.capturedAny && segment.cutCount === 0) return
  for (let slot = 0; slot < segment.slotCount; slot++) {
    const at = slot * META + 3
    const flags = segment.meta[at]
    if ((flags & (CAPTURED | memory.cutBit)) === 0) continue
    if ((flags & memory.dirtyBit) === 0) {
      segment.dirtyCount++
      memory.dirty++
    }
    segment.meta[at] = (flags & ~(CAPTURED | memory.cutBit)) | memory.dirtyBit
  }
  segment.capturedAny = false
  segment.settleAt = 0
  segment.cutCount = 0
}

/** What a sweep may write: everything, or nothing while a cut is being encoded. */
export interface SweepLimits {
  /** Null where only entries that the store has already may go. */
  readonly into: WriteBatchBuilder | null
  readonly entriesMax: number
  /** Entries used since the hand last passed get a second chance. */
  readonly isHot: boolean
}

/** Multiplier of a full-period linear congruential generator (Knuth vol. 2, 3.2.1.2). */
const LEAP_FACTOR = 1_664_525
const LEAP_STEP = 1_013_904_223

/**
 * Second chance: picks up to `entriesMax` entries to evict, appends the changed ones to the batch, and
 * returns their slots. The caller writes the batch and then calls `evictAll`.
 *
 * Each call begins somewhere else, unlike a clock: where keys come round in the same order, a hand that goes round
 * takes just those that are needed next, so that a little too little memory is no better than none.
 */
export function pickVictims(segment: Segment, limits: SweepLimits): number[] {
  const victims: number[] = []
  if (segment.scansOpen > 0) return victims
  const { meta } = segment
  const { dirtyBit, cutBit } = segment.shared.memory
  const { into, entriesMax, isHot } = limits
  segment.leap = (Math.imul(segment.leap, LEAP_FACTOR) + LEAP_STEP) >>> 0
  segment.hand = Math.floor((segment.leap / 2 ** 32) * segment.slotCount)
  // Two rounds: the first takes second chances away, the second finds what nobody used since.
  const looksMax = Math.min(segment.slotCount * 2, entriesMax * LOOKS_AN_ENTRY * 2)
  for (let looks = 0; looks < looksMax && victims.length < entriesMax; looks++) {
    if (segment.hand >= segment.slotCount) segment.hand = 0
    const slot = segment.hand++
    const at = slot * META + 3
    const flags = meta[at]
    if ((flags & (LIVE | TOMBSTONE)) === 0 || (flags & cutBit) !== 0) continue
    if (isHot && (flags & TOUCHED) !== 0) {
      meta[at] = flags & ~TOUCHED
      continue
    }
    if ((flags & dirtyBit) !== 0) {
      if (into === null) continue
      segment.appendChange(slot, into)
      segment.settleWritten(slot)
    } else if ((flags & CAPTURED) !== 0) continue
    victims.push(slot)
  }
  return victims
}

/** Forgets the victims, now that the store holds them. */
export function evictAll(segment: Segment, victims: readonly number[]): void {
  // A slot may have been picked twice: the hand goes round twice.
  for (const slot of victims) {
    if ((segment.meta[slot * META + 3] & (LIVE | TOMBSTONE)) !== 0) segment.evict(slot)
  }
  segment.account()
}

/**
 * Appends up to `entriesMax` changed entries, which stay in memory, and returns how many. Tombstones among
 * them are added to `gone`: the caller writes the batch and then frees those.
 */
export function drainSome(segment: Segment, entriesMax: number, into: WriteBatchBuilder, gone: number[]): number {
  const { dirtyBit } = segment.shared.memory
  let drained = 0
  let looks = Math.min(segment.slotCount, entriesMax * LOOKS_AN_ENTRY)
  for (; looks > 0 && drained < entriesMax && segment.dirtyCount > 0; looks--) {
    if (segment.drainAt >= segment.slotCount) segment.drainAt = 0
    const slot = segment.drainAt++
    const flags = segment.meta[slot * META + 3]
    if ((flags & dirtyBit) === 0) continue
    segment.appendChange(slot, into)
    segment.settleWritten(slot)
    if ((flags & TOMBSTONE) !== 0 && segment.scansOpen === 0) gone.push(slot)
    drained++
  }
  return drained
}

/**
 * Encodes a few changed objects, so that the sizes of what no cut has seen are known; lists grow in their place.
 * Large ones are encoded once.
 */
export function measureSome(segment: Segment): void {
  const { dirtyBit } = segment.shared.memory
  let measured = 0
  let bytes = 0
  const looks = Math.min(segment.slotCount, MEASURED_OBJECTS * LOOKS_AN_ENTRY)
  for (let look = 0; look < looks && measured < MEASURED_OBJECTS && bytes < MEASURED_BYTES_TURN; look++) {
    if (segment.measureAt >= segment.slotCount) segment.measureAt = 0
    const slot = segment.measureAt++
    const flags = segment.meta[slot * META + 3]
    if ((flags & dirtyBit) === 0 || (flags & DECODED) === 0 || segment.charges[slot] > MEASURED_BYTES_MAX) continue
    segment.measure(slot)
    measured++
    bytes += segment.charges[slot]
  }
}

/** Puts up to `objectsMax` of the objects that were decoded first back into bytes; returns how many. */
export function undecodeSome(segment: Segment, objectsMax: number): number {
  let done = 0
  while (done < objectsMax && segment.decodedSlots.length > 0) {
    const slot = segment.decodedSlots.shift()
    const at = slot * META + 3
    segment.meta[at] &= ~QUEUED
    if ((segment.meta[at] & DECODED) === 0) continue
    segment.undecode(slot)
    done++
  }
  return done
}

/**
 * Gives up decoded objects, those that were decoded first before others, until `bytesMax` are no longer decoded; what
 * was used since the last look gets a second chance. Objects that came back once become bytes here and are likely to be
 * used again. What never did, as a full piece of a list, goes straight to the store: its slots are added to `gone`, and
 * the changed ones to the batch. The caller writes the batch and then calls `evictAll`. With `into` null none goes.
 */
export function releaseLarge(segment: Segment, bytesMax: number, into: WriteBatchBuilder | null, gone: number[]): void {
  const { meta, decodedSlots } = segment
  const { dirtyBit, cutBit } = segment.shared.memory
  const mayGo = into !== null && segment.scansOpen === 0
  let left = bytesMax
  for (let looks = decodedSlots.length * 2; looks > 0 && left > 0 && decodedSlots.length > 0; looks--) {
    const slot = decodedSlots.shift()
    const at = slot * META + 3
    const flags = meta[at]
    if ((flags & DECODED) !== 0 && (flags & TOUCHED) !== 0) {
      meta[at] = flags & ~TOUCHED
      decodedSlots.push(slot)
      continue
    }
    meta[at] &= ~QUEUED
    if ((flags & DECODED) === 0) continue
    left -= segment.charges[slot]
    if (!mayGo || (flags & (RETURNED | CAPTURED | cutBit)) !== 0) segment.undecode(slot)
    else {
      if ((flags & dirtyBit) !== 0) {
        segment.appendChange(slot, into)
        segment.settleWritten(slot)
      }
      gone.push(slot)
    }
  }
}

/** True when the segment's arrays are mostly empty and large enough to care. */
export function isSparse(segment: Segment): boolean {
  const { slab, slotCount, usedCount } = segment
  if (slotCount > 4_096 && usedCount < slotCount / 4) return true
  return slab.endBytes > 1 << 20 && slab.freeBytes > slab.endBytes / 2
}
