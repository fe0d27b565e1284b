/**
 * Runs one seed: a random job under random failures, one process after the other, until it has ended.
 *
 * Called by the command line (main.ts) and the tests. Everything random comes from the seed, so a seed
 * is a complete description of a run, and the same seed gives the same trace hash.
 */
import { CHECKPOINT_POLICY_DEFAULT } from '../../checkpoint/checkpoint-policy.ts'
import { MillraceError, messageOf } from '../../core/errors.ts'
import type { JobOptions } from '../../runtime/launcher-types.ts'
import type { JobEvent } from '../../runtime/status.ts'
import { SeededRandom } from './seeded-random.ts'
import { SimDisk } from './sim-disk.ts'
import { SimExternal } from './sim-external.ts'
import { type Fault, planFaults } from './sim-faults.ts'
import { buildGraph, randomShape, type SimJobShape, type SimJobWorld } from './sim-job.ts'
import { SimOracle, type Violation } from './sim-oracle.ts'
import { SimProcess } from './sim-process.ts'
import { Scope, SIM_START_MS, SimScheduler } from './sim-scheduler.ts'

/** Bugs that the simulator must find, planted around the engine. */
export type PlantedBug =
  | 'sink-ignores-marker'
  | 'sync-does-nothing'
  | 'offsets-late'
  | 'barrier-overtakes'
  | 'restore-skips-file'
  | 'outbox-removed-early'

export const PLANTED_BUGS: readonly PlantedBug[] = [
  'sink-ignores-marker',
  'sync-does-nothing',
  'offsets-late',
  'barrier-overtakes',
  'restore-skips-file',
  'outbox-removed-early',
]

export interface SimOptions {
  readonly plant?: PlantedBug
  /** Called with each step, for a trace. */
  readonly onStep?: (label: string, timeMs: number) => void
}

export interface SimResult {
  readonly seed: number
  readonly violation: Violation | null
  readonly traceHash: string
  readonly steps: number
  /** Simulated milliseconds. */
  readonly simulatedMs: number
  readonly processes: number
  readonly checkpoints: number
  readonly restarts: number
}

const ROOT = '/sim'
const DIRECTORY = `${ROOT}/job`
/** After the last fault a job has to end within these. */
const STEPS_MAX = 12_000
const SIMULATED_MS_MAX = 60_000

/** Failures that injected faults explain; anything else that the engine reports is a violation. */
const EXPLAINED = /simulated, |planned failure|: lost$|^lost$|transaction was refused|reply to the transaction/
/** Ends of a job that no fault of the simulation excuses. */
const NEVER = new Set([
  'JOB_TAKEN_OVER',
  'SINK_AHEAD',
  'SINK_BEHIND',
  'SINK_MISSING',
  'SINK_FENCED',
  'CHECKPOINT_NOT_FOUND',
  'INVARIANT_VIOLATED',
])

export function runSeed(seed: number, options: SimOptions = {}): Promise<SimResult> {
  return new Simulation(seed, options).run()
}

class Simulation {
  private readonly seed: number
  private readonly options: SimOptions
  private readonly random: SeededRandom
  private readonly scheduler: SimScheduler
  private readonly disk: SimDisk
  private readonly external: SimExternal
  private readonly shape: SimJobShape
  private readonly oracle: SimOracle
  private readonly faults: Fault[]
  private readonly pollFailure = { armed: false }
  private process: SimProcess
  private scope: Scope
  private processes = 0
  private checkpoints = 0
  private restarts = 0
  private stopRequested = false
  private errorsUntilStep = 0
  private faultsEnded = false
  private endedAtStep = 0
  private endedAtMs = 0

