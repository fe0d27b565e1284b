/**
 * Clearing all entries of a key at once: against a model, through evictions, cuts that are encoded in pieces, failed
 * checkpoints and restores at other parallelisms; and what it costs where the store has a million of them.
 * `MILLRACE_MODEL_RUNS=5000` runs more of the first.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import fc from 'fast-check'
import type { StateTable } from '../engine/contract/keyed-state.ts'
import type { Arena, KeyedStore, Lookup, Scan } from '../engine/contract/keyed-store.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import { COMPOSITE_LENGTH_BYTES, CompositeKeys, entryStart } from '../engine/core/composite-keys.ts'
import { decodeKey, encodeKey, keyGroupRange, murmur3 } from '../engine/core/keys.ts'
import { ByteArena } from '../engine/core/strings.ts'
import { KeyedBackend, type StateDeclaration } from './keyed-backend.ts'
import { PieceArena, PREFIX_BYTES, WriteBatchBuilder } from './keyed-layout.ts'
import { memoryStoreFactory } from './memory-store.ts'
import { objectCodec } from './value-codec.ts'

const KEY_GROUPS = 8
const directory = mkdtempSync(join(tmpdir(), 'cleared-owners-'))
after(() => rmSync(directory, { recursive: true, force: true }))
let storeNumber = 0
const newStore = () => memoryStoreFactory().create(join(directory, String(storeNumber++)))

interface Limits {
  readonly memoryBudgetBytes: number
  readonly dirtyBytesMax: number
  readonly decodedObjectsMax: number
  readonly clearedEntriesMax: number
}

/** One map of each owner, as map state keeps them. */
class Maps {
  readonly backend: KeyedBackend
  readonly table: StateTable
  private readonly composed = new CompositeKeys(KEY_GROUPS)
  private readonly slots = new Int32Array(64)

  constructor(store: KeyedStore, limits: Partial<Limits>, restored?: StateDeclaration[], subtask = 0, parallelism = 1) {
    this.backend = new KeyedBackend({
      operatorId: 3,
      keyGroups: keyGroupRange(subtask, parallelism, KEY_GROUPS),
      store,
      memoryBudgetBytes: 1 << 20,
      ...limits,
      counters: { lateDropped: 0, filtered: 0, coldReads: 0 },
      ...(restored === undefined ? {} : { restored }),
    })
    if (restored !== undefined) this.backend.restore()
    const layout = { kind: 'object', codec: objectCodec() } as const
    this.table = this.backend.table({ name: 'maps', version: 1, composite: true, layout })
  }

  private of(owner: string, ...entries: number[]): KeyColumn {
    const arena = new ByteArena()
    encodeKey(owner, arena)
    const [starts, ends] = [Int32Array.of(0), Int32Array.of(arena.length)]
    this.composed.begin(
      { bytes: arena.bytes, starts, ends, hashes: Int32Array.of(murmur3(arena.bytes, 0, arena.length)) },
      0,
    )
    for (const entry of entries) this.composed.add(entry)
    return this.composed.keys
  }

  put(owner: string, entry: number, value: number): void {
    const segment = this.table.segment(0)
    segment.overwrite(this.of(owner, entry), null, 1, this.slots)
    segment.objects[this.slots[0]!] = value
  }

  remove(owner: string, entry: number): void {
    const segment = this.table.segment(0)
    segment.overwrite(this.of(owner, entry), null, 1, this.slots)
    segment.remove(this.slots[0]!)
  }

  get(owner: string, ...entries: number[]): unknown[] {
    const segment = this.table.segment(0)
    segment.find(this.of(owner, ...entries), null, entries.length, this.slots)
    return entries.map((_, i) => (this.slots[i]! < 0 ? undefined : segment.objects[this.slots[i]!]))
  }

  clear(owner: string): void {
    this.of(owner)
    this.table.segment(0).removeKey(this.composed.prefix, this.composed.ownerHash)
  }

  /** With `clearAfter` the map is cleared while it is read, after that many entries. */
  entries(owner: string, clearAfter = Number.POSITIVE_INFINITY): [number, unknown][] {
    this.of(owner)
    const scan = this.table.segment(0).scanKey(this.composed.prefix, this.composed.ownerHash)
    const read: [number, unknown][] = []
    for (let chunk = scan.next(2); chunk !== null; chunk = scan.next(2)) {
      for (let i = 0; i < chunk.count; i++) {
        const { bytes, starts, ends }: KeyColumn = chunk.keys
        read.push([decodeKey(bytes, entryStart(bytes, starts[i]!), ends[i]!) as number, chunk.objects[i]])
      }
      if (read.length >= clearAfter) {
        this.clear(owner)
        clearAfter = Number.POSITIVE_INFINITY
      }
    }
    scan.close()
    return read.sort(([a], [b]) => a - b)
  }

