/**
 * What it costs to fetch keys that only the store has: one by one, and all of a batch at once.
 *
 * `node bench/micro/cold-keys.ts [--keys N] [--batches N]` prints microseconds of this thread's CPU time a key, which
 * other load on the machine hardly changes. Keys are drawn uniformly; the store's cache holds a few of a hundred.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { KeyedStore } from '../../engine/contract/keyed-store.ts'
import { BATCH_ROWS_MAX } from '../../engine/core/batch.ts'
import { keyGroupOf, murmur3 } from '../../engine/core/keys.ts'
import { keyPrefix, PieceArena, setKeyGroup, WriteBatchBuilder } from '../../state/keyed-layout.ts'
import { rocksdbStoreFactory } from '../../state/rocksdb-store.ts'
import type { BenchLine } from './keyed-state.ts'

const KEY_GROUPS = 128
const STORE_BYTES = 8 << 20
const WRITE_ROWS = 100_000

export interface ColdKeysOptions {
  readonly keys: number
  /** Of each way to ask. */
  readonly batches: number
}

const prefix = keyPrefix(1, 0, 0)

function addKey(arena: PieceArena, number: number): void {
  const key = Buffer.from(`key-${String(number).padStart(12, '0')}`)
  setKeyGroup(prefix, keyGroupOf(murmur3(key, 0, key.length), KEY_GROUPS))
  arena.addPrefixed(prefix, key, 0, key.length)
}

function fill(store: KeyedStore, keys: number): void {
  const batch = new WriteBatchBuilder()
  for (let number = 0; number < keys; number++) {
    addKey(batch.keys, number)
    batch.values.addDouble(number)
    batch.endPut()
    if (batch.count < WRITE_ROWS && number + 1 < keys) continue
    store.write(batch.batch())
    batch.clear()
  }
}

/** Throws when a key is not found. */
function ask(store: KeyedStore, numbers: readonly number[]): void {
  const arena = new PieceArena()
  for (const number of numbers) {
    addKey(arena, number)
    arena.endRow()
  }
  const { values, found } = store.multiGet(arena)
  const doubles = new DataView(values.bytes.buffer, values.bytes.byteOffset)
  numbers.forEach((number, row) => {
    if (found[row] === 1 && doubles.getFloat64(values.offsets[row]!, true) === number) return
    throw new Error(`Key ${number} is not what was written.`)
  })
}

/** CPU time of this thread for `work`, in microseconds. */
function cpuMicros(work: () => void): number {
  const since = process.threadCpuUsage()
  work()
  const { user, system } = process.threadCpuUsage(since)
  return user + system
}

export function measureColdKeys({ keys, batches }: ColdKeysOptions): BenchLine {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-cold-keys-'))
  const store = rocksdbStoreFactory(STORE_BYTES).create(join(directory, 'store'))
  try {
    fill(store, keys)
    let state = 7
    const draw = (): number => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      return Math.floor((state / 2 ** 32) * keys)
    }
    let single = 0
    let batched = 0
    for (let b = 0; b < batches; b++) {
      const [some, others] = [0, 1].map(() => Array.from({ length: BATCH_ROWS_MAX }, draw))
      single += cpuMicros(() => {
        for (const number of some!) ask(store, [number])
      })
      batched += cpuMicros(() => ask(store, others!))
    }
    const rows = batches * BATCH_ROWS_MAX
    return { keys, oneByOneMicros: single / rows, batchMicros: batched / rows }
  } finally {
    store.close()
    rmSync(directory, { recursive: true, force: true })
  }
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { keys: { type: 'string' }, batches: { type: 'string' } } })
  const line = measureColdKeys({ keys: Number(values.keys ?? 2e6), batches: Number(values.batches ?? 20) })
  for (const [name, value] of Object.entries(line)) console.log(`${name.padEnd(16)} ${Number(value.toFixed(2))}`)
}
