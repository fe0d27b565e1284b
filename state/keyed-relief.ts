/**
 * Keeps the memory of one operator's keyed state within its bounds, a bounded piece of work at a time.
 *
 * Called by keyed-backend.ts between batches. In this order: finish what settled checkpoints left to do, tell the
 * store of dropped windows and cleared keys, write changes down early where too many wait for the next checkpoint, and, when memory
 * nears the budget, put decoded objects back into bytes, which take a fourth of the room, and then evict.
 *
 * Too many changes are those that would keep memory from being relieved: nothing changed is evicted while a cut is
 * encoded, and what changed objects grew is only known once they are encoded. A change of numbers costs no memory, so
 * those are written early only when memory nears the budget.
 *
 * Large decoded objects have a part of the budget. Of those that have to leave it, what came back once becomes bytes in
 * memory, and what was made and then not used again goes straight to the store, so that a list which is only added to
 * does not drive out what is used in turn (2Q: Johnson, Shasha 1994).
 *
 * Eviction takes segments that nothing used lately as a whole, oldest first. In segments in use it gives a second
 * chance to what was used since it last looked, and makes room for as many entries as come in, so that their arrays
 * stay as large as they are. Arrays far larger than what they hold are rebuilt.
 *
 * Invariants:
 * - An entry leaves memory only when the store has it, and never under an open scan.
 * - While a cut is being encoded nothing is written; clean entries may go at any time.
 */
import type { KeyedStore } from '../engine/contract/keyed-store.ts'
import { OBJECT_FACTOR, objectBytes, type SegmentMemory } from './keyed-flags.ts'
import { WriteBatchBuilder } from './keyed-layout.ts'
import type { Segment } from './keyed-segment.ts'
import { drainSome, evictAll, isSparse, pickVictims, releaseLarge, settleSome, undecodeSome } from './keyed-sweeps.ts'
import type { Table } from './keyed-table.ts'

/** `encoding`: a cut is taken and not all of it is encoded; `imaging`: the store makes an image of it. */
export type CheckpointPhase = 'none' | 'encoding' | 'imaging'

export interface ReliefOptions {
  readonly store: KeyedStore
  readonly memoryBudgetBytes: number
  readonly decodedObjectsMax?: number
  readonly dirtyBytesMax?: number
}

/** Objects that stay decoded however little memory there is: as many as a few batches use. */
const DECODED_OBJECTS_MIN = 100_000
/** Larger ones than this, on average, only within a part of the budget, however few. */
const LARGE_OBJECT_BYTES = 1_024
const LARGE_OBJECTS_SHARE = 1 / 2
/** Of them that are released at a time: it is what the batch that is written takes. */
const RELEASED_BYTES = 1 << 20
const DIRTY_BYTES_MAX = 128 << 20
/** Keys and columns of numbers of a row take less than this. */
const ROW_BYTES_MAX = 1_024
/** Slots whose checkpoint marks are cleared a turn. */
const SETTLE_SLOTS = 1 << 15
/** Deletes of dropped windows, and changes, that are written early a turn. */
const DRAIN_ENTRIES = 4_096
/** Cleared keys that the store is told of a turn. */
const CLEARED_KEYS = 64
/** Entries evicted a turn at least, where needed; more when more come in. */
const EVICT_ENTRIES_MIN = 4_096
/** A segment is cold when nothing used it for this many turns. */
const COLD_TURNS = 16
/** Above this part of the budget arrays no longer grow. */
const RELIEF_FROM = 0.9
/** Below this part of its arrays in use, a segment above the budget is rebuilt. */
const REBUILD_BELOW = 0.7
/** Of a segment that is emptied by degrees, what goes at a time at most: below what is left it is rebuilt. */
const SHRINK_SHARE = 1 / 3

export class KeyedRelief {
  private readonly tables: ReadonlyMap<string, Table>
  private readonly memory: SegmentMemory
  private readonly store: KeyedStore
  private readonly budgetBytes: number
  private readonly decodedMax: number
  private readonly decodedMin: number
  private decodedBefore = 0
  private readonly dirtyBytesMax: number
  private readonly batch = new WriteBatchBuilder()

