/**
 * The one thread that owns an embedded PGlite database: a worker started by pglite-client.ts.
 *
 * It answers requests of several clients, one at a time: PGlite is one session. A client that began a
 * transaction has the session to itself until commit, rollback or its close; the others wait their turn.
 *
 * Durability. As it comes, PGlite runs with fsync off and its Node file system has no fsync, so a
 * power cut may lose or tear what was committed. Here fsync is on, it is hooked up to the disk, and the
 * log is synced with it at each commit (the default, fdatasync, never reaches the file system layer).
 * The database is initialised in a directory of its own, synced and renamed into place, so that a kill
 * meanwhile leaves nothing half made.
 */
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { parentPort, workerData } from 'node:worker_threads'
import type { PGlite } from '@electric-sql/pglite'
import { messageOf } from '../../engine/core/errors.ts'
import { isModuleMissing } from '../../engine/core/optional-package.ts'
import { type SqlErrorFields, sqlErrorFields } from './sql-connection.ts'

export interface OwnerRequest {
  readonly id: number
  readonly client: number
  readonly operation: 'query' | 'begin' | 'commit' | 'rollback' | 'leave' | 'shutdown'
  readonly text?: string
  readonly params?: readonly unknown[]
}

export type OwnerReply =
  | { readonly kind: 'ready' }
  | { readonly kind: 'failed'; readonly message: string; readonly isPackageMissing: boolean }
  | {
      readonly kind: 'result'
      readonly id: number
      readonly rows: Record<string, unknown>[]
      readonly affected: number
    }
  | { readonly kind: 'error'; readonly id: number; readonly error: SqlErrorFields }

export interface OwnerData {
  readonly directory: string
}

const PACKAGE = '@electric-sql/pglite'

/** The part of PGlite's Emscripten module that file descriptors go through. */
interface NodeFsStreams {
  readonly stream_ops: { fsync?: (stream: { readonly nfd: number }) => number }
}

async function openPglite(dataDirectory: string): Promise<PGlite> {
  const { PGlite } = await import('@electric-sql/pglite')
  const { NodeFS } = await import('@electric-sql/pglite/nodefs')
  class SyncedNodeFs extends NodeFS {
    override async init(...args: Parameters<InstanceType<typeof NodeFS>['init']>) {
      const result = await super.init(...args)
      const hook = (module: object) => {
        const streams = (module as { NODEFS?: NodeFsStreams }).NODEFS?.stream_ops
        if (streams === undefined) throw new Error('this version of PGlite has no NODEFS layer to sync through')
        streams.fsync = (stream) => {
          fsyncSync(stream.nfd)
          return 0
        }
      }
      const options = result.emscriptenOpts
      return { ...result, emscriptenOpts: { ...options, preRun: [...(options.preRun ?? []), hook] } }
    }
  }
  const startParams = PGlite.defaultStartParams.filter((parameter) => parameter !== '-F')
  return PGlite.create({
    fs: new SyncedNodeFs(dataDirectory),
    relaxedDurability: false,
    startParams: [...startParams, '-c', 'fsync=on', '-c', 'wal_sync_method=fsync', '-c', 'TimeZone=UTC'],
  })
}

/** Opens the database under `directory`, making it first when there is none. */
async function openDatabase(directory: string): Promise<PGlite> {
  // A directory that PGlite made by itself is used as it is.
  const dataDirectory = existsSync(join(directory, 'PG_VERSION')) ? directory : join(directory, 'data')
  if (!existsSync(dataDirectory)) {
    for (const name of readdirSync(directory)) {
      if (name.startsWith('init-')) rmSync(join(directory, name), { recursive: true, force: true })
    }
    const draft = join(directory, `init-${process.pid}`)
    mkdirSync(draft)
    const made = await openPglite(draft)
    await made.close()
    syncTree(draft)
    renameSync(draft, dataDirectory)
    syncPath(directory)
  }
  return openPglite(dataDirectory)
}

function syncTree(path: string): void {
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    const child = join(path, entry.name)
    if (entry.isDirectory()) syncTree(child)
    else syncPath(child)
  }
  syncPath(path)
}

function syncPath(path: string): void {
  const descriptor = openSync(path, 'r')
  try {
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
}

class Owner {
  private readonly database: PGlite
  private readonly waiting: OwnerRequest[] = []
  private holder: number | null = null
  private isBusy = false
  private readonly reply: (reply: OwnerReply) => void

  constructor(database: PGlite, reply: (reply: OwnerReply) => void) {
    this.database = database
    this.reply = reply
  }

  accept(request: OwnerRequest): void {
    this.waiting.push(request)
    if (!this.isBusy) void this.drain()
  }

  private async drain(): Promise<void> {
    this.isBusy = true
    for (;;) {
      const next = this.waiting.findIndex(
        (r) => this.holder === null || r.client === this.holder || r.operation === 'shutdown',
      )
      if (next < 0) break
      const request = this.waiting.splice(next, 1)[0]!
      try {
        const { rows, affected } = await this.run(request)
        this.reply({ kind: 'result', id: request.id, rows, affected })
      } catch (error) {
        this.reply({ kind: 'error', id: request.id, error: sqlErrorFields(error) })
      }
      if (request.operation === 'shutdown') {
        parentPort!.close()
        break
      }
    }
    this.isBusy = false
  }

  private async run(request: OwnerRequest): Promise<{ rows: Record<string, unknown>[]; affected: number }> {
    const nothing = { rows: [], affected: 0 }
    switch (request.operation) {
      case 'query': {
        const result = await this.database.query<Record<string, unknown>>(request.text!, [...(request.params ?? [])])
        return { rows: result.rows, affected: result.affectedRows ?? 0 }
      }
      case 'begin':
        await this.database.exec('BEGIN')
        this.holder = request.client
        return nothing
      case 'commit': {
        this.holder = null
        const results = await this.database.exec('COMMIT')
        // COMMIT of a failed transaction succeeds as ROLLBACK.
        const tag = (results[0] as { command?: string } | undefined)?.command
        if (tag === 'ROLLBACK') throw Object.assign(new Error('the transaction had failed'), { code: '25P02' })
        return nothing
      }
      case 'rollback':
        this.holder = null
        await this.database.exec('ROLLBACK')
        return nothing
      case 'leave':
        if (this.holder === request.client) {
          this.holder = null
          await this.database.exec('ROLLBACK')
        }
        return nothing
      case 'shutdown':
        await this.database.close()
        return nothing
    }
  }
}

async function main(): Promise<void> {
  const port = parentPort!
  const reply = (message: OwnerReply) => port.postMessage(message)
  const { directory } = workerData as OwnerData
  try {
    const owner = new Owner(await openDatabase(directory), reply)
    port.on('message', (request: OwnerRequest) => owner.accept(request))
    reply({ kind: 'ready' })
  } catch (error) {
    reply({ kind: 'failed', message: messageOf(error), isPackageMissing: isModuleMissing(error, PACKAGE) })
    port.close()
  }
}

await main()
