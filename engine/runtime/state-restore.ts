/**
 * Opens a worker's keyed store, empty or from a checkpoint, and the keyed state of its subtasks on it.
 *
 * Live stores are never reopened after a crash: each deployment makes a new one from committed files. When
 * the plan is the checkpoint's own, a store is restored by hard links. After a rescale a worker begins with the old
 * store that has most of its key groups, by hard links too, deletes from it what is not its own, and copies the
 * rest from the other stores that have some.
 */
import { KeyedBackend } from '../../state/keyed-backend.ts'
import { layout } from '../checkpoint/layout.ts'
import type { ManifestFile, ManifestStore } from '../checkpoint/manifest.ts'
import type { KeyGroupRange } from '../contract/keyed-state.ts'
import type { KeyedStore, KeyedStoreFactory } from '../contract/keyed-store.ts'
import type { OperatorCounters } from '../contract/operator.ts'
import { mapBounded } from '../core/bounded.ts'
import { MillraceError } from '../core/errors.ts'
import type { Io } from '../core/io.ts'
import { keyGroupRange } from '../core/keys.ts'
import { CutPieces } from './cut-pieces.ts'
import { type ExecutionPlan, workerOf } from './planner.ts'
import type { Deployment } from './protocol.ts'

export interface WorkerState {
  /** Null when no subtask of this worker keeps keyed state. */
  readonly store: KeyedStore | null
  /** Of the open cut; null without a store. */
  readonly changes: CutPieces | null
  /** The files that the store was opened with, under the names that it has for them. */
  readonly restored: readonly ManifestFile[]
  /** Every keyed state opened so far. */
  readonly keyed: KeyedBackend[]
  /** What one operator subtask with keyed state may use. */
  readonly memoryBudgetBytes: number
  /** The keyed state of one operator subtask, within `memoryShare` (default 1) of its budget. */
  open(
    uid: string,
    subtask: number,
    parallelism: number,
    counters: OperatorCounters,
    memoryShare?: number,
  ): KeyedBackend
}

const COPY_BYTES = 1 << 20
export const RESTORE_FILES_AT_ONCE = 8
/** Of a worker's state memory, what changes may take that wait for a checkpoint, and their encoded form in it. */
const CHANGES_SHARE = 1 / 8
const CHANGES_BYTES_MAX = 64 << 20
/** One that is filled and one on its way into the store. */
const PIECES_AT_ONCE = 2
/** However much the store and the changes take, tables keep this part. */
const TABLES_SHARE_MIN = 1 / 2

/** How a worker's state memory is divided; the store's part is the store's own to keep to. */
function shareMemory(bytes: number, storeBytes: number): { tables: number; changes: number } {
  const changes = Math.min(bytes * CHANGES_SHARE, CHANGES_BYTES_MAX)
  return { tables: Math.max(bytes - storeBytes - changes, bytes * TABLES_SHARE_MIN), changes }
}

/** What a worker's state has of the world around it. */
export interface StateEnvironment {
  readonly io: Io
  readonly storeFactory: (backend: Deployment['stateBackend'], stateMemoryBytes: number) => Promise<KeyedStoreFactory>
  /** Bytes of a cut that go into the store at a time; a part of the state's memory when left out. */
  readonly cutPieceBytes?: number
}

interface KeyedShare {
  readonly uid: string
  readonly parallelism: number
}

