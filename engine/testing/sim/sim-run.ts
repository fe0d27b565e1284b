/**
 * Runs one seed: a random job under random failures, one process after the other (now and then two at
 * once), until it has ended.
 *
 * Called by the command lines (main.ts, mutants.ts) and the tests. Everything random comes from the seed,
 * so a seed is a complete description of a run, and the same seed gives the same trace hash.
 *
 * It is a little longer than other files: the processes of a run, the faults that hit them and what each may
 * end with belong to one story, and change the same few fields.
 */
import { CHECKPOINT_POLICY_DEFAULT } from '../../checkpoint/checkpoint-policy.ts'
import { layout } from '../../checkpoint/layout.ts'
import { decodeManifest, type Manifest, manifestName } from '../../checkpoint/manifest.ts'
import { segmentsOf } from '../../checkpoint/outbox.ts'
import { messageOf } from '../../core/errors.ts'
import { StringInterner } from '../../core/strings.ts'
import type { JobOptions } from '../../runtime/launcher-types.ts'
import type { JobEvent } from '../../runtime/status.ts'
import { SeededRandom } from './seeded-random.ts'
import { SimDisk } from './sim-disk.ts'
import type { Draw } from './sim-draws.ts'
import { errorCode, explained, isLostRace, isRotRefused, mayBeRefused } from './sim-errors.ts'
import { SimExternal } from './sim-external.ts'
import { type Fault, planFaults } from './sim-faults.ts'
import { SimFiles } from './sim-files.ts'
import { clockMayGoBack, randomShape, type SimShape } from './sim-input.ts'
import { SimInvariants, type Violation } from './sim-invariants.ts'
import { buildGraph, type SimJobWorld } from './sim-job.ts'
import { BUCKET, SimObjects } from './sim-object-store.ts'
import type { Plant } from './sim-plant.ts'
import { SimProcess } from './sim-process.ts'
import { checkDeadLetters } from './sim-results.ts'
import { Scope, SIM_START_MS, SimScheduler } from './sim-scheduler.ts'
import { SimDrift } from './sim-source.ts'
import { SimVersions } from './sim-versions.ts'

export interface SimOptions {
  /** Of the parts of the job; the newest unless told. */
  readonly draw?: Draw
  /** A bug to plant. */
  readonly plant?: Plant
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
  /** Batches that went through spill files. */
  readonly spilled: number
  /** Starts that were refused because a file was damaged. */
  readonly refusedDamage: number
  readonly shape: SimShape
}

const ROOT = '/sim'
/** After the last fault a job has to end within these; some that do have taken 18,000 steps. */
const STEPS_MAX = 30_000
const SIMULATED_MS_MAX = 60_000
/** A paused process goes on after this many steps at most. */
const PAUSED_STEPS_MAX = 600

export function runSeed(seed: number, options: SimOptions = {}): Promise<SimResult> {
  return new Simulation(seed, options).run()
}

/** How the next process is started. */
interface NextStart {
  readonly restore: 'latest' | string
  readonly keyGroups: number
  /** The code with which it must be refused; null when it must run. */
  readonly refusal: string | null
}

/** A process that may still do something. */
interface Active {
  readonly process: SimProcess
  readonly start: NextStart
  /** The newest manifest then; a later one shows that the start came through. */
  readonly startedAfter: number
  /** Another process ran beside it: it may lose races. */
  hasRival: boolean
  resumesAtStep: number
  /** It was asked to stop; what happens then. */
  ending: 'none' | 'stop' | 'upgrade' | 'wrong-key-groups'
  savepoint: string | null
}

