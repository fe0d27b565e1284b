/**
 * Keyed state of one operator subtask: tables whose working set lies in memory, backed by a store.
 *
 * Made by the runtime for each keyed subtask, over the one store of its worker:
 *   1. `restore()` once, before the operator's `open`, when the store was restored;
 *   2. `beginCut(batch)` at a barrier, which costs nothing an entry; `captureMore` until it returns true, in
 *      pieces between other work; `imagingStarted()` once the store has been given the batch; and at the
 *      end `checkpointSettled()` or `checkpointFailed()`. `captureDirty(batch)` is the first two in one;
 *   3. `maybeEvict()` between batches of work: it keeps memory, decoded objects and changes that the store
 *      has not heard of within their bounds (keyed-relief.ts).
 *
 * Invariants:
 * - An entry of the cut that operators use before it is encoded is encoded first: the cut is the state as
 *   `beginCut` found it.
 * - From the cut until the store has the batch nothing of this subtask is written but the cut itself; what is written
 *   between then and the settlement is not in the image (keyed-store.ts).
 * - What a failed checkpoint captured is captured again by the next one.
 * - Only the key groups of `keyGroups` are read, written or deleted.
 */
import type {
  KeyedState,
  KeyGroupRange,
  StateTable,
  StateTableSize,
  TableDeclaration,
  ValueLayout,
} from '../engine/contract/keyed-state.ts'
import type { KeyedStore } from '../engine/contract/keyed-store.ts'
import type { OperatorCounters } from '../engine/contract/operator.ts'
import { assert } from '../engine/core/assert.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { newSegmentMemory, swapEpoch } from './keyed-flags.ts'
import type { WriteBatchBuilder } from './keyed-layout.ts'
import { type CheckpointPhase, KeyedRelief } from './keyed-relief.ts'
import { loadEverything, namespacesInStore, type RestoredRows, rewriteTable } from './keyed-restore.ts'
import type { SegmentShared } from './keyed-slots.ts'
import { Sweeper } from './keyed-sweep.ts'
import { Table } from './keyed-table.ts'
import { planMigration, type Transcode, versionOf } from './state-migration.ts'

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
  /** Objects of users kept decoded between batches; by default as many as the memory budget has room for. */
  readonly decodedObjectsMax?: number
  /**
   * Bytes of changes kept for the next checkpoint before they are written early, of objects, or where memory is short;
   * 128 MiB by default.
   */
  readonly dirtyBytesMax?: number
  /** Stored entries of a key that clearing it reads, so that the store can delete them one by one; 256 by default. */
  readonly clearedEntriesMax?: number
  readonly counters: OperatorCounters
  /** Bytes of the files that the store was restored from, of all operators together; 0 when not known. */
  readonly restoredBytes?: number
  /** `declarations()` of the job that wrote the restored data; empty on a fresh start. */
  readonly restored?: readonly StateDeclaration[]
}

