/**
 * Adds rows to keyed states in a savepoint that is being written.
 *
 * Called by savepoint-writer.ts. Invariant: a key's rows are written to the store of the worker where a restore looks for
 * its key group.
 */
import { setImmediate as turn } from 'node:timers/promises'
import { COMPOSITE } from '../../state/keyed-backend.ts'
import { keyPrefix, setKeyGroup, WriteBatchBuilder } from '../../state/keyed-layout.ts'
import { stateCodec } from '../../state/schema-codec.ts'
import type { ManifestOperator, ManifestTable } from '../checkpoint/manifest.ts'
import type { ValueCodec } from '../contract/keyed-state.ts'
import { CompositeKeys } from '../core/composite-keys.ts'
import { MillraceError } from '../core/errors.ts'
import { encodeKey, type Key, keyGroupOf, murmur3 } from '../core/keys.ts'
import { ByteArena } from '../core/strings.ts'
import { type Draft, declare, newOperator, storesByKeyGroup } from './savepoint-draft.ts'
import type { StateOf } from './savepoint-reader.ts'

/** Rows written at once. */
const BATCH_ROWS = 2_000

/** A value state, reducing state (its value) or aggregating state (its accumulator); by its `kind` a map or list state. */
export interface WritableState<V> extends StateOf<V> {
  readonly kind?: 'value' | 'reducing' | 'aggregating' | 'map' | 'list'
  readonly ttl?: unknown
}

/** A key and its value; in map state a key, the entry's key and the value. */
export type BootstrapEntry<K extends Key, V> = readonly [K, V] | readonly [K, Key, V]

export async function bootstrap(
  draft: Draft,
  uid: string,
  state: WritableState<unknown>,
  entries: Iterable<BootstrapEntry<Key, unknown>> | AsyncIterable<BootstrapEntry<Key, unknown>>,
): Promise<void> {
  const isComposite = state.kind === 'map'
  const operator = draft.manifest.operators.find((candidate) => candidate.uid === uid) ?? newOperator(draft, uid)
  const known = operator.tables.find(({ name }) => name === state.name)
  const codec = writable(state)
  const shape = shapeOf(state, codec, isComposite)
  if (known !== undefined && (known.layout !== shape.layout || known.version !== shape.version)) {
    throw new MillraceError(
      'STATE_INCOMPATIBLE',
      `State ${JSON.stringify(state.name)} of ${JSON.stringify(uid)} is version ${known.version} ${known.layout}, not version ${shape.version} ${shape.layout}.`,
      { hint: 'Give its descriptor, or take it to the new shape with transformKeyedState first.' },
    )
  }
  const id = known?.id ?? operator.tables.reduce((next, table) => Math.max(next, table.id + 1), 0)
  const rows = new RowWriter(draft, operator, id, isComposite)
  for await (const entry of entries) {
    const value = codec.encode(entry.at(-1))
    rows.add(entry[0], isComposite ? (entry[1] as Key) : null, value)
    if (rows.isFull) {
      rows.flush()
      await turn()
    }
  }
  rows.flush()
  declare(draft, uid, { id, ...shape })
}

/** Encodes rows and writes each to the store where its key group lies. */
class RowWriter {
  private readonly draft: Draft
  private readonly prefix: Uint8Array
  private readonly batches: readonly WriteBatchBuilder[]
  private readonly arena = new ByteArena(64)
  private readonly composites: CompositeKeys | null
  /** By key group. */
  private readonly storeOf: readonly number[]
  private rows = 0

  constructor(draft: Draft, operator: ManifestOperator, stateId: number, isComposite: boolean) {
    const { keyGroups } = draft.manifest
    this.draft = draft
    this.prefix = keyPrefix(operator.operatorId, stateId, 0)
    this.batches = draft.stores.map(() => new WriteBatchBuilder())
    this.composites = isComposite ? new CompositeKeys(keyGroups) : null
    this.storeOf = storesByKeyGroup(draft, operator)
  }

  get isFull(): boolean {
    return this.rows >= BATCH_ROWS
  }

  add(key: Key, entry: Key | null, value: Uint8Array): void {
    const { arena, draft } = this
    arena.clear()
    encodeKey(key, arena)
    const hash = murmur3(arena.bytes, 0, arena.length)
    const group = keyGroupOf(hash, draft.manifest.keyGroups)
    const batch = this.batches[this.storeOf[group]!]!
    setKeyGroup(this.prefix, group)
    if (this.composites === null) batch.keys.addPrefixed(this.prefix, arena.bytes, 0, arena.length)
    else {
      const owner = {
        bytes: arena.bytes,
        starts: new Int32Array([0]),
        ends: new Int32Array([arena.length]),
        hashes: new Int32Array([hash]),
      }
      this.composites.begin(owner, 0)
      this.composites.add(entry)
      const { bytes, starts, ends } = this.composites.keys
      batch.keys.addPrefixed(this.prefix, bytes, starts[0]!, ends[0]!)
    }
    batch.values.add(value, 0, value.length)
    batch.endPut()
    this.rows++
  }

  flush(): void {
    this.batches.forEach((batch, i) => {
      if (batch.count > 0) this.draft.stores[i]!.write(batch.batch())
      batch.clear()
    })
    this.rows = 0
  }
}

function shapeOf(state: WritableState<unknown>, codec: ValueCodec, isComposite: boolean): Omit<ManifestTable, 'id'> {
  const layout = isComposite ? `${COMPOSITE}${codec.description}` : codec.description
  return { name: state.name, version: state.version ?? 1, layout }
}

/** The codec of a state that can be written value by value. Throws `STATE_NOT_WRITABLE`. */
function writable(state: WritableState<unknown>): ValueCodec {
  if (state.kind === 'list' || state.ttl !== undefined) {
    throw new MillraceError('STATE_NOT_WRITABLE', `State ${JSON.stringify(state.name)} cannot be written here.`, {
      hint: 'Value, reducing, aggregating and map state without a time to live can; make others with `withOperator`.',
    })
  }
  return stateCodec(state)
}
