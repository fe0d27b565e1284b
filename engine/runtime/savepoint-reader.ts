/**
 * Reads a savepoint or checkpoint from a program: Flink's State Processor API, in TypeScript's manner.
 *
 *     await using savepoint = await SavepointReader.read('DIR/manifests/000000000007.json')
 *     for await (const { key, value } of savepoint.readKeyedState('totals', 'sums')) ...
 *
 * Invariants: the savepoint is not changed and may be in use by a job; what is read is one consistent cut. Values
 * come as plain data unless a descriptor with a template is given.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { COMPOSITE } from '../../state/keyed-backend.ts'
import { stateCodec } from '../../state/schema-codec.ts'
import {
  type DecodedWindow,
  ElementsReader,
  readState,
  type StateEntry,
  StoredElements,
} from '../../state/state-reader.ts'
import type { ManifestOperator, ManifestTable } from '../checkpoint/manifest.ts'
import type { KeyedStore } from '../contract/keyed-store.ts'
import { isObjectUrl } from '../contract/object-store.ts'
import { MillraceError } from '../core/errors.ts'
import type { JsonValue } from '../core/json-value.ts'
import type { Key } from '../core/keys.ts'
import { LIST_HEAD, LIST_OF, LIST_PIECES } from '../core/list-layout.ts'
import type { Schema } from '../core/schema.ts'
import { type LinkedCheckpoint, linkCheckpoint, openImages } from './checkpoint-images.ts'
import { nodeIo } from './node-io.ts'

/** Entries between two turns of the event loop. */
const ENTRIES_PER_TURN = 1_000

/** The table of windows with triggers, sessions and the like (operators/window-triggered.ts). */
const TRIGGERED = '$windows'

/** A state by its name, or by its descriptor, whose template gives values their class. */
export interface StateOf<V> {
  readonly name: string
  readonly version?: number
  readonly template?: (() => V) | undefined
  readonly schema?: Schema<V> | undefined
  /** Of an aggregating state, whose accumulators are read. */
  readonly aggregate?: { createAccumulator(): V } | undefined
}

export interface KeyedStateEntry<K extends Key = Key, V = unknown> {
  readonly key: K
  readonly value: V
  /** In map state: the key of the map's entry. */
  readonly entry?: Key
}

export interface WindowStateEntry<K extends Key = Key, V = unknown> extends KeyedStateEntry<K, V> {
  /** Start of the window (of the slice, where windows share slices), milliseconds since 1970 UTC. */
  readonly windowStart: number
}

/** What a savepoint has of one operator. */
export interface SavepointOperator {
  readonly uid: string
  readonly name: string
  readonly parallelism: number
  readonly isKeyed: boolean
  readonly states: readonly { readonly name: string; readonly version: number; readonly layout: string }[]
}

export class SavepointReader {
  private readonly linked: LinkedCheckpoint
  private readonly stores: readonly KeyedStore[]
  private readonly scratch: string

  private constructor(linked: LinkedCheckpoint, stores: readonly KeyedStore[], scratch: string) {
    this.linked = linked
    this.stores = stores
    this.scratch = scratch
  }

  /**
   * Opens the newest checkpoint of a directory, or the one of a manifest's path; both may be `s3://` URLs. Rejects with
   * `CHECKPOINT_NOT_FOUND`.
   */
  static async read(path: string): Promise<SavepointReader> {
    const scratch = await mkdtemp(join(tmpdir(), 'millrace-savepoint-'))
    try {
      const linked = await linkCheckpoint(nodeIo.disk, placeOf(path), scratch)
      return new SavepointReader(linked, await openImages(linked, scratch), scratch)
    } catch (error) {
      await rm(scratch, { recursive: true, force: true })
      throw error
    }
  }

  /** Every operator of the savepoint, with the states that it declared. */
  get operators(): readonly SavepointOperator[] {
    return this.linked.manifest.operators.map(({ uid, name, parallelism, isKeyed, tables }) => ({
      uid,
      name,
      parallelism,
      isKeyed,
      states: tables.map(({ name: state, version, layout }) => ({ name: state, version, layout })),
    }))
  }

  /** What an operator keeps besides keyed state, one value a subtask. Throws `OPERATOR_UNKNOWN`. */
  readOperatorState(uid: string): readonly JsonValue[] {
    return this.operator(uid).states
  }

  /**
   * The entries of one keyed state: a key's list is one entry, each entry of its map another. Of states with a time to
   * live, what has not been removed yet is there too. Throws `OPERATOR_UNKNOWN`, `STATE_UNKNOWN` or
   * `STATE_INCOMPATIBLE` when iteration begins.
   */
  readKeyedState<K extends Key = Key, V = unknown>(
    uid: string,
    state: StateOf<V> & { readonly kind: 'list' },
  ): AsyncGenerator<KeyedStateEntry<K, V[]>>
  readKeyedState<K extends Key = Key, V = unknown>(
    uid: string,
    state: string | StateOf<V>,
  ): AsyncGenerator<KeyedStateEntry<K, V>>
  async *readKeyedState(uid: string, state: string | StateOf<unknown>): AsyncGenerator<KeyedStateEntry> {
    for await (const { key, value, entry } of this.entries(uid, state)) {
      yield entry === undefined ? { key, value } : { key, value, entry }
    }
  }

