/**
 * One simulated process: the real job master with its workers, all of their waiting in the scheduler.
 *
 * Called by sim-run.ts, which starts one after another. What a worker thread does in reality (messages
 * in order, cloned on the way; an end without notice) is done here by lanes and scopes.
 */

import { objectDisk } from '../../checkpoint/object-disk.ts'
import type { JobGraph } from '../../contract/job-graph.ts'
import type { KeyGroupRange } from '../../contract/keyed-state.ts'
import type { Io, SpillFile } from '../../core/io.ts'
import { keyGroupRange } from '../../core/keys.ts'
import type { StringInterner } from '../../core/strings.ts'
import type { ChannelHub } from '../../runtime/channel-hub.ts'
import { JobMaster, type WorkerHandle } from '../../runtime/job-master.ts'
import type { JobOptions } from '../../runtime/launcher-types.ts'
import { planJob, workerOf } from '../../runtime/planner.ts'
import type { Deployment, FromWorker, ToWorker } from '../../runtime/protocol.ts'
import type { WorkerFailure } from '../../runtime/worker-failure.ts'
import { WorkerRuntime } from '../../runtime/worker-runtime.ts'
import type { SeededRandom } from './seeded-random.ts'
import { SimChannels } from './sim-channels.ts'
import type { SimDisk } from './sim-disk.ts'
import type { SimInvariants } from './sim-invariants.ts'
import type { SimObjects } from './sim-object-store.ts'
import type { Plant } from './sim-plant.ts'
import { Scope, type SimScheduler } from './sim-scheduler.ts'
import { type Entries, type SimStore, type SimStoreFactory, simStoreFactory } from './sim-store.ts'

/** A worker that does not answer `close` is ended after this long, in simulated milliseconds. */
const CLOSE_GRACE_MS = 3_000

export interface SimProcessOptions {
  readonly label: string
  readonly scheduler: SimScheduler
  readonly disk: SimDisk
  readonly objects: SimObjects
  readonly random: SeededRandom
  readonly scope: Scope
  readonly invariants: SimInvariants
  readonly jobOptions: JobOptions
  readonly directory: string
  /** On the machine of this process. */
  readonly liveDirectory: string
  readonly channelCapacity: number
  readonly rings: boolean
  readonly spillBeyondBytes: number | null
  readonly cutPieceBytes: number | null
  readonly noticesRotLate: boolean
  /** Shared by all workers: making one takes longer than most of them live. */
  readonly interner: StringInterner
  readonly buildGraph: () => JobGraph
  readonly plant: Plant
}

interface RunningWorker {
  readonly scope: Scope
  readonly onExit: (failure: WorkerFailure) => void
  readonly exited: () => void
}

/** Stores as they were when each worker of a run said that it is ready. */
interface RestoredRun {
  readonly number: number
  readonly ready: Entries[]
  /** What a store holds will not be used. */
  hasRot: boolean
}

export class SimProcess {
  state: 'running' | 'finished' | 'failed' = 'running'
  error: unknown = null
  readonly master: JobMaster
  readonly scope: Scope
  private readonly options: SimProcessOptions
  private readonly graph: JobGraph
  private channels!: SimChannels
  private workers: RunningWorker[] = []
  private spawned = 0
  private restored: RestoredRun = { number: 0, ready: [], hasRot: false }

  constructor(options: SimProcessOptions) {
    this.options = options
    this.scope = options.scope
    this.graph = options.buildGraph()
    this.master = new JobMaster(this.graph, options.jobOptions, options.directory, {
      io: this.ioOf(options.scope),
      stateBackend: 'simulated',
      jobId: options.label,
      liveDirectory: options.liveDirectory,
      createRings: (channels, workers) => {
        this.channels = new SimChannels({
          workers,
          capacity: options.channelCapacity,
          rings: options.rings ? channels : null,
          plant: options.plant,
          onCrossed: (message) => options.invariants.fail('I8', message),
        })
        return null
      },
      spawn: (index, onMessage, onExit) => this.spawn(index, onMessage, onExit),
    })
    this.master.done.then(
      () => {
        this.state = 'finished'
      },
      (error: unknown) => {
        this.state = 'failed'
        this.error = error
      },
    )
  }

  start(): void {
    // A failed start shows in `done` as well.
    this.master.start().catch(() => {})
  }

  /** Ends one worker without notice, as an out-of-memory thread does; false when none runs. */
  loseWorker(): boolean {
    const alive = this.workers.filter((worker) => worker.scope.alive)
    if (alive.length === 0) return false
    const worker = this.options.random.pick(alive)
    worker.scope.kill()
    worker.exited()
    const failure = { where: worker.scope.label, code: 'WORKER_LOST', message: 'lost', stack: null, restartable: true }
    this.options.scheduler.post(this.scope, `exit ${worker.scope.label}`, () => worker.onExit(failure))
    return true
  }