class Simulation {
  private readonly seed: number
  private readonly plant: Plant
  private readonly random: SeededRandom
  private readonly scheduler: SimScheduler
  private readonly disk: SimDisk
  private readonly objects: SimObjects
  private readonly files: SimFiles
  private readonly external: SimExternal
  private readonly shape: SimShape
  private readonly invariants: SimInvariants
  private readonly faults: Fault[]
  private readonly interner = new StringInterner()
  private readonly pollFailure = { armed: false }
  private readonly versions: SimVersions
  /** Where checkpoints lie, the current one last. */
  private readonly directories: string[] = []
  /** Machines on which processes ran so far; more than one only with remote checkpoints. */
  private machines = 1
  /** State of operators that the program lacks may be dropped. */
  private allowsNonRestored = false
  /** Number of the last manifest before an upgrade in the current directory. */
  private upgradedAfter = 0
  private next: NextStart
  private actives: Active[] = []
  /** Bytes of the manifest that a fault damaged, by its path, while it may be wanted back. */
  private damaged: { readonly path: string; readonly bytes: Buffer } | null = null
  private damagedIsBack = false
  private isOver = false
  /** Something was lost or given up in the middle of work; what was not in a checkpoint came again. */
  private hadFailure = false
  private processes = 0
  private checkpoints = 0
  private restarts = 0
  private refusedDamage = 0
  private errorsUntilStep = 0
  private outageUntilStep = 0
  private readonly externalErrorRate: number
  private faultsEnded = false
  private endedAtStep = 0
  private endedAtMs = 0

  constructor(seed: number, options: SimOptions) {
    this.seed = seed
    this.plant = options.plant ?? {}
    const root = new SeededRandom(seed)
    this.scheduler = new SimScheduler(root.fork())
    this.scheduler.onStep = options.onStep ?? null
    this.disk = new SimDisk({
      scheduler: this.scheduler,
      random: root.fork(),
      root: ROOT,
      latencyMsMax: root.pick([0.2, 1, 4]),
      syncDoesNothing: this.plant.syncDoesNothing ?? false,
    })
    const shape = randomShape(root.fork(), options.draw)
    this.shape = this.plant.shape?.(shape) ?? shape
    this.objects = new SimObjects({
      scheduler: this.scheduler,
      random: root.fork(),
      disk: this.disk,
      latencyMsMax: root.pick([1, 5, 20]),
    })
    this.files = new SimFiles(this.disk, this.objects)
    this.newDirectory()
    this.external = new SimExternal(this.scheduler, root.fork(), this.plant.external)
    this.externalErrorRate = root.pick([0, 0.1, 0.3])
    this.external.errorRate = this.externalErrorRate
    // A quiet split must get its chance: then the job is left alone, save for what does not touch event time.
    const { hasQuietSplit } = this.shape
    const faults = planFaults(root.fork()).filter(
      ({ kind, amount }) =>
        (!hasQuietSplit || kind === 'clock-jump') &&
        (kind !== 'clock-jump' || amount > 0 || clockMayGoBack(this.shape)),
    )
    this.faults = this.plant.faults?.(faults) ?? faults
    this.random = root.fork()
    this.invariants = new SimInvariants(this.files, this.external)
    this.versions = new SimVersions(this.shape, this.random)
    this.next = this.plainStart()
    this.startProcess(this.shape.parallelism, this.shape.workers)
  }

  private get directory(): string {
    return this.directories.at(-1)!
  }

  /** Of the process that was started last. */
  private get liveDirectory(): string {
    return layout.live(this.shape.isRemote ? `${ROOT}/machine${this.machines}` : this.directory)
  }

  private newDirectory(): void {
    const name = `job${this.directories.length + 1}`
    const directory = `${this.shape.isRemote ? BUCKET : ROOT}/${name}`
    this.directories.push(directory)
    if (this.shape.isRemote) return
    this.disk.makeDirectoryNow(directory)
    this.disk.settleNow()
  }

  private plainStart(): NextStart {
    return { restore: 'latest', keyGroups: this.shape.keyGroups, refusal: null }
  }

  private get violation(): Violation | null {
    return this.invariants.violation
  }

