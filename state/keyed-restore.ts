/**
 * Reading an operator's share of a restored store: everything when it is small, else its namespaces.
 *
 * Called by `KeyedBackend.restore`. Only the key groups of the subtask are looked at, so the same image
 * serves any parallelism.
 */
import type { KeyGroupRange } from '../engine/contract/keyed-state.ts'
import type { KeyedStore, Scan } from '../engine/contract/keyed-store.ts'
import {
  keyGroupPrefix,
  namespaceOf,
  PieceArena,
  PREFIX_BYTES,
  prefixEnd,
  stateIdOf,
  statePrefix,
  WriteBatchBuilder,
} from './keyed-layout.ts'
import type { Table } from './keyed-table.ts'
import type { Transcode } from './state-migration.ts'

/** Stored rows of one table, waiting for its declaration. */
export class RestoredRows {
  private readonly keys = new PieceArena()
  private readonly values = new PieceArena()
  private readonly namespaces: number[] = []
  private readonly lastPrefix = new Uint8Array(PREFIX_BYTES).fill(0xff)
  private lastNamespace = Number.NaN

  add(key: Uint8Array, keyFrom: number, keyTo: number, value: Uint8Array, valueFrom: number, valueTo: number): void {
    this.namespaces.push(this.namespaceAt(key, keyFrom))
    this.keys.add(key, keyFrom + PREFIX_BYTES, keyTo)
    this.keys.endRow()
    this.values.add(value, valueFrom, valueTo)
    this.values.endRow()
  }

  /** Rows of one namespace follow each other: it is decoded once. */
  private namespaceAt(key: Uint8Array, at: number): number {
    const { lastPrefix } = this
    for (let i = 0; i < PREFIX_BYTES; i++) {
      if (key[at + i] === lastPrefix[i]) continue
      lastPrefix.set(key.subarray(at, at + PREFIX_BYTES))
      this.lastNamespace = namespaceOf(key, at)
      break
    }
    return this.lastNamespace
  }

  namespaceSet(): Set<number> {
    return new Set(this.namespaces)
  }

  loadInto(table: Table): void {
    for (let row = 0; row < this.keys.count; row++) {
      const from = this.keys.offsets[row]
      const to = this.keys.offsets[row + 1]
      const segment = table.segmentOf(this.namespaces[row], true)
      const hash = segment.hashOf(this.keys.bytes, from, to)
      segment.load(hash, this.keys.bytes, from, to, this.values, row)
    }
  }
}

/** All rows of an operator by state id, or null when they take more than `bytesMax`. */
export function loadEverything(
  store: KeyedStore,
  operatorId: number,
  keyGroups: KeyGroupRange,
  bytesMax: number,
): Map<number, RestoredRows> | null {
  const tables = new Map<number, RestoredRows>()
  let bytes = 0
  for (let group = keyGroups.from; group < keyGroups.to; group++) {
    const scan = scanFrom(store, operatorId, group, null)
    try {
      for (let chunk = scan.next(); chunk !== null; chunk = scan.next()) {
        const { keys, values } = chunk
        bytes += keys.offsets[keys.count] + values.offsets[values.count]
        if (bytes > bytesMax) return null
        for (let row = 0; row < keys.count; row++) {
          const from = keys.offsets[row]
          const id = stateIdOf(keys.bytes, from)
          let rows = tables.get(id)
          if (rows === undefined) {
            rows = new RestoredRows()
            tables.set(id, rows)
          }
          rows.add(keys.bytes, from, keys.offsets[row + 1], values.bytes, values.offsets[row], values.offsets[row + 1])
        }
      }
    } finally {
      scan.close()
    }
  }
  return tables
}

/** Where an operator subtask's rows are. */
export interface RowsOfSubtask {
  readonly operatorId: number
  readonly keyGroups: KeyGroupRange
  readonly store: KeyedStore
}

/** Rewrites every value of one table in the store; gives the rewritten rows back when they are wanted. */
export function rewriteTable(
  { operatorId, keyGroups, store }: RowsOfSubtask,
  stateId: number,
  transcode: Transcode,
  isWanted: boolean,
): RestoredRows | null {
  const rewritten = isWanted ? new RestoredRows() : null
  const batch = new WriteBatchBuilder()
  for (let group = keyGroups.from; group < keyGroups.to; group++) {
    const prefix = statePrefix(operatorId, group, stateId)
    // It reads the view of its opening: what is written meanwhile does not come back.
    const scan = store.scan(prefix, prefixEnd(prefix))
    try {
      for (let chunk = scan.next(); chunk !== null; chunk = scan.next()) {
        const { keys, values } = chunk
        batch.clear()
        for (let row = 0; row < keys.count; row++) {
          const from = keys.offsets[row]
          const to = keys.offsets[row + 1]
          const value = transcode(values.bytes, values.offsets[row], values.offsets[row + 1])
          batch.keys.add(keys.bytes, from, to)
          batch.values.add(value, 0, value.length)
          batch.endPut()
          rewritten?.add(keys.bytes, from, to, value, 0, value.length)
        }
        store.write(batch.batch())
      }
    } finally {
      scan.close()
    }
  }
  return rewritten
}

/** Namespaces with entries by state id: one seek a namespace and key group, values unread. */
export function namespacesInStore(
  store: KeyedStore,
  operatorId: number,
  keyGroups: KeyGroupRange,
): Map<number, Set<number>> {
  const found = new Map<number, Set<number>>()
  for (let group = keyGroups.from; group < keyGroups.to; group++) {
    let from: Uint8Array | null = null
    for (;;) {
      const scan = scanFrom(store, operatorId, group, from)
      const chunk = scan.next(1)
      if (chunk === null) {
        scan.close()
        break
      }
      const start = chunk.keys.offsets[0]
      const id = stateIdOf(chunk.keys.bytes, start)
      const namespaces = found.get(id)
      if (namespaces === undefined) found.set(id, new Set([namespaceOf(chunk.keys.bytes, start)]))
      else namespaces.add(namespaceOf(chunk.keys.bytes, start))
      from = prefixEnd(new Uint8Array(chunk.keys.bytes.subarray(start, start + PREFIX_BYTES)))
      scan.close()
      if (from === null) break
    }
  }
  return found
}

/** Rows of one key group, from the key `from` on. */
function scanFrom(store: KeyedStore, operatorId: number, group: number, from: Uint8Array | null): Scan {
  const prefix = keyGroupPrefix(operatorId, group)
  const end = prefixEnd(prefix)
  // The namespace after the last one may lie in the next key group already.
  if (from !== null && end !== null && Buffer.compare(from, end) > 0) return store.scan(end, end)
  return store.scan(from ?? prefix, end)
}
