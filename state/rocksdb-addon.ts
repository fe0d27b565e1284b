/**
 * The native addon's functions, typed, and the one place that loads it.
 *
 * Called by rocksdb-store.ts and file-lock.ts. The addon is built by native/install.ts and may be
 * missing (no compiler, no network): then everything but the RocksDB store works. Handles are numbers;
 * a stale one gives an error, never a crash. See native/rocksdb/module.cc.
 */
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import type { CheckpointFile } from '../engine/contract/keyed-store.ts'
import { MillraceError, messageOf } from '../engine/core/errors.ts'
import { siblingModule } from '../engine/core/own-module.ts'

export type StoreHandle = number & { readonly handleOf?: 'store' }
export type ScanHandle = number & { readonly handleOf?: 'scan' }
export type LockHandle = number & { readonly handleOf?: 'lock' }

/** Errors carry `code`: ADDON_ARGUMENT, ADDON_CLOSED, STORE_IO, STORE_CORRUPT, STORE_FAILED or LOCK_HELD. */
export interface RocksdbAddon {
  /** Version of librocksdb, `7.8.3`. */
  readonly version: string
  /** `memoryBytes`: what the store may take for cached blocks and unflushed writes; 2 MiB or more. */
  open(path: string, exists: boolean, memoryBytes: number): StoreHandle
  /** Returns the bytes all values need; beyond `outBytes.length` the bytes are incomplete: ask again. */
  multiGet(
    store: StoreHandle,
    keyBytes: Uint8Array,
    keyOffsets: Uint32Array,
    count: number,
    outBytes: Uint8Array,
    outOffsets: Uint32Array,
    outFound: Uint8Array,
  ): number
  write(
    store: StoreHandle,
    keyBytes: Uint8Array,
    keyOffsets: Uint32Array,
    valueBytes: Uint8Array,
    valueOffsets: Uint32Array,
    count: number,
    deletes: Uint8Array | null,
  ): void
  deleteRange(store: StoreHandle, from: Uint8Array, to: Uint8Array): void
  scanOpen(store: StoreHandle, from: Uint8Array, to: Uint8Array | null): ScanHandle
  /** `info` becomes [rows, key bytes the next row needs, value bytes it needs, 1 at the end]. */
  scanNext(
    scan: ScanHandle,
    keyBytes: Uint8Array,
    keyOffsets: Uint32Array,
    valueBytes: Uint8Array,
    valueOffsets: Uint32Array,
    maxBytes: number,
    info: Uint32Array,
  ): number
  scanClose(scan: ScanHandle): void
  /** Batches of at least `sstBytesMin` bytes are ingested as SST files. Without a directory no image is made. */
  writeAndCheckpoint(
    store: StoreHandle,
    keyBytes: Uint8Array,
    keyOffsets: Uint32Array,
    valueBytes: Uint8Array,
    valueOffsets: Uint32Array,
    count: number,
    deletes: Uint8Array | null,
    directory: string | null,
    sstBytesMin: number,
  ): Promise<CheckpointFile[]>
  memoryBytes(store: StoreHandle): number
  sharedMemory(): SharedStoreMemory
  close(store: StoreHandle): void
  lockFile(path: string): LockHandle
  unlockFile(lock: LockHandle): void
  /**
   * Gives what is free in the C library's heaps back to the system; takes some 20 ms. A thread's heap (glibc's
   * arena) stays resident when the thread ends, and the next threads may fill others. Missing where the C
   * library is not glibc.
   */
  trimHeap?(): void
}

/** Bytes of what all stores of the process share: its capacity follows the stores that are open. */
export interface SharedStoreMemory {
  readonly cacheCapacity: number
  readonly cache: number
  /** Of `cache`: in use now, so that it cannot give way. */
  readonly cachePinned: number
  readonly writeBuffersCapacity: number
  readonly writeBuffers: number
}

/** Where native/install.ts puts the addon. */
export const ROCKSDB_ADDON_PATH = fileURLToPath(new URL('../native/build/millrace_rocksdb.node', import.meta.url))

/** What builds it. */
const INSTALLER = fileURLToPath(siblingModule(import.meta.url, '../native/install'))

/** Loads the addon. Throws `ROCKSDB_UNAVAILABLE` with the way to build it. */
export function loadRocksdbAddon(path: string = ROCKSDB_ADDON_PATH): RocksdbAddon {
  try {
    return createRequire(import.meta.url)(path) as RocksdbAddon
  } catch (error) {
    const reason = messageOf(error).split('\n', 1)[0]
    throw new MillraceError('ROCKSDB_UNAVAILABLE', `The RocksDB addon cannot be loaded: ${reason}.`, {
      domain: 'external',
      hint:
        `Build it with \`MILLRACE_REQUIRE_ROCKSDB=1 node ${INSTALLER}\`, which needs g++ and fetches librocksdb ` +
        'if it is not installed, or run with `--state-backend memory`.',
      cause: error,
    })
  }
}

/** The addon, or null where it is not built. */
export function tryLoadRocksdbAddon(): RocksdbAddon | null {
  try {
    return loadRocksdbAddon()
  } catch {
    return null
  }
}
