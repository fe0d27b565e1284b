/**
 * The keyed stores by name. RocksDB is loaded when it is asked for.
 */
import { memoryStoreFactory } from '../../state/memory-store.ts'
import { tryLoadRocksdbAddon } from '../../state/rocksdb-addon.ts'
import type { KeyedStoreFactory } from '../contract/keyed-store.ts'
import type { StateBackendName } from './launcher-types.ts'

/** Of a worker's state memory, what its store gets for caches and buffers: first a quarter, of large ones an eighth. */
const STORE_SHARE_SMALL = 1 / 4
const STORE_BYTES_SMALL = 32 << 20
const STORE_SHARE = 1 / 8
/** More than this speeds up nothing: the system's page cache is behind it. */
const STORE_BYTES_MAX = 128 << 20

function storeBytesOf(stateMemoryBytes: number): number {
  const small = Math.min(stateMemoryBytes * STORE_SHARE_SMALL, STORE_BYTES_SMALL)
  return Math.min(Math.max(small, stateMemoryBytes * STORE_SHARE), STORE_BYTES_MAX)
}

/**
 * Stores for workers that keep `stateMemoryBytes` of state each; without it, of a modest size. Rejects with
 * `ROCKSDB_UNAVAILABLE`, saying how to get it.
 */
export async function keyedStoreFactory(
  backend: StateBackendName,
  stateMemoryBytes?: number,
): Promise<KeyedStoreFactory> {
  if (backend === 'memory') return memoryStoreFactory()
  const { rocksdbStoreFactory } = await import('../../state/rocksdb-store.ts')
  return rocksdbStoreFactory(stateMemoryBytes === undefined ? undefined : storeBytesOf(stateMemoryBytes))
}

/** RocksDB where its addon was built, else memory. */
export function defaultStateBackend(): StateBackendName {
  return tryLoadRocksdbAddon() === null ? 'memory' : 'rocksdb'
}
