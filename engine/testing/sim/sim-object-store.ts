/**
 * An object store outside of all machines: what `s3://` is for real jobs, `sim://bucket` is here.
 *
 * Used by sim-process.ts under the engine's own object-disk.ts. It outlives processes and power cuts. A call
 * may be refused, lose its reply, or be answered with a time-out and have its effect later all the same.
 *
 * Invariants: objects appear whole; of several creations of one key one wins; what was answered is seen by
 * every later call.
 */
import { createHash } from 'node:crypto'
import type { ContentHash, ObjectInfo, ObjectStore } from '../../contract/object-store.ts'
import { MillraceError } from '../../core/errors.ts'
import type { SeededRandom } from './seeded-random.ts'
import type { DiskObserver, SimDisk } from './sim-disk.ts'
import { Scope, type SimScheduler } from './sim-scheduler.ts'

export const BUCKET = 'sim://bucket'

/** A call that was answered with a time-out may still have its effect this much later. */
const LATE_MS_MAX = 400

export interface SimObjectsOptions {
  readonly scheduler: SimScheduler
  readonly random: SeededRandom
  /** The machines' disk, for uploads and downloads. */
  readonly disk: SimDisk
  /** Usual longest duration of one call in simulated milliseconds. */
  readonly latencyMsMax: number
}

export class SimObjects {
  observer: DiskObserver | null = null
  /** Share of calls that fail, before or after they had their effect. */
  errorRate = 0
  private readonly objects = new Map<string, Buffer>()
  /** How many calls were sent before somebody last repaired the object of a key by hand. */
  private readonly repairedAt = new Map<string, number>()
  private calls = 0
  private readonly scope = new Scope('object store', null)
  private readonly options: SimObjectsOptions

  constructor(options: SimObjectsOptions) {
    this.options = options
  }

  /** The store as one caller sees it. */
  view(caller: Scope): ObjectStore {
    const { disk } = this.options
    const call = <T>(label: string, isWrite: boolean, effect: () => T): Promise<T> =>
      this.call(caller, label, isWrite, effect)
    const write = <T>(label: string, key: string, effect: () => T): Promise<T> => {
      const sent = this.calls++
      return call(`${label} ${key}`, true, () => {
        if (sent < (this.repairedAt.get(key) ?? 0)) throw unavailable(`${label} ${key}`)
        return effect()
      })
    }
    return {
      description: 'simulated objects',
      get: (key) => call(`get ${key}`, false, () => this.objects.get(key) ?? null),
      put: (key, bytes, options) => {
        const copy = Buffer.from(bytes)
        return write('put', key, () => {
          if (options?.ifAbsent === true && this.objects.has(key)) return false
          this.store(key, copy)
          return true
        })
      },
      upload: (key, path, content) =>
        write('upload', key, () => {
          const bytes = disk.readNow(path)
          if (hashOf(bytes).sha256 !== content.sha256) throw new Error(`simulated, upload of other content to ${key}`)
          this.store(key, bytes)
        }),
      download: (key, path) =>
        call(`download ${key}`, false, () => {
          const bytes = this.objects.get(key)
          if (bytes === undefined) return null
          disk.writeNow(path, bytes)
          return hashOf(bytes)
        }),
      size: (key) => call(`size ${key}`, false, () => this.objects.get(key)?.length ?? null),
      list: (prefix) => call(`list ${prefix}`, false, () => this.listed(prefix)),
      remove: (key) => write('remove', key, () => this.removeNow(key)),
    }
  }

  private store(key: string, bytes: Buffer): void {
    this.objects.set(key, bytes)
    this.observer?.created(`${BUCKET}/${key}`, bytes)
  }

  private listed(prefix: string): ObjectInfo[] {
    return [...this.objects]
      .filter(([key]) => key.startsWith(prefix))
      .map(([key, bytes]) => ({ key, size: bytes.length }))
      .sort((a, b) => (a.key < b.key ? -1 : 1))
  }

  private call<T>(caller: Scope, label: string, isWrite: boolean, effect: () => T): Promise<T> {
    const { scheduler, random, latencyMsMax } = this.options
    const fate = random.chance(this.errorRate) ? random.pick(['refused', 'lost', 'late'] as const) : 'answered'
    const delayMs = random.next() * latencyMsMax * (random.chance(0.03) ? 20 : 1)
    return new Promise((resolve, reject) => {
      const answer = (reply: () => void): void => void scheduler.post(caller, `reply to ${label}`, reply)
      const run = (): void => {
        // A request whose sender has died by now may have been sent or not.
        if (!caller.alive && random.chance(0.5)) return
        if (fate === 'late' && isWrite) {
          const apply = (): void => void attempt(effect)
          scheduler.post(this.scope, `late ${label}`, apply, { delayMs: random.next() * LATE_MS_MAX })
        }
        if (fate === 'refused' || fate === 'late') {
          answer(() => reject(unavailable(label)))
          return
        }
        const result = attempt(effect)
        if (fate === 'lost') answer(() => reject(unavailable(label)))
        else if (result.ok) answer(() => resolve(result.value))
        else answer(() => reject(result.error))
      }
      scheduler.post(this.scope, `object ${label}`, run, { delayMs })
    })
  }

  // ---- what needs no waiting: for the oracle and for faults ----

  has(key: string): boolean {
    return this.objects.has(key)
  }

  /** Throws ENOENT. */
  getNow(key: string): Buffer {
    const bytes = this.objects.get(key)
    if (bytes === undefined) throw Object.assign(new Error(`ENOENT: simulated, ${key}`), { code: 'ENOENT' })
    return bytes
  }

  putNow(key: string, bytes: Uint8Array): void {
    this.objects.set(key, Buffer.from(bytes))
  }

  /** As somebody does who waits until nothing sent before can reach the object any more. */
  repairNow(key: string, bytes: Uint8Array): void {
    this.putNow(key, bytes)
    this.repairedAt.set(key, this.calls)
  }

  /** Names below a folder. */
  namesIn(folder: string): string[] {
    const prefix = `${folder}/`
    return this.listed(prefix)
      .map(({ key }) => key.slice(prefix.length))
      .filter((name) => !name.includes('/'))
  }

  private removeNow(key: string): void {
    if (this.objects.delete(key)) this.observer?.removed(`${BUCKET}/${key}`)
  }
}

type Result<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: unknown }

function attempt<T>(effect: () => T): Result<T> {
  try {
    return { ok: true, value: effect() }
  } catch (error) {
    return { ok: false, error }
  }
}

function hashOf(bytes: Uint8Array): ContentHash {
  return { sha256: createHash('sha256').update(bytes).digest('hex'), size: bytes.length }
}

function unavailable(label: string): MillraceError {
  return new MillraceError('OBJECT_STORE_UNAVAILABLE', `simulated, no answer to ${label}`, {
    domain: 'external',
    retryable: true,
  })
}
