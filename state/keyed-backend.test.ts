/**
 * Model test of the keyed working set: random operations against a Map, with budgets so small that
 * eviction, early writes and encoding happen all the time, cuts encoded entry by entry between other
 * operations, writes while an image is made, failed checkpoints, drops, and restores at other ranges.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import fc from 'fast-check'
import type { StateSegment, StateTable, ValueLayout } from '../engine/contract/keyed-state.ts'
import type { KeyedStore } from '../engine/contract/keyed-store.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import { decodeKey, encodeKey, keyGroupOf, keyGroupRange, murmur3 } from '../engine/core/keys.ts'
import { ByteArena } from '../engine/core/strings.ts'
import { KeyedBackend, type StateDeclaration } from './keyed-backend.ts'
import { WriteBatchBuilder } from './keyed-layout.ts'
import { memoryStoreFactory } from './memory-store.ts'
import { objectCodec } from './value-codec.ts'

const KEY_GROUPS = 8
const directory = mkdtempSync(join(tmpdir(), 'keyed-backend-'))
after(() => rmSync(directory, { recursive: true, force: true }))

function keyColumn(keys: readonly string[], hashOf: (hash: number) => number = (hash) => hash): KeyColumn {
  const arena = new ByteArena()
  const starts = new Int32Array(keys.length)
  const ends = new Int32Array(keys.length)
  const hashes = new Int32Array(keys.length)
  keys.forEach((key, i) => {
    starts[i] = arena.length
    encodeKey(key, arena)
    ends[i] = arena.length
    hashes[i] = hashOf(murmur3(arena.bytes, starts[i], ends[i]))
  })
  return { bytes: arena.bytes, starts, ends, hashes }
}

interface Rig {
  readonly backend: KeyedBackend
  readonly doubles: StateTable
  readonly objects: StateTable
}

const DOUBLES: ValueLayout = { kind: 'doubles', initial: [7, 0] }
const OBJECTS: ValueLayout = { kind: 'object', codec: objectCodec() }
const counters = () => ({ lateDropped: 0, filtered: 0, coldReads: 0 })

interface Bounds {
  readonly memoryBudgetBytes: number
  readonly decodedObjectsMax: number
  readonly dirtyBytesMax: number
}

const TIGHT: Bounds = { memoryBudgetBytes: 2_500, decodedObjectsMax: 3, dirtyBytesMax: 100 }
const WIDE: Bounds = { memoryBudgetBytes: 1 << 20, decodedObjectsMax: 1_000, dirtyBytesMax: 1 << 20 }

function rig(
  store: KeyedStore,
  subtask: number,
  parallelism: number,
  restored?: StateDeclaration[],
  bounds = restored !== undefined && parallelism === 1 ? WIDE : TIGHT,
): Rig {
  const backend = new KeyedBackend({
    operatorId: 3,
    keyGroups: keyGroupRange(subtask, parallelism, KEY_GROUPS),
    store,
    ...bounds,
    counters: counters(),
    ...(restored === undefined ? {} : { restored }),
  })
  if (restored !== undefined) backend.restore()
  return {
    backend,
    doubles: backend.table({ name: 'doubles', version: 1, layout: DOUBLES }),
    objects: backend.table({ name: 'objects', version: 1, layout: OBJECTS }),
  }
}

const KEYS = Array.from({ length: 24 }, (_, i) => `key-${'x'.repeat(i % 5)}-${i}`)
const NAMESPACES = [-1_000, 2_500.5]

type Model = Map<string, number>
const modelKey = (namespace: number, key: string) => `${namespace}/${key}`

const operation = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('upsert' as const), ns: ns(), keys: someKeys() }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('find' as const), ns: ns(), keys: someKeys() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('remove' as const), ns: ns(), keys: someKeys() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('drop' as const), ns: ns() }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('scan' as const), ns: ns() }) },
  { weight: 2, arbitrary: fc.constant({ kind: 'capture' as const }) },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant('encode' as const), entries: fc.integer({ min: 1, max: 9 }) }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('image' as const), outcome: fc.integer({ min: 0, max: 2 }) }) },
  {
    weight: 2,
    arbitrary: fc.constant({ kind: 'settle' as const }),
  },
  { weight: 3, arbitrary: fc.constant({ kind: 'evict' as const }) },
)

function ns() {
  return fc.constantFrom(...NAMESPACES)
}
function someKeys() {
  return fc.array(fc.constantFrom(...KEYS), { minLength: 1, maxLength: 12 })
}

function touch(table: StateTable, isObjects: boolean, namespace: number, keys: KeyColumn, count: number): void {
  const slots = new Int32Array(count)
  const segment = table.segment(namespace)
  segment.upsert(keys, null, count, slots)
  for (let j = 0; j < count; j++) {
    if (isObjects) {
      const value = segment.objects[slots[j]] as { n: number } | undefined
      // Changed in place where it exists: what was captured before must not see it.
      if (value === undefined) segment.objects[slots[j]] = { n: 8 }
      else value.n++
    } else segment.doubles[0][slots[j]]++
  }
}

function readSegment(segment: StateSegment, isObjects: boolean): Map<string, number> {
  const found = new Map<string, number>()
  const scan = segment.scan()
  for (let chunk = scan.next(7); chunk !== null; chunk = scan.next(7)) {
    assert.ok(chunk.count > 0 && chunk.count <= 7)
    for (let i = 0; i < chunk.count; i++) {
      const { bytes, starts, ends, hashes }: KeyColumn = chunk.keys
      assert.equal(hashes[i], murmur3(bytes, starts[i], ends[i]))
      const key = String(decodeKey(bytes, starts[i], ends[i]))
      assert.ok(!found.has(key), `${key} came twice`)
      found.set(key, isObjects ? (chunk.objects[i] as { n: number }).n : chunk.doubles[0][i])
    }
  }
  scan.close()
  return found
}

function entriesOf(table: StateTable, isObjects: boolean): Model {
  const all: Model = new Map()
  for (const namespace of table.namespaces()) {
    for (const [key, value] of readSegment(table.segment(namespace), isObjects))
      all.set(modelKey(namespace, key), value)
  }
  return all
}

const sorted = (model: Model) => [...model].sort(([a], [b]) => (a < b ? -1 : 1))

/** The rows of one store appended to another: what merging the images of two subtasks amounts to. */
function copyInto(from: KeyedStore, to: KeyedStore): void {
  const scan = from.scan(new Uint8Array(0), null)
  for (let chunk = scan.next(); chunk !== null; chunk = scan.next()) {
    to.write({ keys: chunk.keys, values: chunk.values, deletes: null })
  }
  scan.close()
}

