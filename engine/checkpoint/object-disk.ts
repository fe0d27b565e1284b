/**
 * A `Disk` on which `scheme://bucket/...` are objects of a store and every other path is local.
 *
 * Whoever works on a checkpoint directory (manifest store, recovery, garbage collection, verification, sinks'
 * outboxes) goes through `Disk`, so a remote directory needs no second version of any of them.
 *
 * Invariants:
 * - `createExclusive` resolves true for exactly one caller, lost replies included: when a try ended without an
 *   answer and the next one finds the key taken, the object is read; it is ours exactly when it holds our bytes.
 *   Callers see to it that no two of them create the same bytes (manifests carry their owner's id).
 * - What `link` brings from the store, or copies within it, has the hash that was asked for, or the call rejects and leaves
 *   no file.
 * - Tries are bounded; the waits between them go through the injected timers.
 * - Folders and their sync mean nothing in a store: a resolved write is durable.
 */
import { createHash } from 'node:crypto'
import { type ContentHash, isObjectUrl, type ObjectStore, splitObjectUrl } from '../contract/object-store.ts'
import { MillraceError } from '../core/errors.ts'
import type { Disk, DiskFile, Random, Timers } from '../core/io.ts'

const RETRY_DELAYS_MS = [50, 200, 800, 2_000, 4_000]

export interface ObjectDiskOptions {
  readonly local: Disk
  readonly timers: Timers
  readonly random: Random
  /** The store of a URL like `s3://bucket`; called once for each. */
  readonly open: (url: string) => Promise<ObjectStore>
}

export function objectDisk(options: ObjectDiskOptions): Disk {
  const disk = new ObjectDisk(options)
  return {
    read: (path) => disk.read(path),
    readRange: (path, at, length) => (isObjectUrl(path) ? null : (options.local.readRange?.(path, at, length) ?? null)),
    create: (path) => disk.create(path),
    createExclusive: (path, bytes) => disk.createExclusive(path, bytes),
    rename: (from, to) => disk.rename(from, to),
    link: (from, to, content) => disk.link(from, to, content),
    hash: (path) => disk.hash(path),
    syncFile: (path) => disk.syncFile(path),
    syncDirectory: (path) => disk.syncDirectory(path),
    makeDirectory: (path) => disk.makeDirectory(path),
    list: (path) => disk.list(path),
    size: (path) => disk.size(path),
    remove: (path) => disk.remove(path),
    dropUnfinished: (directory) => disk.dropUnfinished(directory),
  }
}

class ObjectDisk implements Disk {
  private readonly options: ObjectDiskOptions
  private readonly local: Disk
  private readonly stores = new Map<string, Promise<ObjectStore>>()

  constructor(options: ObjectDiskOptions) {
    this.options = options
    this.local = options.local
  }

  private async at(url: string): Promise<{ store: ObjectStore; key: string }> {
    const { store: name, key } = splitObjectUrl(url)
    let store = this.stores.get(name)
    if (store === undefined) {
      store = this.options.open(name)
      // A failure is not remembered: what it lacked may be there at the next try.
      store.catch(() => this.stores.delete(name))
      this.stores.set(name, store)
    }
    return { store: await store, key }
  }

  /** Runs a call that may be repeated; `onUnknown` hears of tries that may have had their effect. */
  private async retrying<T>(call: () => Promise<T>, onUnknown: () => void = () => {}): Promise<T> {
    for (let attempt = 0; ; attempt++) {
      try {
        return await call()
      } catch (error) {
        onUnknown()
        const retryable = error instanceof MillraceError && error.retryable
        if (!retryable || attempt >= RETRY_DELAYS_MS.length) throw error
        await this.pause(RETRY_DELAYS_MS[attempt]!)
      }
    }
  }

  /** Half of the delay to all of it: those who failed together do not come back together. */
  private pause(delayMs: number): Promise<void> {
    const { timers, random } = this.options
    return new Promise((resolve) => {
      timers.schedule(delayMs * (0.5 + random.next() / 2), resolve)
    })
  }

  async read(path: string): Promise<Uint8Array> {
    if (!isObjectUrl(path)) return this.local.read(path)
    const { store, key } = await this.at(path)
    const bytes = await this.retrying(() => store.get(key))
    if (bytes === null) throw missing(path)
    return bytes
  }

  async create(path: string): Promise<DiskFile> {
    if (!isObjectUrl(path)) return this.local.create(path)
    throw new MillraceError('INVARIANT_VIOLATED', `${path} cannot be appended to: objects are written whole.`, {
      domain: 'internal',
    })
  }

  async createExclusive(path: string, bytes: Uint8Array): Promise<boolean> {
    if (!isObjectUrl(path)) return this.local.createExclusive(path, bytes)
    const { store, key } = await this.at(path)
    let mayBeOurs = false
    const created = await this.retrying(
      () => store.put(key, bytes, { ifAbsent: true }),
      () => {
        mayBeOurs = true
      },
    )
    if (created || !mayBeOurs) return created
    const found = await this.retrying(() => store.get(key))
    return found !== null && Buffer.compare(found, bytes) === 0
  }

