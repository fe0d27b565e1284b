/**
 * A disk in memory that forgets what was not synced: the worst that POSIX allows.
 *
 * Used by the simulator and by tests of crash safety. It outlives the simulated processes. Operations
 * take effect after a random delay through the scheduler, in any order unless their caller waited.
 *
 * Invariants:
 * - Bytes appended since the last `sync` are cut at a random byte by `crash`.
 * - Entries created, linked or removed since the last `syncDirectory` may each be lost by `crash`, new
 *   directories included; `rename` and `createExclusive` are durable once they resolve. A file that was
 *   renamed is there after a crash under one of its two names.
 * - After `crash` no operation of an earlier scope has an effect.
 */
import { createHash } from 'node:crypto'
import type { Disk, DiskFile, SpillFile } from '../../core/io.ts'
import type { SeededRandom } from './seeded-random.ts'
import type { Scope, SimScheduler } from './sim-scheduler.ts'

interface FileNode {
  readonly kind: 'file'
  bytes: Buffer
  /** Bytes that survive a crash. */
  synced: number
}

type Node = FileNode | { readonly kind: 'directory' }

type OperationKind = 'read' | 'write' | 'sync'

/** What went onto or off the disk, for the oracle. */
export interface DiskObserver {
  created(path: string, bytes: Uint8Array): void
  removed(path: string): void
  /** A write or sync of this file failed. */
  failed?(path: string): void
}

export interface SimDiskOptions {
  readonly scheduler: SimScheduler
  readonly random: SeededRandom
  /** Where files may be put: exists, durably, from the start. */
  readonly root: string
  /** Usual longest duration of one operation in simulated milliseconds. */
  readonly latencyMsMax: number
  /** Plants a fault: `sync`, `syncFile` and `syncDirectory` do nothing. */
  readonly syncDoesNothing?: boolean
}

export class SimDisk {
  observer: DiskObserver | null = null
  /** Probability that an operation fails. */
  errorRate = 0
  /** Multiplies every duration; a stalled disk has hundreds. */
  slowness = 1
  /** Batches that were written to spill files so far. */
  spilled = 0
  private live = new Map<string, Node>()
  private durable = new Map<string, Node>()
  /** What operations under way may leave behind when a crash cuts them off. */
  private readonly underWay = new Set<() => void>()
  /** Renames that no directory sync has made durable yet. */
  private renames: { readonly from: string; readonly to: string; readonly node: Node }[] = []
  private readonly options: SimDiskOptions
  private readonly random: SeededRandom

  constructor(options: SimDiskOptions) {
    this.options = options
    this.random = options.random
    this.live.set(options.root, { kind: 'directory' })
    this.durable.set(options.root, { kind: 'directory' })
  }

  /** Drops what is volatile. The processes' scopes must be killed already. */
  crash(): void {
    for (const leave of this.underWay) if (this.random.chance(0.5)) leave()
    this.underWay.clear()
    const survivors = new Map<string, Node>()
    for (const path of [...new Set([...this.durable.keys(), ...this.live.keys()])].sort()) {
      const [now, safe] = [this.live.get(path), this.durable.get(path)]
      const node = now === safe || this.random.chance(0.4) ? now : safe
      if (node === undefined) continue
      if (path !== this.options.root && !survivors.has(parentOf(path))) continue
      survivors.set(path, node)
    }
    for (const { from, to, node } of this.renames) {
      if (survivors.get(to) === node) survivors.delete(from)
      else if (survivors.has(parentOf(from))) survivors.set(from, node)
    }
    this.renames = []
    for (const node of new Set(survivors.values())) {
      if (node.kind !== 'file' || node.synced === node.bytes.length) continue
      const kept = this.random.between(node.synced, node.bytes.length)
      node.bytes = Buffer.from(node.bytes.subarray(0, kept))
      node.synced = kept
    }
    this.live = survivors
    this.durable = new Map(survivors)
  }

