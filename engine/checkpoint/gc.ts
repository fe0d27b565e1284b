/**
 * Removes what no retained checkpoint needs: mark from the retained manifests, sweep the rest.
 *
 * Runs in the owner, between checkpoints, so that none of its own attempts is adding files meanwhile (I13). There
 * are no reference counts: what a retained manifest names stays, whatever happened before.
 *
 * In a remote directory another process may own the job by now, without this one knowing. So a file goes only
 * - while no manifest newer than this owner's exists, looked at before each removal, and
 * - after it has been unreferenced for a grace period by this process's own monotonic clock.
 * A local directory is locked: there nobody else writes, and files go at once. Leftover output goes by the
 * generation in its name: never that of a later owner.
 */
import { isObjectUrl } from '../contract/object-store.ts'
import { mapBounded } from '../core/bounded.ts'
import { MillraceError, messageOf } from '../core/errors.ts'
import type { Clock, Disk } from '../core/io.ts'
import { layout } from './layout.ts'
import { decodeManifest, type Manifest, manifestName } from './manifest.ts'
import { manifestNumbers, readManifest } from './manifest-store.ts'
import { generationOf, segmentsOf } from './outbox.ts'

/** How long a remote file stays after the last manifest that named it. */
const REMOTE_GRACE_MS = 300_000

const REQUESTS_AT_ONCE = 8

export interface GarbageOptions {
  readonly disk: Disk
  readonly directory: string
  readonly clock: Pick<Clock, 'monotonicMs'>
  /** Checkpoints kept besides savepoints. */
  readonly retained: number
  readonly graceMs?: number
}

/** The collector of one run; it remembers manifests, which never change, and since when files are unreferenced. */
export class GarbageCollector {
  private readonly options: GarbageOptions
  private readonly graceMs: number
  private readonly decoded = new Map<number, Manifest>()
  /** Manifests of which it was said that they cannot be read. */
  private readonly reported = new Set<number>()
  private unreferencedSinceMs = new Map<string, number>()

  constructor(options: GarbageOptions) {
    this.options = options
    this.graceMs = options.graceMs ?? (isObjectUrl(options.directory) ? REMOTE_GRACE_MS : 0)
  }

  /**
   * Removes older manifests and unreferenced state files. Savepoints stay until a user deletes them. Removes nothing
   * while a manifest cannot be read, and throws `CHECKPOINT_UNREADABLE` when it first meets one.
   */
  async collect(): Promise<void> {
    const { disk, directory } = this.options
    const numbers = (await manifestNumbers(disk, directory)).reverse()
    const newest = numbers[0] ?? 0
    const kept: Manifest[] = []
    const outdated: number[] = []
    let checkpoints = 0
    for (const number of numbers) {
      const manifest = await this.read(number, newest)
      if (manifest === null) return
      const isSavepoint = manifest.kind === 'savepoint'
      if (!isSavepoint && checkpoints >= this.options.retained) outdated.push(number)
      else kept.push(manifest)
      if (!isSavepoint) checkpoints++
    }
    // The oldest first: a process that is killed here leaves no gap behind, which would look like a loss.
    for (const number of outdated.reverse()) {
      if (!(await this.isOwner(newest))) return
      await disk.remove(layout.manifest(directory, manifestName(number)))
      this.decoded.delete(number)
    }
    // Before the sweep: an old manifest that a power cut brings back must find its files.
    await disk.syncDirectory(layout.manifests(directory))
    await this.sweep(kept, newest)
  }

  /** Null for one that cannot be read: it may be needed after a repair, and what it names is unknown. */
  private async read(number: number, newest: number): Promise<Manifest | null> {
    const { disk, directory } = this.options
    const known = this.decoded.get(number)
    if (known !== undefined) return known
    const name = manifestName(number)
    const path = layout.manifest(directory, name)
    try {
      const manifest = decodeManifest(await disk.read(path), name)
      this.decoded.set(number, manifest)
      return manifest
    } catch (error) {
      // A later owner may have collected it; and once said is enough.
      if (this.reported.has(number) || !(await this.isOwner(newest))) return null
      this.reported.add(number)
      throw new MillraceError(
        'CHECKPOINT_UNREADABLE',
        `Nothing is collected while ${path} cannot be read: ${messageOf(error)}`,
        {
          cause: error,
          domain: 'external',
          hint: 'Repair or remove that file; until then checkpoints and state files only grow in number.',
        },
      )
    }
  }

