/**
 * The keyed store in plain memory: the default without RocksDB, and the oracle of its tests.
 *
 * Called by the runtime through `KeyedStoreFactory`. Keys are strings of code units below 256, so that
 * string order is byte order; values are private copies that never change once stored, which makes the
 * view of a scan or a checkpoint a list of references.
 * Invariant: every key of the map is in `#ordered` or `#added`; `#ordered` may also hold deleted keys
 * (then `#deletedAny` is set), and both may hold a key that was deleted and put again.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { mkdir, open, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
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
import { MillraceError } from '../engine/core/errors.ts'
import { GrowingArena } from './growing-arena.ts'
import { readMemorySnapshot, writeMemorySnapshot } from './memory-snapshot.ts'
import { claimCheckpointDirectory, claimDirectory, storeIoError } from './store-directory.ts'

const SNAPSHOT_NAME = 'memory-snapshot.bin'
const SCAN_BYTES_DEFAULT = 256 << 10
/** A map entry, a string header and an array view: roughly what V8 takes beside the bytes. */
const ENTRY_OVERHEAD_BYTES = 160
const EMPTY = new Uint8Array(0)

/** A factory of memory stores; a store's directory stays empty. */
export function memoryStoreFactory(): KeyedStoreFactory {
  return {
    description: 'memory',
    create(directory) {
      claimDirectory(directory)
      return new MemoryStore()
    },
    restore(image, directory) {
      claimDirectory(directory)
      const store = new MemoryStore()
      loadSnapshot(join(image, SNAPSHOT_NAME), (key, value) => store.putRestored(key, value))
      return store
    },
  }
}

function loadSnapshot(path: string, onRow: (key: string, value: Uint8Array) => void): void {
  let descriptor: number | undefined
  try {
    descriptor = openSync(path, 'r')
    const from = descriptor
    const read = (length: number): Buffer => {
      const bytes = Buffer.allocUnsafeSlow(length)
      let done = 0
      while (done < length) {
        const step = readSync(from, bytes, done, length - done, null)
        if (step === 0) break
        done += step
      }
      return bytes.subarray(0, done)
    }
    readMemorySnapshot(path, read, fstatSync(from).size, onRow)
  } catch (error) {
    if (error instanceof MillraceError) throw error
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') {
      throw new MillraceError('SNAPSHOT_CORRUPT', `The state snapshot ${path} does not exist.`, {
        domain: 'external',
        hint: 'Restore an older checkpoint.',
        cause: error,
      })
    }
    throw storeIoError(`read ${path}`, error)
  } finally {
    if (descriptor !== undefined) closeSync(descriptor)
  }
}

/** A view of `bytes` with Buffer's string functions; works on shared memory too. */
function bufferOver(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** First index whose key is not below `key`. */
function lowerBound(keys: readonly string[], key: string): number {
  let low = 0
  let high = keys.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (keys[middle] < key) low = middle + 1
    else high = middle
  }
  return low
}

class MemoryStore implements KeyedStore {
  readonly description = 'memory'
  readonly #entries = new Map<string, Uint8Array>()
  #ordered: string[] = []
  #added: string[] = []
  #deletedAny = false
  #entryBytes = 0
  #closed = false
  #checkpointing = false
  readonly #lookup = new GrowingArena()
  #found = new Uint8Array(64)

  multiGet(keys: Arena): Lookup {
    this.#requireOpen()
    const values = this.#lookup
    values.reset()
    if (this.#found.length < keys.count) this.#found = new Uint8Array(keys.count * 2)
    const source = bufferOver(keys.bytes)
    for (let row = 0; row < keys.count; row++) {
      const value = this.#entries.get(source.latin1Slice(keys.offsets[row], keys.offsets[row + 1]))
      this.#found[row] = value === undefined ? 0 : 1
      values.push(value ?? EMPTY)
    }
    return { values, found: this.#found }
  }

  write(batch: WriteBatch): void {
    this.#requireOpen()
    const { keys, values, deletes } = batch
    if (keys.count !== values.count) throw misused('A batch has unequal numbers of keys and values.')
    const source = bufferOver(keys.bytes)
    for (let row = 0; row < keys.count; row++) {
      const key = source.latin1Slice(keys.offsets[row], keys.offsets[row + 1])
      if (deletes !== null && deletes[row] !== 0) this.#delete(key)
      else this.#put(key, values.bytes.slice(values.offsets[row], values.offsets[row + 1]))
    }
  }

  #put(key: string, value: Uint8Array): void {
    const before = this.#entries.get(key)
    if (before === undefined) {
      this.#added.push(key)
      this.#entryBytes += key.length + ENTRY_OVERHEAD_BYTES
    } else {
      this.#entryBytes -= before.length
    }
    this.#entryBytes += value.length
    this.#entries.set(key, value)
  }

  #delete(key: string): void {
    const before = this.#entries.get(key)
    if (before === undefined) return
    this.#entries.delete(key)
    this.#entryBytes -= key.length + before.length + ENTRY_OVERHEAD_BYTES
    this.#deletedAny = true
  }

  /** A row of a snapshot; `value` may be kept as it is. Rows come once each, before any other call. */
  putRestored(key: string, value: Uint8Array): void {
    this.#put(key, value)
  }

