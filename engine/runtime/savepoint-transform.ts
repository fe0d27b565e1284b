/**
 * Rewrites the values of a keyed state in a savepoint that is being written.
 *
 * A step of savepoint-writer.ts. Values, those of maps and those with a time to live are rewritten one by one; a list as a
 * whole, in its head and pieces (core/list-layout.ts). Invariants:
 * - What has a time to live keeps the time of its last use. Where a list becomes longer or shorter, each value gets that of
 *   the list's newest; what had no time to live before was used when the savepoint is written.
 * - Rows stay in the store and the key group where they were.
 */
import { setImmediate as turn } from 'node:timers/promises'
import { COMPOSITE } from '../../state/keyed-backend.ts'
import {
  keyPrefix,
  PREFIX_BYTES,
  prefixEnd,
  setKeyGroup,
  statePrefix,
  WriteBatchBuilder,
} from '../../state/keyed-layout.ts'
import { stateCodec } from '../../state/schema-codec.ts'
import { readState, type StateEntry } from '../../state/state-reader.ts'
import type { ManifestTable } from '../checkpoint/manifest.ts'
import type { ValueCodec } from '../contract/keyed-state.ts'
import type { KeyedStore } from '../contract/keyed-store.ts'
import { COMPOSITE_LENGTH_BYTES, entryStart } from '../core/composite-keys.ts'
import { MillraceError } from '../core/errors.ts'
import { encodeKey, type Key } from '../core/keys.ts'
import { LIST_HEAD, LIST_HEAD_BYTES, LIST_OF, LIST_PIECES, PIECE_VALUES, writeListHead } from '../core/list-layout.ts'
import { ByteArena } from '../core/strings.ts'
import { nodeIo } from './node-io.ts'
import { type Draft, declare } from './savepoint-draft.ts'
import { type KeyedStateEntry, operatorOf, unknownState } from './savepoint-reader.ts'
import type { WritableState } from './savepoint-states.ts'

const TTL = 'ttl '
const STAMP_BYTES = 8
const LENGTH_BYTES = 4

export type Change = (entry: KeyedStateEntry<Key, unknown>) => unknown

/** A state as it is stored, and what becomes of it. */
interface Rewriting {
  readonly operatorId: number
  readonly group: number
  /** With the rows that are rewritten: of a list its pieces. */
  readonly table: ManifestTable
  /** Of a list. */
  readonly heads: ManifestTable | null
  readonly codec: ValueCodec
  readonly wasStamped: boolean
  readonly isStamped: boolean
  readonly nowMs: number
  readonly change: Change
}

export async function transform(
  draft: Draft,
  uid: string,
  state: WritableState<unknown>,
  change: Change,
): Promise<void> {
  const { operatorId, tables } = operatorOf(draft.manifest.operators, uid)
  const named = tables.find(({ name }) => name === state.name)
  if (named === undefined) throw unknownState(uid, state.name, tables)
  const isList = named.layout === LIST_HEAD
  const table = isList ? tables.find(({ name }) => name === `${state.name}${LIST_PIECES}`) : named
  if (table === undefined) throw unknownState(uid, `${state.name}${LIST_PIECES}`, tables)
  const wrapper = `${table.layout.startsWith(COMPOSITE) ? COMPOSITE : ''}${isList ? LIST_OF : ''}`
  const values = table.layout.slice(wrapper.length)
  refuseUnwritable(state, isList, values)
  const template = state.template ?? state.aggregate?.createAccumulator.bind(state.aggregate)
  const codec = stateCodec({ ...state, template })
  const isStamped = state.ttl !== undefined
  const wasStamped = values.startsWith(TTL)
  const nowMs = nodeIo.clock.nowMs()
  const heads = isList ? named : null
  for (const store of draft.stores) {
    for (let group = 0; group < draft.manifest.keyGroups; group++) {
      const of = { operatorId, group, table, heads, codec, wasStamped, isStamped, nowMs, change }
      if (isList) await transformLists(store, of)
      else await transformValues(store, of)
    }
  }
  const version = state.version ?? 1
  const layout = `${wrapper}${isStamped ? TTL : ''}${codec.description}`
  declare(draft, uid, { ...table, version, layout })
  if (heads !== null) declare(draft, uid, { ...heads, version })
}

