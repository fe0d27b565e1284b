/** State ten times as large as its memory: right, within its bounds, and read from the store a batch at a time. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { Arena, KeyedStore } from '../engine/contract/keyed-store.ts'
import { encodeKey, keyGroupRange, murmur3 } from '../engine/core/keys.ts'
import { ByteArena } from '../engine/core/strings.ts'
import { KeyedBackend } from './keyed-backend.ts'
import { WriteBatchBuilder } from './keyed-layout.ts'
import { tryLoadRocksdbAddon } from './rocksdb-addon.ts'
import { rocksdbStoreFactory } from './rocksdb-store.ts'
import { objectCodec } from './value-codec.ts'

const MIB = 2 ** 20
/** Of 8 MiB: the store's share, changes for the next checkpoint, and tables. */
const STORE_BYTES = 2 * MIB
const CHANGES_BYTES = MIB
const TABLES_BYTES = 5 * MIB
const VALUE_BYTES = 4_000
const KEYS = Math.ceil((80 * MIB) / VALUE_BYTES)
const BATCH = 128

const directory = mkdtempSync(join(tmpdir(), 'beyond-memory-'))
after(() => rmSync(directory, { recursive: true, force: true }))

interface Entry {
  updates: number
  readonly text: string
}

/** Text that is as long as it says and tells its key. */
const textOf = (key: number): string =>
  String(key)
    .padStart(8, '0')
    .repeat(VALUE_BYTES / 8)

function keyColumn(keys: readonly number[]) {
  const arena = new ByteArena()
  const starts = new Int32Array(keys.length)
  const ends = new Int32Array(keys.length)
  const hashes = new Int32Array(keys.length)
  keys.forEach((key, i) => {
    starts[i] = arena.length
    encodeKey(`key-${key}`, arena)
    ends[i] = arena.length
    hashes[i] = murmur3(arena.bytes, starts[i]!, ends[i]!)
  })
  return { bytes: arena.bytes, starts, ends, hashes }
}

/** The store, and how many keys each of its look-ups asked for. */
function counted(store: KeyedStore): { store: KeyedStore; asked: number[] } {
  const asked: number[] = []
  return {
    asked,
    store: {
      description: store.description,
      multiGet(keys: Arena) {
        asked.push(keys.count)
        return store.multiGet(keys)
      },
      write: (batch) => store.write(batch),
      deleteRange: (from, to) => store.deleteRange(from, to),
      scan: (from, to) => store.scan(from, to),
      writeInBackground: (batch) => store.writeInBackground(batch),
      writeAndCheckpoint: (batch, to) => store.writeAndCheckpoint(batch, to),
      memoryBytes: () => store.memoryBytes(),
      close: () => store.close(),
    },
  }
}

const skip = tryLoadRocksdbAddon() === null && 'the RocksDB addon is not built'

test('80 MiB of state in 8 MiB of memory', { skip }, async () => {
  const real = rocksdbStoreFactory(STORE_BYTES).create(join(directory, 'store'))
  const { store, asked } = counted(real)
  const counters = { lateDropped: 0, filtered: 0, coldReads: 0 }
  const backend = new KeyedBackend({
    operatorId: 1,
    keyGroups: keyGroupRange(0, 1, 16),
    store,
    memoryBudgetBytes: TABLES_BYTES,
    dirtyBytesMax: CHANGES_BYTES,
    decodedObjectsMax: BATCH,
    counters,
  })
  const table = backend.table({ name: 'texts', version: 1, layout: { kind: 'object', codec: objectCodec() } })
  const slots = new Int32Array(BATCH)
  let bytesMax = 0
  const update = (keys: readonly number[]): void => {
    const segment = table.segment(0)
    segment.upsert(keyColumn(keys), null, keys.length, slots)
    keys.forEach((key, i) => {
      const entry = segment.objects[slots[i]!] as Entry | undefined
      if (entry === undefined) segment.objects[slots[i]!] = { updates: 1, text: textOf(key) }
      else {
        assert.equal(entry.text.slice(0, 8), textOf(key).slice(0, 8))
        entry.updates++
      }
    })
    backend.maybeEvict()
    bytesMax = Math.max(bytesMax, backend.memoryBytes() + store.memoryBytes())
  }

  for (let key = 0; key < KEYS; key += BATCH) {
    update(Array.from({ length: Math.min(BATCH, KEYS - key) }, (_, i) => key + i))
  }
  const inVain = asked.splice(0).reduce((sum, count) => sum + count, 0)
  assert.ok(inVain < KEYS / 10, `${inVain} of ${KEYS} fresh keys were looked for in the store`)
  counters.coldReads = 0

  const cut = new WriteBatchBuilder()
  backend.captureDirty(cut)
  const image = store.writeAndCheckpoint(cut.batch(), join(directory, 'image'))
  backend.imagingStarted()
  const step = 7
  const batches = 8
  for (let b = 0; b < batches; b++) update(Array.from({ length: BATCH }, (_, i) => (b * BATCH + i) * step))
  await image
  backend.checkpointSettled()
  assert.ok(counters.coldReads > (batches * BATCH) / 2, `${counters.coldReads} keys were read from the store`)
  assert.ok(asked.length <= batches, `one look-up a batch: ${asked}`)

  let updates = 0
  let entries = 0
  const scan = table.segment(0).scan()
  for (let chunk = scan.next(256); chunk !== null; chunk = scan.next(256)) {
    entries += chunk.count
    for (let i = 0; i < chunk.count; i++) updates += (chunk.objects[i] as Entry).updates
  }
  scan.close()
  assert.deepEqual({ entries, updates }, { entries: KEYS, updates: KEYS + batches * BATCH })
  const bound = TABLES_BYTES + STORE_BYTES + CHANGES_BYTES
  assert.ok(bytesMax <= bound, `${(bytesMax / MIB).toFixed(1)} MiB in memory at most, of ${(bound / MIB).toFixed(1)}`)
  store.close()
})
