/**
 * The keyed store on RocksDB, through the addon in native/.
 *
 * Called by the runtime through `KeyedStoreFactory`. One store belongs to one thread. The addon does
 * the work and checks its arguments again; this file owns the reusable result buffers and turns the
 * addon's error codes into `MillraceError`s:
 *   STORE_IO (external, retryable), STORE_CORRUPT (external), SNAPSHOT_CORRUPT (external, on restore),
 *   STORE_CLOSED and STORE_MISUSED (internal).
 */
import { copyFileSync, existsSync, readdirSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type {
  Arena,
  CheckpointFile,
  KeyedStore,
  KeyedStoreFactory,
  Lookup,
  Scan,
  ScanChunk,
  WriteBatch,
} from '../engine/contract/keyed-store.ts'
import { MillraceError, messageOf } from '../engine/core/errors.ts'
import { GrowingArena } from './growing-arena.ts'
import { loadRocksdbAddon, type RocksdbAddon, type ScanHandle, type StoreHandle } from './rocksdb-addon.ts'
import { claimCheckpointDirectory, claimDirectory, linkOrCopy, storeIoError } from './store-directory.ts'

/**
 * Checkpoint batches of at least this many bytes become SST files. Those took half the time of a write
 * batch from 1 MiB on and were level with it at 60 KiB; smaller ones are not worth a file of their own.
 */
const SST_BYTES_MIN = 256 << 10
const SCAN_BYTES_DEFAULT = 256 << 10
const SCAN_ROW_BYTES_GUESS = 16

/** Without a word of the caller. */
const MEMORY_BYTES_DEFAULT = 64 << 20
export const ROCKSDB_MEMORY_BYTES_MIN = 2 << 20

/**
 * A factory of RocksDB stores, each of which takes up to `memoryBytes` for cached blocks and unflushed writes; stores
 * of one process lend each other what they do not use. Throws `ROCKSDB_UNAVAILABLE`, with a hint, where the addon is
 * missing.
 */
export function rocksdbStoreFactory(memoryBytes: number = MEMORY_BYTES_DEFAULT): KeyedStoreFactory {
  const addon = loadRocksdbAddon()
  const description = `rocksdb ${addon.version}`
  const storeMemoryBytes = Math.max(ROCKSDB_MEMORY_BYTES_MIN, Math.floor(memoryBytes))
  return {
    description,
    storeMemoryBytes,
    create(directory) {
      claimDirectory(directory)
      const handle = guarded(`create a store in ${directory}`, () => addon.open(directory, false, storeMemoryBytes))
      return new RocksdbStore(addon, handle, description)
    },
    restore(image, directory) {
      claimDirectory(directory)
      placeImage(image, directory)
      try {
        return new RocksdbStore(addon, addon.open(directory, true, storeMemoryBytes), description)
      } catch (error) {
        const code = codeOf(error)
        // What is missing from an image RocksDB reports as an invalid argument or as corruption.
        if (code === 'STORE_CORRUPT' || code === 'STORE_FAILED') throw snapshotCorrupt(image, error)
        throw fromAddon(`open the checkpoint ${image}`, error)
      }
    },
  }
}

function snapshotCorrupt(image: string, cause: unknown): MillraceError {
  return new MillraceError('SNAPSHOT_CORRUPT', `The checkpoint image ${image} is damaged: ${messageOf(cause)}.`, {
    domain: 'external',
    hint: 'Restore an older checkpoint.',
    cause,
  })
}

/** Table files are immutable and are linked; the manifest and its pointer are small and are copied. */
function placeImage(image: string, directory: string): void {
  if (!existsSync(join(image, 'CURRENT'))) throw snapshotCorrupt(image, new Error('it has no CURRENT file'))
  try {
    for (const name of readdirSync(image)) {
      if (name.endsWith('.sst')) linkOrCopy(image, directory, name)
      else copyFileSync(join(image, name), join(directory, name))
    }
  } catch (error) {
    throw storeIoError(`place the checkpoint ${image} into ${directory}`, error)
  }
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : ''
}

function fromAddon(action: string, error: unknown): MillraceError {
  if (error instanceof MillraceError) return error
  switch (codeOf(error)) {
    case 'STORE_IO':
      return storeIoError(action, error)
    case 'STORE_CORRUPT':
      return new MillraceError('STORE_CORRUPT', `Cannot ${action}: ${messageOf(error)}.`, {
        domain: 'external',
        hint: 'The local state is damaged; restart from the last checkpoint and check the disk.',
        cause: error,
      })
    case 'ADDON_CLOSED':
      return new MillraceError('STORE_CLOSED', `Cannot ${action}: ${messageOf(error)}.`, {
        domain: 'internal',
        cause: error,
      })
    default:
      return new MillraceError('STORE_MISUSED', `Cannot ${action}: ${messageOf(error)}.`, {
        domain: 'internal',
        cause: error,
      })
  }
}

function guarded<T>(action: string, body: () => T): T {
  try {
    return body()
  } catch (error) {
    throw fromAddon(action, error)
  }
}

class RocksdbStore implements KeyedStore {
  readonly description: string
  readonly #addon: RocksdbAddon
  readonly #handle: StoreHandle
  readonly #lookup = new GrowingArena()
  #found = new Uint8Array(64)

  constructor(addon: RocksdbAddon, handle: StoreHandle, description: string) {
    this.#addon = addon
    this.#handle = handle
    this.description = description
  }

  multiGet(keys: Arena): Lookup {
    const values = this.#lookup
    values.reserve(0, keys.count)
    if (this.#found.length < keys.count) this.#found = new Uint8Array(keys.count * 2)
    const ask = () =>
      guarded('read state', () =>
        this.#addon.multiGet(
          this.#handle,
          keys.bytes,
          keys.offsets,
          keys.count,
          values.bytes,
          values.offsets,
          this.#found,
        ),
      )
    const needed = ask()
    if (needed > values.bytes.length) {
      values.reserve(needed, keys.count)
      ask()
    }
    values.count = keys.count
    return { values, found: this.#found }
  }

  write(batch: WriteBatch): void {
    const { keys, values, deletes } = batch
    requireSameCount(batch)
    guarded('write state', () =>
      this.#addon.write(this.#handle, keys.bytes, keys.offsets, values.bytes, values.offsets, keys.count, deletes),
    )
  }

  deleteRange(from: Uint8Array, to: Uint8Array): void {
    guarded('delete a range of state', () => this.#addon.deleteRange(this.#handle, from, to))
  }

  scan(from: Uint8Array, to: Uint8Array | null): Scan {
    const handle = guarded('scan state', () => this.#addon.scanOpen(this.#handle, from, to))
    return new RocksdbScan(this.#addon, handle)
  }

  async writeInBackground(batch: WriteBatch): Promise<void> {
    const action = 'write state'
    try {
      await this.#begin(action, batch, null)
    } catch (error) {
      throw fromAddon(action, error)
    }
  }

  #begin(action: string, batch: WriteBatch, directory: string | null): Promise<CheckpointFile[]> {
    const { keys, values, deletes } = batch
    requireSameCount(batch)
    return guarded(action, () =>
      this.#addon.writeAndCheckpoint(
        this.#handle,
        keys.bytes,
        keys.offsets,
        values.bytes,
        values.offsets,
        keys.count,
        deletes,
        directory,
        SST_BYTES_MIN,
      ),
    )
  }

  async writeAndCheckpoint(batch: WriteBatch, directory: string): Promise<readonly CheckpointFile[]> {
    const action = `write the checkpoint ${directory}`
    claimCheckpointDirectory(directory)
    // Nothing is awaited before this call: writes made after it must not be in the image.
    const running = this.#begin(action, batch, directory)
    try {
      return await running
    } catch (error) {
      // Best effort: RocksDB stages under `.tmp`, and a full disk may stop its own clean-up.
      await rm(directory, { recursive: true, force: true }).catch(() => {})
      await rm(`${directory}.tmp`, { recursive: true, force: true }).catch(() => {})
      throw fromAddon(action, error)
    }
  }

  memoryBytes(): number {
    const buffers = this.#lookup.bytes.length + this.#lookup.offsets.byteLength + this.#found.length
    return buffers + guarded('measure state', () => this.#addon.memoryBytes(this.#handle))
  }

  close(): void {
    this.#addon.close(this.#handle)
  }
}

/** The addon takes one row count for both arenas, so it cannot see that they differ. */
function requireSameCount(batch: WriteBatch): void {
  if (batch.keys.count === batch.values.count) return
  throw new MillraceError('STORE_MISUSED', 'A batch has unequal numbers of keys and values.', { domain: 'internal' })
}

class RocksdbScan implements Scan {
  readonly #addon: RocksdbAddon
  readonly #handle: ScanHandle
  readonly #keys = new GrowingArena(0, 0)
  readonly #values = new GrowingArena(0, 0)
  readonly #info = new Uint32Array(4)

  constructor(addon: RocksdbAddon, handle: ScanHandle) {
    this.#addon = addon
    this.#handle = handle
  }

  next(maxBytes: number = SCAN_BYTES_DEFAULT): ScanChunk | null {
    const rows = Math.ceil(maxBytes / SCAN_ROW_BYTES_GUESS) + 1
    this.#keys.reserve(maxBytes, rows)
    this.#values.reserve(maxBytes, rows)
    let filled = this.#fill(maxBytes)
    if (filled === 0 && this.#info[3] === 0) {
      // The next row alone is larger than the buffers.
      this.#keys.reserve(this.#info[1], rows)
      this.#values.reserve(this.#info[2], rows)
      filled = this.#fill(maxBytes)
    }
    this.#keys.count = filled
    this.#values.count = filled
    return filled === 0 ? null : { keys: this.#keys, values: this.#values }
  }

  #fill(maxBytes: number): number {
    const { bytes: keyBytes, offsets: keyOffsets } = this.#keys
    const { bytes: valueBytes, offsets: valueOffsets } = this.#values
    return guarded('scan state', () =>
      this.#addon.scanNext(this.#handle, keyBytes, keyOffsets, valueBytes, valueOffsets, maxBytes, this.#info),
    )
  }

  close(): void {
    this.#addon.scanClose(this.#handle)
  }
}