  all(): string[] {
    const found: string[] = []
    const scan = this.table.segment(0).scan()
    for (let chunk = scan.next(5); chunk !== null; chunk = scan.next(5)) {
      for (let i = 0; i < chunk.count; i++) {
        const { bytes, starts, ends }: KeyColumn = chunk.keys
        const entry = entryStart(bytes, starts[i]!)
        const owner = decodeKey(bytes, starts[i]! + COMPOSITE_LENGTH_BYTES, entry)
        found.push(`${owner}/${decodeKey(bytes, entry, ends[i]!)}=${chunk.objects[i]}`)
      }
    }
    scan.close()
    return found.sort()
  }
}

type Model = Map<string, Map<number, number>>
const flat = (model: Model): string[] =>
  [...model].flatMap(([owner, map]) => [...map].map(([entry, value]) => `${owner}/${entry}=${value}`)).sort()

const OWNERS = ['a', 'b', 'Zürich']
const anyOwner = fc.constantFrom(...OWNERS)
const anyEntry = fc.integer({ min: -3, max: 12 })
const operation = fc.oneof(
  { weight: 8, arbitrary: fc.record({ put: anyOwner, entries: fc.array(anyEntry, { minLength: 1, maxLength: 8 }) }) },
  { weight: 2, arbitrary: fc.record({ remove: anyOwner, entry: anyEntry }) },
  { weight: 3, arbitrary: fc.record({ get: anyOwner, entries: fc.array(anyEntry, { minLength: 1, maxLength: 8 }) }) },
  { weight: 4, arbitrary: fc.record({ clear: anyOwner }) },
  { weight: 3, arbitrary: fc.record({ iterate: anyOwner, clearAfter: fc.constantFrom(1, 3, 100) }) },
  { weight: 1, arbitrary: fc.constant({ scan: true }) },
  { weight: 8, arbitrary: fc.constant({ evict: true }) },
  { weight: 2, arbitrary: fc.constant({ cut: true }) },
  { weight: 2, arbitrary: fc.record({ encode: fc.integer({ min: 1, max: 6 }) }) },
  { weight: 2, arbitrary: fc.record({ image: fc.constantFrom('succeeds', 'fails before', 'fails after') }) },
  { weight: 3, arbitrary: fc.constant({ settle: true }) },
)
type Operation = typeof operation extends fc.Arbitrary<infer O> ? O : never

class Run {
  readonly store = newStore()
  readonly maps: Maps
  readonly model: Model = new Map(OWNERS.map((owner) => [owner, new Map()]))
  private readonly batch = new WriteBatchBuilder()
  private cut: string[] | null = null
  private fate: string | null = null
  private pending: KeyedStore | null = null
  image: { store: KeyedStore; expected: string[] } = { store: newStore(), expected: [] }
  private values = 0

  constructor(limits: Limits) {
    this.maps = new Maps(this.store, limits)
  }

  step(op: Operation): void {
    const { maps, model } = this
    if ('put' in op) {
      for (const entry of op.entries) {
        maps.put(op.put, entry, ++this.values)
        model.get(op.put)!.set(entry, this.values)
      }
    } else if ('remove' in op) {
      maps.remove(op.remove, op.entry)
      model.get(op.remove)!.delete(op.entry)
    } else if ('get' in op) {
      const expected = op.entries.map((entry) => model.get(op.get)!.get(entry))
      assert.deepEqual(maps.get(op.get, ...op.entries), expected)
    } else if ('clear' in op) {
      maps.clear(op.clear)
      model.get(op.clear)!.clear()
    } else if ('iterate' in op) this.iterate(op.iterate, op.clearAfter)
    else if ('evict' in op) maps.backend.maybeEvict()
    else if ('scan' in op) this.check()
    else this.checkpointing(op)
  }

