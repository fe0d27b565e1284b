/**
 * Start of a job: finds the checkpoint to continue, takes the job over, and says what each worker gets.
 *
 * Called by the job master at every start and restart. Decisions are pure (`planRestore`); reading and
 * the takeover manifest go through the injected disk.
 *
 * Invariants:
 * - A takeover creates manifest N+1 with generation G+1 before anything else is done; losing that race
 *   means that another process owns the job (I2, I11).
 * - A process that restarts its own job does not take it back from another one.
 * - A start that is refused for what the checkpoint holds leaves no takeover behind: the newest checkpoint stays the newest.
 * - A damaged newest manifest is set aside as `.corrupt`, never deleted, and its number not used again. Whether going on from an
 *   earlier one is allowed is decided by the sinks' markers (commits.ts).
 */
import type { GraphNode, JobGraph } from '../contract/job-graph.ts'
import type { SplitState } from '../contract/source.ts'
import { mapBounded } from '../core/bounded.ts'
import { MillraceError } from '../core/errors.ts'
import type { Disk } from '../core/io.ts'
import type { JsonValue } from '../core/json-value.ts'
import { type AssignedSplit, assignedSplit } from '../runtime/source-driver.ts'
import { DEAD_LETTER_SINK } from './dead-letters.ts'
import { layout } from './layout.ts'
import { MANIFEST_FORMAT, type Manifest, type ManifestTable, manifestName, type PendingCommit } from './manifest.ts'
import { createManifest, listManifests, type ManifestListing, readManifest } from './manifest-store.ts'
import { isAnySegmentGone, segmentsOf } from './outbox.ts'

/** Attempts of one generation are numbered from generation times this. */
const ATTEMPTS_PER_GENERATION = 1_000_000

const FILES_AT_ONCE = 4

export interface RecoveryOptions {
  readonly directory: string
  /** `latest`, a manifest's path, or null to start fresh. */
  readonly restore: string | null
  readonly jobName: string
  readonly keyGroups: number
  readonly workers: number
  readonly stateBackend: string
  readonly nowMs: number
  /** Random id of this process's job; see `Manifest.owner`. */
  readonly owner: string
  /** This process had the job already: it goes on only if nobody took it over since. */
  readonly isRestart?: boolean
  /** Throws what keeps the job from going on from `base`, before anything is changed. */
  readonly refuse?: (base: RestoreBase) => Promise<void>
}

/** The checkpoint that a start is about to continue. */
export interface RestoreBase {
  readonly manifest: Manifest
  /** Where it lies. */
  readonly directory: string
  /** There is, or was, a newer one: this one was named, or newer ones are damaged. */
  readonly isBehind: boolean
  /** Newer ones that were set aside, now or earlier: the file, and why if it was now. */
  readonly damaged: readonly string[]
}

export interface Recovered {
  /** The manifest that this owner starts from, just created. */
  readonly manifest: Manifest
  /** Path of the checkpoint that it continues; null on a fresh start. */
  readonly restoredFrom: string | null
  /** Directory that holds the state files. */
  readonly storesDirectory: string
  /** What was set aside, with the reason. */
  readonly quarantined: readonly { readonly path: string; readonly reason: string }[]
}

