/**
 * The connector's own lock on a PGlite directory: a file naming the process that owns it.
 *
 * Called by pglite-client.ts when the caller brings no lock. PGlite itself locks nothing, and two
 * processes on one directory destroy it. The file holds the process id and its start time, so that a
 * file left by a killed process (or whose id was given to another one) is recognised and replaced. Pids
 * mean nothing across machines or containers: a directory shared between those needs a real file lock,
 * passed as `acquireLock`.
 */
import { randomUUID } from 'node:crypto'
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { MillraceError } from '../../engine/core/errors.ts'

/** Rounds of meeting a dead owner's file; each removes one. */
const ATTEMPTS_MAX = 20

/** Locks `path`. Throws `LOCK_HELD` naming the living owner's pid. */
export function acquireDirectoryLock(path: string): { release(): void } {
  const content = `${process.pid} ${startTimeOf(process.pid) ?? '-'} ${randomUUID()}\n`
  // Written aside and linked: the file is never seen half written, and link fails when it exists.
  const draft = `${path}.${randomUUID()}`
  writeFileSync(draft, content, { flag: 'wx' })
  try {
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      if (tryLink(draft, path)) return { release: () => releaseLock(path, content) }
      const held = readIfThere(path)
      if (held === null) continue
      const [pid, startTime] = held.trim().split(' ')
      if (isAlive(Number(pid), startTime)) throw lockHeld(path, Number(pid))
      removeDead(path, held)
    }
    throw new MillraceError('LOCK_HELD', `${path} kept changing while it was being locked.`, {
      domain: 'external',
      hint: 'Other processes start on this directory at the same time; stop them.',
    })
  } finally {
    rmSync(draft, { force: true })
  }
}

function lockHeld(path: string, pid: number): MillraceError {
  const who = pid === process.pid ? `this process (pid ${pid})` : `process ${pid}`
  return new MillraceError('LOCK_HELD', `The database directory is in use: ${who} holds ${path}.`, {
    domain: 'user',
    hint: 'Stop that process, or use another directory.',
  })
}

function tryLink(from: string, to: string): boolean {
  try {
    linkSync(from, to)
    return true
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false
    throw error
  }
}

/**
 * Moves a dead owner's file away. Between reading and moving, another process may have replaced it; then
 * what was moved is a living owner's file and goes back.
 */
function removeDead(path: string, expected: string): void {
  const aside = `${path}.${randomUUID()}`
  try {
    renameSync(path, aside)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return
    throw error
  }
  try {
    if (readFileSync(aside, 'utf8') !== expected) tryLink(aside, path)
  } finally {
    rmSync(aside, { force: true })
  }
}

function releaseLock(path: string, content: string): void {
  if (readIfThere(path) === content) rmSync(path, { force: true })
}

function readIfThere(path: string): string | null {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null
    throw error
  }
}

function isAlive(pid: number, startTime: string | undefined): boolean {
  if (!Number.isInteger(pid) || pid <= 0) return false
  try {
    process.kill(pid, 0)
  } catch (error) {
    if (codeOf(error) === 'ESRCH') return false
  }
  const actual = startTimeOf(pid)
  return actual === null || startTime === undefined || startTime === '-' || actual === startTime
}

/** Start time of a process in clock ticks since boot, field 22 of its stat file; null where there is none. */
function startTimeOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The second field, the command in brackets, may hold blanks and brackets itself.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null
  } catch {
    return null
  }
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined
}