  /** False once a manifest exists that this owner has not written: then what to keep is not for it to say. */
  private async isOwner(newest: number): Promise<boolean> {
    const { disk, directory } = this.options
    return (await disk.size(layout.manifest(directory, manifestName(newest + 1)))) === null
  }

  private async sweep(kept: readonly Manifest[], newest: number): Promise<void> {
    const { disk, directory, clock } = this.options
    const live = new Set(kept.flatMap((m) => m.stores.flatMap((store) => store.files.map((file) => file.sha256))))
    const nowMs = clock.monotonicMs()
    const waiting = new Map<string, number>()
    const garbage: string[] = []
    for (const name of await disk.list(layout.shared(directory))) {
      if (live.has(name)) continue
      const since = this.unreferencedSinceMs.get(name) ?? nowMs
      waiting.set(name, since)
      if (nowMs - since >= this.graceMs) garbage.push(name)
    }
    this.unreferencedSinceMs = waiting
    await mapBounded(garbage, REQUESTS_AT_ONCE, async (name) => {
      if (!(await this.isOwner(newest))) return
      await disk.remove(layout.sharedFile(directory, name))
      waiting.delete(name)
    })
  }
}

/** One collection that takes everything unreferenced at once, by whoever is the only one in the directory. */
export function collectGarbage(disk: Disk, directory: string, retained: number): Promise<void> {
  return new GarbageCollector({ disk, directory, clock: { monotonicMs: () => 0 }, retained, graceMs: 0 }).collect()
}

/**
 * Removes the checkpoints of a job that has ended, and output that no savepoint names. Savepoints and dead
 * letters stay. The newest manifest goes last, so that what a crash leaves behind is still a checkpoint. Does
 * nothing when the newest one is not of `owner`: somebody else goes on with the job.
 */
export async function discardCheckpoints(disk: Disk, directory: string, owner: string): Promise<void> {
  const savepoints: Manifest[] = []
  const outdated: string[] = []
  const numbers = await manifestNumbers(disk, directory)
  for (const number of numbers) {
    const { manifest, path } = await readManifest(disk, directory, number)
    if (manifest === null) return
    if (number === numbers.at(-1) && manifest.owner !== owner) return
    if (manifest.kind === 'savepoint') savepoints.push(manifest)
    else outdated.push(path)
  }
  for (const path of outdated) await disk.remove(path)
  await collectGarbage(disk, directory, 0)
  await sweepOutbox(disk, directory, savepoints)
}

/** At a start: files of earlier runs that no manifest names. `live` is local, whatever the directory is. */
export async function sweepLeftovers(
  disk: Disk,
  directory: string,
  manifest: Manifest,
  live: string = layout.live(directory),
): Promise<void> {
  await disk.remove(live)
  await disk.makeDirectory(live)
  await sweepOutbox(disk, directory, [manifest], manifest.generation)
  await disk.dropUnfinished?.(layout.shared(directory))
  await disk.dropUnfinished?.(layout.outbox(directory))
  for (const name of await disk.list(layout.manifests(directory))) {
    if (name.endsWith('.tmp')) await disk.remove(layout.manifest(directory, name))
  }
}

/** Output of a later owner than the one of `generation` is not this one's to judge, and stays. */
async function sweepOutbox(
  disk: Disk,
  directory: string,
  manifests: readonly Manifest[],
  generation = Number.POSITIVE_INFINITY,
): Promise<void> {
  const pending = new Set(manifests.flatMap((manifest) => manifest.pending).flatMap(segmentsOf))
  for (const name of await disk.list(layout.outbox(directory))) {
    if (pending.has(`outbox/${name}`) || generationOf(name) > generation) continue
    await disk.remove(`${layout.outbox(directory)}/${name}`)
  }
}
