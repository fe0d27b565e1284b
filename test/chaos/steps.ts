/**
 * The steps at which a chaos run may kill a process: the protocol's failpoints, and the engine's disk calls
 * by folder.
 */
import { FAILPOINTS } from '../../engine/core/failpoints.ts'

const FOLDERS = ['manifests', 'shared', 'outbox', 'live', 'dead-letters'] as const

/** The folder of a checkpoint directory that a path lies in, or `other`. */
export function folderOf(path: string): string {
  return FOLDERS.find((folder) => path.includes(`/checkpoints/${folder}`)) ?? 'other'
}

const DISK_CALLS = [
  'createExclusive-manifests',
  'syncDirectory-shared',
  'link-shared',
  'remove-shared',
  'remove-manifests',
  'syncDirectory-manifests',
  'create-outbox',
  'append-outbox',
  'sync-outbox',
  'syncDirectory-outbox',
  'remove-outbox',
  'remove-live',
]

/** Steps that a run without faults inside a process never reaches. */
const UNREACHED: ReadonlySet<string> = new Set(['attempt-aborted'])

export const STEPS: readonly string[] = [
  ...FAILPOINTS.filter((step) => !UNREACHED.has(step)),
  ...DISK_CALLS.flatMap((call) => [`before:${call}`, `after:${call}`]),
]