  async run(): Promise<SimResult> {
    const onRejection = (reason: unknown): void =>
      this.invariants.fail('I10', `unhandled rejection: ${messageOf(reason)}`)
    process.on('unhandledRejection', onRejection)
    const takeOut = this.plant.patch?.() ?? (() => {})
    try {
      while (this.violation === null && !this.isOver) await this.step()
    } catch (error) {
      this.invariants.fail('I10', `uncaught: ${error instanceof Error ? error.stack : String(error)}`)
    } finally {
      process.off('unhandledRejection', onRejection)
      for (const { process } of this.actives) process.scope.kill()
      takeOut()
    }
    return {
      seed: this.seed,
      violation: this.violation,
      traceHash: this.scheduler.traceHash,
      steps: this.scheduler.steps,
      simulatedMs: this.scheduler.nowMs - SIM_START_MS,
      processes: this.processes,
      checkpoints: this.checkpoints,
      restarts: this.restarts,
      spilled: this.disk.spilled,
      refusedDamage: this.refusedDamage,
      shape: this.shape,
    }
  }

  private async step(): Promise<void> {
    this.injectFaults()
    const moved = await this.scheduler.step()
    if (this.violation !== null) return
    for (const active of this.actives) {
      if (active.process.state !== 'running') this.processEnded(active)
      if (this.isOver || this.violation !== null) return
    }
    if (!moved && !this.resumeOne()) {
      this.invariants.fail('I12', `nothing is left to do, but ${this.describe()}`)
    }
    this.checkI12Progress()
  }

  /** The process that was started last. */
  private get newest(): Active {
    return this.actives.at(-1)!
  }

  // ---- processes ----

  private startProcess(parallelism: number, workers: number): void {
    const { scheduler, disk, random, shape, plant, directory } = this
    const { program } = this.versions
    const label = `p${this.processes}`
    const scope = new Scope(label, null)
    const world: SimJobWorld = {
      shape,
      external: this.external,
      random: random.fork(),
      scope,
      timers: scheduler.timers(scope),
      pollFailure: this.pollFailure,
      quietIsOver: () => !program.branches.includes('windows') || this.external.sink('windows').rows.length > 0,
      mayEnd: () => this.versions.haveAll(this.external),
      given: new Set(),
      drift: new SimDrift(shape, (message) => this.invariants.fail('I9', message)),
    }
    const start = this.next
    this.next = this.plainStart()
    const options = this.jobOptions(start, parallelism, workers)
    const process = new SimProcess({
      label,
      scheduler,
      disk,
      objects: this.objects,
      random: random.fork(),
      scope,
      invariants: this.invariants,
      jobOptions: plant.options?.(options) ?? options,
      directory,
      liveDirectory: this.liveDirectory,
      channelCapacity: shape.channelCapacity,
      rings: shape.rings,
      spillBeyondBytes: shape.spillBeyondBytes,
      cutPieceBytes: shape.cutPieceBytes,
      noticesRotLate: shape.noticesRotLate,
      interner: this.interner,
      buildGraph: () => {
        const graph = buildGraph(world, program)
        return plant.graph?.(graph, world) ?? graph
      },
      plant,
    })
    const hasRival = this.actives.length > 0
    const startedAfter = this.invariants.newest(directory)?.number ?? 0
    this.actives.push({ process, start, startedAfter, hasRival, resumesAtStep: 0, ending: 'none', savepoint: null })
    scheduler.record(`start ${label} parallelism ${parallelism} workers ${workers} in ${directory}`)
    this.processes++
    process.start()
  }

