/**
 * Reads keyed state without the job that wrote it: entries of one operator, decoded as far as the bytes
 * and the manifest's table descriptions say.
 *
 * Called by `millrace state`. Columns of numbers come back as numbers; windows with all that they hold; objects as plain
 * data, because their classes belong to the job; values of a layout that only the job knows as their bytes.
 * Invariant: entries come in scan order over all stores, and a scan that is given up is closed.
 */
import type { KeyedStore, ScanChunk } from '../engine/contract/keyed-store.ts'
import { COMPOSITE_LENGTH_BYTES, CompositeKeys, entryStart } from '../engine/core/composite-keys.ts'
import { MillraceError, messageOf } from '../engine/core/errors.ts'
import { decodeKey, encodeKey, type Key } from '../engine/core/keys.ts'
import { ByteArena } from '../engine/core/strings.ts'
import { COMPOSITE } from './keyed-backend.ts'
import {
  keyGroupPrefix,
  keyPrefix,
  namespaceOf,
  PieceArena,
  PREFIX_BYTES,
  prefixEnd,
  setKeyGroup,
  stateIdOf,
} from './keyed-layout.ts'
import { describedSchemaCodec } from './schema-codec.ts'
import { readWindows, withinBrackets } from './stored-windows.ts'
import { describedCodec, objectCodec } from './value-codec.ts'

/** A table as a manifest describes it. */
export interface StoredTable {
  readonly id: number
  readonly name: string
  readonly version: number
  readonly layout: string
}

export interface StateEntry {
  readonly table: string
  readonly key: Key
  /** Of a map state: the entry's own key. Of a list state: the number of a piece of the list. */
  readonly entry?: Key
  readonly keyGroup: number
  /** A window's start in milliseconds since 1970 UTC; 0 for state without windows. */
  readonly namespace: number
  readonly value: unknown
}

/** A window with a trigger of its own, a session or the like, as `readState` gives it. */
export interface DecodedWindow {
  readonly window: { readonly start: number; readonly end: number }
  /** Null for a window without elements. */
  readonly contents: unknown
  readonly eventTimers: readonly number[]
  readonly processingTimers: readonly number[]
  /** By name and version; bytes where only the job knows their form. */
  readonly states: Readonly<Record<string, unknown>>
}

type Decoder = (bytes: Uint8Array, start: number, end: number) => unknown

/** What a window keeps of its elements in its own entry (operators/window-elements.ts); others are in pieces. */
export class StoredElements {
  readonly runs: readonly { readonly stream: number; readonly from: number; readonly to: number }[]
  readonly tail: readonly unknown[]

  constructor(runs: StoredElements['runs'], tail: readonly unknown[]) {
    this.runs = runs
    this.tail = tail
  }
}

const ELEMENTS = 'elements of '

function elementsOf(decodeTail: Decoder): Decoder {
  return (bytes, start, end) => {
    const count = new DataView(bytes.buffer, bytes.byteOffset + start, 4).getUint32(0, true)
    const tailAt = start + 4 + count * 24
    const numbers = doublesOf(bytes, start + 4, tailAt)
    const runs = Array.from({ length: count }, (_, run) => {
      const [stream, from, to] = numbers.slice(run * 3, run * 3 + 3)
      return { stream: stream!, from: from!, to: to! }
    })
    return new StoredElements(runs, decodeTail(bytes, tailAt, end) as unknown[])
  }
}