export async function openWorkerState(
  plan: ExecutionPlan,
  deployment: Deployment,
  liveDirectory: string,
  { io, storeFactory, cutPieceBytes }: StateEnvironment,
): Promise<WorkerState> {
  const shares = keyedShares(plan)
  const keyed: KeyedBackend[] = []
  const hosted = shares.reduce((sum, share) => sum + hostedSubtasks(share, deployment), 0)
  if (hosted === 0) {
    return {
      store: null,
      changes: null,
      restored: [],
      keyed,
      memoryBudgetBytes: 0,
      open() {
        throw new MillraceError('INVARIANT_VIOLATED', 'The plan has no keyed operator on this worker.', {
          domain: 'internal',
        })
      },
    }
  }
  const factory = await storeFactory(deployment.stateBackend, deployment.stateMemoryBytes)
  const { store, restored } = await openStore(factory, shares, deployment, liveDirectory, io)
  const isRestored = deployment.stores.length > 0
  const sources = deployment.storesMatchWorkers
    ? deployment.stores.filter((source) => source.worker === deployment.workerIndex)
    : deployment.stores
  const restoredBytes = sources.reduce((sum, { files }) => sum + files.reduce((s, file) => s + file.size, 0), 0)
  const memory = shareMemory(deployment.stateMemoryBytes, factory.storeMemoryBytes ?? 0)
  const memoryBudgetBytes = memory.tables / hosted
  return {
    store,
    changes: new CutPieces(store, cutPieceBytes ?? memory.changes / PIECES_AT_ONCE),
    restored,
    keyed,
    memoryBudgetBytes,
    open(uid, subtask, parallelism, counters, memoryShare = 1) {
      const backend = new KeyedBackend({
        operatorId: deployment.operatorIds[uid]!,
        keyGroups: keyGroupRange(subtask, parallelism, deployment.keyGroups),
        store,
        memoryBudgetBytes: memoryBudgetBytes * memoryShare,
        dirtyBytesMax: memory.changes / hosted,
        counters,
        restored: deployment.tables[uid] ?? [],
        restoredBytes,
      })
      if (isRestored) backend.restore()
      keyed.push(backend)
      return backend
    },
  }
}

function keyedShares(plan: ExecutionPlan): KeyedShare[] {
  return plan.vertices.flatMap((vertex) =>
    vertex.nodes
      .filter((node) => node.role === 'operator' && node.isKeyed)
      .map((node) => ({ uid: node.uid, parallelism: vertex.parallelism })),
  )
}

function hostedSubtasks(share: KeyedShare, deployment: Deployment): number {
  let count = 0
  for (let s = 0; s < share.parallelism; s++) {
    if (workerOf(s, deployment.workers) === deployment.workerIndex) count++
  }
  return count
}

interface OpenedStore {
  readonly store: KeyedStore
  readonly restored: readonly ManifestFile[]
}

async function openStore(
  factory: KeyedStoreFactory,
  shares: readonly KeyedShare[],
  deployment: Deployment,
  liveDirectory: string,
  io: Io,
): Promise<OpenedStore> {
  const directory = `${liveDirectory}/store`
  const base = deployment.storesMatchWorkers
    ? (deployment.stores.find((store) => store.worker === deployment.workerIndex) ?? null)
    : largestOverlap(shares, deployment)
  const opened = await openFrom(factory, base, deployment, directory, `${liveDirectory}/restored`, io)
  if (deployment.storesMatchWorkers) return opened
  const { store } = opened
  try {
    const ranges = shares.flatMap((share) => ownRanges(share, deployment)).sort(byFirstKey)
    if (base !== null) deleteOutside(store, ranges)
    for (const old of deployment.stores) {
      if (old === base || overlapOf(old, shares, deployment) === 0) continue
      const oldDirectory = `${liveDirectory}/old-${old.worker}`
      const image = `${liveDirectory}/restored-${old.worker}`
      const { store: source } = await openFrom(factory, old, deployment, oldDirectory, image, io)
      try {
        for (const range of ranges) copyRange(source, store, range)
      } finally {
        source.close()
      }
      await io.disk.remove(oldDirectory)
    }
  } catch (error) {
    // Nobody else knows of it yet.
    store.close()
    throw error
  }
  return opened
}

/** A store in `directory` that begins as `from`, by way of the directory `image`; an empty one without `from`. */
async function openFrom(
  factory: KeyedStoreFactory,
  from: ManifestStore | null,
  deployment: Deployment,
  directory: string,
  image: string,
  io: Io,
): Promise<OpenedStore> {
  if (from === null) return { store: factory.create(directory), restored: [] }
  await assembleImage(io, deployment, from, image)
  const store = factory.restore(image, directory)
  try {
    await io.disk.remove(image)
  } catch (error) {
    store.close()
    throw error
  }
  return { store, restored: from.files }
}

