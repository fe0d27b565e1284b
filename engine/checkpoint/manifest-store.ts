/**
 * Reads and creates manifests in a checkpoint directory; called by recovery, the coordinator and the
 * command line.
 *
 * Invariants: numbers have no gaps, counting manifests that were set aside, and one writer each (I2):
 * `createManifest` succeeds for exactly one caller.
 */
import { mapBounded } from '../core/bounded.ts'
import { MillraceError, messageOf } from '../core/errors.ts'
import type { Disk } from '../core/io.ts'
import { layout } from './layout.ts'
import { decodeManifest, encodeManifest, type Manifest, manifestName, manifestNumber } from './manifest.ts'

/** Each may be a request to an object store. */
const SIZES_AT_ONCE = 16

export type ManifestEntry =
  | { readonly number: number; readonly path: string; readonly manifest: Manifest; readonly error: null }
  | {
      readonly number: number
      readonly path: string
      readonly manifest: null
      readonly error: string
      /** The disk could not say what is there; another try may. False when the content itself is wrong. */
      readonly isUnreadable: boolean
    }

export interface ManifestListing {
  /** Numbers present, ascending. */
  readonly numbers: number[]
  /** Numbers of damaged manifests that were set aside. */
  readonly setAside: number[]
  /** The highest number that was ever given out and is not collected: of manifests set aside too; 0 for none. */
  readonly last: number
}

export async function listManifests(disk: Disk, directory: string): Promise<ManifestListing> {
  const names = await disk.list(layout.manifests(directory))
  const numbersOf = (texts: readonly string[]) => texts.map(manifestNumber).filter((number) => number !== null)
  const numbers = numbersOf(names).sort((a, b) => a - b)
  const damaged = names.filter((name) => name.endsWith('.corrupt'))
  const setAside = numbersOf(damaged.map((name) => name.replace(/\.corrupt$/, '.json')))
  return { numbers, setAside, last: Math.max(0, ...numbers.slice(-1), ...setAside) }
}

/** Numbers present, ascending. */
export async function manifestNumbers(disk: Disk, directory: string): Promise<number[]> {
  return (await listManifests(disk, directory)).numbers
}

/** Reads one manifest and checks that every file it names is there with its size (I1). */
export async function readManifest(disk: Disk, directory: string, number: number): Promise<ManifestEntry> {
  const path = layout.manifest(directory, manifestName(number))
  try {
    const manifest = decodeManifest(await disk.read(path), manifestName(number))
    const missing = await missingFile(disk, directory, manifest)
    if (missing !== null) return { number, path, manifest: null, error: missing, isUnreadable: false }
    return { number, path, manifest, error: null }
  } catch (error) {
    const isWrong =
      (error instanceof MillraceError && !error.retryable) || (error as NodeJS.ErrnoException).code === 'ENOENT'
    return { number, path, manifest: null, error: messageOf(error), isUnreadable: !isWrong }
  }
}

async function missingFile(disk: Disk, directory: string, manifest: Manifest): Promise<string | null> {
  const files = manifest.stores.flatMap((store) => store.files)
  const problems = await mapBounded(files, SIZES_AT_ONCE, async ({ name, sha256, size }) => {
    const found = await disk.size(layout.sharedFile(directory, sha256))
    if (found === null) return `state file ${name} (${sha256}) is missing`
    return found === size ? null : `state file ${name} (${sha256}) has ${found} bytes, not ${size}`
  })
  return problems.find((problem) => problem !== null) ?? null
}

/**
 * Creates a manifest; false when another process owns the job: the number is taken, or it was taken and is
 * collected by now, so that later ones exist. What a process that comes so late has left behind binds nobody.
 */
export async function createManifest(disk: Disk, directory: string, manifest: Manifest): Promise<boolean> {
  const path = layout.manifest(directory, manifestName(manifest.number))
  if (!(await disk.createExclusive(path, encodeManifest(manifest)))) return false
  return (await listManifests(disk, directory)).last === manifest.number
}
