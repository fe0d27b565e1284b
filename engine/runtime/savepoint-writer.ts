/**
 * Writes a new savepoint, out of an existing one or from nothing: Flink's State Processor API, in TypeScript's manner.
 *
 *     const path = await SavepointWriter.fromExistingSavepoint('old/manifests/000000000007.json')
 *       .removeOperator('old')
 *       .changeOperatorUid('sums', 'totals')
 *       .transformKeyedState('totals', new ValueStateDescriptor<Total>('total', ...), ({ value }) => ({ ...value, n: 0 }))
 *       .withKeyedState('limits', new ValueStateDescriptor<number>('limit'), limits)
 *       .withOperator('visits', bootstrapWith((env) => env.fromCollection(rows).keyBy('user').process(new Visits())))
 *       .write('new')
 *     // then: millrace run JOB.ts --restore new/manifests/000000000001.json
 *
 * Calls only note what to do; `write` does it, in order. Invariants:
 * - The existing savepoint is never changed; until the last step, creating the manifest, there is no new one.
 * - Source positions, sink markers, pending output and states that nothing touches are taken over as they are.
 * - A key's state lands in the key group, and in the store of the worker, where a restore looks for it.
 */
import { randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { COMPOSITE } from '../../state/keyed-backend.ts'
import {
  keyGroupPrefix,
  keyPrefix,
  prefixEnd,
  setKeyGroup,
  statePrefix,
  WriteBatchBuilder,
} from '../../state/keyed-layout.ts'
import { stateCodec } from '../../state/schema-codec.ts'
import { readState } from '../../state/state-reader.ts'
import { layout } from '../checkpoint/layout.ts'
import {
  MANIFEST_FORMAT,
  type Manifest,
  type ManifestFile,
  type ManifestOperator,
  type ManifestTable,
  manifestName,
} from '../checkpoint/manifest.ts'
import { createManifest, manifestNumbers } from '../checkpoint/manifest-store.ts'
import { adoptPending } from '../checkpoint/recovery.ts'
import type { ValueCodec } from '../contract/keyed-state.ts'
import type { KeyedStore } from '../contract/keyed-store.ts'
import { assert } from '../core/assert.ts'
import { CompositeKeys } from '../core/composite-keys.ts'
import { MillraceError } from '../core/errors.ts'
import { DEFAULT_KEY_GROUPS, encodeKey, type Key, keyGroupOf, murmur3, subtaskOfKeyGroup } from '../core/keys.ts'
import { ByteArena } from '../core/strings.ts'
import { linkCheckpoint, openImages } from './checkpoint-images.ts'
import type { StateBackendName } from './launcher-types.ts'
import { nodeIo } from './node-io.ts'
import { workerOf } from './planner.ts'
import { adoptRows } from './savepoint-adopt.ts'
import { type KeyedStateEntry, operatorOf, placeOf, type StateOf, unknownState } from './savepoint-reader.ts'
import { defaultStateBackend, keyedStoreFactory } from './store-factories.ts'

/** Rows written at once. */
const BATCH_ROWS = 2_000

/** A value state, reducing state (its value) or aggregating state (its accumulator), or a map state with `kind: 'map'`. */
export interface WritableState<V> extends StateOf<V> {
  readonly kind?: 'value' | 'reducing' | 'aggregating' | 'map' | 'list'
  readonly ttl?: unknown
}

/** A key and its value; in map state a key, the entry's key and the value. */
export type BootstrapEntry<K extends Key, V> = readonly [K, V] | readonly [K, Key, V]

export interface NewSavepointOptions {
  /** Fixed for the life of the job; 128 unless given. */
  readonly keyGroups?: number
  readonly stateBackend?: StateBackendName
  readonly jobName?: string
}

/** What a bootstrap job has to fit. */
export interface BootstrapTarget {
  /** Empty, and of a checkpoint afterwards. */
  readonly directory: string
  readonly keyGroups: number
  readonly stateBackend: StateBackendName
}

/** Makes the state of an operator; see `bootstrapWith`. */
export interface OperatorBootstrap {
  /** Leaves a checkpoint with the operator `uid` in the target's directory. */
  run(uid: string, target: BootstrapTarget): Promise<void>
}

/** What a step works on. */
interface Draft {
  manifest: Manifest
  /** By worker. */
  readonly stores: KeyedStore[]
  /** For files that steps need meanwhile. */
  readonly scratch: string
}

type Step = (draft: Draft) => Promise<void>

export class SavepointWriter {
  private readonly base: string | null
  private readonly options: NewSavepointOptions
  private readonly steps: Step[] = []

  private constructor(base: string | null, options: NewSavepointOptions) {
    this.base = base
    this.options = options
  }

  /** Begins with everything of a savepoint or checkpoint: a manifest's path, or a directory for its newest one. */
  static fromExistingSavepoint(path: string): SavepointWriter {
    return new SavepointWriter(placeOf(path), {})
  }

  /** Begins with nothing: for state that other systems hold today. */
  static newSavepoint(options: NewSavepointOptions = {}): SavepointWriter {
    return new SavepointWriter(null, options)
  }

  /** Drops an operator with all of its state. */
  removeOperator(uid: string): this {
    return this.also(async (draft) => {
      const { operatorId } = operatorOf(draft.manifest.operators, uid)
      const from = keyGroupPrefix(operatorId, 0)
      const to = prefixEnd(from.subarray(0, 2))
      if (to !== null) for (const store of draft.stores) store.deleteRange(from, to)
      const operators = draft.manifest.operators.filter((operator) => operator.uid !== uid)
      draft.manifest = { ...draft.manifest, operators }
    })
  }

  /** Gives an operator, a source or a sink another uid. A sink's marker in its target is kept under the old one. */
  changeOperatorUid(from: string, to: string): this {
    return this.also(async (draft) => {
      const { operators, sources, sinks, pending } = draft.manifest
      const known = [...operators.map(({ uid }) => uid), ...sources.map(({ uid }) => uid)]
      if (!known.includes(from)) operatorOf(operators, from)
      if (known.includes(to)) throw uidTaken(to)
      const uidOf = <T extends { readonly uid: string }>(part: T): T =>
        part.uid === from ? { ...part, uid: to } : part
      draft.manifest = {
        ...draft.manifest,
        operators: operators.map(uidOf),
        sources: sources.map(uidOf),
        sinks: sinks.map((sink) => (sink.id === from ? { ...sink, id: to } : sink)),
        pending: pending.map((commit) => (commit.sink === from ? { ...commit, sink: to } : commit)),
      }
    })
  }

  /**
   * Rewrites every value of a keyed state; `undefined` drops the entry. `state` describes the new values, under the name
   * that they have and keep. `change` sees plain data.
   */
  transformKeyedState<K extends Key, Before, After>(
    uid: string,
    state: WritableState<After>,
    change: (entry: KeyedStateEntry<K, Before>) => After | undefined,
  ): this {
    return this.also((draft) => transform(draft, uid, state, change as Change))
  }

  /**
   * Adds entries to a keyed state, over those of the same keys. Operator and state are made where the savepoint has none
   * of them.
   */
  withKeyedState<K extends Key, V>(
    uid: string,
    state: WritableState<V>,
    entries: Iterable<BootstrapEntry<K, V>> | AsyncIterable<BootstrapEntry<K, V>>,
  ): this {
    return this.also((draft) => bootstrap(draft, uid, state, entries))
  }

  /**
   * Adds an operator whose state a job over rows makes: lists, maps, times to live, timers and windows too. Rejects with
   * `OPERATOR_UID_TAKEN` when the savepoint has one of that uid.
   */
  withOperator(uid: string, bootstrap: OperatorBootstrap): this {
    return this.also((draft) => adopt(draft, uid, bootstrap))
  }

  private also(step: Step): this {
    this.steps.push(step)
    return this
  }

  /**
   * Carries everything out and creates the savepoint in `directory`, which must hold none yet; it may be an `s3://` URL.
   * Resolves to the manifest's path, for `--restore`.
   */
  async write(directory: string): Promise<string> {
    const place = placeOf(directory)
    if ((await manifestNumbers(nodeIo.disk, place)).length > 0) {
      throw new MillraceError('CHECKPOINT_DIRECTORY_NOT_EMPTY', `${place} already holds checkpoints.`, {
        hint: 'Choose an empty directory.',
      })
    }
    const scratch = await mkdtemp(join(tmpdir(), 'millrace-savepoint-'))
    let draft: Draft | null = null
    try {
      const linked = this.base === null ? null : await linkCheckpoint(nodeIo.disk, this.base, scratch)
      draft =
        linked === null
          ? await emptyDraft(this.options, scratch)
          : { manifest: linked.manifest, stores: await openImages(linked, scratch), scratch }
      for (const step of this.steps) await step(draft)
      return await finish(draft, linked?.directory ?? null, place, scratch)
    } finally {
      for (const store of draft?.stores ?? []) store.close()
      await rm(scratch, { recursive: true, force: true })
    }
  }
}

async function emptyDraft(options: NewSavepointOptions, scratch: string): Promise<Draft> {
  const stateBackend = options.stateBackend ?? defaultStateBackend()
  const factory = await keyedStoreFactory(stateBackend)
  const manifest: Manifest = {
    format: MANIFEST_FORMAT,
    kind: 'savepoint',
    number: 0,
    parent: null,
    generation: 0,
    epoch: 0,
    attempt: 0,
    createdAtMs: nodeIo.clock.nowMs(),
    jobName: options.jobName ?? 'bootstrap',
    keyGroups: options.keyGroups ?? DEFAULT_KEY_GROUPS,
    workers: 1,
    stateBackend,
    operators: [],
    sources: [],
    stores: [{ worker: 0, files: [] }],
    sinks: [],
    pending: [],
  }
  return { manifest, stores: [factory.create(join(scratch, 'store-0'))], scratch }
}

/** Files first, the manifest last. */
async function finish(draft: Draft, from: string | null, to: string, scratch: string): Promise<string> {
  const { disk, clock } = nodeIo
  for (const folder of [layout.manifests, layout.shared, layout.outbox]) await disk.makeDirectory(folder(to))
  const stores = []
  const nothing = new WriteBatchBuilder()
  for (const [i, { worker }] of draft.manifest.stores.entries()) {
    const image = join(scratch, `written-${i}`)
    const files: ManifestFile[] = []
    for (const { name } of await draft.stores[i]!.writeAndCheckpoint(nothing.batch(), image)) {
      const content = await disk.hash(join(image, name))
      const target = layout.sharedFile(to, content.sha256)
      await disk.link(join(image, name), target, content)
      await disk.syncFile(target)
      files.push({ name, ...content })
    }
    stores.push({ worker, files })
  }
  await disk.syncDirectory(layout.shared(to))
  if (from !== null) await adoptPending(disk, from, to, draft.manifest)
  const manifest: Manifest = {
    ...draft.manifest,
    kind: 'savepoint',
    owner: randomUUID(),
    number: 1,
    parent: null,
    createdAtMs: clock.nowMs(),
    stores,
  }
  if (await createManifest(disk, to, manifest)) return layout.manifest(to, manifestName(1))
  throw new MillraceError('CHECKPOINT_DIRECTORY_NOT_EMPTY', `Somebody else wrote a checkpoint to ${to}.`, {
    hint: 'Choose an empty directory.',
  })
}

type Change = (entry: KeyedStateEntry<Key, unknown>) => unknown

async function transform(draft: Draft, uid: string, state: WritableState<unknown>, change: Change): Promise<void> {
  const { operatorId, tables } = operatorOf(draft.manifest.operators, uid)
  const table = tables.find(({ name }) => name === state.name)
  if (table === undefined) throw unknownState(uid, state.name, tables)
  const isComposite = table.layout.startsWith(COMPOSITE)
  const codec = writable(state, table.layout.slice(isComposite ? COMPOSITE.length : 0))
  for (const store of draft.stores) {
    for (let group = 0; group < draft.manifest.keyGroups; group++) {
      await transformGroup(store, { operatorId, group, table, codec }, change)
    }
  }
  declare(draft, uid, { ...table, ...shapeOf(state, codec, isComposite) })
}

interface GroupOfTable {
  readonly operatorId: number
  readonly group: number
  readonly table: ManifestTable
  readonly codec: ValueCodec
}

async function transformGroup(store: KeyedStore, of: GroupOfTable, change: Change): Promise<void> {
  const prefix = statePrefix(of.operatorId, of.group, of.table.id)
  const batch = new WriteBatchBuilder()
  const scan = store.scan(prefix, prefixEnd(prefix))
  // The same rows, once as bytes and once decoded: both scans go in key order.
  const decoded = readState([store], of.operatorId, of.group + 1, [of.table], of.group)
  try {
    for (let chunk = scan.next(); chunk !== null; chunk = scan.next()) {
      const { keys } = chunk
      for (let row = 0; row < keys.count; row++) {
        const entry = decoded.next().value!
        const value = change(
          entry.entry === undefined
            ? { key: entry.key, value: entry.value }
            : { key: entry.key, value: entry.value, entry: entry.entry },
        )
        batch.keys.add(keys.bytes, keys.offsets[row]!, keys.offsets[row + 1]!)
        if (value === undefined) {
          batch.endDelete()
          continue
        }
        const encoded = of.codec.encode(value)
        batch.values.add(encoded, 0, encoded.length)
        batch.endPut()
      }
      store.write(batch.batch())
      batch.clear()
      await turn()
    }
  } finally {
    scan.close()
    decoded.return(undefined)
  }
}

async function bootstrap(
  draft: Draft,
  uid: string,
  state: WritableState<unknown>,
  entries: Iterable<BootstrapEntry<Key, unknown>> | AsyncIterable<BootstrapEntry<Key, unknown>>,
): Promise<void> {
  const isComposite = state.kind === 'map'
  const operator = draft.manifest.operators.find((candidate) => candidate.uid === uid) ?? newOperator(draft, uid)
  const known = operator.tables.find(({ name }) => name === state.name)
  const codec = writable(state, null)
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

/** Runs the bootstrap job beside the draft, and takes the operator over. */
async function adopt(draft: Draft, uid: string, bootstrap: OperatorBootstrap): Promise<void> {
  const { keyGroups, stateBackend, operators } = draft.manifest
  if (operators.some((operator) => operator.uid === uid)) throw uidTaken(uid)
  const scratch = await mkdtemp(join(draft.scratch, 'bootstrap-'))
  const directory = join(scratch, 'job')
  await bootstrap.run(uid, { directory, keyGroups, stateBackend: stateBackend as StateBackendName })
  const linked = await linkCheckpoint(nodeIo.disk, directory, scratch)
  const made = operatorOf(linked.manifest.operators, uid)
  const { operatorId } = newOperator(draft, uid)
  const from = await openImages(linked, scratch)
  try {
    const places = storesByKeyGroup(draft, made)
    const storeOf = (group: number): KeyedStore => draft.stores[places[group]!]!
    await adoptRows({ from, operator: made, operatorId, keyGroups, storeOf })
  } finally {
    for (const store of from) store.close()
  }
  const adopted = draft.manifest.operators.map((operator) =>
    operator.uid === uid ? { ...made, operatorId } : operator,
  )
  draft.manifest = { ...draft.manifest, operators: adopted }
}

/** Where a restore looks for the keys of an operator: for each key group the place of its store. */
function storesByKeyGroup({ manifest, stores }: Draft, { parallelism }: ManifestOperator): number[] {
  const { keyGroups, workers } = manifest
  return Array.from({ length: keyGroups }, (_, group) => {
    const subtask = subtaskOfKeyGroup(group, Math.max(1, parallelism), keyGroups)
    const at = manifest.stores.findIndex(({ worker }) => worker === workerOf(subtask, workers))
    assert(stores.length > 0, 'a savepoint that takes state has a store')
    return Math.max(0, at)
  })
}

function uidTaken(uid: string): MillraceError {
  return new MillraceError('OPERATOR_UID_TAKEN', `The savepoint has an operator ${JSON.stringify(uid)} already.`, {
    hint: 'Remove that one first, or choose another uid.',
  })
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

function newOperator(draft: Draft, uid: string): ManifestOperator {
  const { operators } = draft.manifest
  const operator: ManifestOperator = {
    uid,
    name: uid,
    operatorId: operators.reduce((next, { operatorId }) => Math.max(next, operatorId + 1), 0),
    parallelism: 1,
    isKeyed: true,
    states: [],
    tables: [],
  }
  draft.manifest = { ...draft.manifest, operators: [...operators, operator] }
  return operator
}

/** Puts a table's description into its operator. */
function declare(draft: Draft, uid: string, table: ManifestTable): void {
  const operators = draft.manifest.operators.map((operator) =>
    operator.uid === uid
      ? { ...operator, tables: [...operator.tables.filter(({ id }) => id !== table.id), table] }
      : operator,
  )
  draft.manifest = { ...draft.manifest, operators }
}

function shapeOf(state: WritableState<unknown>, codec: ValueCodec, isComposite: boolean): Omit<ManifestTable, 'id'> {
  const layout = isComposite ? `${COMPOSITE}${codec.description}` : codec.description
  return { name: state.name, version: state.version ?? 1, layout }
}

/** The codec of a state that can be written value by value. Throws `STATE_NOT_WRITABLE`. */
function writable(state: WritableState<unknown>, before: string | null): ValueCodec {
  const isWrapped = before !== null && /^(ttl |list |times|doubles)/.test(before)
  if (state.kind === 'list' || state.ttl !== undefined || isWrapped) {
    throw new MillraceError('STATE_NOT_WRITABLE', `State ${JSON.stringify(state.name)} cannot be written here.`, {
      hint: 'Value, reducing, aggregating and map state without a time to live can; make others with `withOperator`.',
    })
  }
  return stateCodec(state)
}
