/**
 * What clearing a large map state costs: one of a million entries on RocksDB, of which a few thousand are in memory.
 *
 * `node bench/micro/map-clear.ts [ENTRIES]` prints the milliseconds of the call, those until the store has heard of it,
 * and the rows of the checkpoint after it; medians of the rounds. A map is filled anew for each round.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CompositeKeys } from '../../engine/core/composite-keys.ts'
import { encodeKey, keyGroupRange, murmur3 } from '../../engine/core/keys.ts'
import { ByteArena } from '../../engine/core/strings.ts'
import { KeyedBackend } from '../../state/keyed-backend.ts'
import { WriteBatchBuilder } from '../../state/keyed-layout.ts'
import { rocksdbStoreFactory } from '../../state/rocksdb-store.ts'
import { objectCodec } from '../../state/value-codec.ts'

const MIB = 2 ** 20
const ROUNDS = 3
const PUTS = 512

export interface ClearCost {
  readonly clearMs: number
  readonly settledMs: number
  readonly checkpointRows: number
}

export function clearMap(entries: number, memoryBudgetBytes = 8 * MIB): ClearCost {
  const directory = mkdtempSync(join(tmpdir(), 'map-clear-'))
  const store = rocksdbStoreFactory(8 * MIB).create(join(directory, 'store'))
  const backend = new KeyedBackend({
    operatorId: 0,
    keyGroups: keyGroupRange(0, 1, 128),
    store,
    memoryBudgetBytes,
    dirtyBytesMax: memoryBudgetBytes / 8,
    counters: { lateDropped: 0, filtered: 0, coldReads: 0 },
  })
  const layout = { kind: 'object', codec: objectCodec() } as const
  const segment = backend.table({ name: 'map', version: 1, composite: true, layout }).segment(0)
  const owner = new ByteArena()
  encodeKey('owner', owner)
  const hash = murmur3(owner.bytes, 0, owner.length)
  const composed = new CompositeKeys(128)
  const [starts, ends] = [Int32Array.of(0), Int32Array.of(owner.length)]
  composed.begin({ bytes: owner.bytes, starts, ends, hashes: Int32Array.of(hash) }, 0)
  const slots = new Int32Array(PUTS)
  for (let from = 0; from < entries; from += PUTS) {
    composed.restart()
    const count = Math.min(PUTS, entries - from)
    for (let i = 0; i < count; i++) composed.add(`entry-${from + i}`)
    segment.overwrite(composed.keys, null, count, slots)
    for (let i = 0; i < count; i++) segment.objects[slots[i]!] = { n: from + i }
    backend.maybeEvict()
  }
  composed.restart()
  const start = performance.now()
  segment.removeKey(composed.prefix, composed.ownerHash)
  const clearMs = performance.now() - start
  backend.maybeEvict()
  const settledMs = performance.now() - start
  const cut = new WriteBatchBuilder()
  backend.captureDirty(cut)
  store.close()
  rmSync(directory, { recursive: true, force: true })
  return { clearMs, settledMs, checkpointRows: cut.count }
}

if (import.meta.main) {
  const entries = Number(process.argv[2] ?? 1_000_000)
  const rounds = Array.from({ length: ROUNDS }, () => clearMap(entries))
  const median = (of: (cost: ClearCost) => number): number => rounds.map(of).sort((a, b) => a - b)[ROUNDS >> 1]!
  const [clear, settled] = [median((cost) => cost.clearMs), median((cost) => cost.settledMs)]
  const rows = median((cost) => cost.checkpointRows)
  console.log(
    `${entries} entries: the call ${clear.toFixed(1)} ms, with the store ${settled.toFixed(1)} ms; ${rows} rows`,
  )
}
