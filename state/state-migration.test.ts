/**
 * Values of earlier versions: what a raised version may change, on both stores' paths (rows loaded, rows left cold), and
 * what is refused, with the words that say why.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import type { StateMigrations, ValueCodec } from '../engine/contract/keyed-state.ts'
import { valueKeyExtractor } from '../engine/core/keys.ts'
import { batchOfRows } from '../engine/core/rows.ts'
import { OPAQUE_SCHEMA, schema, t } from '../engine/core/schema.ts'
import { listPieceCodec } from '../operators/list-state.ts'
import { stampedCodec } from '../operators/state-ttl.ts'
import { KeyedBackend, type StateDeclaration } from './keyed-backend.ts'
import { WriteBatchBuilder } from './keyed-layout.ts'
import { memoryStoreFactory } from './memory-store.ts'
import { stateCodec } from './schema-codec.ts'
import { readState } from './state-reader.ts'

const directory = mkdtempSync(join(tmpdir(), 'millrace-migration-'))
after(() => rmSync(directory, { recursive: true, force: true }))

const KEYS = valueKeyExtractor((batch, i) => (batch.columns[0] as { values: readonly unknown[] }).values[i])(
  batchOfRows(OPAQUE_SCHEMA, ['a', 'b', 'c']),
)

let stores = 0
const newStore = () => memoryStoreFactory().create(join(directory, `store-${stores++}`))

function backendOver(store: ReturnType<typeof newStore>, restored: StateDeclaration[], memoryBudgetBytes: number) {
  const backend = new KeyedBackend({
    operatorId: 1,
    keyGroups: { from: 0, to: 128, total: 128 },
    store,
    memoryBudgetBytes,
    counters: { lateDropped: 0, filtered: 0, coldReads: 0 },
    restored,
  })
  if (restored.length > 0) backend.restore()
  return backend
}

interface Version {
  readonly version?: number
  readonly migrations?: StateMigrations
  readonly template?: () => unknown
  readonly schema?: ReturnType<typeof schema>
}

const tableOf = (codec: ValueCodec) => ({ name: 's', version: 1, layout: { kind: 'object' as const, codec } })

/** Saves `values` under one version and gives what another version reads: from memory, cold, and from the store. */
function upgrade(
  from: Version,
  values: readonly unknown[],
  to: Version,
  wrap = (codec: ValueCodec) => codec,
): unknown[] {
  const reads = [1 << 20, 1].map((budget) => {
    const store = newStore()
    const saved = backendOver(store, [], 1 << 20)
    const slots = new Int32Array(values.length)
    const segment = saved.table(tableOf(wrap(stateCodec({ version: 1, ...from })))).segment(0)
    segment.upsert(KEYS, null, values.length, slots)
    values.forEach((value, i) => {
      segment.objects[slots[i]!] = value
    })
    const cut = new WriteBatchBuilder()
    saved.captureDirty(cut)
    store.write(cut.batch())
    saved.checkpointSettled()

    const restored = backendOver(store, saved.declarations(), budget)
    const next = restored.table(tableOf(wrap(stateCodec({ version: 1, ...to })))).segment(0)
    next.find(KEYS, null, values.length, slots)
    const found = [...slots].map((slot) => next.objects[slot])
    const stored = [...readState([store], 1, 128, restored.declarations())].map((entry) => entry.value)
    assert.equal(stored.length, values.length)
    assert.equal(restored.declarations()[0]!.version, to.version ?? 1)
    return found
  })
  assert.deepEqual(reads[0], reads[1])
  return reads[0]!
}

const refusal = (from: Version, values: readonly unknown[], to: Version): string => {
  try {
    upgrade(from, values, to)
  } catch (error) {
    assert.match(String((error as { code: string }).code), /^STATE_(INCOMPATIBLE|MIGRATION_FAILED)$/)
    return (error as Error).message
  }
  return assert.fail('nothing was refused')
}

class Mean {
  sum = 0
  count = 0
}

class MeanAndMax {
  total = 0
  count = 0
  max = -1
  get mean(): number {
    return this.total / this.count
  }
}

