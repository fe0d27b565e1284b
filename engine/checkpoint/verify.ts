/**
 * Lists and verifies the checkpoints of a directory, for `millrace checkpoints list|verify`, and looks for the file
 * behind a store that is damaged, for the job master.
 *
 * Verification reads everything: manifests against their checksums, state files against their hashes,
 * pending output against its CRC, and numbers for gaps. It changes nothing and needs no lock.
 */
import { isObjectUrl } from '../contract/object-store.ts'
import { mapBounded } from '../core/bounded.ts'
import { type MillraceError, messageOf } from '../core/errors.ts'
import type { Disk } from '../core/io.ts'
import { layout } from './layout.ts'
import type { Manifest } from './manifest.ts'
import { type ManifestEntry, manifestNumbers, readManifest } from './manifest-store.ts'
import { damagedFile } from './object-disk.ts'
import { checkSegment, isSegment } from './outbox.ts'

const FILES_AT_ONCE = 4

export interface CheckpointSummary {
  readonly number: number
  readonly path: string
  readonly kind: Manifest['kind'] | null
  readonly epoch: number | null
  readonly generation: number | null
  readonly createdAtMs: number | null
  readonly stateBytes: number | null
  /** What is wrong with it, or null. */
  readonly error: string | null
}

export async function listCheckpoints(disk: Disk, directory: string): Promise<CheckpointSummary[]> {
  const summaries: CheckpointSummary[] = []
  for (const number of await manifestNumbers(disk, directory)) {
    summaries.push(summaryOf(await readManifest(disk, directory, number)))
  }
  return summaries
}

function summaryOf(entry: ManifestEntry): CheckpointSummary {
  const { number, path, manifest, error } = entry
  return {
    number,
    path,
    kind: manifest?.kind ?? null,
    epoch: manifest?.epoch ?? null,
    generation: manifest?.generation ?? null,
    createdAtMs: manifest?.createdAtMs ?? null,
    stateBytes:
      manifest?.stores.reduce((sum, store) => sum + store.files.reduce((s, file) => s + file.size, 0), 0) ?? null,
    error,
  }
}

export interface Verification {
  readonly checkpoints: readonly CheckpointSummary[]
  readonly filesChecked: number
  readonly problems: readonly string[]
}

export async function verifyCheckpoints(disk: Disk, directory: string): Promise<Verification> {
  const problems: string[] = []
  const numbers = await manifestNumbers(disk, directory)
  const hashes = new Map<string, string>()
  const checkpoints: CheckpointSummary[] = []
  let newest: Manifest | null = null
  for (const [i, number] of numbers.entries()) {
    if (i > 0 && number !== numbers[i - 1]! + 1) await noteGap(disk, directory, numbers[i - 1]!, number, problems)
    const entry = await readManifest(disk, directory, number)
    checkpoints.push(summaryOf(entry))
    if (entry.manifest === null) {
      problems.push(`${entry.path}: ${entry.error}`)
      continue
    }
    newest = entry.manifest
    for (const file of entry.manifest.stores.flatMap((store) => store.files)) {
      const path = layout.sharedFile(directory, file.sha256)
      const actual = hashes.get(file.sha256) ?? (await disk.hash(path)).sha256
      hashes.set(file.sha256, actual)
      if (actual !== file.sha256) problems.push(`${path}: its content has hash ${actual}`)
    }
  }
  if (numbers.length === 0) problems.push(`${directory}: there is no checkpoint`)
  if (newest !== null) problems.push(...(await pendingProblems(disk, directory, newest)))
  return { checkpoints, filesChecked: hashes.size, problems }
}

/**
 * The first state file of a manifest whose content is not what it was, as the error that ends a job; null when all are
 * whole. Reads them all, so it is asked only after a store has been found damaged. Files of a remote directory are
 * checked whenever they are fetched: there it is the local copy that was damaged.
 */
export async function damagedState(disk: Disk, directory: string, manifest: Manifest): Promise<MillraceError | null> {
  if (isObjectUrl(directory)) return null
  const files = manifest.stores.flatMap((store) => store.files)
  const problems = await mapBounded(files, FILES_AT_ONCE, async (file) => {
    const path = layout.sharedFile(directory, file.sha256)
    const found = await disk.hash(path)
    return found.sha256 === file.sha256 ? null : damagedFile(path, file, found)
  })
  return problems.find((problem) => problem !== null) ?? null
}

/** Older manifests are collected, but savepoints among them stay: only a gap above a savepoint is expected. */
async function noteGap(
  disk: Disk,
  directory: string,
  before: number,
  after: number,
  problems: string[],
): Promise<void> {
  const { manifest } = await readManifest(disk, directory, before)
  if (manifest?.kind !== 'savepoint') problems.push(`manifests ${before + 1} to ${after - 1} are missing`)
}

async function pendingProblems(disk: Disk, directory: string, manifest: Manifest): Promise<string[]> {
  const problems: string[] = []
  const committables: readonly unknown[] = manifest.pending.flatMap((commit) => commit.committables)
  for (const segment of committables.filter(isSegment)) {
    try {
      const { matches } = await checkSegment(disk, `${directory}/${segment.file}`, segment)
      if (!matches) problems.push(`${segment.file}: does not match its checksum`)
    } catch (error) {
      // Applied output is deleted while the newest manifest still lists it.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') problems.push(`${segment.file}: ${messageOf(error)}`)
    }
  }
  return problems
}
