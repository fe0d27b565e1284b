/**
 * Keyed state of one operator subtask: tables whose working set lies in memory, backed by a store.
 *
 * Made by the runtime for each keyed subtask, over the one store of its worker:
 *   1. `restore()` once, before the operator's `open`, when the store was restored;
 *   2. `captureDirty(batch)` at a barrier, which is the synchronous cut; then, once the store's
 *      `writeAndCheckpoint` settled, `checkpointSettled()` or `checkpointFailed()`;
 *   3. `maybeEvict()` between batches of work.
 *
 * Invariants:
 * - Between a cut and its settlement nothing is written to the store, so its image is the cut.
 * - What a failed checkpoint captured is captured again by the next one.
 * - Only the key groups of `keyGroups` are read, written or deleted.
 */
import type {
  KeyedState,
  KeyGroupRange,
  StateTable,
  TableDeclaration,
  ValueLayout,
} from '../engine/contract/keyed-state.ts'
import type { KeyedStore } from '../engine/contract/keyed-store.ts'
import type { OperatorCounters } from '../engine/contract/operator.ts'
import { assert } from '../engine/core/assert.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { WriteBatchBuilder } from './keyed-layout.ts'
import { loadEverything, namespacesInStore, type RestoredRows } from './keyed-restore.ts'
import { objectBytes, type Segment, type SegmentMemory, type SegmentShared } from './keyed-segment.ts'
import { Sweeper } from './keyed-sweep.ts'
import { Table } from './keyed-table.ts'

/** What the manifest keeps of a table: enough to find it again and to refuse another shape. */
export interface StateDeclaration {
  readonly id: number
  readonly name: string
  readonly version: number
  readonly layout: string
}

/** What the layout text of a table of composite keys begins with. */
export const COMPOSITE = 'entries '

export interface KeyedBackendOptions {
  /** 0 <= operatorId < 65,536: the operator's number in this store's keys. */
  readonly operatorId: number
  readonly keyGroups: KeyGroupRange
  readonly store: KeyedStore
  /** Bytes the working set may take before cold parts are evicted. */
  readonly memoryBudgetBytes: number
  readonly counters: OperatorCounters
  /** `declarations()` of the job that wrote the restored data; empty on a fresh start. */
  readonly restored?: readonly StateDeclaration[]
}

/** Stable text of a table's values; equal texts mean that stored entries can be read. */
function describeTable({ layout, composite }: TableDeclaration): string {
  const values = describeLayout(layout)
  return composite === true ? `${COMPOSITE}${values}` : values
}

function describeLayout(layout: ValueLayout): string {
  return layout.kind === 'doubles' ? `doubles(${layout.initial.length})` : layout.codec.description
}

export class KeyedBackend implements KeyedState {
  readonly keyGroups: KeyGroupRange
  private readonly options: KeyedBackendOptions
  private readonly tables = new Map<string, Table>()
  private readonly sweepers: Sweeper[] = []
  private readonly known = new Map<string, StateDeclaration>()
  private readonly memory: SegmentMemory = { arrayBytes: 0, objects: 0, objectBytesMean: 64, turn: 0 }
  private readonly flushBatch = new WriteBatchBuilder()
  /** Rows read by `restore` that wait for their table's declaration, by state id. */
  private restoredRows: Map<number, RestoredRows> | null = null
  /** By state id, where `restore` found too much to load. */
  private restoredNamespaces: Map<number, Set<number>> | null = null
  private nextStateId = 0
  private checkpointing = false

  constructor(options: KeyedBackendOptions) {
    this.options = options
    this.keyGroups = options.keyGroups
    for (const declaration of options.restored ?? []) {
      this.known.set(declaration.name, declaration)
      this.nextStateId = Math.max(this.nextStateId, declaration.id + 1)
    }
  }

  /**
   * Reads what the restored store holds for this subtask: all of it when that fits half the budget,
   * else only which namespaces there are. Call before the first `table`.
   */
  restore(): void {
    assert(this.tables.size === 0, 'restore comes before the first table')
    const { operatorId, keyGroups, store, memoryBudgetBytes } = this.options
    this.restoredRows = loadEverything(store, operatorId, keyGroups, memoryBudgetBytes / 2)
    if (this.restoredRows === null) this.restoredNamespaces = namespacesInStore(store, operatorId, keyGroups)
  }