  private jobOptions(start: NextStart, parallelism: number, workers: number): JobOptions {
    const process = this.processes
    return {
      name: 'simulated',
      parallelism,
      workers,
      moduleUrl: null,
      checkpointIntervalMs: this.shape.isBatch ? null : this.shape.intervalMs,
      checkpointTimeoutMs: this.shape.timeoutMs,
      runtimeMode: this.shape.isBatch ? 'batch' : 'streaming',
      checkpointPolicy: {
        ...CHECKPOINT_POLICY_DEFAULT,
        mode: this.shape.isAtLeastOnce ? 'at-least-once' : 'exactly-once',
        pendingOutputBytesMax: this.shape.pendingOutputBytesMax,
      },
      checkpointDirectory: this.directory,
      stateBackend: 'memory',
      restore: process === 0 ? null : start.restore,
      allowNonRestoredState: this.allowsNonRestored,
      acceptDuplicates: false,
      restart: { kind: 'fixed-delay', attempts: Number.POSITIVE_INFINITY, delayMs: 5 },
      keyGroups: start.keyGroups,
      stateMemoryBytes: this.shape.stateMemoryBytes,
      config: {},
      onEvent: (event) => this.onEvent(process, event),
    }
  }

  private onEvent(process: number, event: JobEvent): void {
    this.scheduler.record(`p${process} ${event.type}${event.type === 'exception' ? ` ${event.message}` : ''}`)
    if (event.type === 'checkpoint') this.checkpoints++
    if (event.type === 'restart') {
      this.restarts++
      this.hadFailure = true
    }
    const active = this.actives.find((candidate) => candidate.process.master.id === `p${process}`)
    if (event.type === 'started' && active !== undefined) this.checkRefusal(active)
    if (event.type !== 'exception' || active === undefined) return
    if (active.start.refusal !== null || explained(event.message, active.hasRival)) return
    if (this.damaged !== null && mayBeRefused(null, event.message)) return
    if (this.files.hadRot && isRotRefused(null, event.message)) return
    this.invariants.fail('I10', `unexplained failure in ${event.where}: ${event.message} ${event.stack ?? ''}`)
  }

  private checkRefusal({ start: { refusal } }: Active): void {
    if (refusal !== null) this.invariants.fail('I6', `the job started, but ${refusal} was due`)
  }

  private nextProcess(): void {
    this.versions.reshuffle()
    this.startProcess(this.random.between(1, 4), this.random.between(1, 3))
  }

  private processEnded(active: Active): void {
    active.process.scope.kill()
    this.actives = this.actives.filter((other) => other !== active)
    if (active.process.state === 'failed') this.processFailed(active)
    else if (active.ending === 'none') this.jobEnded()
    else this.processStopped(active)
  }

  private processFailed(active: Active): void {
    this.hadFailure = true
    const { process, start, hasRival } = active
    const { error, master } = process
    const code = errorCode(error)
    const message = messageOf(error)
    // Without a rival too: what a process sent to the object store before it died may arrive now.
    const mayLose = hasRival || (this.shape.isRemote && isLostRace(code))
    if (isLostRace(code) && master.id === this.invariants.newest(this.directory)?.owner) {
      this.invariants.fail('I11', `the process that has the job gave it up: ${code} ${message}`)
    } else if (start.refusal !== null && code !== start.refusal && !explained(message, mayLose)) {
      this.invariants.fail('I6', `the job was refused with ${code} ${message}, not with ${start.refusal}`)
    } else if (this.damaged !== null && mayBeRefused(code, message)) {
      // Whoever repairs sees to it first that no other process is still setting the damaged one aside.
      if (this.actives.length === 0) this.repair()
    } else if (this.files.hadRot && isRotRefused(code, message)) {
      this.restoreFiles()
    } else if (start.refusal === null && !explained(message, mayLose)) {
      this.invariants.fail('I12', `the job died: ${code} ${message}`)
    }
    if (this.violation !== null) return
    if (start.refusal !== null && code === start.refusal) this.next = this.afterRefusal(start)
    else if (this.damagedIsBack) this.damagedIsBack = false
    else this.next = this.again(active)
    if (this.actives.length === 0) this.nextProcess()
  }

  private afterRefusal(start: NextStart): NextStart {
    if (start.refusal === 'STATE_NOT_RESTORED') this.allowsNonRestored = true
    return { ...this.plainStart(), restore: start.restore }
  }