  /** Not atomic, and meant for what a single owner sets aside. As on a disk, `to` is replaced. */
  async rename(from: string, to: string): Promise<void> {
    if (!isObjectUrl(from)) return this.local.rename(from, to)
    const bytes = await this.read(from)
    const { store, key } = await this.at(to)
    await this.retrying(() => store.put(key, bytes))
    await this.remove(from)
  }

  async link(from: string, to: string, content?: ContentHash): Promise<void> {
    const comes = isObjectUrl(from)
    const goes = isObjectUrl(to)
    if (comes && goes) return this.copy(from, to, content ?? null)
    if (comes) return this.bring(from, to, content ?? null)
    if (goes) return this.send(from, to, content ?? (await this.local.hash(from)))
    return this.local.link(from, to, content)
  }

  private async send(path: string, url: string, content: ContentHash): Promise<void> {
    const { store, key } = await this.at(url)
    await this.retrying(() => store.upload(key, path, content))
  }

  private async bring(url: string, path: string, content: ContentHash | null): Promise<void> {
    const { store, key } = await this.at(url)
    // Bytes can also be hurt on the way: what does not match is fetched once more before it is called damaged.
    for (let left = 1; ; left--) {
      const found = await this.retrying(async () => {
        await this.local.remove(path)
        return store.download(key, path)
      })
      if (found === null) throw missing(url)
      if (content === null || (found.sha256 === content.sha256 && found.size === content.size)) return
      await this.local.remove(path)
      if (left === 0) throw damagedFile(url, content, found)
    }
  }

  private async copy(from: string, to: string, content: ContentHash | null): Promise<void> {
    if ((await this.size(to)) !== null) return
    const source = await this.at(from)
    const target = await this.at(to)
    const bytes = await this.retrying(() => source.store.get(source.key))
    if (bytes === null) throw missing(from)
    if (content !== null) {
      const found = hashOf(bytes)
      if (found.sha256 !== content.sha256) throw damagedFile(from, content, found)
    }
    await this.retrying(() => target.store.put(target.key, bytes))
  }

  async hash(path: string): Promise<ContentHash> {
    if (!isObjectUrl(path)) return this.local.hash(path)
    return hashOf(await this.read(path))
  }

  async syncFile(path: string): Promise<void> {
    if (!isObjectUrl(path)) await this.local.syncFile(path)
  }

  async syncDirectory(path: string): Promise<void> {
    if (!isObjectUrl(path)) await this.local.syncDirectory(path)
  }

  async makeDirectory(path: string): Promise<void> {
    if (!isObjectUrl(path)) await this.local.makeDirectory(path)
  }

  async list(path: string): Promise<string[]> {
    if (!isObjectUrl(path)) return this.local.list(path)
    const { store, key } = await this.at(path)
    const prefix = key === '' ? '' : `${key}/`
    const found = await this.retrying(() => store.list(prefix))
    const names = found.map((object) => object.key.slice(prefix.length)).filter((name) => !name.includes('/'))
    return names.sort()
  }

  async size(path: string): Promise<number | null> {
    if (!isObjectUrl(path)) return this.local.size(path)
    const { store, key } = await this.at(path)
    return this.retrying(() => store.size(key))
  }

  /** A single object, unlike a local path, which may be a directory. */
  async remove(path: string): Promise<void> {
    if (!isObjectUrl(path)) return this.local.remove(path)
    const { store, key } = await this.at(path)
    await this.retrying(() => store.remove(key))
  }

  /** A store that does not know or allow this keeps what is unfinished until its own rules remove it. */
  async dropUnfinished(directory: string): Promise<void> {
    if (!isObjectUrl(directory)) return this.local.dropUnfinished?.(directory)
    const { store, key } = await this.at(directory)
    try {
      await this.retrying(async () => store.dropUnfinished?.(`${key}/`))
    } catch (error) {
      if (!(error instanceof MillraceError && error.code === 'OBJECT_STORE_REFUSED')) throw error
    }
  }
}

function hashOf(bytes: Uint8Array): ContentHash {
  return { sha256: createHash('sha256').update(bytes).digest('hex'), size: bytes.length }
}

/** As Node's file system says it, because callers tell it from other failures. */
function missing(url: string): Error {
  return Object.assign(new Error(`ENOENT: there is no object ${url}`), { code: 'ENOENT' })
}

/** A state file that is not what its manifest says. */
export function damagedFile(path: string, wanted: ContentHash, found: ContentHash): MillraceError {
  return new MillraceError(
    'STATE_FILE_CORRUPT',
    `${path} is damaged: it has ${found.size} bytes with hash ${found.sha256}, not ${wanted.size} with ${wanted.sha256}.`,
    {
      domain: 'external',
      hint: 'See `millrace checkpoints verify DIR`, and restore a checkpoint that is whole with --restore PATH.',
    },
  )
}