  /** The disk as one scope sees it: its callers hear nothing once it is dead. `root` dies with the process. */
  view(root: Scope, scope: Scope): Disk {
    const run = <T>(kind: OperationKind, label: string, effect: () => T, onFault?: () => void): Promise<T> =>
      this.operation(root, scope, kind, label, effect, onFault)
    const syncDirectory = (path: string): Promise<void> =>
      run('sync', `sync ${path}`, () => {
        if (this.live.get(path)?.kind !== 'directory') throw diskError('ENOENT', path)
        if (!this.options.syncDoesNothing) this.syncEntries(path)
      })
    return {
      read: (path) => run('read', `read ${path}`, () => Buffer.from(this.file(path).bytes)),
      create: (path) =>
        run('write', `create ${path}`, () => {
          this.addFile(path, Buffer.alloc(0), 0)
          return this.handle(run, path)
        }),
      createExclusive: (path, bytes) => {
        const effect = (): boolean => {
          const isNew = !this.live.has(path)
          if (isNew) this.addFile(path, Buffer.from(bytes), this.options.syncDoesNothing ? 0 : bytes.length)
          if (!this.options.syncDoesNothing) this.syncEntries(parentOf(path))
          if (isNew) this.observer?.created(path, bytes)
          return isNew
        }
        // It appears before its directory is synced: cut off in between, a crash may take it away again.
        const linked = (): void => {
          if (this.live.has(path) || this.random.chance(0.3)) return
          if (this.random.chance(0.5)) effect()
          else {
            this.addFile(path, Buffer.from(bytes), this.options.syncDoesNothing ? 0 : bytes.length)
            this.observer?.created(path, bytes)
          }
        }
        return run('write', `createExclusive ${path}`, effect, linked)
      },
      rename: (from, to) => {
        const move = (): void => {
          const node = this.file(from)
          this.remove(from)
          this.put(to, node)
        }
        const moveDurably = (): void => {
          move()
          if (this.options.syncDoesNothing) return
          this.syncEntries(parentOf(from))
          this.syncEntries(parentOf(to))
        }
        // Cut off between the renaming and the sync of the directory.
        const undurably = (): void => {
          if (!this.live.has(from)) return
          this.renames.push({ from, to, node: this.file(from) })
          move()
        }
        return run('write', `rename ${from}`, moveDurably, undurably)
      },
      link: (from, to) =>
        run('write', `link ${to}`, () => {
          const node = this.file(from)
          if (!this.live.has(to)) this.put(to, node)
        }),
      hash: (path) =>
        run('read', `hash ${path}`, () => {
          const { bytes } = this.file(path)
          return { sha256: createHash('sha256').update(bytes).digest('hex'), size: bytes.length }
        }),
      syncFile: (path) =>
        run('sync', `syncFile ${path}`, () => {
          const node = this.file(path)
          if (!this.options.syncDoesNothing) node.synced = node.bytes.length
        }),
      syncDirectory,
      makeDirectory: (path) => run('write', `mkdir ${path}`, () => this.makeDirectoryNow(path)),
      list: (path) => run('read', `list ${path}`, () => this.listNow(path)),
      size: (path) =>
        run('read', `size ${path}`, () => {
          const node = this.live.get(path)
          return node?.kind === 'file' ? node.bytes.length : null
        }),
      remove: (path) => run('write', `remove ${path}`, () => this.remove(path)),
    }
  }

  private handle(
    run: (kind: OperationKind, label: string, effect: () => void, onFault?: () => void) => Promise<void>,
    path: string,
  ): DiskFile {
    const node = this.file(path)
    return {
      append: (bytes) => {
        const copy = Buffer.from(bytes)
        const write = (length: number): void => {
          node.bytes = Buffer.concat([node.bytes, copy.subarray(0, length)])
        }
        const partial = (): void => write(this.random.between(0, copy.length))
        return run('write', `append ${path}`, () => write(copy.length), partial)
      },
      sync: () =>
        run('sync', `sync ${path}`, () => {
          if (!this.options.syncDoesNothing) node.synced = node.bytes.length
        }),
      close: () => Promise.resolve(),
    }
  }

  /** `onFault` is what an operation that failed or was cut off may have left behind. */
  private operation<T>(
    root: Scope,
    scope: Scope,
    kind: OperationKind,
    label: string,
    effect: () => T,
    onFault?: () => void,
  ): Promise<T> {
    const { scheduler, latencyMsMax } = this.options
    const delayMs = this.random.next() * latencyMsMax * (this.random.chance(0.03) ? 20 : 1) * this.slowness
    const leave = onFault ?? (() => {})
    if (kind !== 'read') this.underWay.add(leave)
    return new Promise((resolve, reject) => {
      const complete = (): void => {
        this.underWay.delete(leave)
        try {
          if (this.random.chance(this.errorRate)) {
            if (this.random.chance(0.5)) leave()
            if (kind === 'sync' || label.startsWith('append ')) {
              this.observer?.failed?.(label.slice(label.indexOf(' ') + 1))
            }
            throw diskError(kind === 'write' && this.random.chance(0.7) ? 'ENOSPC' : 'EIO', label)
          }
          const value = effect()
          if (scope.alive) resolve(value)
        } catch (error) {
          if (scope.alive) reject(error)
        }
      }
      scheduler.post(root, `disk ${label}`, complete, { delayMs })
    })
  }