  /** What the start after this process's end has to ask for: the same, unless it came through. */
  private again({ start, startedAfter }: Active): NextStart {
    const cameThrough = (this.invariants.newest(this.directory)?.number ?? 0) > startedAfter
    return start.refusal === null && cameThrough ? this.plainStart() : start
  }

  private processStopped({ ending, savepoint, hasRival }: Active): void {
    // A rival that took over in between has its own idea of what is pending.
    if (!hasRival) this.invariants.checkI5NothingPending()
    // To stop a batch job before its only checkpoint is to give it up: it begins again.
    if (this.shape.isBatch && !this.invariants.hasCheckpointAfter(this.directory, 0)) this.hadFailure = true
    if (this.actives.length > 0) return
    const last = this.invariants.newest(this.directory)
    const isLast = savepoint !== null && this.invariants.manifestAt(savepoint) === last
    if (isLast && this.random.chance(0.6)) this.moveTo(savepoint)
    if (ending === 'upgrade') this.upgrade()
    if (ending === 'wrong-key-groups') {
      this.next = { ...this.next, keyGroups: this.shape.keyGroups + 1, refusal: 'KEY_GROUPS_CHANGED' }
    }
    this.nextProcess()
  }

  /** Goes on in a new directory, from a savepoint in the old one. */
  private moveTo(savepoint: string): void {
    this.newDirectory()
    this.invariants.movesFrom(savepoint)
    this.next = { ...this.next, restore: savepoint }
  }

  private upgrade(): void {
    const newest = this.invariants.newest(this.directory)
    this.upgradedAfter = newest?.number ?? 0
    const effect = this.versions.upgrade(newest ?? this.invariants.manifestAt(this.next.restore))
    if (effect === 'none') return
    this.allowsNonRestored = effect === 'state-kept'
    if (effect === 'state-lost') this.next = { ...this.next, refusal: 'STATE_NOT_RESTORED' }
  }

  /** The input is read to its end and everything is committed. */
  private jobEnded(): void {
    for (const rival of this.actives) rival.process.scope.resume()
    if (this.actives.length > 0 && this.random.chance(0.5)) return
    for (const { process } of this.actives) process.scope.kill()
    this.isOver = true
    this.invariants.checkI5NothingPending()
    // Every attempt but the last may have been lost.
    const lostMax = this.hadFailure ? this.processes - 1 + this.restarts : 0
    this.versions.check(this.external, lostMax, (invariant, message) => this.invariants.fail(invariant, message))
    checkDeadLetters(this.shape, this.files, this.directories, (message) => this.invariants.fail('I5', message))
  }

  // ---- faults ----

  private injectFaults(): void {
    const { steps } = this.scheduler
    if (steps >= this.errorsUntilStep) {
      this.disk.errorRate = 0
      this.objects.errorRate = 0
      this.disk.slowness = 1
    }
    if (steps >= this.outageUntilStep && !this.faultsEnded) this.external.errorRate = this.externalErrorRate
    for (const { process, resumesAtStep } of this.actives) {
      if (resumesAtStep > 0 && steps >= resumesAtStep) process.scope.resume()
    }
    this.plantMeanwhile()
    while (this.faults.length > 0 && this.faults[0]!.atStep <= steps) this.inject(this.faults.shift()!)
    if (this.faults.length > 0 || steps < Math.max(this.errorsUntilStep, this.outageUntilStep)) return
    if (this.faultsEnded || this.actives.some(({ process }) => process.scope.isPaused)) return
    this.faultsEnded = true
    this.external.errorRate = 0
    this.endedAtStep = steps
    this.endedAtMs = this.scheduler.monotonicMs
  }

  private plantMeanwhile(): void {
    const { scope } = this.newest.process
    if (!this.shape.isRemote) this.plant.meanwhile?.(this.disk.view(scope, scope), this.directory)
  }