/** Decodes values of a layout by its description. */
function decoderOf(layout: string): Decoder {
  if (layout.startsWith(COMPOSITE)) return decoderOf(layout.slice(COMPOSITE.length))

  // Times to live and lists (operators/state-ttl.ts, list-state.ts) are wrapped around the layout of their values.
  if (layout.startsWith('ttl ')) {
    const decode = decoderOf(layout.slice('ttl '.length))
    return (bytes, start, end) => decode(bytes, start + 8, end)
  }
  const contents = withinBrackets(layout, 'windows')
  if (contents !== null) return windowsOf(decoderOf(contents))
  const elements = withinBrackets(layout, 'list')
  if (elements !== null) {
    const list = listOf(decoderOf(elements))
    // The elements of a window have their number before them.
    return (bytes, start, end) => list(bytes, start + 4, end)
  }
  const timed = withinBrackets(layout, 'timestamped')
  if (timed !== null) {
    const decode = decoderOf(timed)
    return (bytes, start, end) => ({
      timestamp: doublesOf(bytes, start, start + 8)[0],
      value: decode(bytes, start + 8, end),
    })
  }
  if (layout.startsWith('list of ')) return listOf(decoderOf(layout.slice('list of '.length)))
  if (layout.startsWith(ELEMENTS)) return elementsOf(listOf(decoderOf(layout.slice(ELEMENTS.length))))
  if (layout === 'list head') return doublesOf
  // Timers (operators/timers.ts) are stored as the columns of numbers are.
  if (layout.startsWith('times') || /^doubles\(\d+\)$/.test(layout)) return doublesOf
  const codec = describedCodec(layout) ?? describedSchemaCodec(layout)
  if (codec === null) return (bytes, start, end) => bytes.slice(start, end)
  return (bytes, start, end) => codec.decode(bytes, start, end)
}

/** Windows with their contents decoded, and of the states of triggers and window functions those in the general form. */
function windowsOf(decode: Decoder): Decoder {
  const general = objectCodec()
  const shown = (bytes: Uint8Array): unknown => {
    try {
      const value = general.decode(bytes, 0, bytes.length)
      return Buffer.compare(general.encode(value), bytes) === 0 ? value : bytes
    } catch {
      // Of a form that only the job knows.
      return bytes
    }
  }
  return (bytes, start, end) =>
    readWindows(bytes, start, end).map(
      (window): DecodedWindow => ({
        window: { start: window.start, end: window.end },
        contents: window.contents === null ? null : decode(window.contents, 0, window.contents.length),
        eventTimers: window.eventTimers,
        processingTimers: window.processingTimers,
        states: Object.fromEntries(Object.entries(window.states).map(([name, state]) => [name, shown(state)])),
      }),
    )
}

/** Values with their lengths before them. */
function listOf(decode: Decoder): Decoder {
  return (bytes, start, end) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    const values: unknown[] = []
    for (let at = start; at < end; ) {
      const to = at + 4 + view.getUint32(at, true)
      values.push(decode(bytes, at + 4, to))
      at = to
    }
    return values
  }
}

function doublesOf(bytes: Uint8Array, start: number, end: number): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset + start, end - start)
  return Array.from({ length: (end - start) / 8 }, (_, k) => view.getFloat64(k * 8, true))
}

export interface StateChunk extends ScanChunk {
  readonly keyGroup: number
}

/**
 * The rows of an operator, key group by key group: each group lies in one store, that of the worker that had
 * it. A chunk is valid until the next one is asked for.
 */
export function* stateChunks(
  stores: readonly KeyedStore[],
  operatorId: number,
  keyGroups: number,
  firstGroup = 0,
): Generator<StateChunk> {
  for (let keyGroup = firstGroup; keyGroup < keyGroups; keyGroup++) {
    const from = keyGroupPrefix(operatorId, keyGroup)
    for (const store of stores) {
      const scan = store.scan(from, prefixEnd(from))
      try {
        for (let chunk = scan.next(); chunk !== null; chunk = scan.next()) yield { keyGroup, ...chunk }
      } finally {
        scan.close()
      }
    }
  }
}

/** Adds the rows of a chunk to `counts`, by table id. */
export function countRows({ keys }: StateChunk, counts: Map<number, number>): void {
  for (let row = 0; row < keys.count; row++) {
    const id = stateIdOf(keys.bytes, keys.offsets[row]!)
    counts.set(id, (counts.get(id) ?? 0) + 1)
  }
}

function keysOf(bytes: Uint8Array, start: number, end: number, isComposite: boolean): { key: Key; entry?: Key } {
  if (!isComposite) return { key: decodeKey(bytes, start, end) }
  const entry = entryStart(bytes, start)
  return { key: decodeKey(bytes, start + COMPOSITE_LENGTH_BYTES, entry), entry: decodeKey(bytes, entry, end) }
}