/** Keys [from, to) of the store. */
interface KeyRange {
  readonly from: Uint8Array
  readonly to: Uint8Array
}

const byFirstKey = (a: KeyRange, b: KeyRange): number => Buffer.compare(a.from, b.from)

/** What an operator keeps in key groups that belong to this worker. */
function ownRanges(share: KeyedShare, deployment: Deployment): KeyRange[] {
  const operatorId = deployment.operatorIds[share.uid]!
  return ownGroups(share, deployment)
    .filter(({ from, to }) => from < to)
    .map(({ from, to }) => ({ from: groupStart(operatorId, from), to: groupStart(operatorId, to) }))
}

function ownGroups(share: KeyedShare, deployment: Deployment): KeyGroupRange[] {
  const own: KeyGroupRange[] = []
  for (let subtask = 0; subtask < share.parallelism; subtask++) {
    if (workerOf(subtask, deployment.workers) !== deployment.workerIndex) continue
    own.push(keyGroupRange(subtask, share.parallelism, deployment.keyGroups))
  }
  return own
}

/** The store that has most of what this worker needs, to begin with; null when none has anything. */
function largestOverlap(shares: readonly KeyedShare[], deployment: Deployment): ManifestStore | null {
  let best: ManifestStore | null = null
  let bestBytes = 0
  for (const store of deployment.stores) {
    const bytes = overlapOf(store, shares, deployment)
    if (bytes > bestBytes) {
      best = store
      bestBytes = bytes
    }
  }
  return best
}

/** About how many bytes of an old store belong to this worker now, by the number of key groups; 0 for none. */
function overlapOf(store: ManifestStore, shares: readonly KeyedShare[], deployment: Deployment): number {
  const { keyGroups, oldWorkers, oldParallelism } = deployment
  let all = 0
  let own = 0
  for (const share of shares) {
    const parallelism = oldParallelism[share.uid]
    if (parallelism === undefined) continue
    const mine = ownGroups(share, deployment)
    for (let subtask = store.worker; subtask < parallelism; subtask += oldWorkers) {
      const old = keyGroupRange(subtask, parallelism, keyGroups)
      all += old.to - old.from
      for (const { from, to } of mine) own += Math.max(0, Math.min(to, old.to) - Math.max(from, old.from))
    }
  }
  const bytes = store.files.reduce((sum, file) => sum + file.size, 0)
  return all === 0 ? 0 : (bytes * own) / all
}

/** Above every key: operator ids and key groups do not reach it. */
const KEYS_END = new Uint8Array(16).fill(0xff)

/** Deletes whatever is in no range, of operators that are gone too. `ranges` ascend and do not overlap. */
function deleteOutside(store: KeyedStore, ranges: readonly KeyRange[]): void {
  let from = new Uint8Array(0)
  for (const range of ranges) {
    if (Buffer.compare(from, range.from) < 0) store.deleteRange(from, range.from)
    from = new Uint8Array(range.to)
  }
  store.deleteRange(from, KEYS_END)
}

/** The files of one store under the names that the store knows. */
async function assembleImage(io: Io, deployment: Deployment, store: ManifestStore, directory: string): Promise<void> {
  await io.disk.makeDirectory(directory)
  await mapBounded(store.files, RESTORE_FILES_AT_ONCE, (file) =>
    io.disk.link(layout.sharedFile(deployment.storesDirectory, file.sha256), `${directory}/${file.name}`, file),
  )
}

function copyRange(from: KeyedStore, to: KeyedStore, range: KeyRange): void {
  const scan = from.scan(range.from, range.to)
  try {
    for (let chunk = scan.next(COPY_BYTES); chunk !== null; chunk = scan.next(COPY_BYTES)) {
      to.write({ keys: chunk.keys, values: chunk.values, deletes: null })
    }
  } finally {
    scan.close()
  }
}

/** The first key of an operator's key group. */
function groupStart(operatorId: number, group: number): Uint8Array {
  const key = Buffer.alloc(4)
  key.writeUInt16BE(operatorId, 0)
  key.writeUInt16BE(group, 2)
  return key
}