  /** Throws `STATE_DECLARED_TWICE`, or `STATE_INCOMPATIBLE` when restored values have another shape. */
  table(declaration: TableDeclaration): StateTable {
    if (this.tables.has(declaration.name)) {
      throw new MillraceError('STATE_DECLARED_TWICE', `State ${JSON.stringify(declaration.name)} is declared twice.`, {
        hint: 'Give each state of an operator its own name.',
      })
    }
    const known = this.resolve(declaration)
    const { operatorId, keyGroups, store, counters } = this.options
    const shared: SegmentShared = {
      operatorId,
      stateId: known.id,
      tableName: declaration.name,
      layout: declaration.layout,
      keyGroups,
      store,
      counters,
      memory: this.memory,
      composite: declaration.composite ?? false,
      isExpired: declaration.isExpired ?? null,
    }
    assert(declaration.layout.kind === 'object' || (!shared.composite && shared.isExpired === null), 'objects only')
    const table = new Table(declaration, shared)
    this.tables.set(declaration.name, table)
    if (shared.isExpired !== null) this.sweepers.push(new Sweeper(table))
    this.restoredRows?.get(known.id)?.loadInto(table)
    this.restoredRows?.delete(known.id)
    for (const namespace of this.restoredNamespaces?.get(known.id) ?? []) table.segmentOf(namespace, false)
    return table
  }

  private resolve(declaration: TableDeclaration): StateDeclaration {
    const { name, version } = declaration
    const layout = describeTable(declaration)
    const known = this.known.get(name)
    if (known === undefined) {
      const added = { id: this.nextStateId++, name, version, layout }
      this.known.set(name, added)
      return added
    }
    if (known.version !== version || known.layout !== layout) {
      throw new MillraceError(
        'STATE_INCOMPATIBLE',
        `State ${JSON.stringify(name)} was saved as version ${known.version} ${known.layout}, but is declared as version ${version} ${layout}.`,
        { hint: 'Keep the shape of the value, or give the changed state a new name.' },
      )
    }
    return known
  }

  /** Every table that this job or the restored one declared, for the manifest. */
  declarations(): StateDeclaration[] {
    return [...this.known.values()].sort((a, b) => a.id - b.id)
  }

  /** Appends all changes since the last cut: the synchronous part of a checkpoint. */
  captureDirty(into: WriteBatchBuilder): void {
    assert(!this.checkpointing, 'the last checkpoint is settled before the next cut')
    this.forgetRestoredRows()
    this.checkpointing = true
    for (const table of this.tables.values()) {
      table.captureDeletions(into, true)
      for (const segment of table.segments.values()) segment.captureChanges(into, true)
    }
  }

  /** Rows of tables that nobody declared so far stay in the store; a late declaration reads them there. */
  private forgetRestoredRows(): void {
    if (this.restoredRows === null) return
    this.restoredNamespaces = new Map([...this.restoredRows].map(([id, rows]) => [id, rows.namespaceSet()]))
    this.restoredRows = null
  }

  /** The store holds what the last cut captured. */
  checkpointSettled(): void {
    this.settle(true)
  }

  /** The last cut may or may not be in the store: all of it is captured again. */
  checkpointFailed(): void {
    this.settle(false)
  }

  private settle(succeeded: boolean): void {
    assert(this.checkpointing, 'a checkpoint is open')
    this.checkpointing = false
    for (const table of this.tables.values()) table.settle(succeeded)
  }

  /** Bytes of the working set; objects are estimated from the size of their encoding. */
  memoryBytes(): number {
    return this.memory.arrayBytes + this.memory.objects * objectBytes(this.memory)
  }

  /**
   * Between batches of work: a step of removing what has expired, and when memory is above the budget, changes of
   * the coldest segments are written and these are forgotten.
   */
  maybeEvict(): void {
    this.memory.turn++
    for (const sweeper of this.sweepers) sweeper.step()
    if (this.checkpointing || this.memoryBytes() <= this.options.memoryBudgetBytes) return
    const candidates: Segment[] = []
    for (const table of this.tables.values()) {
      for (const segment of table.segments.values()) {
        if (segment.liveCount > 0 && segment.scansOpen === 0) candidates.push(segment)
      }
    }
    candidates.sort((a, b) => a.lastUsedTurn - b.lastUsedTurn)
    const toFree = this.memoryBytes() - this.options.memoryBudgetBytes * 0.75
    const victims: Segment[] = []
    let freed = 0
    for (const segment of candidates) {
      if (freed >= toFree) break
      freed += segment.memoryBytes()
      victims.push(segment)
    }
    const deletionsWait = [...this.tables.values()].some((table) => table.deletionsWait)
    if (victims.length > 0 || deletionsWait) this.evict(victims)
  }

  private evict(victims: readonly Segment[]): void {
    const batch = this.flushBatch
    batch.clear()
    for (const table of this.tables.values()) table.captureDeletions(batch, false)
    for (const segment of victims) segment.captureChanges(batch, false)
    if (batch.count > 0) this.options.store.write(batch.batch())
    for (const segment of victims) {
      segment.written()
      segment.evict()
    }
  }
}