  /** A paused process goes on when nothing else does. */
  private resumeOne(): boolean {
    const paused = this.actives.find(({ process }) => process.scope.isPaused)
    paused?.process.scope.resume()
    return paused !== undefined
  }

  private inject(fault: Fault): void {
    this.scheduler.record(`fault ${fault.kind}`)
    const { process } = this.newest
    const untilStep = this.scheduler.steps + fault.steps
    switch (fault.kind) {
      case 'crash':
        this.crash()
        this.nextProcess()
        return
      case 'damage':
        this.crash()
        this.damageManifest()
        this.nextProcess()
        return
      case 'rot':
        this.crash()
        this.rotFile()
        this.nextProcess()
        return
      case 'rot-meanwhile':
        if (this.shape.isRemote && this.random.chance(0.5)) this.rotLocalCopy()
        else this.rotFile()
        return
      case 'pause':
        this.pause()
        return
      case 'reader-fails':
        this.pollFailure.armed = true
        return
      case 'worker-lost':
        process.loseWorker()
        return
      case 'disk-errors':
        this.disk.errorRate = fault.amount
        this.objects.errorRate = fault.amount * 3
        this.errorsUntilStep = untilStep
        return
      case 'disk-stalls':
        this.disk.slowness = fault.amount
        this.errorsUntilStep = untilStep
        return
      case 'sink-outage':
        this.external.errorRate = 1
        this.outageUntilStep = untilStep
        return
      case 'store-outage':
        if (!this.shape.isRemote) return
        this.objects.errorRate = 1
        this.errorsUntilStep = untilStep
        return
      case 'clock-jump':
        this.scheduler.jumpWallClock(fault.amount)
        return
      case 'rescale':
        // Refused unless the job runs; then the fault is simply not there.
        process.master.rescale(Math.min(fault.amount, this.shape.keyGroups)).catch(() => {})
        return
      case 'savepoint':
        this.requestSavepoint(false)
        return
      case 'stop-with-savepoint':
        if (this.actives.length === 1) this.requestSavepoint(true)
        return
      default:
        if (this.actives.length > 1) return
        this.newest.ending = fault.kind
        process.master.stop().catch(() => {})
    }
  }

  /** Power is cut: every process dies, and the disk forgets what was not synced. */
  private crash(): void {
    this.hadFailure = true
    for (const { process } of this.actives) process.scope.kill()
    const { newest } = this
    this.actives = []
    this.disk.crash()
    this.invariants.crashed()
    this.pollFailure.armed = false
    this.next = this.again(newest)
  }

  /** One bit of the newest manifest flips, or its end is gone. */
  private damageManifest(): void {
    const manifest = this.invariants.newest(this.directory)
    if (manifest === null || this.next.restore !== 'latest' || this.next.refusal !== null) return
    // Never back behind an upgrade: the job that is then restored is another one.
    if (manifest.number <= this.upgradedAfter) return
    const path = layout.manifest(this.directory, manifestName(manifest.number))
    const bytes = Buffer.from(this.files.read(path))
    this.damaged = { path, bytes }
    const at = this.random.between(0, bytes.length - 1)
    const worse = this.random.chance(0.5) ? bytes.subarray(0, at) : Buffer.from(bytes)
    if (worse.length === bytes.length) worse[at]! ^= 1 << this.random.between(0, 7)
    this.files.overwrite(path, worse)
  }

  /** The newest manifest, where its files may rot: nobody is busy with another damage or a refusal. */
  private get mayRot(): Manifest | null {
    if (this.damaged !== null || this.next.restore !== 'latest' || this.next.refusal !== null) return null
    return this.invariants.newest(this.directory)
  }

  /** A bit flips in a file that was fetched from the object store, or that the newest checkpoint brought there. */
  private rotLocalCopy(): void {
    const files = this.mayRot?.stores.flatMap((store) => store.files) ?? []
    const copies = this.files.localCopies(this.liveDirectory, new Set(files.map(({ sha256 }) => sha256)))
    if (copies.length > 0) this.files.rot(this.random.pick(copies), this.random.next())
  }

