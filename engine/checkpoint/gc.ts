/**
 * Removes what no retained checkpoint needs: mark from the retained manifests, sweep the rest.
 *
 * Runs in the owner, between checkpoints, so nothing is being added to shared/ or outbox/ meanwhile
 * (I13). There are no reference counts: what a retained manifest names stays, whatever happened before.
 */
import type { Disk } from '../core/io.ts'
import { layout } from './layout.ts'
import type { Manifest } from './manifest.ts'
import { manifestNumbers, readManifest } from './manifest-store.ts'

/**
 * Removes all manifests but the `retained` newest, and unreferenced state files. Savepoints are not counted,
 * and stay until a user deletes them.
 */
export async function collectGarbage(disk: Disk, directory: string, retained: number): Promise<void> {
  const numbers = await manifestNumbers(disk, directory)
  const kept: Manifest[] = []
  let checkpoints = 0
  for (const number of numbers.reverse()) {
    const { manifest, path } = await readManifest(disk, directory, number)
    // One that cannot be read may be needed after a repair: what it names is unknown, so nothing goes.
    if (manifest === null) return
    const isSavepoint = manifest.kind === 'savepoint'
    if (!isSavepoint && checkpoints >= retained) {
      await disk.remove(path)
      continue
    }
    if (!isSavepoint) checkpoints++
    kept.push(manifest)
  }
  // Before the sweep: an old manifest that a power cut brings back must find its files.
  await disk.syncDirectory(layout.manifests(directory))
  const live = new Set(kept.flatMap((m) => m.stores.flatMap((store) => store.files.map((file) => file.sha256))))
  for (const name of await disk.list(layout.shared(directory))) {
    if (!live.has(name)) await disk.remove(layout.sharedFile(directory, name))
  }
}

/**
 * Removes the checkpoints of a job that has ended, and output that no savepoint names. Savepoints and dead
 * letters stay. The newest manifest goes last, so that what a crash leaves behind is still a checkpoint.
 */
export async function discardCheckpoints(disk: Disk, directory: string): Promise<void> {
  const savepoints: Manifest[] = []
  for (const number of await manifestNumbers(disk, directory)) {
    const { manifest, path } = await readManifest(disk, directory, number)
    if (manifest === null) return
    if (manifest.kind === 'savepoint') savepoints.push(manifest)
    else await disk.remove(path)
  }
  await collectGarbage(disk, directory, 0)
  await sweepOutbox(disk, directory, savepoints)
}

/** At a start: files of earlier runs that no manifest names. */
export async function sweepLeftovers(disk: Disk, directory: string, manifest: Manifest): Promise<void> {
  await disk.remove(layout.live(directory))
  await disk.makeDirectory(layout.live(directory))
  await sweepOutbox(disk, directory, [manifest])
  for (const name of await disk.list(layout.manifests(directory))) {
    if (name.endsWith('.tmp')) await disk.remove(layout.manifest(directory, name))
  }
}

async function sweepOutbox(disk: Disk, directory: string, manifests: readonly Manifest[]): Promise<void> {
  const commits = manifests.flatMap((manifest) => manifest.pending)
  const pending = new Set(
    commits.flatMap((commit) => commit.committables.map((each) => (each as { file?: string } | null)?.file)),
  )
  for (const name of await disk.list(layout.outbox(directory))) {
    if (!pending.has(`outbox/${name}`)) await disk.remove(`${layout.outbox(directory)}/${name}`)
  }
}