describe('a raised version', () => {
  test('adds fields with the template value, drops fields, and renames what it declares', () => {
    const saved = [Object.assign(new Mean(), { sum: 6, count: 3 })]
    const to = { version: 2, template: () => new MeanAndMax(), migrations: { 2: { rename: { sum: 'total' } } } }
    const [value] = upgrade({ template: () => new Mean() }, saved, to) as [MeanAndMax]
    assert.ok(value instanceof MeanAndMax)
    assert.deepEqual({ ...value }, { total: 6, count: 3, max: -1 })
    assert.equal(value.mean, 2)
    const gone = upgrade({ template: () => ({ a: 1, b: 'x' }) }, [{ a: 5, b: 'y' }], {
      version: 2,
      template: () => ({ b: '' }),
    })
    assert.deepEqual(gone, [{ b: 'y' }])
  })

  test('applies the functions of all versions in between, in order', () => {
    const migrations: StateMigrations = {
      2: (before) => ({ cents: before.euros * 100 }),
      3: { rename: { cents: 'amount' } },
      4: (before) => ({ amount: String(before.amount) }),
    }
    const values = upgrade({ template: () => ({ euros: 0 }) }, [{ euros: 3 }, { euros: 4 }], {
      version: 4,
      template: () => ({ amount: '', currency: 'EUR' }),
      migrations,
    })
    assert.deepEqual(values, [
      { amount: '300', currency: 'EUR' },
      { amount: '400', currency: 'EUR' },
    ])
  })

  test('works on nested values, on bare ones, and from one kind of codec to another', () => {
    const nested = { template: () => ({ name: '', tags: [] as string[] }) }
    const more = { version: 2, template: () => ({ name: '', tags: [] as string[], seen: new Map() }) }
    assert.deepEqual(upgrade(nested, [{ name: 'n', tags: ['t'] }], more), [{ name: 'n', tags: ['t'], seen: new Map() }])
    assert.deepEqual(upgrade({}, [1, 2], { version: 2, migrations: { 2: (n) => n * 10 } }), [10, 20])
    const rows = { version: 2, schema: schema({ n: t.int32(), note: t.nullable(t.string()) }) }
    assert.deepEqual(upgrade({ template: () => ({ n: 0 }) }, [{ n: 7 }], rows), [{ n: 7, note: null }])
  })

  test('leaves times to live and the shape of lists as they are', () => {
    const to = { version: 2, template: () => ({ n: 0, m: 1 }) }
    const stamped = upgrade({ template: () => ({ n: 0 }) }, [{ value: { n: 5 }, atMs: 77 }], to, stampedCodec)
    assert.deepEqual(JSON.parse(JSON.stringify(stamped)), [{ value: { n: 5, m: 1 }, atMs: 77 }])
    const pieces = upgrade({ template: () => ({ n: 0 }) }, [[{ n: 1 }, { n: 2 }]], to, listPieceCodec)
    assert.deepEqual(pieces, [
      [
        { n: 1, m: 1 },
        { n: 2, m: 1 },
      ],
    ])
  })
})

describe('what is refused', () => {
  const old = { template: () => ({ a: 1, b: 'x' }) }
  const value = [{ a: 1, b: 'y' }]

  test('another shape under the same version', () => {
    const message = refusal(old, value, { template: () => ({ a: 1, c: true }) })
    assert.match(message, /c: boolean was added, b: string was removed.*Raise the state's version to 2/)
  })

  test('a version that goes down', () => {
    assert.match(refusal({ ...old, version: 3 }, value, { ...old, version: 2 }), /saved as version 3.*older/)
  })

  test('a field of another type without a function', () => {
    const message = refusal(old, value, { version: 2, template: () => ({ a: '', b: '' }) })
    assert.match(message, /its field "a" was number and is now string.*migration function/)
    const nested = refusal({}, [{ a: 1 }], { version: 2, template: () => ({ a: '', list: [] }) })
    assert.match(nested, /the field "a" of a value is number, not string/)
  })

  test('a new field of a schema that may not be null', () => {
    const from = { schema: schema({ n: t.int32() }) }
    const message = refusal(from, [{ n: 1 }], { version: 2, schema: schema({ n: t.int32(), m: t.int32() }) })
    assert.match(message, /new field "m" has no value.*t\.nullable/)
  })

  test('a rename of what was not there, and a function that throws', () => {
    const renames = { version: 2, template: () => ({ a: 1 }), migrations: { 2: { rename: { z: 'a' } } } }
    assert.match(refusal(old, value, renames), /renames the field "z", which it did not have/)
    const throws = { ...old, version: 2, migrations: { 2: (before: { c: { d: 1 } }) => before.c.d } }
    assert.match(refusal(old, value, throws), /migration of state "s" to version 2 failed: Cannot read properties/)
  })
})