  /** A bit flips in a file of state or of output that is not applied. */
  private rotFile(): void {
    const manifest = this.mayRot
    if (manifest === null) return
    const state = manifest.stores.flatMap((store) => store.files)
    const paths = [
      ...state.map(({ sha256 }) => layout.sharedFile(this.directory, sha256)),
      ...manifest.pending.flatMap(segmentsOf).map((file) => `${this.directory}/${file}`),
    ].filter((path) => this.files.exists(path) && this.files.read(path).length > 0)
    if (paths.length > 0) this.files.rot(this.random.pick(paths), this.random.next())
  }

  private restoreFiles(): void {
    // Another process that met the damage may have seen to it already.
    if (!this.files.hasRot) return
    this.scheduler.record('files restored')
    this.refusedDamage++
    this.files.restore()
  }

  /** The engine refused to go on from an older manifest: the damaged one is brought back and named. */
  private repair(): void {
    this.refusedDamage++
    const { path, bytes } = this.damaged!
    this.damaged = null
    // Another process went on without it since: there is a newer one to go on from.
    if (this.invariants.hasCheckpointAfter(this.directory, decodeManifest(bytes, path).number)) return
    this.damagedIsBack = true
    this.files.repair(path, bytes)
    this.invariants.repaired(path, bytes)
    this.next = { ...this.plainStart(), restore: path }
  }

  /**
   * The newest process stops in the middle of whatever it does. A local directory is locked as long as it
   * exists; with a remote one another machine takes over.
   */
  private pause(): void {
    if (this.actives.some(({ process }) => process.scope.isPaused)) return
    const active = this.newest
    active.process.scope.pause()
    active.resumesAtStep = this.scheduler.steps + this.random.between(1, PAUSED_STEPS_MAX)
    if (!this.shape.isRemote || active.start.refusal !== null) return
    // Nobody starts the job from its newest checkpoint while it is being started from another one.
    const newest = this.invariants.newest(this.directory)?.number ?? 0
    if (newest === 0 || (active.start.restore !== 'latest' && newest <= active.startedAfter)) return
    active.hasRival = true
    // The other goes on from the newest checkpoint, whatever this one did since.
    this.hadFailure = true
    this.machines++
    this.nextProcess()
  }

  /** Refused, by a throw, unless the job runs. */
  private requestSavepoint(stop: boolean): void {
    const active = this.newest
    try {
      active.process.master.savepoint({ stop }).then(
        (path) => {
          if (stop) active.savepoint = path
        },
        () => {},
      )
      if (stop) active.ending = 'stop'
    } catch (error) {
      const refused = this.shape.isBatch ? 'BATCH_SAVEPOINT' : 'JOB_NOT_RUNNING'
      if (!['JOB_NOT_RUNNING', refused].includes(errorCode(error))) throw error
    }
  }

  /** I12: once faults have stopped, the job ends within bounds. */
  private checkI12Progress(): void {
    if (!this.faultsEnded) return
    const steps = this.scheduler.steps - this.endedAtStep
    const ms = this.scheduler.monotonicMs - this.endedAtMs
    if (steps > STEPS_MAX || ms > SIMULATED_MS_MAX) {
      this.invariants.fail(
        'I12',
        `no end ${steps} steps (${Math.round(ms)} ms) after the last fault: ${this.describe()}`,
      )
    }
  }

  private describe(): string {
    const { state, checkpoints, exceptions, restarts } = this.newest.process.master.status()
    const last = checkpoints.at(-1)
    const failure = exceptions.at(-1)?.message ?? 'none'
    return `the job is ${state}, restarts ${restarts}, last checkpoint ${last?.status ?? 'none'} (${last?.failure ?? ''}), last failure ${failure}`
  }
}