const bounds = fc.record({
  memoryBudgetBytes: fc.constantFrom(2_500, 20_000, 1 << 20),
  decodedObjectsMax: fc.constantFrom(0, 3, 1_000),
  dirtyBytesMax: fc.constantFrom(100, 1 << 20),
})

let storeNumber = 0
const newStore = () => memoryStoreFactory().create(join(directory, String(storeNumber++)))

/** Runs operations on two subtasks over two stores, and a model; cuts go to `image` as a checkpoint would. */
class Run {
  readonly stores = [newStore(), newStore()]
  readonly rigs: readonly Rig[]
  readonly model: Model = new Map()
  private readonly batches = [new WriteBatchBuilder(), new WriteBatchBuilder()]
  private cut: Model | null = null
  /** 0: the checkpoint will succeed; 1: it fails before the write; 2: after it. Null while encoding. */
  private outcome: number | null = null
  private pending: KeyedStore | null = null
  /** Content of the last settled checkpoint, and what it has to be. */
  image: KeyedStore | null = null
  imageModel: Model = new Map()

  constructor(bounds: Bounds) {
    this.rigs = this.stores.map((store, i) => rig(store, i, 2, undefined, bounds))
  }

  ownerOf(key: string): number {
    const column = keyColumn([key])
    return keyGroupOf(column.hashes[0], KEY_GROUPS) < KEY_GROUPS / 2 ? 0 : 1
  }

  split(keys: readonly string[]): string[][] {
    return [0, 1].map((owner) => keys.filter((key) => this.ownerOf(key) === owner))
  }

