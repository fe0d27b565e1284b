/** Reading state without its job: what a backend captured comes back, whatever its layout. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { keyGroupOf, valueKeyExtractor } from '../engine/core/keys.ts'
import { batchOfRows } from '../engine/core/rows.ts'
import { OPAQUE_SCHEMA } from '../engine/core/schema.ts'
import { KeyedBackend } from './keyed-backend.ts'
import { WriteBatchBuilder } from './keyed-layout.ts'
import { memoryStoreFactory } from './memory-store.ts'
import { readState } from './state-reader.ts'
import { objectCodec } from './value-codec.ts'

class Mean {
  sum = 0
  count = 0
  label = ''
}

test('columns of numbers, flat objects and other objects', () => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-reader-'))
  const store = memoryStoreFactory().create(join(directory, 'store'))
  const backend = new KeyedBackend({
    operatorId: 3,
    keyGroups: { from: 0, to: 128, total: 128 },
    store,
    memoryBudgetBytes: 1 << 20,
    counters: { lateDropped: 0, filtered: 0, coldReads: 0 },
  })
  const keys = valueKeyExtractor((batch, i) => (batch.columns[0] as { values: readonly unknown[] }).values[i])(
    batchOfRows(OPAQUE_SCHEMA, ['a', 7, ['x', 1n]]),
  )
  const slots = new Int32Array(3)
  const totals = backend
    .table({ name: 'totals', version: 1, layout: { kind: 'doubles', initial: [0, 0] } })
    .segment(60_000)
  totals.upsert(keys, null, 3, slots)
  for (let i = 0; i < 3; i++) totals.doubles[1]![slots[i]!] = i + 0.5
  const flat = backend
    .table({ name: 'means', version: 1, layout: { kind: 'object', codec: objectCodec(() => new Mean()) } })
    .segment(0)
  flat.upsert(keys, null, 3, slots)
  for (let i = 0; i < 3; i++) flat.objects[slots[i]!] = Object.assign(new Mean(), { sum: i, label: 'é' })
  const free = backend.table({ name: 'any', version: 1, layout: { kind: 'object', codec: objectCodec() } }).segment(0)
  free.upsert(keys, null, 1, slots)
  free.objects[slots[0]!] = { seen: new Map([['k', 1n]]) }
  const builder = new WriteBatchBuilder()
  backend.captureDirty(builder)
  store.write(builder.batch())
  backend.checkpointSettled()

  const entries = [...readState([store], 3, 128, backend.declarations())]
  const of = (table: string) =>
    new Map(
      entries
        .filter((entry) => entry.table === table)
        .map((entry) => [JSON.stringify(entry.key, (_, v) => (typeof v === 'bigint' ? `${v}n` : v)), entry]),
    )
  assert.deepEqual([...of('totals').keys()].sort(), ['"a"', '7', '["x","1n"]'])
  assert.deepEqual(of('totals').get('7')!.value, [0, 1.5])
  assert.equal(of('totals').get('7')!.namespace, 60_000)
  assert.equal(of('totals').get('"a"')!.keyGroup, keyGroupOf(keys.hashes[0]!, 128))
  assert.deepEqual({ ...(of('means').get('7')!.value as object) }, { sum: 1, count: 0, label: 'é' })
  assert.deepEqual(of('any').get('"a"')!.value, { seen: new Map([['k', 1n]]) })
  assert.equal(entries.length, 7)

  const other = memoryStoreFactory().create(join(directory, 'other'))
  const halves = [
    ...readState(
      [other, store],
      3,
      128,
      backend.declarations().map((d) => ({ ...d, layout: 'mine' })),
    ),
  ]
  const groups = halves.map((entry) => entry.keyGroup)
  assert.deepEqual(
    groups,
    groups.toSorted((a, b) => a - b),
  )
  const raw = halves.find((entry) => entry.table === 'totals' && entry.key === 7)!.value as Uint8Array
  assert.deepEqual(new Float64Array(raw.buffer), new Float64Array([0, 1.5]), 'an unknown layout comes as its bytes')
  assert.deepEqual([...readState([store], 2, 128, backend.declarations())], [], 'another operator')
  other.close()
  store.close()
  rmSync(directory, { recursive: true })
})