/** Throws `CHECKPOINT_DIRECTORY_NOT_EMPTY`, `CHECKPOINT_NOT_FOUND`, `KEY_GROUPS_CHANGED`, `JOB_TAKEN_OVER`. */
export async function takeOver(disk: Disk, options: RecoveryOptions): Promise<Recovered> {
  const { directory } = options
  for (const folder of [layout.manifests, layout.shared, layout.outbox, layout.deadLetters]) {
    await disk.makeDirectory(folder(directory))
  }
  // Without this a power cut could take a new folder away with everything that was made durable in it.
  await disk.syncDirectory(directory)
  const { numbers, setAside, last } = await listManifests(disk, directory)
  if (options.restore === null && numbers.length > 0) {
    throw new MillraceError('CHECKPOINT_DIRECTORY_NOT_EMPTY', `${directory} already holds checkpoints.`, {
      hint: 'Continue them with --restore latest, or choose an empty directory.',
    })
  }
  const quarantined: { path: string; reason: string }[] = []
  const found =
    options.restore === null
      ? null
      : options.restore === 'latest'
        ? await newestValid(disk, directory, { numbers, setAside }, quarantined)
        : await named(disk, options.restore)
  const base = found?.manifest ?? null
  if (base !== null && base.keyGroups !== options.keyGroups) {
    throw new MillraceError(
      'KEY_GROUPS_CHANGED',
      `The checkpoint has ${base.keyGroups} key groups, the job asks for ${options.keyGroups}.`,
      { hint: 'The number of key groups is fixed for the life of a job.' },
    )
  }
  if (base !== null && base.stores.length > 0 && base.stateBackend !== options.stateBackend) {
    throw new MillraceError(
      'STATE_BACKEND_CHANGED',
      `The checkpoint's state was written by the ${base.stateBackend} backend, the job uses ${options.stateBackend}.`,
      { hint: `Start with --state-backend ${base.stateBackend}.` },
    )
  }
  if (options.isRestart === true && quarantined.length === 0 && base?.owner !== options.owner)
    throw takenOver(directory)
  if (found !== null) {
    const isNamed = options.restore !== 'latest'
    const damaged = [
      ...quarantined.map(({ path, reason }) => `${corruptName(path)} (${reason.replace(/\.$/, '')})`),
      ...setAside
        .filter((number) => number > found.manifest.number)
        .map((number) => corruptName(layout.manifest(directory, manifestName(number)))),
    ]
    const isBehind = isNamed || quarantined.length > 0 || setAside.length > 0
    await options.refuse?.({ ...found, isBehind, damaged: isNamed ? [] : damaged })
  }
  const generation = (await generationBefore(disk, directory, base)) + 1
  const isMove = found !== null && found.directory !== directory
  const manifest: Manifest = {
    ...(isMove ? await withoutDeadLetters(disk, found) : (base ?? emptyManifest(options))),
    kind: 'takeover',
    owner: options.owner,
    // Next to what was seen when the base was chosen: a checkpoint made since must not be passed over.
    number: last + 1,
    parent: base?.number ?? null,
    generation,
    attempt: Math.max(base?.attempt ?? 0, generation * ATTEMPTS_PER_GENERATION),
    createdAtMs: options.nowMs,
  }
  if (isMove) await adoptFiles(disk, found.directory, directory, manifest)
  if (!(await createManifest(disk, directory, manifest))) throw takenOver(directory)
  return { manifest, restoredFrom: found?.path ?? null, storesDirectory: directory, quarantined }
}

function takenOver(directory: string): MillraceError {
  return new MillraceError('JOB_TAKEN_OVER', `Another process took over the job in ${directory}.`, {
    domain: 'external',
    hint: 'Only one process may run a job; stop this one.',
  })
}

/**
 * The highest generation that may have been used: the newest manifest of the directory need not be the one
 * restored. One that cannot be read may itself have been a takeover, now or before it was set aside by any start.
 */
async function generationBefore(disk: Disk, directory: string, base: Manifest | null): Promise<number> {
  const { numbers, setAside } = await listManifests(disk, directory)
  let unreadable = 0
  for (const number of numbers.reverse()) {
    const { manifest } = await readManifest(disk, directory, number)
    const hidden = unreadable + setAside.filter((damaged) => damaged > number).length
    if (manifest !== null) return Math.max(base?.generation ?? 0, manifest.generation + hidden)
    unreadable++
  }
  return (base?.generation ?? 0) + unreadable + setAside.length
}

function emptyManifest(options: RecoveryOptions): Manifest {
  return {
    format: MANIFEST_FORMAT,
    kind: 'takeover',
    number: 0,
    parent: null,
    generation: 0,
    epoch: 0,
    attempt: 0,
    createdAtMs: options.nowMs,
    jobName: options.jobName,
    keyGroups: options.keyGroups,
    workers: options.workers,
    stateBackend: options.stateBackend,
    operators: [],
    sources: [],
    stores: [],
    sinks: [],
    pending: [],
  }
}

