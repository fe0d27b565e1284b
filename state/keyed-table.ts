/**
 * One declared table: its segments by namespace, and the dropped ones the store has yet to hear of.
 *
 * Made by keyed-backend.ts; operators see it as `StateTable`. Invariants:
 * - A namespace whose deletion the store has not heard of is recreated as a complete segment, so stale
 *   stored entries are never read.
 * - Deletions are kept until a write or a settled checkpoint carried them, and come before any change of a
 *   segment that succeeded the dropped one.
 * - A segment dropped while entries of it wait to be encoded for a cut is kept whole until they are.
 */
import type { StateSegment, StateTable, StateTableSize, TableDeclaration } from '../engine/contract/keyed-state.ts'
import { assert } from '../engine/core/assert.ts'
import { eachOfFew } from './keyed-key-scan.ts'
import { keyPrefix, prefixEnd, setKeyGroup, type WriteBatchBuilder } from './keyed-layout.ts'
import { Segment } from './keyed-segment.ts'
import type { SegmentShared } from './keyed-slots.ts'
import { captureSome, measureSome, recapture, settleSome } from './keyed-sweeps.ts'

/** From this many entries a key group on, ranges are deleted instead of keys. */
const RANGE_ENTRIES_MIN = 1_024

export class Table implements StateTable {
  readonly declaration: TableDeclaration
  readonly shared: SegmentShared
  readonly segments = new Map<number, Segment>()
  /** Dropped segments whose keys the store may hold. */
  private dropped: Segment[] = []
  /** Slots of the first of them whose deletes were written already. */
  private droppedAt = 0
  /** Dropped segments in the cut of a checkpoint that is not settled. */
  private droppedCaptured: Segment[] = []
  /** Dropped segments with entries that an open cut still needs. */
  private leaving: Segment[] = []
  /** Namespaces to delete whole, because not all their keys are known. */
  private ranges: number[] = []
  /** The segment used last: most tables are asked for one namespace again and again. */
  private recent: Segment | null = null
  /** Bytes that the last settled checkpoint took; null before the first. */
  private checkpointBytes: number | null = null

  constructor(declaration: TableDeclaration, shared: SegmentShared) {
    this.declaration = declaration
    this.shared = shared
  }

  segment(namespace: number): StateSegment {
    if (this.recent !== null && this.recent.namespace === namespace) return this.recent
    return this.segmentOf(namespace, true)
  }

  /** The segment of a namespace, created as complete or not when absent. */
  segmentOf(namespace: number, complete: boolean): Segment {
    assert(!Number.isNaN(namespace), 'a namespace is a number')
    let segment = this.segments.get(namespace)
    if (segment === undefined) {
      segment = new Segment(namespace, this.shared, complete)
      this.segments.set(namespace, segment)
    }
    this.recent = segment
    return segment
  }

  /** How large it is now. Walks over its segments, not over entries. */
  size(): StateTableSize {
    let memoryBytes = 0
    let live = 0
    let cold = 0
    let liveBytes = 0
    let isKnown = true
    let isEncoded = true
    for (const segment of this.segments.values()) {
      memoryBytes += segment.memoryBytes()
      live += segment.liveCount
      cold += segment.coldCount
      liveBytes += segment.liveCount * segment.rowBytesMean()
      if (segment.isUnknown || segment.isUncounted) isKnown = false
      // Decoded objects may never have been encoded: the bytes at hand say nothing of them.
      if (segment.decodedCount > 0) isEncoded = false
    }
    // Entries that are in the store alone are taken to be as large as the others.
    const storedBytes = live > 0 ? liveBytes * ((live + cold) / live) : cold > 0 ? null : 0
    return {
      name: this.declaration.name,
      memoryBytes: Math.round(memoryBytes),
      entries: isKnown ? live + cold : null,
      storedBytes: isKnown && isEncoded && storedBytes !== null ? Math.round(storedBytes) : null,
      checkpointBytes: this.checkpointBytes,
    }
  }

  existing(namespace: number): StateSegment | null {
    return this.segments.get(namespace) ?? null
  }

  namespaces(): number[] {
    return [...this.segments.keys()].sort((a, b) => a - b)
  }

  drop(namespace: number): void {
    const segment = this.segments.get(namespace)
    if (segment === undefined) return
    this.segments.delete(namespace)
    if (this.recent === segment) this.recent = null
    if (segment.cutCount > 0) {
      // What the cut has yet to encode is in the store only after it: delete it then.
      segment.persistedAny = true
      this.leaving.push(segment)
    } else this.forget(segment)
  }

  /** Deletes all segments. The one without a namespace stays, with the memory it has, when it is small. */
  clear(): void {
    for (const segment of this.segments.values()) {
      if (segment.namespace !== 0 || !segment.empty()) this.drop(segment.namespace)
    }
  }

  private forget(segment: Segment): void {
    const { from, to } = this.shared.keyGroups
    if (
      !segment.complete ||
      segment.cleared !== null ||
      (segment.persistedAny && segment.usedCount > (to - from) * RANGE_ENTRIES_MIN)
    ) {
      this.ranges.push(segment.namespace)
      segment.dispose()
    } else if (segment.persistedAny) {
      segment.release()
      this.dropped.push(segment)
    } else {
      segment.dispose()
    }
  }

  /** Learns how large changed objects are, if the last turn used any; those of the segment used last stand for all. */
  measure(): void {
    const { recent } = this
    if (!recent?.isObjects || recent.dirtyCount === 0 || recent.lastUsedTurn < this.shared.memory.turn - 1) return
    measureSome(recent)
  }

