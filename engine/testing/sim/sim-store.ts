/**
 * A keyed store on the simulated disk that works the way RocksDB does, in small: each checkpoint writes
 * what changed since the last one into a new immutable file, an image links all files, and now and then
 * everything is written into one file again.
 *
 * Used by the simulator in place of the stores in `state/`. Invariants: a file that an image names never
 * changes, and its name is never used for other content by the same line of stores.
 */
import { crc32 } from 'node:zlib'
import { GrowingArena } from '../../../state/growing-arena.ts'
import type {
  Arena,
  CheckpointFile,
  KeyedStore,
  KeyedStoreFactory,
  Lookup,
  Scan,
  WriteBatch,
} from '../../contract/keyed-store.ts'
import { MillraceError, messageOf } from '../../core/errors.ts'
import type { Disk } from '../../core/io.ts'
import type { SimDisk } from './sim-disk.ts'

const FILES_MAX = 3
const DELETED = 0xffff_ffff

/** Content of a store: keys as latin1 text. */
export type Entries = ReadonlyMap<string, Uint8Array>

export interface SimStoreFactory extends KeyedStoreFactory {
  create(directory: string): SimStore
  restore(image: string, directory: string): SimStore
}

export interface SimStoreOptions {
  /** The worker's view. */
  readonly disk: Disk
  /** The same disk for the calls that must not wait. */
  readonly raw: SimDisk
  /** A damaged file is noticed when it is used, as RocksDB does, instead of when it is restored. */
  readonly noticesRotLate: boolean
  /** Plants a fault. */
  readonly ignoresChecksums: boolean
}

export function simStoreFactory({ disk, raw, noticesRotLate, ignoresChecksums }: SimStoreOptions): SimStoreFactory {
  return {
    description: 'simulated',
    create(directory) {
      raw.makeDirectoryNow(directory)
      return new SimStore(disk, directory, [])
    },
    restore(image, directory) {
      raw.makeDirectoryNow(directory)
      const names = raw.listNow(image)
      const files = names.map((name) => ({ name, size: raw.readNow(`${image}/${name}`).length }))
      const store = new SimStore(disk, directory, files)
      for (const name of names) {
        raw.linkNow(`${image}/${name}`, `${directory}/${name}`)
        const bytes = raw.readNow(`${image}/${name}`)
        if (noticesRotLate && !ignoresChecksums && isRotten(bytes)) store.rottenFile = name
        else readInto(store.entries, bytes, name, !ignoresChecksums)
      }
      return store
    },
  }
}

/** What the files of one store hold together, oldest file first. */
export function readStoreFiles(files: readonly Buffer[]): Entries {
  const entries = new Map<string, Uint8Array>()
  for (const [i, bytes] of files.entries()) readInto(entries, bytes, `number ${i}`, true)
  return entries
}

/** A sum over the entries of each operator that does not depend on where they lie. */
export function digestByOperator(entries: Entries): Map<number, number> {
  const digests = new Map<number, number>()
  for (const [key, value] of entries) {
    const operator = (key.charCodeAt(0) << 8) | key.charCodeAt(1)
    let digest = 0x811c9dc5
    for (let i = 2; i < key.length; i++) digest = Math.imul(digest ^ key.charCodeAt(i), 0x01000193)
    for (const byte of value) digest = Math.imul(digest ^ byte, 0x01000193)
    digests.set(operator, ((digests.get(operator) ?? 0) + (digest >>> 0)) >>> 0)
  }
  return digests
}

const CRC_BYTES = 4