/** What a damaged manifest is called. */
function corruptName(path: string): string {
  return path.replace(/\.json$/, '.corrupt')
}

interface Found {
  readonly manifest: Manifest
  readonly path: string
  readonly directory: string
}

async function newestValid(
  disk: Disk,
  directory: string,
  { numbers, setAside }: Pick<ManifestListing, 'numbers' | 'setAside'>,
  quarantined: { path: string; reason: string }[],
): Promise<Found | null> {
  for (const number of [...numbers].reverse()) {
    const entry = await readManifest(disk, directory, number)
    if (entry.manifest !== null) return { manifest: entry.manifest, path: entry.path, directory }
    if (entry.isUnreadable) {
      throw new MillraceError('CHECKPOINT_UNREADABLE', `Cannot read ${entry.path}: ${entry.error}.`, {
        domain: 'external',
        retryable: true,
        hint: 'Check the disk; a checkpoint is set aside only when its content is wrong.',
      })
    }
    // Collected by an owner that is still at work, between our listing and our reading.
    if ((await disk.size(entry.path)) === null) continue
    await disk.rename(entry.path, corruptName(entry.path))
    quarantined.push({ path: entry.path, reason: entry.error })
  }
  if (numbers.length === 0) {
    if (setAside.length === 0) return null
    // An earlier start was refused for this: the next one must not begin from nothing as if there had been nothing.
    throw new MillraceError('CHECKPOINT_NOT_FOUND', `No checkpoint in ${directory} is left but damaged ones.`, {
      domain: 'external',
      hint: `Repair one of ${setAside.map((n) => manifestName(n).replace('.json', '.corrupt')).join(', ')}, or start in an empty directory.`,
    })
  }
  if (quarantined.length === 0) throw takenOver(directory)
  throw new MillraceError('CHECKPOINT_NOT_FOUND', `No checkpoint in ${directory} is readable.`, {
    domain: 'external',
    hint: `Set aside: ${quarantined.map((q) => `${q.path} (${q.reason})`).join('; ')}.`,
  })
}

async function named(disk: Disk, path: string): Promise<Found> {
  const match = /^(.*)\/manifests\/0*(\d+)\.json$/.exec(path)
  const entry = match === null ? null : await readManifest(disk, match[1]!, Number(match[2]))
  if (entry?.manifest == null) {
    throw new MillraceError(
      'CHECKPOINT_NOT_FOUND',
      `${path} is not a readable checkpoint: ${entry?.error ?? 'not a manifest'}.`,
      {
        hint: 'Give the path that `millrace savepoint` printed, DIR/manifests/NUMBER.json.',
      },
    )
  }
  return { manifest: entry.manifest, path, directory: match![1]! }
}

/**
 * Dead letters lie in the checkpoint directory itself, so those that are written stay in the old one, and their
 * epochs begin anew in another.
 */
async function withoutDeadLetters(disk: Disk, { manifest, directory }: Found): Promise<Manifest> {
  const pending: PendingCommit[] = []
  for (const commit of manifest.pending) {
    if (commit.sink === DEAD_LETTER_SINK && (await isAnySegmentGone(disk, directory, commit))) continue
    pending.push(commit)
  }
  return { ...manifest, pending, sinks: manifest.sinks.filter((sink) => sink.id !== DEAD_LETTER_SINK) }
}

/** Brings what a checkpoint of another directory needs into this one. */
async function adoptFiles(disk: Disk, from: string, to: string, manifest: Manifest): Promise<void> {
  const files = manifest.stores.flatMap((store) => store.files)
  await mapBounded(files, FILES_AT_ONCE, async (file) => {
    await disk.link(layout.sharedFile(from, file.sha256), layout.sharedFile(to, file.sha256), file)
    await disk.syncFile(layout.sharedFile(to, file.sha256))
  })
  await disk.syncDirectory(layout.shared(to))
  await adoptPending(disk, from, to, manifest)
}

