/**
 * Large objects among many small ones, as the pieces of a hot key's list are among heads and counters: memory and what
 * the next cut copies stay within their bounds although no cut ever comes and objects grow where they are.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { StateTable } from '../engine/contract/keyed-state.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import { encodeKey, keyGroupRange, murmur3 } from '../engine/core/keys.ts'
import { ByteArena } from '../engine/core/strings.ts'
import { KeyedBackend } from './keyed-backend.ts'
import { WriteBatchBuilder } from './keyed-layout.ts'
import { memoryStoreFactory } from './memory-store.ts'
import { objectCodec } from './value-codec.ts'

const MIB = 1 << 20
const MEMORY_BYTES = 4 * MIB
const CHANGES_BYTES = MIB
const VALUE = 'v'.repeat(600)
const VALUES_A_BATCH = 1_280
const LIST_VALUES = 64
/** 60 MiB of values. */
const BATCHES = 80

const directory = mkdtempSync(join(tmpdir(), 'large-objects-'))
after(() => rmSync(directory, { recursive: true, force: true }))

function keyColumn(key: number): KeyColumn {
  const arena = new ByteArena()
  encodeKey(key, arena)
  const { bytes, length } = arena
  return {
    bytes,
    starts: Int32Array.of(0),
    ends: Int32Array.of(length),
    hashes: Int32Array.of(murmur3(bytes, 0, length)),
  }
}

/** Characters of the lists that are decoded. */
function decodedBytes(table: StateTable): number {
  let values = 0
  for (const list of table.segment(0).objects as (string[] | undefined)[]) values += list?.length ?? 0
  return values * VALUE.length
}

test('lists of 38 KB among counters of 8 bytes stay within memory, though no checkpoint comes', () => {
  const store = memoryStoreFactory().create(join(directory, 'store'))
  const backend = new KeyedBackend({
    operatorId: 1,
    keyGroups: keyGroupRange(0, 1, 16),
    store,
    memoryBudgetBytes: MEMORY_BYTES,
    dirtyBytesMax: CHANGES_BYTES,
    counters: { lateDropped: 0, filtered: 0, coldReads: 0 },
  })
  const counts = backend.table({ name: 'counts', version: 1, layout: { kind: 'object', codec: objectCodec() } })
  const lists = backend.table({ name: 'lists', version: 1, layout: { kind: 'object', codec: objectCodec() } })
  const slots = new Int32Array(1)
  const update = (table: StateTable, key: number, change: (before: unknown) => unknown): void => {
    const segment = table.segment(0)
    segment.upsert(keyColumn(key), null, 1, slots)
    segment.objects[slots[0]!] = change(segment.objects[slots[0]!])
  }

  let mostDecoded = 0
  let mostMemory = 0
  for (let batch = 0; batch < BATCHES; batch++) {
    for (let i = 0; i < VALUES_A_BATCH; i++) {
      const nth = batch * VALUES_A_BATCH + i
      update(lists, Math.floor(nth / LIST_VALUES), (list) => [...((list as string[] | undefined) ?? []), VALUE])
      update(counts, nth % 2_000, (count) => ((count as number | undefined) ?? 0) + 1)
    }
    backend.maybeEvict()
    mostDecoded = Math.max(mostDecoded, decodedBytes(lists))
    mostMemory = Math.max(mostMemory, backend.memoryBytes())
  }
  const inMib = (bytes: number): string => (bytes / MIB).toFixed(1)
  assert.ok(mostDecoded <= MEMORY_BYTES, `${inMib(mostDecoded)} MiB of lists were decoded`)
  assert.ok(mostMemory <= MEMORY_BYTES * 1.1, `${inMib(mostMemory)} MiB by the state's own account`)

  const cut = new WriteBatchBuilder()
  backend.captureDirty(cut)
  assert.ok(cut.byteLength <= 2 * CHANGES_BYTES, `${inMib(cut.byteLength)} MiB in the cut`)
  const keys = Math.floor((BATCHES * VALUES_A_BATCH) / LIST_VALUES)
  for (let key = 0; key < keys; key += 97) {
    const segment = lists.segment(0)
    segment.find(keyColumn(key), null, 1, slots)
    assert.equal((segment.objects[slots[0]!] as string[]).length, LIST_VALUES)
  }
  store.close()
})