  /** All that is dirty becomes part of the open cut. */
  beginCut(into: WriteBatchBuilder): void {
    this.shared.cut.bytes = 0
    this.deleteRanges()
    this.deleteCleared(Number.POSITIVE_INFINITY, null)
    while (!this.captureDeletions(into, Number.POSITIVE_INFINITY, true)) {
      // Each call takes one dropped segment.
    }
    for (const segment of this.segments.values()) {
      while (!settleSome(segment, Number.POSITIVE_INFINITY)) {
        // What the last checkpoint left to do.
      }
      segment.cutCount = segment.dirtyCount
      segment.dirtyCount = 0
      segment.cutAt = 0
    }
  }

  /** Encodes entries of the open cut; returns what is left of the budget. */
  captureSome(entriesMax: number): number {
    let left = entriesMax
    while (this.leaving.length > 0 && left > 0) {
      const segment = this.leaving[0]!
      left = captureSome(segment, left)
      if (segment.cutCount > 0) return 0
      this.leaving.shift()
      this.forget(segment)
    }
    for (const segment of this.segments.values()) {
      if (left <= 0) return 0
      if (segment.cutCount > 0) left = captureSome(segment, left)
    }
    return left
  }

  /** True when nothing of the open cut is left to encode. */
  get isCaptured(): boolean {
    if (this.leaving.length > 0) return false
    for (const segment of this.segments.values()) if (segment.cutCount > 0) return false
    return true
  }

  /**
   * Appends deletes of dropped segments for up to `slotsMax` slots; returns true when none is left. Comes
   * before the changes of segments, which may put the same keys again.
   */
  captureDeletions(into: WriteBatchBuilder, slotsMax: number, isCut: boolean): boolean {
    const segment = this.dropped[0]
    if (segment === undefined) return true
    const successors = this.dropped.slice(1).filter((later) => later.namespace === segment.namespace)
    const current = this.segments.get(segment.namespace)
    if (current !== undefined) successors.push(current)
    const to = Math.min(segment.slotCount, this.droppedAt + slotsMax)
    const before = into.byteLength
    segment.captureDeletes(into, successors, this.droppedAt, to)
    if (isCut) this.shared.cut.bytes += into.byteLength - before
    this.droppedAt = to
    if (to < segment.slotCount) return false
    this.droppedAt = 0
    this.dropped.shift()
    if (isCut) this.droppedCaptured.push(segment)
    else segment.dispose()
    return this.dropped.length === 0
  }

  /** True while the store has not heard of all deletions. */
  get deletionsWait(): boolean {
    return this.dropped.length > 0 || this.rangesWait
  }

  /** True while a checkpoint that is not settled deletes entries of this namespace: written ones would be deleted again if it failed. */
  isDeleting(namespace: number): boolean {
    return this.droppedCaptured.some((segment) => segment.namespace === namespace)
  }

  /** True while whole namespaces, or all entries of a key, wait to be deleted. */
  get rangesWait(): boolean {
    return this.ranges.length > 0 || this.shared.clears.segments > 0
  }

  /** Deletes whole namespaces in the store. */
  deleteRanges(): void {
    for (const namespace of this.ranges) {
      const prefix = keyPrefix(this.shared.operatorId, this.shared.stateId, namespace)
      for (let group = this.shared.keyGroups.from; group < this.shared.keyGroups.to; group++) {
        setKeyGroup(prefix, group)
        const end = prefixEnd(prefix)
        assert(end !== null, 'a namespace has a successor')
        this.shared.store.deleteRange(prefix, end)
      }
    }
    this.ranges = []
  }

  /**
   * Deletes what the store has of cleared keys, of up to `keysMax` of them: where that is little, one by one by deletes
   * that `into` takes; by a range where it is much, or `into` is null.
   */
  deleteCleared(keysMax: number, into: WriteBatchBuilder | null): void {
    let left = keysMax
    for (const segment of this.segments.values()) {
      if (this.shared.clears.segments === 0) return
      for (; segment.cleared !== null && left > 0; left--) {
        const prefix = segment.takeCleared()
        const end = prefix === null ? null : prefixEnd(prefix)
        assert(prefix !== null && end !== null, 'a cleared key has a successor')
        if (into !== null && deleteFew(segment, prefix, into)) continue
        segment.isUncounted = true
        this.shared.store.deleteRange(prefix, end)
      }
    }
  }

  /** The checkpoint's fate is known. Marks of a successful one are cleared by later sweeps. */
  settle(succeeded: boolean): void {
    if (succeeded) {
      this.checkpointBytes = this.shared.cut.bytes
      for (const segment of this.droppedCaptured) segment.dispose()
    } else {
      this.dropped = [...this.droppedCaptured, ...this.dropped]
      this.droppedAt = 0
      for (const segment of this.segments.values()) recapture(segment)
    }
    this.droppedCaptured = []
    for (const segment of this.leaving) {
      segment.cutCount = 0
      this.forget(segment)
    }
    this.leaving = []
  }
}

/** Appends deletes of a cleared key's entries in the store; false when there are many. */
function deleteFew(segment: Segment, storePrefix: Uint8Array, into: WriteBatchBuilder): boolean {
  return eachOfFew(segment, storePrefix, (_hash, { bytes, offsets }, row) => {
    into.keys.add(bytes, offsets[row], offsets[row + 1])
    into.endDelete()
    segment.coldCount--
  })
}
