/**
 * The keyed stores by name. RocksDB is loaded when it is asked for.
 */
import { memoryStoreFactory } from '../../state/memory-store.ts'
import { tryLoadRocksdbAddon } from '../../state/rocksdb-addon.ts'
import type { KeyedStoreFactory } from '../contract/keyed-store.ts'
import type { StateBackendName } from './launcher-types.ts'

/** Rejects with `ROCKSDB_UNAVAILABLE`, saying how to get it. */
export async function keyedStoreFactory(backend: StateBackendName): Promise<KeyedStoreFactory> {
  if (backend === 'memory') return memoryStoreFactory()
  const { rocksdbStoreFactory } = await import('../../state/rocksdb-store.ts')
  return rocksdbStoreFactory()
}

/** RocksDB where its addon was built, else memory. */
export function defaultStateBackend(): StateBackendName {
  return tryLoadRocksdbAddon() === null ? 'memory' : 'rocksdb'
}