/** Name, entries and a CRC-32 of both: every byte is under a check, as in RocksDB's blocks. */
function readInto(entries: Map<string, Uint8Array>, file: Buffer, name: string, checks: boolean): void {
  if (checks && isRotten(file)) throw corrupt('SNAPSHOT_CORRUPT', name)
  const bytes = file.subarray(0, Math.max(0, file.length - CRC_BYTES))
  // The name of the store that wrote it comes first: as in RocksDB, no two stores ever write the same bytes.
  let at = bytes.length < 2 ? bytes.length : 2 + bytes.readUInt16LE(0)
  while (at < bytes.length) {
    if (at + 8 > bytes.length) throw corrupt('SNAPSHOT_CORRUPT', name)
    const keyLength = bytes.readUInt32LE(at)
    const valueLength = bytes.readUInt32LE(at + 4)
    const end = at + 8 + keyLength + (valueLength === DELETED ? 0 : valueLength)
    if (end > bytes.length) throw corrupt('SNAPSHOT_CORRUPT', name)
    const key = bytes.latin1Slice(at + 8, at + 8 + keyLength)
    if (valueLength === DELETED) entries.delete(key)
    else entries.set(key, Buffer.from(bytes.subarray(at + 8 + keyLength, end)))
    at = end
  }
}

function isRotten(file: Buffer): boolean {
  const end = file.length - CRC_BYTES
  return end < 0 || crc32(file.subarray(0, end)) !== file.readUInt32LE(end)
}

export class SimStore implements KeyedStore {
  readonly description = 'simulated'
  /** A file that is damaged: every use of the store fails. */
  rottenFile: string | null = null
  readonly entries = new Map<string, Uint8Array>()
  /** Keys changed since the newest file. */
  private dirty = new Set<string>()
  private files: CheckpointFile[]
  private sequence: number
  private readonly disk: Disk
  private readonly directory: string
  private closed = false
  private imaging = false

  constructor(disk: Disk, directory: string, files: CheckpointFile[]) {
    this.disk = disk
    this.directory = directory
    this.files = files
    this.sequence = files.reduce((max, file) => Math.max(max, Number.parseInt(file.name, 10)), 0)
  }

  multiGet(keys: Arena): Lookup {
    this.requireOpen()
    const values = new GrowingArena()
    const found = new Uint8Array(keys.count)
    keysOf(keys).forEach((key, i) => {
      const value = this.entries.get(key)
      found[i] = value === undefined ? 0 : 1
      values.push(value ?? new Uint8Array(0))
    })
    return { values, found }
  }

  write(batch: WriteBatch): void {
    this.requireOpen()
    const { values, deletes } = batch
    keysOf(batch.keys).forEach((key, i) => {
      this.dirty.add(key)
      if (deletes !== null && deletes[i] === 1) this.entries.delete(key)
      else this.entries.set(key, values.bytes.slice(values.offsets[i], values.offsets[i + 1]))
    })
  }

  deleteRange(from: Uint8Array, to: Uint8Array): void {
    this.requireOpen()
    const [low, high] = [latin1(from), latin1(to)]
    for (const key of [...this.entries.keys()]) {
      if (key < low || key >= high) continue
      this.entries.delete(key)
      this.dirty.add(key)
    }
  }

  scan(from: Uint8Array, to: Uint8Array | null): Scan {
    this.requireOpen()
    const low = latin1(from)
    const high = to === null ? null : latin1(to)
    const rows = [...this.entries]
      .filter(([key]) => key >= low && (high === null || key < high))
      .sort(([a], [b]) => (a < b ? -1 : 1))
    let at = 0
    return {
      next: (maxBytes = 1 << 18) => {
        if (at >= rows.length) return null
        const keys = new GrowingArena()
        const values = new GrowingArena()
        for (let bytes = 0; at < rows.length; at++) {
          const [key, value] = rows[at]!
          bytes += key.length + value.length
          if (bytes > maxBytes && keys.count > 0) break
          keys.pushLatin1(key)
          values.push(value)
        }
        return { keys, values }
      },
      close() {},
    }
  }

  async writeInBackground(batch: WriteBatch): Promise<void> {
    this.requireOpen()
    if (this.imaging) throw new MillraceError('STORE_MISUSED', 'Two batches at once.', { domain: 'internal' })
    this.imaging = true
    const before = this.valuesOf(batch.keys)
    this.write(batch)
    const written = this.valuesOf(batch.keys)
    const path = `${this.directory}/piece-${++this.sequence}`
    try {
      const file = await this.disk.create(path)
      await file.append(batch.keys.bytes.slice(0, batch.keys.offsets[batch.keys.count]))
      await file.close()
      await this.disk.remove(path)
    } catch (error) {
      this.undo(before, written)
      throw storeIo(path, error)
    } finally {
      this.imaging = false
    }
  }