  step(op: typeof operation extends fc.Arbitrary<infer O> ? O : never): void {
    switch (op.kind) {
      case 'upsert':
        for (const key of op.keys) this.model.set(modelKey(op.ns, key), (this.model.get(modelKey(op.ns, key)) ?? 7) + 1)
        this.each(op.keys, (r, keys, count) => {
          touch(r.doubles, false, op.ns, keys, count)
          touch(r.objects, true, op.ns, keys, count)
        })
        return
      case 'find':
        this.each(op.keys, (r, keys, count, names) => this.checkFind(r, op.ns, keys, count, names))
        return
      case 'remove':
        for (const key of op.keys) this.model.delete(modelKey(op.ns, key))
        this.each(op.keys, (r, keys, count) => {
          for (const table of [r.doubles, r.objects]) {
            const slots = new Int32Array(count)
            const segment = table.segment(op.ns)
            segment.find(keys, null, count, slots)
            for (const slot of slots) if (slot >= 0) segment.remove(slot)
          }
        })
        return
      case 'drop':
        for (const key of KEYS) this.model.delete(modelKey(op.ns, key))
        for (const r of this.rigs) for (const table of [r.doubles, r.objects]) table.drop(op.ns)
        return
      case 'scan':
        this.check()
        return
      case 'capture':
        this.capture()
        return
      case 'encode':
        if (this.cut !== null && this.outcome === null) {
          for (const r of this.rigs) r.backend.captureMore(op.entries)
        }
        return
      case 'image':
        this.startImage(op.outcome)
        return
      case 'settle':
        this.settle()
        return
      case 'evict':
        for (const r of this.rigs) r.backend.maybeEvict()
    }
  }

  private each(keys: readonly string[], act: (r: Rig, keys: KeyColumn, count: number, names: string[]) => void): void {
    this.split(keys).forEach((names, i) => {
      if (names.length > 0) act(this.rigs[i], keyColumn(names), names.length, names)
    })
  }

  private checkFind(r: Rig, namespace: number, keys: KeyColumn, count: number, names: string[]): void {
    const segment = r.doubles.existing(namespace)
    const slots = new Int32Array(count).fill(-1)
    segment?.find(keys, null, count, slots)
    names.forEach((name, j) => {
      const expected = this.model.get(modelKey(namespace, name))
      assert.equal(slots[j] < 0 ? undefined : segment!.doubles[0][slots[j]], expected, name)
    })
  }

  check(): void {
    const doubles = this.rigs.flatMap((r) => [...entriesOf(r.doubles, false)])
    const objects = this.rigs.flatMap((r) => [...entriesOf(r.objects, true)])
    assert.deepEqual(sorted(new Map(doubles)), sorted(this.model))
    assert.deepEqual(sorted(new Map(objects)), sorted(this.model))
  }

  capture(): void {
    if (this.cut !== null) return
    for (const [i, r] of this.rigs.entries()) {
      this.batches[i].clear()
      r.backend.beginCut(this.batches[i])
    }
    this.cut = new Map(this.model)
  }

  /** The rest is encoded and the stores get it, each at its own time in life: the image is what they hold then. */
  startImage(outcome: number): void {
    if (this.cut === null || this.outcome !== null) return
    this.outcome = outcome
    this.pending = newStore()
    for (const [i, r] of this.rigs.entries()) {
      while (!r.backend.captureMore(2));
      assertUniqueKeys(this.batches[i])
      if (outcome !== 1) this.stores[i].write(this.batches[i].batch())
      r.backend.imagingStarted()
      copyInto(this.stores[i], this.pending)
    }
  }

  /** Before an image was begun: the checkpoint is given up. */
  settle(): void {
    if (this.cut === null) return
    if (this.outcome === 0) {
      this.image = this.pending
      this.imageModel = this.cut
    }
    for (const r of this.rigs) {
      if (this.outcome === 0) r.backend.checkpointSettled()
      else r.backend.checkpointFailed()
    }
    this.cut = null
    this.outcome = null
  }

