/**
 * One simulated process: the real job master with its workers, all of their waiting in the scheduler.
 *
 * Called by sim-run.ts, which starts one after another. What a worker thread does in reality (messages
 * in order, cloned on the way; an end without notice) is done here by lanes and scopes.
 */
import type { JobGraph } from '../../contract/job-graph.ts'
import type { Batch } from '../../core/batch.ts'
import type { Io } from '../../core/io.ts'
import type { ChannelWriter, ControlMessage } from '../../runtime/channel.ts'
import { type ChannelHub, LocalChannelPool } from '../../runtime/channel-hub.ts'
import { JobMaster, type WorkerHandle } from '../../runtime/job-master.ts'
import type { JobOptions } from '../../runtime/launcher-types.ts'
import type { FromWorker, ToWorker, WorkerFailure } from '../../runtime/protocol.ts'
import { copyBatch } from '../../runtime/wire.ts'
import { WorkerRuntime } from '../../runtime/worker-runtime.ts'
import type { SeededRandom } from './seeded-random.ts'
import type { SimDisk } from './sim-disk.ts'
import { Scope, type SimScheduler } from './sim-scheduler.ts'
import { type SimStoreFaults, simStoreFactory } from './sim-store.ts'

/** A worker that does not answer `close` is ended after this long, in simulated milliseconds. */
const CLOSE_GRACE_MS = 3_000

export interface SimProcessOptions {
  readonly label: string
  readonly scheduler: SimScheduler
  readonly disk: SimDisk
  readonly random: SeededRandom
  readonly scope: Scope
  readonly jobOptions: JobOptions
  readonly directory: string
  readonly channelCapacity: number
  readonly buildGraph: () => JobGraph
  readonly storeFaults: SimStoreFaults
  /** Plants a fault: a barrier overtakes the batch before it. */
  readonly barrierOvertakes: boolean
}

interface RunningWorker {
  readonly scope: Scope
  readonly onExit: (failure: WorkerFailure) => void
  readonly exited: () => void
}

export class SimProcess {
  state: 'running' | 'finished' | 'failed' = 'running'
  error: unknown = null
  readonly master: JobMaster
  private readonly options: SimProcessOptions
  private pool = new LocalChannelPool(1)
  private workers: RunningWorker[] = []
  private spawned = 0

  constructor(options: SimProcessOptions) {
    this.options = options
    this.master = new JobMaster(options.buildGraph(), options.jobOptions, options.directory, {
      io: this.ioOf(options.scope),
      stateBackend: 'simulated',
      jobId: options.label,
      createRings: (_channels, workers) => {
        this.pool = new LocalChannelPool(workers, options.channelCapacity)
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
    this.options.scheduler.post(this.options.scope, `exit ${worker.scope.label}`, () => worker.onExit(failure))
    return true
  }

  private ioOf(scope: Scope): Io {
    const { scheduler, disk, random } = this.options
    return {
      clock: scheduler.clock,
      random,
      timers: scheduler.timers(scope),
      disk: disk.view(this.options.scope, scope),
    }
  }

  private spawn(
    index: number,
    onMessage: (message: FromWorker) => void,
    onExit: (failure: WorkerFailure) => void,
  ): WorkerHandle {
    const { scheduler, scope: process, disk } = this.options
    const name = `w${index}.${this.spawned++}`
    const scope = new Scope(name, process)
    const io = this.ioOf(scope)
    let exited: () => void = () => {}
    const closed = new Promise<void>((resolve) => {
      exited = resolve
    })
    const runtime = new WorkerRuntime({
      io,
      graph: this.options.buildGraph(),
      storeFactory: async () => simStoreFactory(io.disk, disk, this.options.storeFaults),
      createHub: (deployment, wake) => this.hub(deployment.workerIndex, wake),
      send(message) {
        const copy = structuredClone(message)
        const deliver = (): void => {
          if (copy.type === 'closed') exited()
          else onMessage(copy)
        }
        scheduler.post(process, `${name} says ${copy.type}`, deliver, { lane: `from ${name}` })
      },
      defer: (task) => {
        scheduler.post(scope, `${name} turns`, task)
      },
    })
    const send = (message: ToWorker): void => {
      const copy = structuredClone(message)
      scheduler.post(scope, `${name} hears ${copy.type}`, () => runtime.receive(copy), { lane: `to ${name}` })
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

  private hub(worker: number, wake: () => void): ChannelHub {
    const hub = this.pool.hub(worker, wake)
    if (!this.options.barrierOvertakes) return hub
    return { ...hub, writer: (index, channel) => overtaking(hub.writer(index, channel)) }
  }
}

/** Holds each batch back for one message, and lets barriers pass it. */
function overtaking(writer: ChannelWriter): ChannelWriter {
  let held: Batch | null = null
  const release = (): boolean => {
    if (held === null) return true
    if (!writer.writeBatch(held, null, held.length)) return false
    held = null
    return true
  }
  return {
    writeBatch(batch, rows, count) {
      if (!release()) return false
      held = copyBatch(batch, rows, count)
      return true
    },
    writeControl(message: ControlMessage) {
      if (message.kind !== 'barrier' && !release()) return false
      return writer.writeControl(message)
    },
    settle: () => writer.settle(),
  }
}
