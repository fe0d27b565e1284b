/**
 * A checkpoint's state, opened beside whatever else uses the directory: for readers and rewriters of state.
 *
 * Called by `millrace state`, and by the savepoint reader and writer. Nothing in the directory is changed: files are
 * linked into a scratch directory elsewhere (copied or downloaded where links are not possible) and opened there.
 * Once linked, the job's clean-up cannot take them away.
 */
import { join } from 'node:path'
import { layout } from '../checkpoint/layout.ts'
import type { Manifest } from '../checkpoint/manifest.ts'
import { manifestNumbers, readManifest } from '../checkpoint/manifest-store.ts'
import type { KeyedStore } from '../contract/keyed-store.ts'
import { mapBounded } from '../core/bounded.ts'
import { MillraceError } from '../core/errors.ts'
import type { Disk } from '../core/io.ts'
import type { StateBackendName } from './launcher-types.ts'
import { keyedStoreFactory } from './store-factories.ts'

const FILES_AT_ONCE = 4

interface Checkpoint {
  readonly directory: string
  readonly manifest: Manifest
}

/** A checkpoint whose state files have names of their own in a scratch directory. */
export interface LinkedCheckpoint {
  readonly manifest: Manifest
  /** The checkpoint directory that it is of. */
  readonly directory: string
  /** One directory a store, in the manifest's order. */
  readonly images: readonly string[]
}

/** The newest readable checkpoint of a directory, or the one whose manifest is named. */
async function findCheckpoint(disk: Disk, path: string): Promise<Checkpoint> {
  const named = /^(.*)\/manifests\/0*(\d+)\.json$/.exec(path)
  const directory = named === null ? path : named[1]!
  const numbers = named === null ? (await manifestNumbers(disk, path)).reverse() : [Number(named[2])]
  let problem = 'it has no checkpoint'
  for (const number of numbers) {
    const { manifest, error } = await readManifest(disk, directory, number)
    if (manifest !== null) return { directory, manifest }
    problem = error
  }
  throw new MillraceError('CHECKPOINT_NOT_FOUND', `Cannot read state from ${path}: ${problem}.`, {
    hint: "Give a job's --checkpoint-dir, or the path that `millrace savepoint` printed.",
  })
}

/** One directory a store, with the files under the names that the store knows. */
async function linkImages(disk: Disk, { directory, manifest }: Checkpoint, into: string): Promise<string[]> {
  const images: string[] = []
  for (const [i, { files }] of manifest.stores.entries()) {
    const image = join(into, `image-${i}`)
    await disk.makeDirectory(image)
    await mapBounded(files, FILES_AT_ONCE, (file) =>
      disk.link(layout.sharedFile(directory, file.sha256), join(image, file.name), file),
    )
    images.push(image)
  }
  return images
}

/**
 * Links the images of the checkpoint at `path` into `scratch`. A running job may collect the checkpoint
 * meanwhile: then the newest one is taken, once. Throws `CHECKPOINT_NOT_FOUND` or `CHECKPOINT_GONE`.
 */
export async function linkCheckpoint(disk: Disk, path: string, scratch: string): Promise<LinkedCheckpoint> {
  for (const attempt of ['first', 'second']) {
    try {
      const checkpoint = await findCheckpoint(disk, path)
      const images = await linkImages(disk, checkpoint, join(scratch, attempt))
      return { ...checkpoint, images }
    } catch (error) {
      const isGone = (error as NodeJS.ErrnoException).code === 'ENOENT'
      const wasGone = (error as { code?: unknown }).code === 'CHECKPOINT_NOT_FOUND'
      // Between listing and reading, every manifest of the list may have been collected too.
      if (!isGone && !(wasGone && attempt === 'first')) throw error
    }
  }
  throw new MillraceError('CHECKPOINT_GONE', `The checkpoint of ${path} was removed while it was read.`, {
    domain: 'external',
    retryable: true,
    hint: 'Try again, or read a savepoint, which a job does not remove.',
  })
}

/** Opens the stores of linked images, writable and private; the caller closes them. */
export async function openImages(linked: LinkedCheckpoint, scratch: string): Promise<KeyedStore[]> {
  const stores: KeyedStore[] = []
  if (linked.images.length === 0) return stores
  const factory = await keyedStoreFactory(linked.manifest.stateBackend as StateBackendName)
  try {
    for (const [i, image] of linked.images.entries()) stores.push(factory.restore(image, join(scratch, `store-${i}`)))
  } catch (error) {
    for (const store of stores) store.close()
    throw error
  }
  return stores
}