  constructor(tables: ReadonlyMap<string, Table>, memory: SegmentMemory, options: ReliefOptions) {
    this.tables = tables
    this.memory = memory
    this.store = options.store
    this.budgetBytes = options.memoryBudgetBytes
    this.decodedMax = options.decodedObjectsMax ?? Number.POSITIVE_INFINITY
    this.decodedMin = Math.min(this.decodedMax, DECODED_OBJECTS_MIN)
    this.dirtyBytesMax = Math.min(options.dirtyBytesMax ?? DIRTY_BYTES_MAX, options.memoryBudgetBytes)
  }

  memoryBytes(): number {
    return this.memory.arrayBytes + objectBytes(this.memory.decoded, this.memory.decodedBytes)
  }

  run(phase: CheckpointPhase): void {
    this.memory.turn++
    const inserted = this.memory.inserted
    this.memory.inserted = 0
    for (const table of this.tables.values()) table.measure()
    if (phase === 'none') this.settle()
    if (this.memory.decoded > this.decodedMax) this.undecode(this.memory.decoded - this.decodedMax)
    if (phase !== 'encoding') {
      this.drainDeletions(phase)
      const dirtyBytes = this.dirtyBytes()
      if (dirtyBytes > this.dirtyBytesMax) this.drainChanges(phase, dirtyBytes)
    }
    if (this.isPressed()) this.relieve(phase, inserted)
    this.decodedBefore = this.memory.decoded
  }

  private relieve(phase: CheckpointPhase, inserted: number): void {
    const excess = this.memory.decoded - this.decodedMin
    if (excess > 0) {
      const added = Math.max(0, this.memory.decoded - this.decodedBefore)
      this.undecode(Math.min(excess, added + EVICT_ENTRIES_MIN))
      // While that helps, what is in memory may stay there.
      if (this.memoryBytes() <= this.budgetBytes) return
    }
    this.releaseLarge(phase)
    this.evict(phase, inserted)
  }

  private *segments(): Generator<Segment> {
    for (const table of this.tables.values()) yield* table.segments.values()
  }

  private settle(): void {
    for (const segment of this.segments()) if (!settleSome(segment, SETTLE_SLOTS)) return
  }

  private isPressed(): boolean {
    return this.memoryBytes() > this.budgetBytes * RELIEF_FROM
  }

  /** Tables whose changes may be too many. */
  private drained(): Table[] {
    const isPressed = this.isPressed()
    return [...this.tables.values()].filter((table) => isPressed || table.shared.layout.kind === 'object')
  }

  /** Bytes that the next cut would copy of them. */
  private dirtyBytes(): number {
    let rowBytes = ROW_BYTES_MAX
    for (const { shared } of this.tables.values())
      rowBytes = Math.max(rowBytes, ROW_BYTES_MAX + shared.encoded.bytesMean)
    // Most turns need no look at the segments.
    if (this.memory.dirty * rowBytes < this.dirtyBytesMax) return 0
    let bytes = 0
    for (const { segments } of this.drained()) for (const segment of segments.values()) bytes += segment.dirtyBytes()
    return bytes
  }

  private releaseLarge(phase: CheckpointPhase): void {
    const { memory } = this
    if (memory.decodedBytes < memory.decoded * LARGE_OBJECT_BYTES) return
    const bytesTo = (this.budgetBytes * LARGE_OBJECTS_SHARE) / OBJECT_FACTOR
    for (const table of this.tables.values()) {
      for (const segment of table.segments.values()) {
        while (memory.decodedBytes > bytesTo && segment.decodedBytes > segment.decodedCount * LARGE_OBJECT_BYTES) {
          const before = memory.decodedBytes
          const gone: number[] = []
          const into = this.mayWrite(table, segment, phase) ? this.batch : null
          releaseLarge(segment, Math.min(memory.decodedBytes - bytesTo, RELEASED_BYTES), into, gone)
          this.write()
          evictAll(segment, gone)
          if (memory.decodedBytes >= before) break
        }
      }
    }
  }

  private undecode(objectsMax: number): void {
    let left = objectsMax
    for (const table of this.tables.values()) {
      if (table.shared.layout.kind !== 'object') continue
      const segments = [...table.segments.values()].filter((segment) => segment.decodedCount > 0)
      segments.sort((a, b) => a.lastUsedTurn - b.lastUsedTurn)
      for (const segment of segments) {
        if (left <= 0) return
        left -= undecodeSome(segment, left)
      }
    }
  }

