/**
 * Keyed state as operators see it: tables of (namespace, key) -> value with a columnar working set.
 *
 * A table is declared once, in `open`, by a stable name. Entries of one namespace (a window's start; 0
 * for state without windows) form a segment: an open-addressing table from key bytes to dense slots,
 * with values in columns by slot. The working set is a write-back cache: behind it lies a KeyedStore
 * (keyed-store.ts), which dirty entries reach at a checkpoint or under memory pressure.
 *
 * Invariants:
 * - A slot is valid from the call that returned it until the batch's end; between batches the working
 *   set may evict and renumber. Operators keep no slots.
 * - `upsert` marks what it returns as dirty; changing values through `find` slots needs `markDirty`.
 * - At a barrier all that is dirty belongs to the checkpoint as it is then: what an operator looks up or scans
 *   later is encoded before it gets it, so later mutation of objects is not in that checkpoint.
 * - Objects are decoded while they are used and encoded again later: one that `objects` gave is the entry's only
 *   until the batch's end, and a change to it is kept only if the entry is marked as dirty.
 */
import type { KeyColumn } from '../core/batch.ts'
import type { Schema } from '../core/schema.ts'

/** Half-open range of key groups that a subtask owns: floor division, contiguous, covering. */
export interface KeyGroupRange {
  readonly from: number
  readonly to: number
  /** Key groups of the job. */
  readonly total: number
}

/** Turns a value into bytes and back. What `encode` returns is valid until its next call; `decode` keeps no view of `bytes`. */
export interface ValueCodec<V = unknown> {
  /** Part of the state's schema: a change is detected on restore. */
  readonly description: string
  encode(value: V): Uint8Array
  decode(bytes: Uint8Array, start: number, end: number): V
  /** How values that earlier versions of the job wrote become values of this codec. */
  readonly evolution?: ValueEvolution
  /** Layouts in which earlier releases of the engine stored what this codec stores: restored tables are rewritten. */
  readonly earlier?: readonly EarlierLayout[]
}

/** Reads values of the layout that `description` describes. */
export interface EarlierLayout {
  readonly description: string
  decode(bytes: Uint8Array, start: number, end: number): unknown
}

/** One version's change: a function from the value before, or names of fields, old to new. */
// biome-ignore lint/suspicious/noExplicitAny: only the user knows what the earlier version looked like
export type StateMigration = ((before: any) => unknown) | { readonly rename: Readonly<Record<string, string>> }

/** `migrations[2]` takes values of version 1 to version 2. */
export type StateMigrations = Readonly<Record<number, StateMigration>>

/** What is needed to rewrite stored values (state/state-migration.ts). */
export interface ValueEvolution {
  /** Of the shape of the values; counted up when it changes. */
  readonly version: number
  readonly migrations?: StateMigrations | undefined
  /** Makes a fresh value, whose fields new fields start from. */
  readonly template?: (() => unknown) | undefined
  readonly schema?: Schema | undefined
  /** Of the values alone, where this codec wraps something around them. */
  readonly values: ValueCodec
}

/** Values as Float64 columns (`initial[k]` is what a fresh entry holds), or one object an entry. */
export type ValueLayout =
  | { readonly kind: 'doubles'; readonly initial: readonly number[] }
  | { readonly kind: 'object'; readonly codec: ValueCodec }

export interface TableDeclaration {
  /** Unique within the operator; stable over versions of the job. */
  readonly name: string
  /** Schema version of the values. */
  readonly version: number
  readonly layout: ValueLayout
  /** Keys are composite (core/composite-keys.ts), and `scanKey` lists the entries of one key. Layout `object` only. */
  readonly composite?: boolean
  /**
   * Entries whose value this says are past their time to live are dropped sooner or later: when they are
   * loaded or saved, and by a sweep in the background. Until then look-ups find them. Layout `object` only.
   */
  readonly isExpired?: (value: unknown) => boolean
}

/** Entries of a segment, in no particular order; valid until the next call. */
export interface SegmentChunk {
  readonly count: number
  /** Encoded keys with their hashes. */
  readonly keys: KeyColumn
  /** One array a column, for layout `doubles`. */
  readonly doubles: readonly Float64Array[]
  /** For layout `object`. */
  readonly objects: readonly unknown[]
}

export interface SegmentScan {
  /** Up to `maxEntries` further entries, null at the end. The segment must not change in between. */
  next(maxEntries: number): SegmentChunk | null
  close(): void
}

export interface StateSegment {
  readonly namespace: number
  /**
   * Finds or creates the entries of `count` rows (row i is keys[rows[i]], or keys[i] when `rows` is
   * null) and writes their slots to `slots[0..count)`. Fresh entries hold the layout's initial values;
   * a fresh object is undefined.
   */
  upsert(keys: KeyColumn, rows: Int32Array | null, count: number, slots: Int32Array): void
  /**
   * As `upsert` where the values before do not matter: nothing is read from the store. The caller sets the value
   * of every slot.
   */
  overwrite(keys: KeyColumn, rows: Int32Array | null, count: number, slots: Int32Array): void
  /** As `upsert`, but absent keys get slot -1 and nothing is marked. */
  find(keys: KeyColumn, rows: Int32Array | null, count: number, slots: Int32Array): void
  /**
   * As `find` of the first key, for callers that have another way than to fetch a large value: where the table's values
   * take more than `bytesMax` when encoded, on average, one that is not decoded already counts as absent.
   */
  findAtHand(keys: KeyColumn, bytesMax: number, slots: Int32Array): void
  /** Column k by slot, for layout `doubles`. Replaced when the segment grows: read it after `upsert`. */
  readonly doubles: readonly Float64Array[]
  /** By slot, for layout `object`. Replaced when the segment grows. */
  readonly objects: unknown[]
  markDirty(slot: number): void
  /** Deletes one entry. */
  remove(slot: number): void
  /** All entries, those only in the store included. */
  scan(): SegmentScan
  /**
   * The entries of one key of a table of composite keys: those that begin with the bytes `owner`, whose key has
   * the hash `ownerHash`. The segment may change meanwhile; entries added then may come or not. Keep it open
   * within one call of the operator only.
   */
  scanKey(owner: Uint8Array, ownerHash: number): SegmentScan
  /**
   * Deletes the entries that `scanKey` would list. Values are not decoded; of those that memory does not have, some
   * hundreds of keys are read at most.
   */
  removeKey(owner: Uint8Array, ownerHash: number): void
}

export interface StateTable {
  /** The segment of a namespace, created when absent. */
  segment(namespace: number): StateSegment
  /** The segment if it may hold entries, else null. */
  existing(namespace: number): StateSegment | null
  /** Namespaces that may hold entries, ascending. */
  namespaces(): number[]
  /** Deletes a whole segment. */
  drop(namespace: number): void
}

/** How large a table is in one subtask. */
export interface StateTableSize {
  readonly name: string
  /** Bytes of the working set; decoded objects are estimated. */
  readonly memoryBytes: number
  /** Entries in memory and in the store; null when what was restored, or a key's entries that were cleared, were too many to be counted. */
  readonly entries: number | null
  /** What all entries take as they are stored, estimated from those in memory; null without any, while objects are decoded, or as `entries`. */
  readonly storedBytes: number | null
  /** Bytes of changes that the last checkpoint took from it; null before the first. */
  readonly checkpointBytes: number | null
}

export interface KeyedState {
  readonly keyGroups: KeyGroupRange
  /** Declares a table; twice the same name is an error. */
  table(declaration: TableDeclaration): StateTable
}