  private iterate(owner: string, clearAfter: number): void {
    const map = this.model.get(owner)!
    const expected = [...map].sort(([a], [b]) => a - b)
    const read = this.maps.entries(owner, clearAfter)
    if (read.length < expected.length) {
      assert.ok(read.length >= clearAfter && read.length < clearAfter + 2, 'nothing comes of a map that was cleared')
      for (const [entry, value] of read) assert.equal(map.get(entry), value)
    } else assert.deepEqual(read, expected)
    if (read.length >= clearAfter) map.clear()
  }

  private checkpointing(op: Operation): void {
    const { backend } = this.maps
    if ('cut' in op && this.cut === null) {
      this.batch.clear()
      backend.beginCut(this.batch)
      this.cut = flat(this.model)
    } else if ('encode' in op && this.cut !== null && this.fate === null) backend.captureMore(op.encode)
    else if ('image' in op && this.cut !== null && this.fate === null) this.startImage(op.image)
    else if ('settle' in op && this.cut !== null) this.settle()
  }

  private startImage(fate: string): void {
    const { backend } = this.maps
    while (!backend.captureMore(2));
    this.fate = fate
    if (fate !== 'fails before') this.store.write(this.batch.batch())
    backend.imagingStarted()
    this.pending = newStore()
    copyInto(this.store, this.pending)
  }

  private settle(): void {
    if (this.fate === 'succeeds') {
      this.image = { store: this.pending!, expected: this.cut! }
      this.maps.backend.checkpointSettled()
    } else this.maps.backend.checkpointFailed()
    this.cut = null
    this.fate = null
  }

  checkpoint(): void {
    if (this.cut !== null) this.settle()
    this.checkpointing({ cut: true })
    this.startImage('succeeds')
    this.settle()
  }

  check(): void {
    assert.deepEqual(this.maps.all(), flat(this.model))
  }
}

function copyInto(from: KeyedStore, to: KeyedStore): void {
  const scan = from.scan(new Uint8Array(0), null)
  for (let chunk = scan.next(); chunk !== null; chunk = scan.next()) {
    to.write({ keys: chunk.keys, values: chunk.values, deletes: null })
  }
  scan.close()
}

const limits = fc.record({
  memoryBudgetBytes: fc.constantFrom(1_200, 20_000),
  dirtyBytesMax: fc.constantFrom(100, 1 << 20),
  decodedObjectsMax: fc.constantFrom(0, 100),
  clearedEntriesMax: fc.constantFrom(0, 2, 256),
})

describe('clearing a key', () => {
  test('behaves as a map of maps through evictions, failed checkpoints and rescaling', () => {
    fc.assert(
      fc.property(fc.array(operation, { minLength: 10, maxLength: 80, size: 'max' }), limits, (operations, limit) => {
        const run = new Run(limit)
        for (const op of operations) run.step(op)
        run.check()
        run.checkpoint()
        const { store, expected } = run.image
        const declarations = run.maps.backend.declarations()
        for (const parallelism of [1, 2]) {
          const image = newStore()
          copyInto(store, image)
          const restored = Array.from({ length: parallelism }, (_, subtask) => {
            return new Maps(image, limit, declarations, subtask, parallelism)
          })
          assert.deepEqual(restored.flatMap((maps) => maps.all()).sort(), expected)
        }
      }),
      { numRuns: Number(process.env['MILLRACE_MODEL_RUNS'] ?? 150) },
    )
  })

  test('of a million entries of which few are in memory reads a few of them, and deletes a range', () => {
    const store = new MillionEntries()
    const declarations = [{ id: 0, name: 'maps', version: 1, layout: 'entries object' }]
    const maps = new Maps(store, {}, declarations)
    assert.deepEqual(maps.get('large', 5, 999_999, 1_000_000), [5, 999_999, undefined])
    maps.put('large', 7, 70)
    const before = { ...store.counts }

    maps.clear('large')
    assert.equal(store.counts.rowsRead - before.rowsRead < 1_500, true, `${store.counts.rowsRead} rows read`)
    assert.equal(store.counts.deletedRows, 0)
    assert.deepEqual(maps.get('large', 5, 7, 8, 999_999), [undefined, undefined, undefined, undefined])
    assert.deepEqual(maps.entries('large'), [])
    maps.put('large', 8, 80)
    maps.clear('large')
    maps.put('large', 9, 90)
    assert.deepEqual(maps.entries('large'), [[9, 90]])
    assert.equal(store.counts.keysAsked, before.keysAsked, 'nothing of it is looked for in the store')

    maps.backend.maybeEvict()
    assert.deepEqual(store.ranges, 1)
    const cut = new WriteBatchBuilder()
    maps.backend.captureDirty(cut)
    store.write(cut.batch())
    maps.backend.checkpointSettled()
    assert.equal(cut.count < 10, true, `${cut.count} rows in the checkpoint`)
    assert.deepEqual(new Maps(store, {}, declarations).all(), ['large/9=90'])
  })
})