/** What an object takes when encoded, before any was. */
const OBJECT_BYTES_GUESS = 64
/** Fewer are deleted one by one: ranges that are deleted slow down every read of the store until they are compacted. */
const CLEARED_ENTRIES_MAX = 256
/** What a filter of cold keys may take of the budget. */
const COLD_KEYS_SHARE = 1 / 8
/** What restored rows may take of the budget as they are in the store: tables need a few times that. */
const RESTORE_SHARE = 1 / 4
/** Read before rows of a large store are left where they are. */
const PROBE_BYTES = 2 << 20

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
  private readonly memory = newSegmentMemory()
  private readonly relief: KeyedRelief
  /** Rows read by `restore` that wait for their table's declaration, by state id. */
  private restoredRows: Map<number, RestoredRows> | null = null
  /** By state id, where `restore` found too much to load. */
  private restoredNamespaces: Map<number, Set<number>> | null = null
  private nextStateId = 0
  private phase: CheckpointPhase = 'none'

  constructor(options: KeyedBackendOptions) {
    this.options = options
    this.keyGroups = options.keyGroups
    this.relief = new KeyedRelief(this.tables, this.memory, options)
    for (const declaration of options.restored ?? []) {
      this.known.set(declaration.name, declaration)
      this.nextStateId = Math.max(this.nextStateId, declaration.id + 1)
    }
  }

  /**
   * Reads what the restored store holds for this subtask: all of it when that is far below the budget,
   * else only which namespaces there are. Call before the first `table`.
   */
  restore(): void {
    assert(this.tables.size === 0, 'restore comes before the first table')
    const { operatorId, keyGroups, store, memoryBudgetBytes, restoredBytes = 0 } = this.options
    const share = memoryBudgetBytes * RESTORE_SHARE
    // Most likely it does not fit: then the time until the first record counts for more than this operator's being
    // the small one of the store.
    const bytesMax = restoredBytes > share ? Math.min(share, PROBE_BYTES) : share
    this.restoredRows = loadEverything(store, operatorId, keyGroups, bytesMax)
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
    const { operatorId, keyGroups, store, counters, memoryBudgetBytes } = this.options
    const shared: SegmentShared = {
      operatorId,
      stateId: known.id,
      tableName: declaration.name,
      layout: declaration.layout,
      keyGroups,
      store,
      counters,
      memory: this.memory,
      memoryBudgetBytes,
      coldKeysBytesMax: memoryBudgetBytes * COLD_KEYS_SHARE,
      composite: declaration.composite ?? false,
      isExpired: declaration.isExpired ?? null,
      cut: { bytes: 0 },
      clears: { segments: 0 },
      clearedEntriesMax: this.options.clearedEntriesMax ?? CLEARED_ENTRIES_MAX,
      encoded: { bytesMean: OBJECT_BYTES_GUESS, objects: 0 },
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
    const { name } = declaration
    const version = versionOf(declaration)
    const layout = describeTable(declaration)
    const known = this.known.get(name)
    if (known === undefined) {
      const added = { id: this.nextStateId++, name, version, layout }
      this.known.set(name, added)
      return added
    }
    const transcode = planMigration(known, declaration, layout)
    if (transcode !== null) this.migrate(known.id, transcode)
    const declared = { ...known, version, layout }
    this.known.set(name, declared)
    return declared
  }

  /** Rewrites what is stored of a table; the store belongs to this run alone, so nothing is half done. */
  private migrate(stateId: number, transcode: Transcode): void {
    const rows = rewriteTable(this.options, stateId, transcode, this.restoredRows !== null)
    if (rows !== null) this.restoredRows?.set(stateId, rows)
  }

  /** Every table that this job or the restored one declared, for the manifest. */
  declarations(): StateDeclaration[] {
    return [...this.known.values()].sort((a, b) => a.id - b.id)
  }

  /** The synchronous cut, with everything encoded at once. */
  captureDirty(into: WriteBatchBuilder): void {
    this.beginCut(into)
    while (!this.captureMore(Number.MAX_SAFE_INTEGER)) {
      // One call encodes at most what it was asked for.
    }
  }

  /** All changes since the last cut belong to the open one from now on; `into` takes them as they are encoded. */
  beginCut(into: WriteBatchBuilder): void {
    assert(this.phase === 'none', 'the last checkpoint is settled before the next cut')
    this.forgetRestoredRows()
    this.phase = 'encoding'
    this.memory.isCheckpointing = true
    for (const table of this.tables.values()) table.beginCut(into)
    swapEpoch(this.memory, into)
  }

  /** Encodes up to about `entriesMax` entries of the open cut; true when none is left. */
  captureMore(entriesMax: number): boolean {
    let left = entriesMax
    for (const table of this.tables.values()) {
      if (left > 0) left = table.captureSome(left)
      if (!table.isCaptured) return false
    }
    return true
  }

  /** The store was given the batch: what is written from now on is not in the image. */
  imagingStarted(): void {
    assert(this.phase === 'encoding' && this.captureMore(0), 'the whole cut is encoded before its image')
    this.phase = 'imaging'
    this.memory.cutBit = 0
    this.memory.cutInto = null
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
    assert(this.phase !== 'none', 'a checkpoint is open')
    for (const table of this.tables.values()) table.settle(succeeded)
    this.phase = 'none'
    this.memory.isCheckpointing = false
    this.memory.cutBit = 0
    this.memory.cutInto = null
  }

  /** Forgets every entry: batch execution does with one key after the other. */
  clear(): void {
    for (const table of this.tables.values()) table.clear()
  }

  /** True when the working set is larger than its budget, which it is only while nothing may be evicted. */
  get isOverBudget(): boolean {
    return this.relief.memoryBytes() > this.options.memoryBudgetBytes
  }

  /** Bytes of the working set; decoded objects are estimated from the size of their encoding. */
  memoryBytes(): number {
    return Math.round(this.relief.memoryBytes())
  }

  /** Sizes of the tables, in the order of their declaration. */
  tableSizes(): StateTableSize[] {
    return Array.from(this.tables.values(), (table) => table.size())
  }

  /** Called between batches: bounded pieces of removing what has expired and of keeping memory within its bounds. */
  maybeEvict(): void {
    for (const sweeper of this.sweepers) sweeper.step()
    this.relief.run(this.phase)
  }
}