  constructor(seed: number, options: SimOptions) {
    this.seed = seed
    this.options = options
    const root = new SeededRandom(seed)
    this.scheduler = new SimScheduler(root.fork())
    this.scheduler.onStep = options.onStep ?? null
    const { plant } = options
    this.disk = new SimDisk({
      scheduler: this.scheduler,
      random: root.fork(),
      root: ROOT,
      latencyMsMax: root.pick([0.2, 1, 4]),
      syncDoesNothing: plant === 'sync-does-nothing',
    })
    this.disk.makeDirectoryNow(DIRECTORY)
    this.disk.settleNow()
    this.external = new SimExternal(this.scheduler, root.fork(), { ignoresMarker: plant === 'sink-ignores-marker' })
    this.external.errorRate = root.pick([0, 0.1, 0.3])
    this.shape = randomShape(root.fork())
    this.faults = planFaults(root.fork())
    this.random = root.fork()
    this.oracle = new SimOracle(this.disk, DIRECTORY, this.shape, this.external)
    this.scope = new Scope('p0', null)
    this.process = this.startProcess(this.shape.parallelism, this.shape.workers)
  }

  async run(): Promise<SimResult> {
    const onRejection = (reason: unknown): void => this.oracle.fail('I10', `unhandled rejection: ${messageOf(reason)}`)
    process.on('unhandledRejection', onRejection)
    try {
      for (;;) {
        this.injectFaults()
        const moved = await this.scheduler.step()
        if (this.oracle.violation !== null) break
        if (this.process.state !== 'running') {
          if (this.afterProcess()) break
        } else if (!moved) {
          this.oracle.fail('I12', `nothing is left to do, but ${this.describe()}`)
        }
        this.checkProgress()
        if (this.oracle.violation !== null) break
      }
    } catch (error) {
      this.oracle.fail('I10', `uncaught: ${error instanceof Error ? error.stack : String(error)}`)
    } finally {
      process.off('unhandledRejection', onRejection)
      this.scope.kill()
    }
    return {
      seed: this.seed,
      violation: this.oracle.violation,
      traceHash: this.scheduler.traceHash,
      steps: this.scheduler.steps,
      simulatedMs: this.scheduler.nowMs - SIM_START_MS,
      processes: this.processes,
      checkpoints: this.checkpoints,
      restarts: this.restarts,
    }
  }

  // ---- processes ----

  private startProcess(parallelism: number, workers: number): SimProcess {
    const { scheduler, disk, random, shape, options } = this
    const label = `p${this.processes}`
    const scope = new Scope(label, null)
    this.scope = scope
    const view = disk.view(scope, scope)
    const world: SimJobWorld = {
      shape,
      external: this.external,
      random: random.fork(),
      scope,
      pollFailure: this.pollFailure,
      offsetsLateRows: options.plant === 'offsets-late' ? 1 : 0,
      beforeCommit:
        options.plant === 'outbox-removed-early'
          ? async (segments) => {
              for (const { file } of segments) await view.remove(`${DIRECTORY}/${file}`)
            }
          : null,
    }
    const started = new SimProcess({
      label,
      scheduler,
      disk,
      random: random.fork(),
      scope,
      jobOptions: this.jobOptions(parallelism, workers),
      directory: DIRECTORY,
      channelCapacity: shape.channelCapacity,
      buildGraph: () => buildGraph(world),
      storeFaults: { restoreSkipsNewestFile: options.plant === 'restore-skips-file' },
      barrierOvertakes: options.plant === 'barrier-overtakes',
    })
    scheduler.record(`start ${label} parallelism ${parallelism} workers ${workers}`)
    this.processes++
    this.stopRequested = false
    started.start()
    return started
  }

  private jobOptions(parallelism: number, workers: number): JobOptions {
    return {
      name: 'simulated',
      parallelism,
      workers,
      moduleUrl: null,
      checkpointIntervalMs: this.shape.intervalMs,
      checkpointTimeoutMs: this.shape.timeoutMs,
      checkpointPolicy: CHECKPOINT_POLICY_DEFAULT,
      checkpointDirectory: DIRECTORY,
      stateBackend: 'memory',
      restore: this.processes === 0 ? null : 'latest',
      allowNonRestoredState: false,
      acceptDuplicates: false,
      restart: { kind: 'fixed-delay', attempts: Number.POSITIVE_INFINITY, delayMs: 5 },
      keyGroups: this.shape.keyGroups,
      stateMemoryBytes: 1 << 20,
      config: {},
      onEvent: (event) => this.onEvent(event),
    }
  }

