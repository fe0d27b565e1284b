/**
 * Sessions on an embedded PGlite: starts the owner thread of a directory and talks to it.
 *
 * Called by connect.ts. A `PgliteHost` keeps one owner a directory, under a lock, for as long as any
 * session on it is open; the last close shuts the database down and frees the lock. Hosts are not shared
 * between threads: the coordinator's thread is the one that connects.
 */
import { mkdirSync, realpathSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { MillraceError, messageOf } from '../../engine/core/errors.ts'
import { packageMissing } from '../../engine/core/optional-package.ts'
import { packageModule } from '../../engine/core/own-module.ts'
import { acquireDirectoryLock } from './directory-lock.ts'
import type { OwnerReply, OwnerRequest } from './pglite-owner.ts'
import { type AcquireLock, type SqlConnection, SqlFailure, type SqlResult } from './sql-connection.ts'

/** Requests in flight per database; a session has one at a time, so this bounds the sessions. */
const REQUESTS_MAX = 1_000

interface Waiter {
  resolve(result: SqlResult): void
  reject(error: unknown): void
}

/** One owner thread and who waits for its answers. */
class OwnerThread {
  readonly ready: Promise<void>
  /** Settles when the thread is gone and the lock is free. */
  readonly gone: Promise<void>
  sessions = 0
  private readonly worker: Worker
  private readonly waiters = new Map<number, Waiter>()
  private nextId = 1
  private nextClient = 1
  private failure: unknown = null
  private isEnding = false

  constructor(directory: string, lock: { release(): void }) {
    this.worker = new Worker(packageModule('connectors/postgres/pglite-owner'), { workerData: { directory } })
    this.ready = new Promise((resolve, reject) => {
      this.worker.on('message', (reply: OwnerReply) => this.take(reply, resolve, reject, directory))
      this.worker.on('error', (error) => {
        this.failure = error
      })
      this.worker.on('exit', () => {
        const error = new SqlFailure({ message: `the PGlite thread ended: ${messageOf(this.failure ?? 'exit')}` })
        reject(error)
        this.rejectAll(error)
      })
    })
    this.gone = new Promise((resolve) => {
      this.worker.once('exit', () => {
        this.isEnding = true
        lock.release()
        resolve()
      })
    })
    // Whoever connects awaits `ready`; without anybody, its failure is not an unhandled one.
    this.ready.catch(() => {})
  }

  get isUsable(): boolean {
    return !this.isEnding
  }

  newClient(): number {
    return this.nextClient++
  }

  request(client: number, operation: OwnerRequest['operation'], text?: string, params?: readonly unknown[]) {
    return new Promise<SqlResult>((resolve, reject) => {
      if (this.isEnding) return reject(new SqlFailure({ message: 'the PGlite thread has ended' }))
      if (this.waiters.size >= REQUESTS_MAX) {
        return reject(new SqlFailure({ message: 'too many requests are waiting', sqlState: '53300' }))
      }
      const id = this.nextId++
      this.waiters.set(id, { resolve, reject })
      const request: OwnerRequest = {
        id,
        client,
        operation,
        ...(text === undefined ? {} : { text }),
        ...(params === undefined ? {} : { params }),
      }
      this.worker.postMessage(request)
    })
  }

  async shutdown(): Promise<void> {
    if (!this.isEnding) {
      const done = this.request(0, 'shutdown').catch(() => null)
      this.isEnding = true
      await done
    }
    await this.gone
  }

  private take(reply: OwnerReply, resolve: () => void, reject: (error: unknown) => void, directory: string): void {
    switch (reply.kind) {
      case 'ready':
        resolve()
        return
      case 'failed':
        reject(reply.isPackageMissing ? pgliteMissing(reply.message) : openFailed(directory, reply.message))
        return
      case 'result':
        this.waiters.get(reply.id)?.resolve({ rows: reply.rows, affectedRows: reply.affected })
        this.waiters.delete(reply.id)
        return
      case 'error':
        this.waiters.get(reply.id)?.reject(new SqlFailure(reply.error))
        this.waiters.delete(reply.id)
        return
    }
  }

  private rejectAll(error: unknown): void {
    this.isEnding = true
    for (const waiter of this.waiters.values()) waiter.reject(error)
    this.waiters.clear()
  }
}

function pgliteMissing(message: string): MillraceError {
  return packageMissing('@electric-sql/pglite', 'The embedded Postgres', new Error(message))
}

function openFailed(directory: string, message: string): MillraceError {
  return new MillraceError('PGLITE_OPEN_FAILED', `The database in ${directory} could not be opened: ${message}.`, {
    domain: 'external',
    hint: 'Check that the directory can be written and that no other program uses it.',
  })
}

class PgliteSession implements SqlConnection {
  private readonly owner: OwnerThread
  private readonly client: number
  private readonly onClose: () => Promise<void>
  private closed: Promise<void> | null = null

  constructor(owner: OwnerThread, onClose: () => Promise<void>) {
    this.owner = owner
    this.client = owner.newClient()
    this.onClose = onClose
  }

  query(text: string, params: readonly unknown[] = []): Promise<SqlResult> {
    return this.owner.request(this.client, 'query', text, params)
  }

  async begin(): Promise<void> {
    await this.owner.request(this.client, 'begin')
  }

  async commit(): Promise<void> {
    await this.owner.request(this.client, 'commit')
  }

  async rollback(): Promise<void> {
    await this.owner.request(this.client, 'rollback')
  }

  close(): Promise<void> {
    this.closed ??= this.leave()
    return this.closed
  }

  private async leave(): Promise<void> {
    // A dead owner has nothing left to roll back.
    await this.owner.request(this.client, 'leave').catch(() => null)
    await this.onClose()
  }
}

/** Owners of PGlite directories in this thread. */
export class PgliteHost {
  private readonly owners = new Map<string, OwnerThread>()

  /**
   * Opens a session on `directory`, made when missing. The first session starts the database, in about
   * 0.3 s, or 3 s when it has to be made. Throws `LOCK_HELD`, `PACKAGE_MISSING`, `PGLITE_OPEN_FAILED`.
   */
  async connect(directory: string, acquireLock: AcquireLock = acquireDirectoryLock): Promise<SqlConnection> {
    mkdirSync(directory, { recursive: true })
    const path = realpathSync(directory)
    const known = this.owners.get(path)
    // An owner that is shutting down still has the lock.
    if (known !== undefined && !known.isUsable) await known.gone
    let owner = this.owners.get(path)
    if (owner === undefined || !owner.isUsable) {
      owner = new OwnerThread(path, acquireLock(join(path, 'millrace.lock')))
      this.owners.set(path, owner)
    }
    const mine = owner
    mine.sessions++
    const leave = async () => {
      mine.sessions--
      if (mine.sessions > 0) return
      await mine.shutdown()
      if (this.owners.get(path) === mine) this.owners.delete(path)
    }
    try {
      await mine.ready
    } catch (error) {
      await leave()
      throw error
    }
    return new PgliteSession(mine, leave)
  }
}