  private valuesOf(keys: Arena): Map<string, Uint8Array | undefined> {
    return new Map(keysOf(keys).map((key) => [key, this.entries.get(key)]))
  }

  /** The disk did not take a batch: what it wrote, and nobody did since, is as it was. */
  private undo(before: ReadonlyMap<string, Uint8Array | undefined>, written: typeof before): void {
    for (const [key, value] of before) {
      if (this.entries.get(key) !== written.get(key)) continue
      if (value === undefined) this.entries.delete(key)
      else this.entries.set(key, value)
    }
  }

  async writeAndCheckpoint(batch: WriteBatch, directory: string): Promise<readonly CheckpointFile[]> {
    this.requireOpen()
    if (this.imaging) throw new MillraceError('STORE_MISUSED', 'Two images at once.', { domain: 'internal' })
    this.imaging = true
    this.write(batch)
    const whole = this.files.length >= FILES_MAX
    const changed = this.dirty
    this.dirty = new Set()
    const name = `${String(++this.sequence).padStart(6, '0')}.sst`
    const bytes = this.encode(whole ? this.entries.keys() : changed)
    try {
      await this.disk.makeDirectory(directory)
      const file = await this.disk.create(`${directory}/${name}`)
      await file.append(bytes)
      await file.close()
      const earlier = whole ? [] : this.files
      for (const old of earlier) await this.disk.link(`${this.directory}/${old.name}`, `${directory}/${old.name}`)
      await this.disk.link(`${directory}/${name}`, `${this.directory}/${name}`)
      this.files = [...earlier, { name, size: bytes.length }]
      return this.files
    } catch (error) {
      for (const key of changed) this.dirty.add(key)
      throw storeIo(directory, error)
    } finally {
      this.imaging = false
    }
  }

  private encode(keys: Iterable<string>): Buffer {
    const writer = Buffer.from(`xx${this.directory}/${this.sequence}`)
    writer.writeUInt16LE(writer.length - 2, 0)
    const parts: Buffer[] = [writer]
    for (const key of keys) {
      const value = this.entries.get(key)
      const head = Buffer.alloc(8)
      head.writeUInt32LE(key.length, 0)
      head.writeUInt32LE(value?.length ?? DELETED, 4)
      parts.push(head, Buffer.from(key, 'latin1'))
      if (value !== undefined) parts.push(Buffer.from(value))
    }
    const bytes = Buffer.concat(parts)
    const checksum = Buffer.alloc(CRC_BYTES)
    checksum.writeUInt32LE(crc32(bytes))
    return Buffer.concat([bytes, checksum])
  }

  memoryBytes(): number {
    return this.entries.size * 64
  }

  close(): void {
    this.closed = true
  }

  private requireOpen(): void {
    if (this.closed) throw new MillraceError('STORE_CLOSED', 'The store is closed.', { domain: 'internal' })
    if (this.rottenFile !== null) throw corrupt('STORE_CORRUPT', this.rottenFile)
  }
}

function storeIo(path: string, cause: unknown): MillraceError {
  return new MillraceError('STORE_IO', `Cannot write ${path}: ${messageOf(cause)}.`, {
    domain: 'external',
    retryable: true,
    cause,
  })
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes).latin1Slice()
}

function keysOf(arena: Arena): string[] {
  const bytes = Buffer.from(arena.bytes.buffer, arena.bytes.byteOffset, arena.bytes.byteLength)
  return Array.from({ length: arena.count }, (_, i) => bytes.latin1Slice(arena.offsets[i], arena.offsets[i + 1]))
}

function corrupt(code: string, name: string): MillraceError {
  return new MillraceError(code, `The state file ${name} does not match its checksum.`, {
    domain: 'external',
  })
}
