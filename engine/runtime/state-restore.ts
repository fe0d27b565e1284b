/**
 * Opens a worker's keyed store, empty or from a checkpoint, and the keyed state of its subtasks on it.
 *
 * Live stores are never reopened after a crash: each deployment makes a new one from committed files. When
 * the plan is the checkpoint's own, a store is restored by hard links; after a rescale each worker reads
 * the old stores and keeps the key groups that are now its own.
 */
import { KeyedBackend } from '../../state/keyed-backend.ts'
import { WriteBatchBuilder } from '../../state/keyed-layout.ts'
import { layout } from '../checkpoint/layout.ts'
import type { ManifestStore } from '../checkpoint/manifest.ts'
import type { KeyedStore, KeyedStoreFactory } from '../contract/keyed-store.ts'
import type { OperatorCounters } from '../contract/operator.ts'
import { mapBounded } from '../core/bounded.ts'
import { MillraceError } from '../core/errors.ts'
import type { Io } from '../core/io.ts'
import { keyGroupRange } from '../core/keys.ts'
import { type ExecutionPlan, workerOf } from './planner.ts'
import type { Deployment } from './protocol.ts'

export interface WorkerState {
  /** Null when no subtask of this worker keeps keyed state. */
  readonly store: KeyedStore | null
  readonly builder: WriteBatchBuilder | null
  /** Every keyed state opened so far. */
  readonly keyed: KeyedBackend[]
  /** The keyed state of one operator subtask. */
  open(uid: string, subtask: number, parallelism: number, counters: OperatorCounters): KeyedBackend
}

const COPY_BYTES = 1 << 20
const FILES_AT_ONCE = 8

interface KeyedShare {
  readonly uid: string
  readonly parallelism: number
}

export async function openWorkerState(
  plan: ExecutionPlan,
  deployment: Deployment,
  liveDirectory: string,
  io: Io,
  factoryOf: (backend: Deployment['stateBackend']) => Promise<KeyedStoreFactory>,
): Promise<WorkerState> {
  const shares = keyedShares(plan)
  const keyed: KeyedBackend[] = []
  const hosted = shares.reduce((sum, share) => sum + hostedSubtasks(share, deployment), 0)
  if (hosted === 0) {
    return {
      store: null,
      builder: null,
      keyed,
      open() {
        throw new MillraceError('INVARIANT_VIOLATED', 'The plan has no keyed operator on this worker.', {
          domain: 'internal',
        })
      },
    }
  }
  const factory = await factoryOf(deployment.stateBackend)
  const store = await openStore(factory, shares, deployment, liveDirectory, io)
  const isRestored = deployment.stores.length > 0
  const sources = deployment.storesMatchWorkers
    ? deployment.stores.filter((source) => source.worker === deployment.workerIndex)
    : deployment.stores
  const restoredBytes = sources.reduce((sum, { files }) => sum + files.reduce((s, file) => s + file.size, 0), 0)
  const memoryBudgetBytes = deployment.stateMemoryBytes / hosted
  return {
    store,
    builder: new WriteBatchBuilder(),
    keyed,
    open(uid, subtask, parallelism, counters) {
      const backend = new KeyedBackend({
        operatorId: deployment.operatorIds[uid]!,
        keyGroups: keyGroupRange(subtask, parallelism, deployment.keyGroups),
        store,
        memoryBudgetBytes,
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

async function openStore(
  factory: KeyedStoreFactory,
  shares: readonly KeyedShare[],
  deployment: Deployment,
  liveDirectory: string,
  io: Io,
): Promise<KeyedStore> {
  const directory = `${liveDirectory}/store`
  if (deployment.storesMatchWorkers) {
    const own = deployment.stores.find((store) => store.worker === deployment.workerIndex)
    if (own !== undefined) {
      const image = await assembleImage(io, deployment, own, `${liveDirectory}/restored`)
      const store = factory.restore(image, directory)
      await io.disk.remove(image)
      return store
    }
  }
  const store = factory.create(directory)
  if (deployment.storesMatchWorkers) return store
  for (const old of deployment.stores) {
    const image = await assembleImage(io, deployment, old, `${liveDirectory}/restored-${old.worker}`)
    const oldDirectory = `${liveDirectory}/old-${old.worker}`
    const source = factory.restore(image, oldDirectory)
    try {
      for (const share of shares) copyShare(source, store, share, deployment)
    } finally {
      source.close()
    }
    await io.disk.remove(image)
    await io.disk.remove(oldDirectory)
  }
  return store
}

/** The files of one store under the names that the store knows. */
async function assembleImage(io: Io, deployment: Deployment, store: ManifestStore, directory: string): Promise<string> {
  await io.disk.makeDirectory(directory)
  await mapBounded(store.files, FILES_AT_ONCE, (file) =>
    io.disk.link(layout.sharedFile(deployment.storesDirectory, file.sha256), `${directory}/${file.name}`, file),
  )
  return directory
}

/** Copies what an operator keeps in key groups that now belong to this worker. */
function copyShare(from: KeyedStore, to: KeyedStore, share: KeyedShare, deployment: Deployment): void {
  const operatorId = deployment.operatorIds[share.uid]!
  for (let subtask = 0; subtask < share.parallelism; subtask++) {
    if (workerOf(subtask, deployment.workers) !== deployment.workerIndex) continue
    const range = keyGroupRange(subtask, share.parallelism, deployment.keyGroups)
    if (range.from === range.to) continue
    const scan = from.scan(groupStart(operatorId, range.from), groupStart(operatorId, range.to))
    try {
      for (let chunk = scan.next(COPY_BYTES); chunk !== null; chunk = scan.next(COPY_BYTES)) {
        to.write({ keys: chunk.keys, values: chunk.values, deletes: null })
      }
    } finally {
      scan.close()
    }
  }
}

/** The first key of an operator's key group. */
function groupStart(operatorId: number, group: number): Uint8Array {
  const key = Buffer.alloc(4)
  key.writeUInt16BE(operatorId, 0)
  key.writeUInt16BE(group, 2)
  return key
}