  /** A nameless file. Whoever uses it waits for the disk, so errors come at once. */
  openSpill(): SpillFile {
    let bytes = Buffer.alloc(0)
    const mayFail = (code: string): void => {
      if (this.errorRate > 0 && this.random.chance(this.errorRate)) throw diskError(code, 'spill file')
    }
    mayFail('EIO')
    return {
      append: (more) => {
        mayFail('ENOSPC')
        this.spilled++
        bytes = Buffer.concat([bytes, more])
      },
      read(at, length) {
        mayFail('EIO')
        const copy = new Uint8Array(length)
        copy.set(bytes.subarray(at, at + length))
        return copy
      },
      close() {},
    }
  }

  // ---- what needs no waiting: for the store's synchronous calls and for the oracle ----

  /** Throws ENOENT. */
  readNow(path: string): Buffer {
    return this.file(path).bytes
  }

  exists(path: string): boolean {
    return this.live.has(path)
  }

  isFile(path: string): boolean {
    return this.live.get(path)?.kind === 'file'
  }

  /** Would a file be there with these bytes after a crash at this instant? */
  survives(path: string, size: number): boolean {
    const node = this.durable.get(path)
    if (node?.kind !== 'file' || node.synced < size) return false
    for (let at = parentOf(path); at.length >= this.options.root.length; at = parentOf(at)) {
      if (!this.durable.has(at)) return false
    }
    return true
  }

  listNow(path: string): string[] {
    const prefix = `${path}/`
    const names: string[] = []
    for (const key of this.live.keys()) {
      if (key.startsWith(prefix) && !key.includes('/', prefix.length)) names.push(key.slice(prefix.length))
    }
    return names.sort()
  }

  makeDirectoryNow(path: string): void {
    if (this.live.has(path)) return
    const parent = parentOf(path)
    if (parent === path) throw diskError('ENOENT', path)
    this.makeDirectoryNow(parent)
    this.live.set(path, { kind: 'directory' })
  }

  /** Makes everything as it is now durable: the state before the simulation starts. */
  settleNow(): void {
    this.durable = new Map(this.live)
  }

  /** A file that something else than the engine made, not durable yet. */
  writeNow(path: string, bytes: Uint8Array): void {
    this.addFile(path, Buffer.from(bytes), 0)
  }

  /** Replaces a file's bytes, durably: damage to the medium, or its repair. */
  overwriteNow(path: string, bytes: Uint8Array): void {
    const node: FileNode = { kind: 'file', bytes: Buffer.from(bytes), synced: bytes.length }
    this.put(path, node)
    this.durable.set(path, node)
  }

  /** Changes the content in place: under every name that the file has. */
  changeNow(path: string, bytes: Uint8Array): void {
    const node = this.file(path)
    node.bytes = Buffer.from(bytes)
    node.synced = bytes.length
  }

  linkNow(from: string, to: string): void {
    this.put(to, this.file(from))
  }

  private file(path: string): FileNode {
    const node = this.live.get(path)
    if (node?.kind !== 'file') throw diskError('ENOENT', path)
    return node
  }

  private put(path: string, node: Node): void {
    if (this.live.get(parentOf(path))?.kind !== 'directory') throw diskError('ENOENT', path)
    this.live.set(path, node)
  }

  private addFile(path: string, bytes: Buffer, synced: number): FileNode {
    const node: FileNode = { kind: 'file', bytes, synced }
    this.put(path, node)
    return node
  }

  private remove(path: string): void {
    const prefix = `${path}/`
    for (const key of [...this.live.keys()]) {
      if (key !== path && !key.startsWith(prefix)) continue
      this.live.delete(key)
      this.observer?.removed(key)
    }
  }

  /** Makes the entries of one directory durable as they are now. */
  private syncEntries(directory: string): void {
    this.renames = this.renames.filter(({ to }) => parentOf(to) !== directory)
    for (const path of this.durable.keys()) {
      if (parentOf(path) === directory && !this.live.has(path)) this.durable.delete(path)
    }
    for (const [path, node] of this.live) if (parentOf(path) === directory) this.durable.set(path, node)
  }
}

function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/'))
}

function diskError(code: string, what: string): Error {
  return Object.assign(new Error(`${code}: simulated, ${what}`), { code })
}
