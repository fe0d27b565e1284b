/**
 * The real world behind `Io`: Node's clock, random numbers, timers and file system, and object stores by URL.
 */
import { createHash } from 'node:crypto'
import { closeSync, createReadStream, openSync, readSync, unlinkSync, writeSync } from 'node:fs'
import {
  copyFile,
  type FileHandle,
  link,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  unlink,
} from 'node:fs/promises'
import { dirname } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { damagedFile, objectDisk } from '../checkpoint/object-disk.ts'
import type { ContentHash, ObjectStore } from '../contract/object-store.ts'
import { MillraceError } from '../core/errors.ts'
import type { Clock, Disk, DiskFile, Io, Random, SpillFile, Timers } from '../core/io.ts'

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | null)?.code
}

/** Null where `missing` says the thing is not there. */
async function orNull<T>(promise: Promise<T>): Promise<T | null> {
  try {
    return await promise
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null
    throw error
  }
}

async function syncPath(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Node's errors of open files do not say which file it was. */
async function naming<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    if (error instanceof Error && !error.message.includes(path)) error.message += ` '${path}'`
    throw error
  }
}

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  let written = 0
  while (written < bytes.length) {
    const result = await handle.write(bytes, written)
    written += result.bytesWritten
  }
}

async function createFile(path: string): Promise<DiskFile> {
  const handle = await open(path, 'w')
  return {
    append: (bytes) => naming(path, writeAll(handle, bytes)),
    sync: () => naming(path, handle.sync()),
    close: () => handle.close(),
  }
}

function temporaryName(path: string): string {
  return `${path}.${process.pid}-${process.hrtime.bigint()}.tmp`
}

/** Writes, syncs and links into place; false when `path` exists. Either way its name is durable afterwards. */
async function createExclusive(path: string, bytes: Uint8Array): Promise<boolean> {
  const temporary = temporaryName(path)
  let isNew = true
  try {
    const file = await createFile(temporary)
    try {
      await file.append(bytes)
      await file.sync()
    } finally {
      await file.close()
    }
    await link(temporary, path)
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error
    isNew = false
  } finally {
    await orNull(unlink(temporary))
  }
  // Whoever made one that exists may have failed, or ended, before this.
  await syncPath(dirname(path))
  return isNew
}

async function linkOrCopy(from: string, to: string, content?: ContentHash): Promise<void> {
  try {
    await link(from, to)
  } catch (error) {
    const code = codeOf(error)
    if (code === 'EEXIST') return
    if (code !== 'EXDEV' && code !== 'EPERM' && code !== 'EMLINK') throw error
    await copyWhole(from, to, content)
  }
}

/** Whole and durable, or not there; a damaged source is not copied. */
async function copyWhole(from: string, to: string, content?: ContentHash): Promise<void> {
  const temporary = temporaryName(to)
  await copyFile(from, temporary)
  if (content !== undefined) {
    const found = await hashOf(temporary)
    if (found.sha256 !== content.sha256) {
      await unlink(temporary)
      throw damagedFile(from, content, found)
    }
  }
  await syncPath(temporary)
  await rename(temporary, to)
}

async function hashOf(path: string): Promise<ContentHash> {
  const hash = createHash('sha256')
  let size = 0
  const stream = createReadStream(path, { highWaterMark: 1 << 20 })
  stream.on('data', (chunk) => {
    size += chunk.length
  })
  await pipeline(stream, hash)
  return { sha256: hash.digest('hex'), size }
}

async function readRange(path: string, at: number, length: number): Promise<Buffer> {
  const file = await open(path)
  try {
    const bytes = Buffer.allocUnsafeSlow(length)
    let done = 0
    while (done < length) {
      const { bytesRead } = await file.read(bytes, done, length - done, at + done)
      if (bytesRead === 0) break
      done += bytesRead
    }
    return bytes.subarray(0, done)
  } finally {
    await file.close()
  }
}

const fileSystem: Disk = {
  read: (path) => readFile(path),
  readRange,
  create: createFile,
  createExclusive,
  async rename(from, to) {
    await rename(from, to)
    await syncPath(dirname(to))
  },
  link: linkOrCopy,
  hash: hashOf,
  syncFile: syncPath,
  syncDirectory: syncPath,
  async makeDirectory(path) {
    await mkdir(path, { recursive: true })
  },
  async list(path) {
    return ((await orNull(readdir(path))) ?? []).sort()
  },
  async size(path) {
    return (await orNull(stat(path)))?.size ?? null
  },
  async remove(path) {
    await rm(path, { recursive: true, force: true })
  },
}

function openSpill(directory: string): SpillFile {
  const path = `${directory}/spill-${process.pid}-${process.hrtime.bigint()}`
  const descriptor = openSync(path, 'wx+')
  // Without a name it goes with the process, however that ends.
  unlinkSync(path)
  let end = 0
  return {
    append(bytes) {
      for (let done = 0; done < bytes.length; )
        done += writeSync(descriptor, bytes, done, bytes.length - done, end + done)
      end += bytes.length
    },
    read(at, length) {
      const bytes = new Uint8Array(length)
      for (let done = 0; done < length; ) {
        const step = readSync(descriptor, bytes, done, length - done, at + done)
        if (step === 0) throw new Error(`a spill file ends at byte ${at + done}`)
        done += step
      }
      return bytes
    },
    close: () => closeSync(descriptor),
  }
}

const clock: Clock = { nowMs: () => Date.now(), monotonicMs: () => performance.now() }

const random: Random = { next: () => Math.random() }

const timers: Timers = {
  schedule(delayMs, task) {
    const timer = setTimeout(task, delayMs)
    return () => clearTimeout(timer)
  },
}

/** The client is loaded when a path asks for it. */
async function openObjectStore(url: string): Promise<ObjectStore> {
  if (!url.startsWith('s3://')) {
    throw new MillraceError('OBJECT_STORE_UNKNOWN', `There is no object store for ${url}.`, {
      hint: 'Write s3://BUCKET/PREFIX, or the path of a local directory.',
    })
  }
  const { S3ObjectStore } = await import('./s3-object-store.ts')
  const { s3SettingsOf } = await import('./s3-client.ts')
  return new S3ObjectStore(s3SettingsOf(url, process.env), { clock, timers })
}

export const nodeIo: Io = {
  clock,
  random,
  timers,
  openSpill,
  disk: objectDisk({ local: fileSystem, timers, random, open: openObjectStore }),
}
