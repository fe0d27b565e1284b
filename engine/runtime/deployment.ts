/**
 * What each worker is sent at the start of a run: its share of splits and state, and how to reach the others.
 */
import type { Manifest } from '../checkpoint/manifest.ts'
import { assignSplits, type RestorePlan } from '../checkpoint/recovery.ts'
import { describeGraph, type JobGraph } from '../contract/job-graph.ts'
import type { JobContext, WorkerContext } from '../contract/worker-context.ts'
import type { Io } from '../core/io.ts'
import { StringInterner } from '../core/strings.ts'
import type { JobOptions } from './launcher-types.ts'
import { type ExecutionPlan, planChannels, ringCount } from './planner.ts'
import type { Deployment } from './protocol.ts'
import type { RingMemoryBuffers } from './ring-memory.ts'
import type { AssignedSplit } from './source-driver.ts'
import { checkSplits } from './source-promises.ts'
import { SplitDiscovery } from './split-discovery.ts'

export interface DeploymentPlan {
  readonly io: Io
  readonly graph: JobGraph
  readonly options: JobOptions
  readonly job: JobContext
  readonly plan: ExecutionPlan
  readonly parallelism: number
  readonly workers: number
  /** Number of the run within the process. */
  readonly run: number
  readonly manifest: Manifest
  readonly restore: RestorePlan
  /** The checkpoint directory. */
  readonly directory: string
  readonly storesDirectory: string
  readonly liveDirectory: string
  readonly createRings: (channels: number, workers: number) => RingMemoryBuffers | null
}

/** One deployment a worker, in order. Rejects with what a source's `splits` throws. */
export async function planDeployments(from: DeploymentPlan): Promise<Deployment[]> {
  const { options, plan, manifest, restore, workers } = from
  const splits = await allSplits(from)
  const rings = from.createRings(ringCount(planChannels(plan)), workers)
  const graph = describeGraph(from.graph)
  return Array.from({ length: workers }, (_, workerIndex) => ({
    job: from.job,
    generation: manifest.generation,
    run: from.run,
    workerIndex,
    workers,
    parallelism: from.parallelism,
    keyGroups: options.keyGroups,
    checkpointIntervalMs: options.checkpointIntervalMs,
    stateBackend: options.stateBackend,
    stateMemoryBytes: options.stateMemoryBytes,
    checkpointDirectory: from.directory,
    checkpointingMode: options.checkpointPolicy.mode,
    runtimeMode: options.runtimeMode,
    pendingOutputBytesMax: options.checkpointPolicy.pendingOutputBytesMax,
    liveDirectory: from.liveDirectory,
    graph,
    rings,
    splits,
    operatorStates: restore.operatorStates,
    operatorIds: restore.operatorIds,
    tables: restore.tables,
    stores: manifest.stores,
    oldWorkers: manifest.workers,
    oldParallelism: restore.oldParallelism,
    storesDirectory: from.storesDirectory,
    storesMatchWorkers: restore.storesMatchWorkers,
  }))
}

async function allSplits(from: DeploymentPlan): Promise<Record<string, AssignedSplit[][]>> {
  const splits: Record<string, AssignedSplit[][]> = {}
  const worker = enumeratorContext(from.io, from.job)
  for (const vertex of from.plan.vertices) {
    const node = vertex.nodes[0]!
    if (node.role !== 'source') continue
    const discovered = checkSplits(node.name, await node.source.splits({ worker }))
    splits[node.uid] = assignSplits(from.manifest, node.uid, discovered, vertex.parallelism)
  }
  return splits
}

/** What watches the sources that ask for it, beginning with the splits of `deployment`. */
export function splitDiscovery(io: Io, plan: ExecutionPlan, deployment: Deployment): SplitDiscovery {
  const discovery = new SplitDiscovery(enumeratorContext(io, deployment.job))
  for (const { nodes, parallelism } of plan.vertices) {
    const node = nodes[0]!
    if (node.role === 'source') discovery.watch(node, parallelism, deployment.splits[node.uid]!, io.clock.monotonicMs())
  }
  return discovery
}

/** For split enumerators, which run on the coordinator's thread and in no worker. */
function enumeratorContext(io: Io, job: JobContext): WorkerContext {
  let ids = 0
  let interner: StringInterner | null = null
  return {
    job,
    workerIndex: -1,
    io,
    get interner() {
      interner ??= new StringInterner()
      return interner
    },
    nowMs: () => io.clock.nowMs(),
    uniqueId: (prefix) => `${prefix} master.${ids++}`,
  }
}
