/**
 * The native addon's functions, typed, and the one place that loads it.
 *
 * Called by rocksdb-store.ts and file-lock.ts. The addon is built by native/install.ts and may be
 * missing (no compiler, no network): then everything but the RocksDB store works. Handles are numbers;
 * a stale one gives an error, never a crash. See native/rocksdb/module.cc.
 */
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { CheckpointFile } from '../engine/contract/keyed-store.ts'
import { MillraceError, messageOf } from '../engine/core/errors.ts'
import { EXTERNAL, IS_BUNDLED, ownPath, ownRequire, packageFile, packageModule } from '../engine/core/own-module.ts'

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

/** Where native/install.ts puts the addon; null where a bundle has none beside it. */
function addonPath(): string | null {
  const file = packageFile('native/build/millrace_rocksdb.node')
  return file === null ? null : fileURLToPath(file)
}

/** Loads the addon. Throws `ROCKSDB_UNAVAILABLE` with the way to get it. */
export function loadRocksdbAddon(path: string | null = addonPath()): RocksdbAddon {
  try {
    if (path === null) throw new Error('it is not beside the bundle')
    return ownRequire()(path) as RocksdbAddon
  } catch (error) {
    const reason = messageOf(error).split('\n', 1)[0]
    throw new MillraceError('ROCKSDB_UNAVAILABLE', `The RocksDB addon cannot be loaded: ${reason}.`, {
      domain: 'external',
      hint: `${path === null ? copyIt() : buildIt()}, or run with \`--state-backend memory\`.`,
      cause: error,
    })
  }
}

function copyIt(): string {
  return `Copy the folder node_modules/millrace/native to ${dirname(ownPath())}/millrace/native, install millrace there, or leave it out of the bundle (${EXTERNAL})`
}

function buildIt(): string {
  if (IS_BUNDLED) return 'Build it in the package that it comes from (`npm rebuild millrace`)'
  const installer = fileURLToPath(packageModule('native/install'))
  return (
    `Build it with \`MILLRACE_REQUIRE_ROCKSDB=1 node ${installer}\`, which needs g++ and fetches librocksdb ` +
    'if it is not installed'
  )
}

/** The addon, or null where it is not built. */
export function tryLoadRocksdbAddon(): RocksdbAddon | null {
  try {
    return loadRocksdbAddon()
  } catch {
    return null
  }
}