/** Throws `STATE_NOT_WRITABLE` for what is no state of a user's function, or one of another kind than `state`. */
function refuseUnwritable(state: WritableState<unknown>, isList: boolean, values: string): void {
  const isOfEngine = /^(times|doubles|elements |windows\(|list )/.test(values)
  if (!isOfEngine && isList === (state.kind === 'list')) return
  throw new MillraceError('STATE_NOT_WRITABLE', `State ${JSON.stringify(state.name)} cannot be rewritten like this.`, {
    hint: isOfEngine ? 'Only states of functions can.' : 'Give a descriptor of the kind that the state is of.',
  })
}

/** A row as it is stored, and what it holds. */
interface StoredRow {
  readonly entry: StateEntry
  /** Until the next row: key in bytes [0, length), value after it. */
  readonly key: Uint8Array
  readonly value: Uint8Array
}

/** The rows of a group; a turn of the event loop and `flush` come between chunks of them. */
async function* rowsOf(store: KeyedStore, of: Rewriting, flush: () => void): AsyncGenerator<StoredRow> {
  const prefix = statePrefix(of.operatorId, of.group, of.table.id)
  const scan = store.scan(prefix, prefixEnd(prefix))
  // The same rows, once as bytes and once decoded: both scans go in key order.
  const decoded = readState([store], of.operatorId, of.group + 1, [of.table], of.group)
  try {
    for (let chunk = scan.next(); chunk !== null; chunk = scan.next()) {
      const { keys, values } = chunk
      for (let row = 0; row < keys.count; row++) {
        yield {
          entry: decoded.next().value!,
          key: keys.bytes.subarray(keys.offsets[row], keys.offsets[row + 1]),
          value: values.bytes.subarray(values.offsets[row], values.offsets[row + 1]),
        }
      }
      flush()
      await turn()
    }
  } finally {
    scan.close()
    decoded.return(undefined)
  }
}

function flusher(store: KeyedStore, batch: WriteBatchBuilder): () => void {
  return () => {
    if (batch.count > 0) store.write(batch.batch())
    batch.clear()
  }
}

const stampAt = (bytes: Uint8Array, at: number): number =>
  new DataView(bytes.buffer, bytes.byteOffset + at, STAMP_BYTES).getFloat64(0, true)

async function transformValues(store: KeyedStore, of: Rewriting): Promise<void> {
  const batch = new WriteBatchBuilder()
  for await (const { entry, key, value } of rowsOf(store, of, flusher(store, batch))) {
    const plain = { key: entry.key, value: entry.value }
    const changed = of.change(entry.entry === undefined ? plain : { ...plain, entry: entry.entry })
    batch.keys.add(key, 0, key.length)
    if (changed === undefined) {
      batch.endDelete()
      continue
    }
    if (of.isStamped) batch.values.addDouble(of.wasStamped ? stampAt(value, 0) : of.nowMs)
    const encoded = of.codec.encode(changed)
    batch.values.add(encoded, 0, encoded.length)
    batch.endPut()
  }
}

/** What is stored of the list of one key. */
interface StoredList {
  readonly key: Key
  /** What the keys of its pieces begin with, in the store and without the store's prefix. */
  readonly owner: Uint8Array
  readonly pieces: {
    readonly number: number
    readonly values: readonly unknown[]
    readonly stamps: readonly number[]
  }[]
}

async function transformLists(store: KeyedStore, of: Rewriting): Promise<void> {
  const batch = new WriteBatchBuilder()
  const flush = flusher(store, batch)
  let list: StoredList | null = null
  // Pieces of a key lie together; their numbers are not in order.
  for await (const { entry, key, value } of rowsOf(store, of, flush)) {
    const owner = key.subarray(0, entryStart(key, PREFIX_BYTES))
    if (list === null || Buffer.compare(list.owner, owner) !== 0) {
      if (list !== null) rewriteList(list, of, batch)
      list = { key: entry.key, owner: owner.slice(), pieces: [] }
    }
    const values = entry.value as readonly unknown[]
    const stamps = of.wasStamped ? stampsOf(value) : values.map(() => of.nowMs)
    list.pieces.push({ number: entry.entry as number, values, stamps })
  }
  if (list !== null) rewriteList(list, of, batch)
  flush()
}

function stampsOf(piece: Uint8Array): number[] {
  const view = new DataView(piece.buffer, piece.byteOffset, piece.byteLength)
  const stamps: number[] = []
  for (let at = 0; at < piece.length; at += LENGTH_BYTES + view.getUint32(at, true)) {
    stamps.push(stampAt(piece, at + LENGTH_BYTES))
  }
  return stamps
}

function rewriteList({ key, owner, pieces }: StoredList, of: Rewriting, batch: WriteBatchBuilder): void {
  pieces.sort((a, b) => a.number - b.number)
  const stamps = pieces.flatMap((piece) => piece.stamps)
  const newest = stamps.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
  const values = (of.change({ key, value: pieces.flatMap((piece) => piece.values) }) ?? []) as readonly unknown[]
  const stampOf = (i: number): number => (values.length === stamps.length ? stamps[i]! : newest)
  const count = Math.ceil(values.length / PIECE_VALUES)
  for (let piece = 0; piece < count; piece++) {
    addPieceKey(owner, piece, batch)
    for (let i = piece * PIECE_VALUES; i < Math.min(values.length, (piece + 1) * PIECE_VALUES); i++) {
      const encoded = of.codec.encode(values[i])
      const length = Buffer.alloc(LENGTH_BYTES)
      length.writeUInt32LE(encoded.length + (of.isStamped ? STAMP_BYTES : 0))
      batch.values.add(length, 0, LENGTH_BYTES)
      if (of.isStamped) batch.values.addDouble(stampOf(i))
      batch.values.add(encoded, 0, encoded.length)
    }
    batch.endPut()
  }
  for (const { number } of pieces) {
    if (number < count) continue
    addPieceKey(owner, number, batch)
    batch.endDelete()
  }
  const prefix = keyPrefix(of.operatorId, of.heads!.id, 0)
  setKeyGroup(prefix, of.group)
  batch.keys.addPrefixed(prefix, owner, PREFIX_BYTES + COMPOSITE_LENGTH_BYTES, owner.length)
  if (count === 0) {
    batch.endDelete()
    return
  }
  const head = Buffer.alloc(LIST_HEAD_BYTES)
  writeListHead(count, values.length - (count - 1) * PIECE_VALUES, of.isStamped ? newest : 0, head)
  batch.values.add(head, 0, head.length)
  batch.endPut()
}

function addPieceKey(owner: Uint8Array, number: number, batch: WriteBatchBuilder): void {
  const entry = new ByteArena(16)
  encodeKey(number, entry)
  batch.keys.add(owner, 0, owner.length)
  batch.keys.add(entry.bytes, 0, entry.length)
}