  deleteRange(from: Uint8Array, to: Uint8Array): void {
    this.#requireOpen()
    if (Buffer.compare(from, to) > 0) throw misused('The range to delete ends before it starts.')
    const keys = this.#orderedKeys()
    const low = lowerBound(keys, bufferOver(from).latin1Slice())
    const high = lowerBound(keys, bufferOver(to).latin1Slice())
    if (low === high) return
    for (let i = low; i < high; i++) this.#delete(keys[i])
    this.#ordered = keys.slice(0, low).concat(keys.slice(high))
    this.#deletedAny = false
  }

  scan(from: Uint8Array, to: Uint8Array | null): Scan {
    this.#requireOpen()
    if (to !== null && Buffer.compare(from, to) > 0) throw misused('The range to scan ends before it starts.')
    const ordered = this.#orderedKeys()
    const low = lowerBound(ordered, bufferOver(from).latin1Slice())
    const high = to === null ? ordered.length : lowerBound(ordered, bufferOver(to).latin1Slice())
    const keys = ordered.slice(low, high)
    const values = keys.map((key) => this.#entries.get(key)!)
    return new MemoryScan(keys, values, () => this.#requireOpen())
  }

  /** All keys of the map in order: merges what was added since the last time. */
  #orderedKeys(): readonly string[] {
    if (this.#added.length === 0 && !this.#deletedAny) return this.#ordered
    const added = this.#added.sort()
    const merged: string[] = []
    let last: string | null = null
    for (let i = 0, j = 0; i < this.#ordered.length || j < added.length; ) {
      const fromOrdered = j >= added.length || (i < this.#ordered.length && this.#ordered[i] <= added[j])
      const key: string = fromOrdered ? this.#ordered[i++] : added[j++]
      if (key !== last && (!this.#deletedAny || this.#entries.has(key))) merged.push(key)
      last = key
    }
    this.#ordered = merged
    this.#added = []
    this.#deletedAny = false
    return merged
  }

  /** The batch is applied at once. */
  async writeInBackground(batch: WriteBatch): Promise<void> {
    if (this.#checkpointing) throw misused('A checkpoint of this store is already running.')
    this.write(batch)
  }

  /** The batch is applied at once; encoding and writing happen a block at a time between other turns. */
  async writeAndCheckpoint(batch: WriteBatch, directory: string): Promise<readonly CheckpointFile[]> {
    this.#requireOpen()
    if (this.#checkpointing) throw misused('A checkpoint of this store is already running.')
    claimCheckpointDirectory(directory)
    this.write(batch)
    const keys = [...this.#entries.keys()]
    const values = [...this.#entries.values()]
    this.#checkpointing = true
    try {
      return [{ name: SNAPSHOT_NAME, size: await writeImage(directory, keys, values) }]
    } catch (error) {
      await rm(directory, { recursive: true, force: true }).catch(() => {})
      throw storeIoError(`write the checkpoint ${directory}`, error)
    } finally {
      this.#checkpointing = false
    }
  }

  memoryBytes(): number {
    return this.#entryBytes + this.#lookup.bytes.length + this.#lookup.offsets.byteLength + this.#found.length
  }

  close(): void {
    this.#closed = true
    this.#entries.clear()
    this.#ordered = []
    this.#added = []
    this.#entryBytes = 0
  }

  #requireOpen(): void {
    if (this.#closed) throw new MillraceError('STORE_CLOSED', 'The store is closed.', { domain: 'internal' })
  }
}

function misused(message: string): MillraceError {
  return new MillraceError('STORE_MISUSED', message, { domain: 'internal' })
}

async function writeImage(directory: string, keys: string[], values: Uint8Array[]): Promise<number> {
  await mkdir(directory)
  const file = await open(join(directory, SNAPSHOT_NAME), 'wx')
  let size: number
  try {
    size = await writeMemorySnapshot(file, keys, values)
    await file.sync()
  } finally {
    await file.close()
  }
  await syncDirectory(directory)
  await syncDirectory(dirname(directory))
  return size
}

/** A new name is only durable once its directory is. */
async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

class MemoryScan implements Scan {
  #keys: readonly string[]
  #values: readonly Uint8Array[]
  readonly #requireOpen: () => void
  #at = 0
  #closed = false
  readonly #keyArena = new GrowingArena()
  readonly #valueArena = new GrowingArena()

  constructor(keys: readonly string[], values: readonly Uint8Array[], requireOpen: () => void) {
    this.#keys = keys
    this.#values = values
    this.#requireOpen = requireOpen
  }

  next(maxBytes: number = SCAN_BYTES_DEFAULT): ScanChunk | null {
    this.#requireOpen()
    if (this.#closed) throw new MillraceError('STORE_CLOSED', 'The scan is closed.', { domain: 'internal' })
    if (this.#at >= this.#keys.length) return null
    this.#keyArena.reset()
    this.#valueArena.reset()
    for (let bytes = 0; this.#at < this.#keys.length; this.#at++) {
      const key = this.#keys[this.#at]
      const value = this.#values[this.#at]
      bytes += key.length + value.length
      if (bytes > maxBytes && this.#keyArena.count > 0) break
      this.#keyArena.pushLatin1(key)
      this.#valueArena.push(value)
    }
    return { keys: this.#keyArena, values: this.#valueArena }
  }

  close(): void {
    this.#closed = true
    this.#keys = []
    this.#values = []
  }
}
