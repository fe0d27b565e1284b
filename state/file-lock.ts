/**
 * The lock that keeps a second process (or thread) out of a local store's directory.
 *
 * Called by the owners of local stores. With the addon it is an flock, which the operating system
 * drops when the holder dies, however it dies. Without it, it is a pid file created with O_EXCL; a
 * leftover one is taken over when its process is gone (or when that pid now belongs to a process
 * started at another time). All processes of one installation use the same kind.
 */

import { randomUUID } from 'node:crypto'
import { closeSync, linkSync, openSync, readFileSync, renameSync, unlinkSync, writeSync } from 'node:fs'
import { MillraceError, messageOf } from '../engine/core/errors.ts'
import { type RocksdbAddon, tryLoadRocksdbAddon } from './rocksdb-addon.ts'
import { storeIoError } from './store-directory.ts'

export interface FileLock {
  /** Safe to call twice. */
  release(): void
}

/** Locks `path` (created when missing; its parent must exist). Throws `LOCK_HELD` naming the holder's pid. */
export function acquireFileLock(path: string): FileLock {
  const addon = tryLoadRocksdbAddon()
  return addon === null ? acquirePidFileLock(path) : acquireNativeLock(addon, path)
}

function lockHeld(path: string, pid: string): MillraceError {
  return new MillraceError('LOCK_HELD', `${path} is locked by process ${pid}.`, {
    domain: 'user',
    hint: 'Stop that process, or use another directory.',
  })
}

function acquireNativeLock(addon: RocksdbAddon, path: string): FileLock {
  try {
    const handle = addon.lockFile(path)
    return { release: () => addon.unlockFile(handle) }
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'LOCK_HELD') throw lockHeld(path, error.message)
    throw storeIoError(`lock ${path}`, error)
  }
}

/** The lock without the addon. Exported for its test. */
export function acquirePidFileLock(path: string): FileLock {
  const content = `${process.pid} ${startTimeOf(process.pid) ?? 'unknown'} ${randomUUID()}\n`
  // Each round either gets the lock, meets a live holder, or removes one leftover file.
  for (let round = 0; round < 10; round++) {
    try {
      const descriptor = openSync(path, 'wx', 0o644)
      try {
        writeSync(descriptor, content)
      } finally {
        closeSync(descriptor)
      }
      return { release: () => releasePidFile(path, content) }
    } catch (error) {
      if (!hasCode(error, 'EEXIST')) throw storeIoError(`lock ${path}`, error)
    }
    const holder = readPidFile(path)
    if (holder === null) continue
    if (holder.alive) throw lockHeld(path, holder.pid)
    removeLeftover(path, holder.content)
  }
  throw storeIoError(`lock ${path}`, new Error('too many processes want it at once'))
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}

function readPidFile(path: string): { pid: string; content: string; alive: boolean } | null {
  let content: string
  try {
    content = readFileSync(path, 'latin1')
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return null
    throw storeIoError(`read ${path}`, error)
  }
  const [pid = '', startTime = 'unknown'] = content.trim().split(' ')
  // An empty file is one whose holder is between creating and writing it.
  if (!/^[1-9]\d*$/.test(pid)) return { pid: 'unknown', content, alive: true }
  return { pid, content, alive: isAlive(Number(pid), startTime) }
}

function isAlive(pid: number, startTime: string): boolean {
  const now = startTimeOf(pid)
  if (now !== null && startTime !== 'unknown') return now === startTime
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    // EPERM: it exists and belongs to someone else.
    return !messageOf(error).includes('ESRCH')
  }
}

/** Clock ticks after boot at which a process started; null where /proc does not tell. */
function startTimeOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // The second field is the command in parentheses and may hold anything; the third is the process's
    // state, the 22nd its start time.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return fields[19] ?? null
  } catch {
    return null
  }
}

/** Renaming first makes sure that what goes away is the file that was judged, not a newer holder's. */
function removeLeftover(path: string, judged: string): void {
  const aside = `${path}.${randomUUID()}`
  try {
    renameSync(path, aside)
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return
    throw storeIoError(`lock ${path}`, error)
  }
  try {
    if (readFileSync(aside, 'latin1') !== judged) linkSync(aside, path)
  } catch {
    // Somebody else made a new one meanwhile; the next round meets it.
  }
  unlinkSync(aside)
}

function releasePidFile(path: string, content: string): void {
  try {
    if (readFileSync(path, 'latin1') === content) unlinkSync(path)
  } catch {
    // Already gone.
  }
}