  private ioOf(scope: Scope): Io {
    const { scheduler, disk, objects, random, plant, scope: process } = this.options
    const timers = scheduler.timers(scope)
    const local = disk.view(process, scope)
    const view = objectDisk({ local, timers, random, open: async () => objects.view(scope) })
    const openSpill = (): SpillFile => plant.spill?.(disk.openSpill()) ?? disk.openSpill()
    return { clock: scheduler.clock, random, timers, disk: plant.disk?.(view, disk) ?? view, openSpill }
  }

  private spawn(
    index: number,
    onMessage: (message: FromWorker) => void,
    onExit: (failure: WorkerFailure) => void,
  ): WorkerHandle {
    const { scheduler, scope: process, disk, plant, invariants, directory, label } = this.options
    const { spillBeyondBytes, cutPieceBytes } = this.options
    const name = `w${index}.${this.spawned++}`
    const scope = new Scope(name, process)
    const io = this.ioOf(scope)
    let exited: () => void = () => {}
    const closed = new Promise<void>((resolve) => {
      exited = resolve
    })
    let deployment: Deployment | null = null
    const { noticesRotLate } = this.options
    const { ignoresChecksums = false } = plant
    const plain = simStoreFactory({ disk: io.disk, raw: disk, noticesRotLate, ignoresChecksums })
    const stores = storesOf(plant.stores?.(plain, index) ?? plain)
    const deliver = (message: FromWorker): void => {
      if (message.type === 'closed') exited()
      else onMessage(message)
    }
    const says = plant.fromWorker?.(deliver) ?? deliver
    const runtime = new WorkerRuntime({
      io,
      graph: this.options.buildGraph(),
      storeFactory: async () => stores.factory,
      createHub: (deployed, wake) => this.hub(deployed.workerIndex, wake),
      send: (message) => {
        const copy = structuredClone(message)
        if (copy.type === 'ready') this.checkRestored(deployment!, stores.newest())
        if (copy.type === 'ready' || copy.type === 'ack') this.checkOwned(deployment!, stores.newest())
        scheduler.post(process, `${name} says ${copy.type}`, () => says(copy), { lane: `from ${name}` })
      },
      defer: (task) => {
        scheduler.post(scope, `${name} turns`, task)
      },
      interner: this.options.interner,
      ...(spillBeyondBytes === null ? {} : { spillBeyondBytes }),
      ...(cutPieceBytes === null ? {} : { cutPieceBytes }),
    })
    const send = (message: ToWorker): void => {
      const copy = structuredClone(message)
      if (copy.type === 'trigger') invariants.checkI2Attempt(directory, label, index, copy.attempt)
      const hear = (): void => {
        if (copy.type === 'deploy') deployment = copy.deployment
        runtime.receive(copy)
      }
      scheduler.post(scope, `${name} hears ${copy.type}`, hear, { lane: `to ${name}` })
    }
    this.workers.push({ scope, onExit, exited })
    return {
      send,
      async terminate() {
        send({ type: 'close' })
        const cancel = scheduler.post(process, `${name} grace`, exited, { delayMs: CLOSE_GRACE_MS })
        await closed
        cancel()
        scope.kill()
      },
    }
  }

  /** I7, whenever what a worker's store holds is to be kept. */
  private checkOwned(deployment: Deployment, store: SimStore | null): void {
    if (store === null || store.rottenFile !== null) return
    const { workerIndex, workers, keyGroups, operatorIds } = deployment
    const ranges = new Map<number, KeyGroupRange[]>()
    for (const { nodes, parallelism } of planJob(this.graph, deployment).vertices) {
      const own = Array.from({ length: parallelism }, (_, subtask) => subtask)
        .filter((subtask) => workerOf(subtask, workers) === workerIndex)
        .map((subtask) => keyGroupRange(subtask, parallelism, keyGroups))
      for (const { uid } of nodes) ranges.set(operatorIds[uid]!, own)
    }
    this.options.invariants.checkI7Store(workerIndex, store.entries, ranges)
  }

  /** I6, once every worker of a run has restored its share and none has gone on. */
  private checkRestored(deployment: Deployment, store: SimStore | null): void {
    if (this.restored.number !== deployment.run) {
      this.restored = { number: deployment.run, ready: [], hasRot: false }
    }
    this.restored.ready.push(new Map(store?.entries))
    if (store !== null && store.rottenFile !== null) this.restored.hasRot = true
    if (this.restored.ready.length < deployment.workers || this.restored.hasRot) return
    this.options.invariants.checkI6Restored(deployment, this.restored.ready)
  }

  private hub(worker: number, wake: () => void): ChannelHub {
    return this.channels.hub(worker, wake)
  }
}

/** A factory that remembers the store it opened last: the worker's own, after those it copied from. */
function storesOf(factory: SimStoreFactory): { factory: SimStoreFactory; newest: () => SimStore | null } {
  let created: SimStore | null = null
  return {
    factory: {
      description: factory.description,
      create(directory) {
        created = factory.create(directory)
        return created
      },
      restore(image, directory) {
        const store = factory.restore(image, directory)
        // After `create`, restored stores are only read from.
        created ??= store
        return store
      },
    },
    newest: () => created,
  }
}