/**
 * Every entry of an operator in key groups [firstGroup, keyGroups), in scan order: key group, table, namespace, key.
 * Throws `STATE_VALUE_CORRUPT`.
 */
export function* readState(
  stores: readonly KeyedStore[],
  operatorId: number,
  keyGroups: number,
  tables: readonly StoredTable[],
  firstGroup = 0,
): Generator<StateEntry> {
  const byId = new Map(
    tables.map(({ id, name, layout }) => {
      return [id, { name, decode: decoderOf(layout), isComposite: layout.startsWith(COMPOSITE) }]
    }),
  )
  for (const { keyGroup, keys, values } of stateChunks(stores, operatorId, keyGroups, firstGroup)) {
    for (let row = 0; row < keys.count; row++) {
      const at = keys.offsets[row]!
      const table = byId.get(stateIdOf(keys.bytes, at))
      if (table === undefined) continue
      const owned = keysOf(keys.bytes, at + PREFIX_BYTES, keys.offsets[row + 1]!, table.isComposite)
      const namespace = namespaceOf(keys.bytes, at)
      let value: unknown
      try {
        value = table.decode(values.bytes, values.offsets[row]!, values.offsets[row + 1]!)
      } catch (error) {
        throw new MillraceError(
          'STATE_VALUE_CORRUPT',
          `A value of table ${table.name} in key group ${keyGroup} cannot be decoded: ${messageOf(error)}.`,
          { domain: 'external', hint: 'Check the files with `millrace checkpoints verify DIR`.', cause: error },
        )
      }
      yield { table: table.name, ...owned, keyGroup, namespace, value }
    }
  }
}

/** Reads the elements of windows of `operatorId` out of the table that has their pieces. */
export class ElementsReader {
  private readonly stores: readonly KeyedStore[]
  private readonly operatorId: number
  private readonly pieces: StoredTable
  private readonly decode: Decoder
  private readonly composed: CompositeKeys
  private readonly keyBytes = new ByteArena(64)

  constructor(stores: readonly KeyedStore[], operatorId: number, keyGroups: number, pieces: StoredTable) {
    this.stores = stores
    this.operatorId = operatorId
    this.pieces = pieces
    this.decode = decoderOf(pieces.layout)
    this.composed = new CompositeKeys(keyGroups)
  }

  /** All elements, in order, that the entry's window keeps. */
  read({ key, keyGroup, namespace }: StateEntry, { runs, tail }: StoredElements): unknown[] {
    const prefix = keyPrefix(this.operatorId, this.pieces.id, namespace)
    setKeyGroup(prefix, keyGroup)
    this.keyBytes.clear()
    encodeKey(key, this.keyBytes)
    const owner = {
      bytes: this.keyBytes.bytes,
      starts: Int32Array.of(0),
      ends: Int32Array.of(this.keyBytes.length),
      hashes: Int32Array.of(0),
    }
    this.composed.begin(owner, 0)
    const all: unknown[] = []
    for (const { stream, from, to } of runs) {
      for (let number = from; number < to; number++) all.push(...this.piece(prefix, [stream, number]))
    }
    all.push(...tail)
    return all
  }

  private piece(prefix: Uint8Array, piece: Key): readonly unknown[] {
    this.composed.restart()
    this.composed.add(piece)
    const { bytes, starts, ends } = this.composed.keys
    const asked = new PieceArena()
    asked.addPrefixed(prefix, bytes, starts[0]!, ends[0]!)
    asked.endRow()
    for (const store of this.stores) {
      const { values, found } = store.multiGet(asked)
      if (found[0] !== 0) return this.decode(values.bytes, values.offsets[0]!, values.offsets[1]!) as unknown[]
    }
    throw new MillraceError(
      'STATE_VALUE_CORRUPT',
      `A piece of a window's elements is not in table ${this.pieces.name}.`,
      {
        domain: 'external',
        hint: 'Check the files with `millrace checkpoints verify DIR`.',
      },
    )
  }
}