  checkpoint(): void {
    this.settle()
    this.capture()
    this.startImage(0)
    this.settle()
  }
}

function assertUniqueKeys(builder: WriteBatchBuilder): void {
  const { keys } = builder.batch()
  const seen = new Set<string>()
  for (let row = 0; row < keys.count; row++) {
    const key = Buffer.from(keys.bytes.subarray(keys.offsets[row], keys.offsets[row + 1])).toString('hex')
    assert.ok(!seen.has(key), 'a cut names each key once')
    seen.add(key)
  }
}

describe('keyed backend', () => {
  test('behaves as a map through evictions, failed checkpoints, drops and rescaling', () => {
    let evictedRuns = 0
    fc.assert(
      fc.property(fc.array(operation, { minLength: 10, maxLength: 100, size: 'max' }), bounds, (operations, limits) => {
        const run = new Run(limits)
        for (const op of operations) run.step(op)
        run.check()
        run.checkpoint()
        if (
          run.rigs.some(
            (r) =>
              !(r.doubles as unknown as { segments: Map<number, { complete: boolean }> }).segments
                .values()
                .every((s) => s.complete),
          )
        )
          evictedRuns++
        for (const parallelism of [1, 3]) {
          const declarations = run.rigs[0].backend.declarations()
          const image = newStore()
          copyInto(run.image!, image)
          const rigs = Array.from({ length: parallelism }, (_, i) => rig(image, i, parallelism, declarations))
          const doubles = rigs.flatMap((r) => [...entriesOf(r.doubles, false)])
          assert.equal(doubles.length, new Map(doubles).size, 'each entry has one owner')
          assert.deepEqual(sorted(new Map(doubles)), sorted(run.imageModel))
          assert.deepEqual(
            sorted(new Map(rigs.flatMap((r) => [...entriesOf(r.objects, true)]))),
            sorted(run.imageModel),
          )
        }
      }),
      { numRuns: Number(process.env['MILLRACE_MODEL_RUNS'] ?? 200) },
    )
    assert.ok(evictedRuns > 20, `evictions happened in ${evictedRuns} runs only`)
  })

  test('the image of a checkpoint is the cut, whatever happens before it settles', () => {
    const store = newStore()
    const { backend, objects } = rig(store, 0, 1)
    touch(objects, true, 0, keyColumn(['a', 'b']), 2)
    const batch = new WriteBatchBuilder()
    backend.captureDirty(batch)
    touch(objects, true, 0, keyColumn(['a', 'c']), 2)
    objects.drop(1)
    for (let i = 0; i < 50; i++) touch(objects, true, 5, keyColumn(KEYS), KEYS.length)
    backend.maybeEvict()
    store.write(batch.batch())
    const restored = rig(store, 0, 1, backend.declarations())
    assert.deepEqual(sorted(entriesOf(restored.objects, true)), [
      ['0/a', 8],
      ['0/b', 8],
    ])
    backend.checkpointSettled()
    assert.equal(readSegment(objects.segment(0), true).get('a'), 9)
  })

  test('knows the size of each table, and what the last checkpoint that held took from it', () => {
    const { backend, doubles, objects } = rig(newStore(), 0, 1, undefined, WIDE)
    const batch = new WriteBatchBuilder()
    const sizes = () => new Map(backend.tableSizes().map((size) => [size.name, size]))
    const cut = (holds: boolean): void => {
      batch.clear()
      backend.captureDirty(batch)
      if (holds) backend.checkpointSettled()
      else backend.checkpointFailed()
    }
    touch(doubles, false, 0, keyColumn(['a', 'b', 'c']), 3)
    touch(doubles, false, 1, keyColumn(['a']), 1)
    assert.equal(sizes().get('doubles')!.entries, 4)
    assert.equal(sizes().get('doubles')!.checkpointBytes, null)
    assert.equal(sizes().get('objects')!.entries, 0)
    assert.equal(sizes().get('objects')!.storedBytes, 0)
    const sum = [...sizes().values()].reduce((bytes, size) => bytes + size.memoryBytes, 0)
    assert.equal(sum, backend.memoryBytes())
    cut(false)
    assert.equal(sizes().get('doubles')!.checkpointBytes, null, 'it did not hold')
    cut(true)
    assert.equal(sizes().get('doubles')!.checkpointBytes, batch.byteLength, 'all of it is of this table')
    // Keys are stored in pieces of whole words, so the estimate may be a few bytes an entry too large.
    const stored = sizes().get('doubles')!.storedBytes!
    assert.ok(stored >= batch.byteLength && stored < batch.byteLength * 1.3, `${stored} for ${batch.byteLength}`)
    touch(objects, true, 0, keyColumn(['a']), 1)
    backend.beginCut(batch)
    // Encoded by the look-up, not by the sweep.
    touch(objects, true, 0, keyColumn(['a']), 1)
    while (!backend.captureMore(1));
    backend.checkpointSettled()
    assert.equal(sizes().get('doubles')!.checkpointBytes, 0)
    assert.ok(sizes().get('objects')!.checkpointBytes! > 0)
  })

  test('a namespace dropped twice around a failed checkpoint deletes each key once', () => {
    const store = newStore()
    const { backend, doubles } = rig(store, 0, 1)
    const batch = new WriteBatchBuilder()
    const cut = (succeeds: boolean) => {
      batch.clear()
      backend.captureDirty(batch)
      assertUniqueKeys(batch)
      if (succeeds) store.write(batch.batch())
      if (succeeds) backend.checkpointSettled()
    }
    touch(doubles, false, 0, keyColumn(['a']), 1)
    cut(true)
    doubles.drop(0)
    touch(doubles, false, 0, keyColumn(['a']), 1)
    cut(false)
    doubles.drop(0)
    backend.checkpointFailed()
    cut(true)
    assert.equal(batch.count, 1)
    assert.equal(store.scan(new Uint8Array(0), null).next(), null)
  })

  test('cold reads come in one multi-get a batch and are counted', () => {
    const store = newStore()
    let multiGets = 0
    const multiGet = store.multiGet.bind(store)
    store.multiGet = (keys) => {
      multiGets++
      return multiGet(keys)
    }
    const count = counters()
    const backend = new KeyedBackend({
      operatorId: 1,
      keyGroups: keyGroupRange(0, 1, KEY_GROUPS),
      store,
      memoryBudgetBytes: 100,
      counters: count,
    })
    const table = backend.table({ name: 'doubles', version: 1, layout: DOUBLES })
    touch(table, false, 0, keyColumn(KEYS), KEYS.length)
    assert.equal(multiGets, 0, 'a fresh table never asks the store')
    backend.maybeEvict()
    touch(table, false, 0, keyColumn([...KEYS, 'new']), KEYS.length + 1)
    assert.equal(multiGets, 1)
    assert.equal(count.coldReads, KEYS.length + 1)
    assert.equal(readSegment(table.segment(0), false).get(KEYS[3]), 9)
  })

  test('refuses a table declared twice and restored values of another shape', () => {
    const store = newStore()
    const { backend } = rig(store, 0, 1)
    assert.throws(() => backend.table({ name: 'doubles', version: 1, layout: DOUBLES }), {
      code: 'STATE_DECLARED_TWICE',
    })
    const restored = backend.declarations()
    assert.deepEqual(
      restored.map((d) => [d.id, d.name, d.version, d.layout]),
      [
        [0, 'doubles', 1, 'doubles(2)'],
        [1, 'objects', 1, 'object'],
      ],
    )
    const options = { operatorId: 3, keyGroups: keyGroupRange(0, 1, 8), store, memoryBudgetBytes: 1e6, restored }
    const next = new KeyedBackend({ ...options, counters: counters() })
    const changed: ValueLayout = { kind: 'doubles', initial: [0] }
    assert.throws(() => next.table({ name: 'doubles', version: 1, layout: changed }), { code: 'STATE_INCOMPATIBLE' })
    assert.throws(() => next.table({ name: 'objects', version: 2, layout: OBJECTS }), { code: 'STATE_INCOMPATIBLE' })
    next.table({ name: 'added', version: 1, layout: DOUBLES })
    assert.equal(next.declarations()[2].id, 2)
  })
})