/** A store that has entries 0 to 999,999 of the map of the owner `large` without keeping them; other rows it keeps. */
class MillionEntries implements KeyedStore {
  readonly description = 'a million entries'
  readonly counts = { rowsRead: 0, keysAsked: 0, deletedRows: 0 }
  ranges = 0
  private readonly kept = newStore()
  private readonly large: Uint8Array
  private isDeleted = false

  constructor() {
    const arena = new ByteArena()
    encodeKey('large', arena)
    const composed = new CompositeKeys(KEY_GROUPS)
    const hash = murmur3(arena.bytes, 0, arena.length)
    const one = { starts: Int32Array.of(0), ends: Int32Array.of(arena.length), hashes: Int32Array.of(hash) }
    composed.begin({ bytes: arena.bytes, ...one }, 0)
    const key = new PieceArena()
    const prefix = new Uint8Array(PREFIX_BYTES)
    prefix.set([0, 3, 0, (hash >>> 0) % KEY_GROUPS, 0, 0, 0x80])
    key.addPrefixed(prefix, composed.prefix, 0, composed.prefix.length)
    key.endRow()
    this.large = key.bytes.slice(0, key.offsets[1])
  }

  private entryOf(key: Uint8Array): number | null {
    if (this.isDeleted || Buffer.compare(key.subarray(0, this.large.length), this.large) !== 0) return null
    const entry = decodeKey(key, this.large.length, key.length) as number
    return entry >= 0 && entry < 1e6 ? entry : null
  }

  multiGet(keys: Arena): Lookup {
    this.counts.keysAsked += keys.count
    const { values, found } = this.kept.multiGet(keys)
    const all = new PieceArena()
    for (let row = 0; row < keys.count; row++) {
      const entry = this.entryOf(keys.bytes.subarray(keys.offsets[row]!, keys.offsets[row + 1]!))
      if (found[row] === 0 && entry !== null) {
        const value = objectCodec().encode(entry)
        all.add(value, 0, value.length)
        found[row] = 1
      } else all.add(values.bytes, values.offsets[row]!, values.offsets[row + 1]!)
      all.endRow()
    }
    return { values: all, found }
  }

  scan(from: Uint8Array, to: Uint8Array | null): Scan {
    const isLarge =
      !this.isDeleted && Buffer.compare(from, this.large) <= 0 && (to === null || Buffer.compare(to, this.large) > 0)
    if (!isLarge) return this.kept.scan(from, to)
    let next = 0
    return {
      next: (maxBytes = 1 << 16) => {
        const [keys, values] = [new PieceArena(), new PieceArena()]
        for (let bytes = 0; next < 1e6 && bytes < maxBytes; bytes += 60, next++) {
          const key = new ByteArena(16)
          encodeKey(next, key)
          keys.add(this.large, 0, this.large.length)
          keys.add(key.bytes, 0, key.length)
          keys.endRow()
          const value = objectCodec().encode(next)
          values.add(value, 0, value.length)
          values.endRow()
        }
        this.counts.rowsRead += keys.count
        return keys.count === 0 ? null : { keys, values }
      },
      close() {},
    }
  }

  write(batch: Parameters<KeyedStore['write']>[0]): void {
    this.kept.write(batch)
  }

  deleteRange(from: Uint8Array, to: Uint8Array): void {
    this.ranges++
    if (Buffer.compare(from, this.large) <= 0 && Buffer.compare(to, this.large) > 0) this.isDeleted = true
    this.kept.deleteRange(from, to)
  }

  writeInBackground(batch: Parameters<KeyedStore['write']>[0]): Promise<void> {
    return this.kept.writeInBackground(batch)
  }

  writeAndCheckpoint(
    ...args: Parameters<KeyedStore['writeAndCheckpoint']>
  ): ReturnType<KeyedStore['writeAndCheckpoint']> {
    return this.kept.writeAndCheckpoint(...args)
  }

  memoryBytes(): number {
    return 0
  }

  close(): void {
    this.kept.close()
  }
}