  /** What the open windows of an operator hold: accumulators, columns of numbers, or elements; null for nothing. */
  async *readWindowState<K extends Key = Key, V = unknown>(uid: string): AsyncGenerator<WindowStateEntry<K, V>> {
    const { tables } = this.operator(uid)
    const table = ['windows', 'slices', TRIGGERED].map((kind) => tables.find(({ name }) => name === kind)).find(Boolean)
    if (table === undefined) throw unknownState(uid, 'windows', tables)
    const elements = this.elementsReader(uid, `${table.name}$pieces`)
    for await (const entry of this.entries(uid, table.name)) {
      const whole = (value: unknown): V =>
        (value instanceof StoredElements && elements !== null ? elements.read(entry, value) : value) as V
      const key = entry.key as K
      if (table.name === TRIGGERED) {
        // All windows of a key are one entry.
        for (const { window, contents } of entry.value as readonly DecodedWindow[]) {
          yield { key, value: whole(contents), windowStart: window.start }
        }
      } else yield { key, value: whole(entry.value), windowStart: entry.namespace }
    }
  }

  private elementsReader(uid: string, name: string): ElementsReader | null {
    const { operatorId, tables } = this.operator(uid)
    const pieces = tables.find((table) => table.name === name)
    if (pieces === undefined) return null
    return new ElementsReader(this.stores, operatorId, this.linked.manifest.keyGroups, pieces)
  }

  private async *entries(uid: string, state: string | StateOf<unknown>) {
    const { operatorId, tables } = this.operator(uid)
    const name = typeof state === 'string' ? state : state.name
    const table = tables.find((candidate) => candidate.name === name)
    if (table === undefined) throw unknownState(uid, name, tables)
    const pieces =
      table.layout === LIST_HEAD ? tables.find((other) => other.name === `${name}${LIST_PIECES}`) : undefined
    const revive = typeof state === 'string' ? null : revived(pieces ?? table, state)
    const stored = readState(this.stores, operatorId, this.linked.manifest.keyGroups, [pieces ?? table])
    let read = 0
    for (const found of pieces === undefined ? stored : wholeLists(stored)) {
      if (revive === null) yield found
      else if (pieces === undefined) yield { ...found, value: revive(found.value) }
      else yield { ...found, value: (found.value as readonly unknown[]).map(revive) }
      if (++read % ENTRIES_PER_TURN === 0) await turn()
    }
  }

  private operator(uid: string): ManifestOperator {
    return operatorOf(this.linked.manifest.operators, uid)
  }

  /** Closes the savepoint and removes what reading it took on the local disk. */
  async close(): Promise<void> {
    for (const store of this.stores) store.close()
    await rm(this.scratch, { recursive: true, force: true })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

/** An absolute path, or an URL without slashes at its end. */
export function placeOf(path: string): string {
  return isObjectUrl(path) ? path.replace(/\/+$/, '') : resolve(path)
}

/** Throws `OPERATOR_UNKNOWN`, naming those there are. */
export function operatorOf(operators: readonly ManifestOperator[], uid: string): ManifestOperator {
  const found = operators.find((operator) => operator.uid === uid)
  if (found !== undefined) return found
  throw new MillraceError('OPERATOR_UNKNOWN', `The savepoint has no operator with uid ${JSON.stringify(uid)}.`, {
    hint: `Known: ${operators.map((operator) => operator.uid).join(', ') || 'none'}.`,
  })
}

export function unknownState(uid: string, name: string, tables: readonly ManifestTable[]): MillraceError {
  return new MillraceError('STATE_UNKNOWN', `Operator ${JSON.stringify(uid)} has no state ${JSON.stringify(name)}.`, {
    hint: `Known: ${tables.map((table) => table.name).join(', ') || 'none'}.`,
  })
}

/** The pieces of each key's list as one entry. */
function* wholeLists(pieces: Iterable<StateEntry>): Generator<StateEntry> {
  let list: StateEntry[] = []
  for (const piece of pieces) {
    // All of a key lie together; numbers are not stored in their order.
    if (list.length > 0 && !sameKey(list[0]!.key, piece.key)) {
      yield joined(list)
      list = []
    }
    list.push(piece)
  }
  if (list.length > 0) yield joined(list)
}

const sameKey = (a: Key, b: Key): boolean => isDeepStrictEqual(a, b)

function joined(pieces: StateEntry[]): StateEntry {
  const { entry: _, ...first } = pieces[0]!
  pieces.sort((a, b) => (a.entry as number) - (b.entry as number))
  return { ...first, value: pieces.flatMap((piece) => piece.value as unknown[]) }
}

/** How values are stored that times to live, lists and maps wrap. */
function layoutOfValues(layout: string): string {
  for (const wrapper of [COMPOSITE, LIST_OF, 'ttl ']) {
    if (layout.startsWith(wrapper)) return layoutOfValues(layout.slice(wrapper.length))
  }
  return layout
}

/** Gives plain values the classes of a template, the way a restore does: through their bytes. */
function revived(table: ManifestTable, state: StateOf<unknown>): (value: unknown) => unknown {
  const template = state.template ?? state.aggregate?.createAccumulator.bind(state.aggregate)
  const codec = stateCodec({ ...state, template })
  const layout = layoutOfValues(table.layout)
  if (layout !== codec.description) {
    throw new MillraceError(
      'STATE_INCOMPATIBLE',
      `State ${JSON.stringify(table.name)} was saved as ${layout}, but its descriptor says ${codec.description}.`,
      { hint: 'Read it by its name alone, as plain data.' },
    )
  }
  if (template === undefined) return (value) => value
  const plain = stateCodec({})
  return (value) => {
    const bytes = plain.encode(value)
    // The general form is read by every codec of objects.
    return codec.decode(bytes, 0, bytes.length)
  }
}