  private drainDeletions(phase: CheckpointPhase): void {
    let left = DRAIN_ENTRIES
    for (const table of this.tables.values()) {
      if (!table.deletionsWait) continue
      // A running checkpoint makes the store keep ranges aside, of which it can only keep a few.
      if (table.rangesWait && phase === 'imaging') continue
      table.deleteRanges()
      this.batch.clear()
      table.deleteCleared(CLEARED_KEYS, this.batch)
      table.captureDeletions(this.batch, left, false)
      left -= this.batch.count
      this.write()
      if (left <= 0) return
    }
  }

  private write(): void {
    if (this.batch.count > 0) this.store.write(this.batch.batch())
    this.batch.clear()
  }

  /** True when entries of the segment may be written now. */
  private mayWrite(table: Table, segment: Segment, phase: CheckpointPhase): boolean {
    return phase !== 'encoding' && !table.deletionsWait && !table.isDeleting(segment.namespace)
  }

  private drainChanges(phase: CheckpointPhase, dirtyBytes: number): void {
    let left = dirtyBytes > this.dirtyBytesMax * 1.1 ? DRAIN_ENTRIES * 4 : DRAIN_ENTRIES
    for (const table of this.drained()) {
      const segments = [...table.segments.values()].filter((segment) => segment.dirtyCount > 0)
      segments.sort((a, b) => a.lastUsedTurn - b.lastUsedTurn || b.dirtyCount - a.dirtyCount)
      for (const segment of segments) {
        if (left <= 0) return
        if (!this.mayWrite(table, segment, phase)) continue
        const gone: number[] = []
        left -= drainSome(segment, left, this.batch, gone)
        this.write()
        for (const slot of gone) segment.free(slot)
      }
    }
  }

  private evict(phase: CheckpointPhase, inserted: number): void {
    const { turn } = this.memory
    const candidates: { table: Table; segment: Segment }[] = []
    for (const table of this.tables.values()) {
      for (const segment of table.segments.values()) {
        if (segment.usedCount > 0 && segment.scansOpen === 0) candidates.push({ table, segment })
      }
    }
    candidates.sort(
      (a, b) => a.segment.lastUsedTurn - b.segment.lastUsedTurn || b.segment.memoryBytes() - a.segment.memoryBytes(),
    )
    let quota = Math.max(EVICT_ENTRIES_MIN, 2 * inserted)
    for (const { table, segment } of candidates) {
      if (quota <= 0 || !this.isPressed()) return
      const isHot = segment.lastUsedTurn >= turn - COLD_TURNS
      const wanted = isHot ? Math.min(quota, this.roomWanted(segment, inserted)) : quota
      quota -= this.evictFrom(table, segment, phase, wanted, isHot)
      if (segment.usedCount === 0 || isSparse(segment)) segment.rebuild()
    }
    if (this.memoryBytes() > this.budgetBytes) this.shrink(candidates, phase, quota)
  }

  /** Entries to evict from a segment in use, so that what comes in finds room in its arrays. */
  private roomWanted(segment: Segment, inserted: number): number {
    if (segment.lastInsertTurn < this.memory.turn - COLD_TURNS) return 0
    const ahead = Math.min(EVICT_ENTRIES_MIN / 4, segment.usedCount >>> 4)
    return Math.max(0, 2 * inserted + ahead - (segment.slotCount - segment.usedCount))
  }

  private evictFrom(
    table: Table,
    segment: Segment,
    phase: CheckpointPhase,
    entriesMax: number,
    isHot: boolean,
  ): number {
    if (entriesMax <= 0) return 0
    const into = this.mayWrite(table, segment, phase) ? this.batch : null
    const victims = pickVictims(segment, { into, entriesMax, isHot })
    this.write()
    evictAll(segment, victims)
    return victims.length
  }

  /** Everything is in use and still too large: the largest segment is emptied by degrees and rebuilt smaller. */
  private shrink(candidates: { table: Table; segment: Segment }[], phase: CheckpointPhase, quota: number): void {
    let largest: { table: Table; segment: Segment } | null = null
    for (const candidate of candidates) {
      if (candidate.segment.usedCount === 0) continue
      if (largest === null || candidate.segment.memoryBytes() > largest.segment.memoryBytes()) largest = candidate
    }
    if (largest === null) return
    const { table, segment } = largest
    // Entries may be large, and so few that all of them together are less than a turn's.
    const share = Math.ceil(segment.usedCount * SHRINK_SHARE)
    this.evictFrom(table, segment, phase, Math.min(Math.max(quota, EVICT_ENTRIES_MIN), share), true)
    if (segment.usedCount < segment.slotCount * REBUILD_BELOW) segment.rebuild()
  }
}
