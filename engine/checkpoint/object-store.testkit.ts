/**
 * An object store in memory whose calls fail on demand, before or after they had their effect. For tests.
 */
import { createHash } from 'node:crypto'
import type { ContentHash, ObjectInfo, ObjectStore, PutOptions } from '../contract/object-store.ts'
import { MillraceError } from '../core/errors.ts'
import type { Disk } from '../core/io.ts'

/** What becomes of one call: `lost` has its effect, and then fails as if there had been no answer. */
export type CallFate = 'answered' | 'refused' | 'lost'

export class MemoryObjectStore implements ObjectStore {
  readonly description = 'memory objects'
  readonly objects = new Map<string, Uint8Array>()
  /** Asked before each call; every call is answered unless told. */
  fate: (call: string) => CallFate = () => 'answered'
  private readonly disk: Disk

  /** Files come from and go to `disk`. */
  constructor(disk: Disk) {
    this.disk = disk
  }

  private async call<T>(name: string, effect: () => T | Promise<T>): Promise<T> {
    const fate = this.fate(name)
    if (fate === 'refused') throw unavailable(name)
    const result = await effect()
    if (fate === 'lost') throw unavailable(name)
    return result
  }

  get(key: string): Promise<Uint8Array | null> {
    return this.call(`get ${key}`, () => this.objects.get(key) ?? null)
  }

  put(key: string, bytes: Uint8Array, options: PutOptions = {}): Promise<boolean> {
    return this.call(`put ${key}`, () => {
      if (options.ifAbsent === true && this.objects.has(key)) return false
      this.objects.set(key, new Uint8Array(bytes))
      return true
    })
  }

  upload(key: string, path: string, content: ContentHash): Promise<void> {
    return this.call(`upload ${key}`, async () => {
      const bytes = await this.disk.read(path)
      if (hashOf(bytes).sha256 !== content.sha256) throw unavailable('upload of other content')
      this.objects.set(key, new Uint8Array(bytes))
    })
  }

  download(key: string, path: string): Promise<ContentHash | null> {
    return this.call(`download ${key}`, async () => {
      const bytes = this.objects.get(key)
      if (bytes === undefined) return null
      const file = await this.disk.create(path)
      await file.append(bytes)
      await file.close()
      return hashOf(bytes)
    })
  }

  size(key: string): Promise<number | null> {
    return this.call(`size ${key}`, () => this.objects.get(key)?.length ?? null)
  }

  list(prefix: string): Promise<ObjectInfo[]> {
    return this.call(`list ${prefix}`, () =>
      [...this.objects]
        .filter(([key]) => key.startsWith(prefix))
        .map(([key, bytes]) => ({ key, size: bytes.length }))
        .sort((a, b) => (a.key < b.key ? -1 : 1)),
    )
  }

  remove(key: string): Promise<void> {
    return this.call(`remove ${key}`, () => {
      this.objects.delete(key)
    })
  }
}

function hashOf(bytes: Uint8Array): ContentHash {
  return { sha256: createHash('sha256').update(bytes).digest('hex'), size: bytes.length }
}

function unavailable(name: string): MillraceError {
  return new MillraceError('OBJECT_STORE_UNAVAILABLE', `no answer to ${name}`, { domain: 'external', retryable: true })
}