/** Brings output that is not known to be applied. */
export async function adoptPending(disk: Disk, from: string, to: string, manifest: Manifest): Promise<void> {
  for (const file of manifest.pending.flatMap(segmentsOf)) {
    // Output that is applied already has been deleted; the sink's marker says so.
    if ((await disk.size(`${from}/${file}`)) === null) continue
    await disk.link(`${from}/${file}`, `${to}/${file}`)
    await disk.syncFile(`${to}/${file}`)
  }
  await disk.syncDirectory(layout.outbox(to))
}

/** What a manifest means for a graph. */
export interface RestorePlan {
  readonly operatorIds: Record<string, number>
  readonly operatorStates: Record<string, readonly JsonValue[]>
  readonly tables: Record<string, readonly ManifestTable[]>
  /** Of keyed operators by uid, when the stores were written. */
  readonly oldParallelism: Record<string, number>
  /** Every store can be handed to the worker of its index as it is. */
  readonly storesMatchWorkers: boolean
}

/** Throws `STATE_NOT_RESTORED` when the checkpoint has state of operators that the job lacks. */
export function planRestore(
  manifest: Manifest,
  graph: JobGraph,
  parallelismOf: (node: GraphNode) => number,
  options: { readonly workers: number; readonly allowNonRestoredState: boolean },
): RestorePlan {
  const uids = new Set(graph.nodes.map((node) => node.uid))
  for (const operator of manifest.operators) {
    const hasState = operator.isKeyed || operator.states.some((state) => state !== null)
    if (uids.has(operator.uid) || !hasState || options.allowNonRestoredState) continue
    throw new MillraceError(
      'STATE_NOT_RESTORED',
      `The checkpoint has state of operator "${operator.name}" (uid ${operator.uid}), which the job does not have.`,
      { hint: 'Give the operator that uid, or drop its state with --allow-non-restored-state.' },
    )
  }
  const old = new Map(manifest.operators.map((operator) => [operator.uid, operator]))
  let nextId = manifest.operators.reduce((max, operator) => Math.max(max, operator.operatorId + 1), 0)
  const plan: RestorePlan = {
    operatorIds: {},
    operatorStates: {},
    tables: {},
    oldParallelism: {},
    storesMatchWorkers: true,
  }
  let sameShape = manifest.workers === options.workers || manifest.stores.length === 0
  // Entries of an operator that is gone must not stay in a store: its id may be given to another later.
  if (manifest.operators.some((operator) => operator.isKeyed && !uids.has(operator.uid))) sameShape = false
  for (const node of graph.nodes) {
    const known = old.get(node.uid)
    plan.operatorIds[node.uid] = known?.operatorId ?? nextId++
    plan.operatorStates[node.uid] = known?.states ?? []
    plan.tables[node.uid] = known?.tables ?? []
    const isKeyed = node.role === 'operator' && node.isKeyed
    if (isKeyed && known !== undefined) plan.oldParallelism[node.uid] = known.parallelism
    if (isKeyed && known !== undefined && known.parallelism !== parallelismOf(node)) sameShape = false
  }
  return { ...plan, storesMatchWorkers: sameShape }
}

/** Spreads a source's splits over its subtasks: known ones from the checkpoint, new ones from their start. */
export function assignSplits(
  manifest: Manifest,
  uid: string,
  discovered: readonly SplitState[],
  parallelism: number,
): AssignedSplit[][] {
  const known = manifest.sources.find((source) => source.uid === uid)?.splits ?? []
  const ids = new Set(known.map((split) => split.id))
  const fresh = discovered
    .filter((split) => !ids.has(split.id))
    .map((split) => ({ ...split, watermark: Number.NEGATIVE_INFINITY, idle: false }))
  const all = [...known.map(assignedSplit), ...fresh]
  const subtasks: AssignedSplit[][] = Array.from({ length: parallelism }, () => [])
  all.forEach((split, i) => {
    subtasks[i % parallelism]!.push(split)
  })
  return subtasks
}