  private onEvent(event: JobEvent): void {
    this.scheduler.record(`event ${event.type}${event.type === 'exception' ? ` ${event.message}` : ''}`)
    if (event.type === 'checkpoint') this.checkpoints++
    if (event.type === 'restart') this.restarts++
    if (event.type === 'exception' && !EXPLAINED.test(event.message)) {
      this.oracle.fail('I10', `unexplained failure in ${event.where}: ${event.message} ${event.stack ?? ''}`)
    }
  }

  private nextProcess(): void {
    this.process = this.startProcess(this.random.between(1, 4), this.random.between(1, 3))
  }

  /** A process has ended; true when the job is over. */
  private afterProcess(): boolean {
    const { state, error } = this.process
    this.scope.kill()
    if (state === 'failed') {
      const code = error instanceof MillraceError ? error.code : ''
      if (NEVER.has(code) || !EXPLAINED.test(messageOf(error))) {
        this.oracle.fail('I12', `the job died: ${code} ${messageOf(error)}`)
        return true
      }
      this.nextProcess()
      return false
    }
    if (this.stopRequested) {
      this.oracle.checkNothingPending()
      this.nextProcess()
      return this.oracle.violation !== null
    }
    this.oracle.checkResults()
    return true
  }

  // ---- faults ----

  private injectFaults(): void {
    const { steps } = this.scheduler
    if (steps >= this.errorsUntilStep && this.disk.errorRate + this.disk.slowness !== 1) {
      this.disk.errorRate = 0
      this.disk.slowness = 1
    }
    while (this.faults.length > 0 && this.faults[0]!.atStep <= steps) this.inject(this.faults.shift()!)
    if (this.faults.length > 0 || steps < this.errorsUntilStep || this.faultsEnded) return
    this.faultsEnded = true
    this.external.errorRate = 0
    this.endedAtStep = steps
    this.endedAtMs = this.scheduler.nowMs
  }

  private inject(fault: Fault): void {
    this.scheduler.record(`fault ${fault.kind}`)
    const { master } = this.process
    switch (fault.kind) {
      case 'crash':
        this.scope.kill()
        this.disk.crash()
        this.pollFailure.armed = false
        this.nextProcess()
        return
      case 'reader-fails':
        this.pollFailure.armed = true
        return
      case 'worker-lost':
        this.process.loseWorker()
        return
      case 'disk-errors':
        this.disk.errorRate = fault.amount
        this.errorsUntilStep = this.scheduler.steps + fault.steps
        return
      case 'disk-stalls':
        this.disk.slowness = fault.amount
        this.errorsUntilStep = this.scheduler.steps + fault.steps
        return
      case 'rescale':
        // Refused unless the job runs; then the fault is simply not there.
        master.rescale(Math.min(fault.amount, this.shape.keyGroups)).catch(() => {})
        return
      case 'savepoint':
        this.requestSavepoint()
        return
      case 'stop':
        this.stopRequested = true
        master.stop().catch(() => {})
    }
  }

  /** Refused, by a throw, unless the job runs. */
  private requestSavepoint(): void {
    try {
      this.process.master.savepoint().catch(() => {})
    } catch (error) {
      if (!(error instanceof MillraceError && error.code === 'JOB_NOT_RUNNING')) throw error
    }
  }

  /** I12: once faults have stopped, the job ends within bounds. */
  private checkProgress(): void {
    if (!this.faultsEnded) return
    const steps = this.scheduler.steps - this.endedAtStep
    const ms = this.scheduler.nowMs - this.endedAtMs
    if (steps > STEPS_MAX || ms > SIMULATED_MS_MAX) {
      this.oracle.fail('I12', `no end ${steps} steps (${Math.round(ms)} ms) after the last fault: ${this.describe()}`)
    }
  }

  private describe(): string {
    const { state, checkpoints, exceptions, restarts } = this.process.master.status()
    const last = checkpoints.at(-1)
    const failure = exceptions.at(-1)?.message ?? 'none'
    return `the job is ${state}, restarts ${restarts}, last checkpoint ${last?.status ?? 'none'} (${last?.failure ?? ''}), last failure ${failure}`
  }
}
