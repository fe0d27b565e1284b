/**
 * Owns one job from start to end: takes it over, deploys it, triggers checkpoints, writes manifests,
 * commits output, restarts after failures, and stops. Runs on the coordinator's thread.
 *
 * What to do is decided by pure code (coordinator.ts, recovery.ts, planner.ts, manifest-builder.ts);
 * this class carries it out, one run (deployment) after the other.
 *
 * Invariants:
 * - One run at a time. Messages of an earlier run's workers change nothing.
 * - A manifest is written only by the newest generation; losing the race for its number ends the job.
 * - After any failure of a run the next one starts from the newest manifest, never from memory.
 *
 * It is longer than other files: every method changes the same few fields (state, goal, run), and they are
 * easier to hold right when they are read together.
 */

import type { CommitQueue } from '../checkpoint/commits.ts'
import { CheckpointCoordinator, type CheckpointKind, type Decision } from '../checkpoint/coordinator.ts'
import { discardCheckpoints, GarbageCollector, sweepLeftovers } from '../checkpoint/gc.ts'
import { layout } from '../checkpoint/layout.ts'
import { type Manifest, manifestName, type PendingCommit } from '../checkpoint/manifest.ts'
import { createManifest, listManifests, readManifest } from '../checkpoint/manifest-store.ts'
import { PendingOutput } from '../checkpoint/pending-output.ts'
import { planRestore, type RestoreBase, type RestorePlan, takeOver } from '../checkpoint/recovery.ts'
import { damagedState } from '../checkpoint/verify.ts'
import type { JobGraph } from '../contract/job-graph.ts'
import { MillraceError, messageOf } from '../core/errors.ts'
import type { Io } from '../core/io.ts'
import { accumulatorResults } from './accumulator-results.ts'
import { planDeployments, splitDiscovery } from './deployment.ts'
import { checkpointParts, type JobCounts, StatusBoard } from './job-status.ts'
import type { JobExecutionResult, JobOptions, RunningJob } from './launcher-types.ts'
import { buildManifest } from './manifest-builder.ts'
import { type ExecutionPlan, planJob, workerOf } from './planner.ts'
import type { FromWorker, ToWorker, WorkerAck } from './protocol.ts'
import { decideRestart, NO_FAILURES } from './restart-policy.ts'
import type { RingMemoryBuffers } from './ring-memory.ts'
import { peekSinks, recoverSinks } from './sink-recovery.ts'
import type { SplitDiscovery } from './split-discovery.ts'
import type { JobState, JobStatus } from './status.ts'
import { AlignmentBoard } from './watermark-alignment.ts'
import { errorOf, failureAt, stackWithCauses, type WorkerFailure } from './worker-failure.ts'

const TICK_MS = 25
/** As often while no checkpoint is under way, wanted or soon due. */
const TICK_QUIET_MS = 100

/** A running worker, wherever it runs. */
export interface WorkerHandle {
  send(message: ToWorker): void
  /** Ends the worker, at the latest after a short grace; resolves when nothing of it runs any more. */
  terminate(): Promise<void>
}

export interface MasterEnvironment {
  readonly io: Io
  /** Starts worker `index`; `onExit` reports an end that nobody asked for. */
  readonly spawn: (
    index: number,
    onMessage: (message: FromWorker) => void,
    onExit: (failure: WorkerFailure) => void,
  ) => WorkerHandle
  /** Shared memory for the channels between workers, or null when they share a thread. */
  readonly createRings: (channels: number, workers: number) => RingMemoryBuffers | null
  /**
   * Gives what is free in the process's heaps back to the system. Called when workers have ended, or each
   * restart would add to the process, and when they have started, which takes far more memory than running.
   */
  readonly releaseMemory?: () => void
  /** Description of the state backend, with its version. */
  readonly stateBackend: string
  readonly jobId: string
  /** Working directory of running attempts, always local; `live` in the checkpoint directory unless given. */
  readonly liveDirectory?: string
}

type Goal = 'run' | 'finish' | 'stop' | 'cancel' | 'rescale'

/** One deployment. */
interface Run {
  readonly number: number
  /** Default subtasks of an operator. */
  readonly parallelism: number
  readonly plan: ExecutionPlan
  readonly restore: RestorePlan
  readonly workers: readonly WorkerHandle[]
  readonly coordinator: CheckpointCoordinator
  readonly commits: CommitQueue
  readonly alignment: AlignmentBoard
  readonly garbage: GarbageCollector
  readonly output: PendingOutput
  /** Sources wait, because too much output does. */
  isHeld: boolean
  readonly ready: Set<number>
  readonly ended: Set<number>
  acks: Map<number, WorkerAck>
  manifest: Manifest
  collecting: boolean
  /** Null until the run is deployed. */
  discovery: SplitDiscovery | null
  over: boolean
  /** Its last checkpoint is committed. */
  finishing: boolean
  /** Writing a manifest or collecting garbage: what the next run must not meet half-way. */
  onDisk: Promise<unknown>
  /** Settles when nothing of the run is left; null while it runs. */
  gone: Promise<void> | null
}

interface Waiter<T> {
  resolve(value: T): void
  reject(error: unknown): void
}

export class JobMaster implements RunningJob {
  readonly id: string
  readonly done: Promise<JobExecutionResult>
  private readonly graph: JobGraph
  private readonly options: JobOptions
  private readonly directory: string
  private readonly liveDirectory: string
  private readonly environment: MasterEnvironment
  private readonly board = new StatusBoard()
  private readonly startedAtMs: number
  /** By the clock that nobody sets: when all workers of the first run were ready. */
  private ranFromMs: number | null = null
  private state: JobState = 'starting'
  private goal: Goal = 'run'
  private parallelism: number
  private run: Run | null = null
  private runs = 0
  private restarts = 0
  private failures = NO_FAILURES
  private cancelTick: (() => void) | null = null
  private cancelRestart: (() => void) | null = null
  private starting: Promise<void> = Promise.resolve()
  private settle!: Waiter<JobExecutionResult>
  private readonly savepointWaiters: Waiter<string>[] = []

  constructor(graph: JobGraph, options: JobOptions, directory: string, environment: MasterEnvironment) {
    this.graph = graph
    this.options = options
    this.directory = directory
    this.liveDirectory = environment.liveDirectory ?? layout.live(directory)
    this.environment = environment
    this.parallelism = options.parallelism
    this.id = environment.jobId
    this.startedAtMs = environment.io.clock.nowMs()
    this.done = new Promise((resolve, reject) => {
      this.settle = { resolve, reject }
    })
    this.done.catch(() => {})
  }

  /** Starts the first run; rejects when the job cannot start at all. */
  async start(): Promise<void> {
    try {
      await this.begin(this.options.restore)
    } catch (error) {
      await this.abandonRun()
      this.end('failed', error)
      throw error
    }
    this.tick()
  }

  /** What waits and what is due goes by the clock that nobody sets; the other one is for display. */
  private monotonicMs(): number {
    return this.environment.io.clock.monotonicMs()
  }

  private get workerCount(): number {
    return Math.max(1, this.options.workers)
  }

  // ---- starting a run ----

  private begin(restore: string | null): Promise<void> {
    const starting = this.startRun(restore)
    this.starting = starting.catch(() => {})
    return starting
  }

  private async startRun(restore: string | null): Promise<void> {
    const { io, stateBackend } = this.environment
    // A rescale may be asked for while this run starts: it is for the next one.
    const { options, graph, directory, parallelism } = this
    const workers = this.workerCount
    const plan = planJob(graph, { parallelism, workers, keyGroups: options.keyGroups })
    const planOf = (manifest: Manifest): RestorePlan => this.planRestore(manifest, plan)
    const recovered = await takeOver(io.disk, {
      directory,
      restore,
      jobName: options.name,
      keyGroups: options.keyGroups,
      workers,
      stateBackend: options.stateBackend,
      nowMs: io.clock.nowMs(),
      owner: this.id,
      isRestart: this.runs > 0,
      refuse: (base) => this.refuse(base, planOf),
    })
    io.failpoint?.('takeover-created')
    for (const { path, reason } of recovered.quarantined) {
      this.exception(
        'recovery',
        new MillraceError('MANIFEST_QUARANTINED', `Set ${path} aside: ${reason.replace(/\.$/, '')}.`),
      )
    }
    const restorePlan = planOf(recovered.manifest)
    const commits = await recoverSinks({
      io,
      graph,
      jobName: options.name,
      directory,
      manifest: recovered.manifest,
      acceptDuplicates: options.acceptDuplicates,
    })
    await sweepLeftovers(io.disk, directory, recovered.manifest, this.liveDirectory)
    io.failpoint?.('leftovers-swept')
    if (this.goal === 'cancel' || this.isOver) {
      await commits.close()
      return
    }
    // With accepted duplicates a marker may be ahead: an epoch that is not above it would not be applied.
    const epoch = commits.markers.reduce((max, { marker }) => Math.max(max, marker), recovered.manifest.epoch)
    const number = ++this.runs
    const run: Run = {
      number,
      parallelism,
      plan,
      restore: restorePlan,
      workers: Array.from({ length: workers }, (_, w) => this.spawn(number, w)),
      coordinator: new CheckpointCoordinator({
        workers,
        intervalMs: options.checkpointIntervalMs,
        timeoutMs: options.checkpointTimeoutMs,
        minPauseMs: options.checkpointPolicy.minPauseMs,
        tolerableFailures: options.checkpointPolicy.tolerableFailures,
        lastAttempt: recovered.manifest.attempt,
        nowMs: this.monotonicMs(),
      }),
      commits,
      alignment: new AlignmentBoard(plan),
      garbage: new GarbageCollector({
        disk: io.disk,
        directory,
        clock: io.clock,
        retained: options.checkpointPolicy.retained,
      }),
      output: new PendingOutput(options.checkpointPolicy.pendingOutputBytesMax),
      isHeld: false,
      ready: new Set(),
      ended: new Set(),
      acks: new Map(),
      manifest: { ...recovered.manifest, epoch },
      collecting: false,
      discovery: null,
      over: false,
      finishing: false,
      onDisk: Promise.resolve(),
      gone: null,
    }
    this.run = run
    this.board.begin(plan)
    await this.deploy(run, recovered.storesDirectory)
    this.emitStarted(recovered.restoredFrom, stateBackend)
  }

  private planRestore(manifest: Manifest, plan: ExecutionPlan): RestorePlan {
    const parallelismOf = new Map(plan.vertices.flatMap((v) => v.nodes.map((node) => [node.id, v.parallelism])))
    return planRestore(manifest, this.graph, (node) => parallelismOf.get(node.id)!, {
      workers: this.workerCount,
      allowNonRestoredState: this.options.allowNonRestoredState,
    })
  }

  /**
   * Throws what keeps this job from going on from `base`. Sinks are asked here only where the start goes back behind a
   * checkpoint: a takeover that is refused afterwards would be what `latest` means from then on.
   */
  private async refuse(base: RestoreBase, planOf: (manifest: Manifest) => unknown): Promise<void> {
    planOf(base.manifest)
    if (!base.isBehind || this.options.acceptDuplicates) return
    const place = { io: this.environment.io, graph: this.graph, jobName: this.options.name, directory: this.directory }
    for await (const { error } of peekSinks(place, base)) {
      if (error === null) continue
      if (!(error instanceof MillraceError) || base.damaged.length === 0) throw error
      const message = `${error.message} Set aside as damaged: ${base.damaged.join(', ')}.`
      throw new MillraceError(error.code, message, {
        cause: error,
        hint: 'Mend a file, give it its .json name back, and start again.',
      })
    }
  }

  private emitStarted(restoredFrom: string | null, stateBackend: string): void {
    if (this.runs > 1) return
    const { name, checkpointDirectory, onEvent } = this.options
    onEvent({ type: 'started', job: name, stateBackend, checkpointDirectory, restoredFrom })
  }

  private spawn(number: number, worker: number): WorkerHandle {
    const current = (): boolean => this.run !== null && this.run.number === number && !this.run.over
    const isFinishing = (): boolean => this.run?.number === number && this.run.finishing
    return this.environment.spawn(
      worker,
      (message) => {
        if (message.type === 'closeFailed') this.closeFailed(message.failure)
        else if (current()) this.receive(this.run!, message)
        // A function that hears of the last checkpoint while its subtask is about to close.
        else if (message.type === 'failed' && isFinishing()) this.closeFailed(message.failure)
      },
      (failure) => {
        if (current()) this.failRun(failure)
      },
    )
  }

  private async deploy(run: Run, storesDirectory: string): Promise<void> {
    const { io, createRings } = this.environment
    const deployments = await planDeployments({
      io,
      graph: this.graph,
      options: this.options,
      job: { id: this.id, name: this.options.name, parameters: this.options.config },
      plan: run.plan,
      parallelism: run.parallelism,
      workers: this.workerCount,
      run: run.number,
      manifest: run.manifest,
      restore: run.restore,
      directory: this.directory,
      storesDirectory,
      liveDirectory: this.liveDirectory,
      createRings,
    })
    if (run.over) return
    run.discovery = splitDiscovery(io, run.plan, deployments[0]!)
    io.failpoint?.('deployment-planned')
    run.workers.forEach((worker, index) => {
      worker.send({ type: 'deploy', deployment: deployments[index]! })
    })
  }

  // ---- messages of workers ----

  private receive(run: Run, message: FromWorker): void {
    switch (message.type) {
      case 'ready':
        run.ready.add(message.worker)
        if (run.ready.size < run.workers.length) return
        for (const worker of run.workers) worker.send({ type: 'start' })
        this.environment.releaseMemory?.()
        this.ranFromMs ??= this.monotonicMs()
        if (this.state !== 'stopping') this.state = 'running'
        this.requestWaiting(run)
        return
      case 'ack':
        if (message.ack.generation !== run.manifest.generation) return
        this.environment.io.failpoint?.('ack-received')
        if (run.coordinator.attempts === message.ack.attempt) run.acks.set(message.ack.worker, message.ack)
        this.act(run, run.coordinator.acked(message.ack.worker, message.ack.attempt))
        return
      case 'declined':
        this.act(run, run.coordinator.declined(message.attempt, message.reason))
        return
      case 'abortDone':
        this.act(run, run.coordinator.abortDone(message.worker, message.attempt, this.monotonicMs()))
        return
      case 'ended':
        run.ended.add(message.worker)
        if (run.ended.size < run.workers.length || this.goal !== 'run') return
        this.goal = 'finish'
        this.request(run, 'final')
        return
      case 'failed':
        this.failRun(message.failure)
        return
      case 'outbox':
        run.output.report(message.worker, message.bytes)
        this.holdSources(run)
        if (message.bytes > 0) this.requestForOutput(run)
        return
      case 'sinkMessage': {
        const node = this.graph.nodes.find((candidate) => candidate.uid === message.sink)
        if (node?.role === 'sink') node.sink.onMessage?.(message.message)
        return
      }
      case 'alignment': {
        const limits = run.alignment.report(message.reports)
        if (limits.length > 0) for (const worker of run.workers) worker.send({ type: 'alignment', limits })
        return
      }
      case 'status':
        this.board.report(message.worker, message.subtasks, message.splits)
        return
      case 'closed':
      case 'closeFailed':
    }
  }

  // ---- checkpoints ----

  private tick(): void {
    if (this.isOver) return
    const run = this.run
    const isQuiet = run !== null && run.coordinator.idleUntilMs - this.monotonicMs() > TICK_QUIET_MS
    const delayMs = isQuiet ? TICK_QUIET_MS : TICK_MS
    this.cancelTick = this.environment.io.timers.schedule(delayMs, () => this.tick())
    if (run === null || run.over || run.collecting || run.ready.size < run.workers.length) return
    this.act(run, run.coordinator.tick(this.monotonicMs()))
    // While sources wait no worker asks any more, and the attempt that was to make room may have failed.
    if (run.isHeld && run.output.isCheckpointDue && run.coordinator.current.phase === 'idle') this.requestForOutput(run)
    if (this.goal === 'run') this.discover(run)
  }

  /** In batch mode all output waits for the end. */
  private requestForOutput(run: Run): void {
    if (this.goal === 'run' && this.options.runtimeMode !== 'batch') this.request(run, 'checkpoint')
  }

  private holdSources(run: Run): void {
    const isHeld = run.output.isFull && this.options.runtimeMode !== 'batch'
    if (isHeld === run.isHeld) return
    run.isHeld = isHeld
    for (const worker of run.workers) worker.send({ type: 'hold', isHeld })
  }

  /** Hands newly found splits to the workers that host their readers. */
  private discover(run: Run): void {
    run.discovery?.tick(
      this.monotonicMs(),
      ({ uid, subtask, splits }) => {
        if (run.over) return
        run.workers[workerOf(subtask, run.workers.length)]!.send({ type: 'splits', uid, subtask, splits })
      },
      (error, node) => {
        if (!run.over) this.failRun({ ...failureOf(error), where: node.name })
      },
    )
  }

  private get isOver(): boolean {
    return this.state === 'finished' || this.state === 'failed' || this.state === 'cancelled'
  }

  /** As soon as possible; while garbage is collected the next tick after it starts the attempt (I13). */
  private request(run: Run, kind: CheckpointKind): void {
    if (run.collecting) run.coordinator.want(kind)
    else this.act(run, run.coordinator.request(kind, this.monotonicMs()))
  }

  /** Asks for what was asked for while the job was starting. */
  private requestWaiting(run: Run): void {
    if (this.goal === 'stop' || this.goal === 'rescale') this.request(run, 'final')
    else if (this.savepointWaiters.length > 0) this.request(run, 'savepoint')
  }

  private act(run: Run, decision: Decision): void {
    switch (decision.do) {
      case 'nothing':
        return
      case 'trigger':
        run.acks = new Map()
        this.board.checkpointStarted(decision.attempt, decision.kind, this.environment.io.clock.nowMs())
        for (const worker of run.workers) {
          worker.send({ type: 'trigger', attempt: decision.attempt, last: decision.kind === 'final' })
        }
        this.environment.io.failpoint?.('attempt-triggered')
        return
      case 'abort':
        for (const worker of run.workers) worker.send({ type: 'abort', attempt: decision.attempt })
        this.environment.io.failpoint?.('attempt-aborted')
        this.checkpointFailed(run, decision.attempt, decision.reason)
        this.endIfTakenOver(run).catch((error) => {
          if (!run.over) this.failRun(failureOf(error))
        })
        return
      case 'report':
        this.checkpointFailed(run, decision.attempt, decision.reason)
        return
      case 'complete':
        this.complete(run, decision.attempt, decision.kind).catch((error) => {
          if (!run.over) this.failRun(failureOf(error))
        })
    }
  }

  private checkpointFailed(run: Run, id: number, reason: string): void {
    this.board.checkpointEnded(id, { status: 'failed', failure: reason })
    this.options.onEvent({ type: 'checkpoint-failed', id, reason })
    if (!run.coordinator.hasFailedTooOften) return
    const { tolerableFailures } = this.options.checkpointPolicy
    const message = `More than ${tolerableFailures} checkpoints in a row failed, the last one because: ${reason}`
    this.failRun(failureOf(new MillraceError('CHECKPOINTS_FAILED', message, { domain: 'external' })))
  }

  /** All acks are in: writes the manifest, the only commit point, then has the sinks apply the output. */
  private async complete(run: Run, attempt: number, kind: CheckpointKind): Promise<void> {
    const { io } = this.environment
    const beganMs = io.clock.monotonicMs()
    // The cut at which a job stops serves those who wait for a savepoint as well.
    const isSavepoint = kind === 'savepoint' || (kind === 'final' && this.savepointWaiters.length > 0)
    const { manifest, commits } = buildManifest({
      last: run.manifest,
      owner: this.id,
      kind: isSavepoint ? 'savepoint' : kind,
      attempt,
      nowMs: io.clock.nowMs(),
      jobName: this.options.name,
      stateBackend: this.options.stateBackend,
      workers: this.workerCount,
      graph: this.graph,
      plan: run.plan,
      operatorIds: run.restore.operatorIds,
      acks: [...run.acks.values()],
      pending: run.commits.pending,
      sinks: run.commits.markers,
    })
    io.failpoint?.('manifest-built')
    let created: boolean
    try {
      const writing = createManifest(io.disk, this.directory, manifest)
      run.onDisk = writing.catch(() => {})
      created = await writing
    } catch (error) {
      if (run.over) return
      // Created, but perhaps not for good (as when only the directory's sync failed): what holds is read by a
      // restart. Going on would find the number taken, by ourselves.
      const path = layout.manifest(this.directory, manifestName(manifest.number))
      if ((await io.disk.size(path)) !== null) throw error
      if (run.over) return
      run.coordinator.completionFailed(attempt, this.monotonicMs())
      this.checkpointFailed(run, attempt, messageOf(error))
      return
    }
    if (run.over) return
    if (!created) throw await this.numberTaken(manifest)
    io.failpoint?.('manifest-created')
    run.manifest = manifest
    run.coordinator.completed(attempt, commits.length > 0, this.monotonicMs())
    for (const worker of run.workers) worker.send({ type: 'completed', attempt })
    this.reportCompleted(run, manifest, io.clock.monotonicMs() - beganMs)
    const applied = Promise.all(commits.map((commit) => this.commit(run, commit)))
    await applied
    if (run.over) return
    if (commits.length > 0) run.coordinator.committed()
    if (isSavepoint) {
      const path = layout.manifest(this.directory, manifestName(manifest.number))
      for (const waiter of this.savepointWaiters.splice(0)) waiter.resolve(path)
    }
    if (kind === 'final') await this.finishRun(run)
    else await this.collect(run)
  }

  private async commit(run: Run, commit: PendingCommit): Promise<void> {
    run.output.named(commit.committables)
    await run.commits.enqueue(commit)
    run.output.applied(commit.committables)
    if (!run.over) this.holdSources(run)
  }

  /**
   * Throws `JOB_TAKEN_OVER` when somebody else has the job. A process that was stopped meanwhile may find its
   * files gone: its checkpoints fail before a manifest, which would tell it, is tried.
   */
  private async endIfTakenOver(run: Run): Promise<void> {
    const known = run.manifest
    const { last } = await listManifests(this.environment.io.disk, this.directory).catch(() => ({ last: 0 }))
    if (run.manifest !== known || run.over || last <= known.number) return
    throw await this.numberTaken({ ...known, number: known.number + 1 })
  }

  /** Somebody created a manifest of this number: another owner, or an earlier try of ours that came through late. */
  private async numberTaken(manifest: Manifest): Promise<MillraceError> {
    const { manifest: found } = await readManifest(this.environment.io.disk, this.directory, manifest.number)
    if (found?.owner === manifest.owner) {
      return new MillraceError('MANIFEST_LATE', `An earlier try created manifest ${manifest.number} after all.`, {
        domain: 'external',
        retryable: true,
      })
    }
    return new MillraceError('JOB_TAKEN_OVER', `Another process took over the job in ${this.directory}.`, {
      domain: 'external',
      hint: 'Only one process may run a job; this one stops.',
    })
  }

  private reportCompleted(run: Run, manifest: Manifest, commitMs: number): void {
    const started = this.board.checkpoints.find((entry) => entry.id === manifest.attempt)
    const durationMs = this.environment.io.clock.nowMs() - (started?.triggeredAtMs ?? manifest.createdAtMs)
    const stateBytes = manifest.stores.reduce((sum, store) => sum + store.files.reduce((s, f) => s + f.size, 0), 0)
    this.board.checkpointEnded(manifest.attempt, {
      status: 'completed',
      epoch: manifest.epoch,
      manifest: manifest.number,
      durationMs,
      ...checkpointParts([...run.acks.values()]),
      commitMs,
      stateBytes,
    })
    this.options.onEvent({ type: 'checkpoint', id: manifest.attempt, epoch: manifest.epoch, durationMs, stateBytes })
  }

  /** Removes what is no longer needed, while no checkpoint is under way. */
  private async collect(run: Run): Promise<void> {
    if (run.collecting || run.coordinator.current.phase !== 'idle') return
    run.collecting = true
    try {
      const collecting = run.garbage.collect()
      run.onDisk = collecting.catch(() => {})
      await collecting
    } catch (error) {
      this.exception('garbage collection', error)
    } finally {
      run.collecting = false
    }
  }

  // ---- the end of a run ----

  /** The final checkpoint is committed. */
  private async finishRun(run: Run): Promise<void> {
    run.finishing = true
    await run.commits.drained()
    // For good: it tells a later version of the job, which may lack a sink, that its output was applied.
    const { disk } = this.environment.io
    await disk.syncDirectory(layout.outbox(this.directory)).catch((error) => this.exception('outbox', error))
    await this.collect(run)
    if (run.over) return
    await this.abandonRun()
    if (this.goal === 'cancel') return
    if (this.goal === 'rescale') {
      this.goal = 'run'
      this.state = 'starting'
      this.rejectSavepoints(new MillraceError('JOB_RESCALED', 'The job was rescaled before its savepoint.', RETRY))
      await this.begin('latest').catch((error) => this.failRun(failureOf(error)))
      return
    }
    this.end('finished', null)
  }

  /** Ends workers and committers of the current run; resolves, for every caller, when nothing of it is left. */
  private abandonRun(): Promise<void> {
    const run = this.run
    if (run === null) return Promise.resolve()
    if (!run.over) this.board.runEnded()
    run.over = true
    run.gone ??= this.closeRun(run)
    return run.gone
  }

  private async closeRun(run: Run): Promise<void> {
    await Promise.allSettled(run.workers.map((worker) => worker.terminate()))
    await run.commits.close().catch(() => {})
    await run.onDisk
    this.environment.releaseMemory?.()
  }

  private rejectSavepoints(error: unknown): void {
    for (const waiter of this.savepointWaiters.splice(0)) waiter.reject(error)
  }

  /** Said, unless the job has failed already: results are complete, but something of a user's may not be. */
  private closeFailed(failure: WorkerFailure): void {
    if (this.isOver || this.state === 'restarting') return
    this.tell(failure)
  }

  private failRun(failure: WorkerFailure): void {
    if (this.isOver || this.state === 'restarting') return
    this.tell(failure)
    const cause = errorOf(failure)
    const { random } = this.environment.io
    const { delayMs, history } = decideRestart(this.options.restart, this.failures, this.monotonicMs(), random.next())
    this.failures = history
    const suspect = STATE_DAMAGE.has(cause.code) ? (this.run?.manifest ?? null) : null
    this.state = 'restarting'
    this.rejectSavepoints(cause)
    this.abandonRun().then(async () => {
      const damage = suspect === null ? null : await this.damageIn(suspect)
      if (!failure.restartable || delayMs === null || damage !== null || this.goal === 'cancel') {
        this.end('failed', damage ?? cause)
        return
      }
      this.restarts++
      this.options.onEvent({ type: 'restart', attempt: this.restarts, cause: failure.message })
      this.cancelRestart = this.environment.io.timers.schedule(delayMs, () => this.restart())
    })
  }

  /** What a store found damaged may be so in the checkpoint itself: then no restart helps, and the file has a name. */
  private async damageIn(manifest: Manifest): Promise<MillraceError | null> {
    // Whatever keeps the files from being read now will show itself again, or be gone, at the restart.
    const damage = await damagedState(this.environment.io.disk, this.directory, manifest).catch(() => null)
    if (damage !== null) this.exception('recovery', damage)
    return damage
  }

  private restart(): void {
    if (this.isOver || this.goal === 'cancel') return
    const stopping = this.goal === 'stop'
    this.goal = stopping ? 'stop' : 'run'
    this.state = stopping ? 'stopping' : 'starting'
    this.begin('latest').catch((error) => this.failRun(failureOf(error)))
  }

  private end(state: JobState, error: unknown): void {
    if (this.isOver) return
    const counts = this.board.counts()
    this.state = state
    this.cancelTick?.()
    this.cancelRestart?.()
    const result = this.result(counts)
    this.options.onEvent({ type: 'finished', state, ...counts, checkpoints: this.board.completed })
    this.rejectSavepoints(new MillraceError('JOB_ENDED', 'The job ended before its savepoint was complete.'))
    this.releaseSources()
    if (error === null) this.settle.resolve(result)
    else this.settle.reject(error)
  }

  private releaseSources(): void {
    for (const node of this.graph.nodes) {
      if (node.role !== 'source') continue
      try {
        node.source.jobEnded?.()
      } catch (error) {
        this.exception(node.name, error)
      }
    }
  }

  private result(counts: JobCounts): JobExecutionResult {
    const durationMs = this.environment.io.clock.nowMs() - this.startedAtMs
    const netRuntimeMs = this.ranFromMs === null ? 0 : this.monotonicMs() - this.ranFromMs
    const { state, restarts } = this
    const { completed: checkpoints, accumulators } = this.board
    return {
      state,
      ...counts,
      checkpoints,
      restarts,
      durationMs,
      netRuntimeMs,
      ...accumulatorResults(accumulators),
    }
  }

  private exception(where: string, error: unknown): void {
    this.tell({ ...failureOf(error), where })
  }

  private tell(failure: WorkerFailure): void {
    const { where, code, message } = failure
    const stack = stackWithCauses(failure)
    this.board.exception({ atMs: this.environment.io.clock.nowMs(), where, code, message, stack })
    this.options.onEvent({ type: 'exception', where, message, stack })
  }

  // ---- what the outside may ask ----

  status(): JobStatus {
    const { options, board } = this
    return {
      id: this.id,
      name: options.name,
      state: this.state,
      startedAtMs: this.startedAtMs,
      restarts: this.restarts,
      stateBackend: this.environment.stateBackend,
      checkpointDirectory: options.checkpointDirectory,
      checkpointIntervalMs: options.checkpointIntervalMs,
      workers: this.workerCount,
      parallelism: this.parallelism,
      vertices: board.vertices,
      edges: board.edges,
      subtasks: board.subtasks,
      splitWatermarks: board.splits,
      alignment: this.run?.alignment.status() ?? [],
      checkpoints: board.checkpoints,
      checkpointsCompleted: board.completed,
      checkpointsFailed: board.failed,
      exceptions: board.exceptions,
      sinks: this.sinkStatus(),
    }
  }

  private sinkStatus(): JobStatus['sinks'] {
    const markers = new Map(this.run?.commits.markers.map(({ id, marker }) => [id, marker]))
    return this.graph.nodes.flatMap((node) =>
      node.role === 'sink'
        ? [
            {
              id: node.uid,
              name: node.name,
              kind: node.sink.kind,
              guarantee: node.sink.guarantee,
              markerEpoch: markers.get(node.uid) ?? null,
            },
          ]
        : [],
    )
  }

  savepoint(options: { readonly stop?: boolean } = {}): Promise<string> {
    this.refuseInBatch('savepoints')
    // Before a restart it waits as while the job starts.
    const run = this.state === 'restarting' && this.goal === 'run' ? null : this.runningOrStarting()
    const stops = options.stop === true
    if (stops) {
      this.goal = 'stop'
      if (this.state !== 'restarting') this.state = 'stopping'
    }
    return new Promise((resolve, reject) => {
      this.savepointWaiters.push({ resolve, reject })
      if (run !== null) this.request(run, stops ? 'final' : 'savepoint')
    })
  }

  async stop(): Promise<void> {
    if (this.isOver) return
    // In the midst of a batch job there is nothing to keep: it would begin again.
    if (this.options.runtimeMode === 'batch' && this.goal === 'run') return this.cancel()
    // A rescale under way has asked for the final checkpoint already: the job ends there instead.
    if (this.goal === 'run' || this.goal === 'rescale') {
      this.goal = 'stop'
      if (this.state === 'running' || this.state === 'starting') {
        this.state = 'stopping'
        this.requestFinal()
      }
    }
    await this.done.catch(() => {})
  }

  private requestFinal(): void {
    const run = this.run
    // While workers are still deploying, the last one to be ready asks again.
    if (run === null || run.over || run.ready.size < run.workers.length) return
    this.request(run, 'final')
  }

  async cancel(): Promise<void> {
    if (this.isOver) return
    this.goal = 'cancel'
    this.state = 'stopping'
    await this.abandonRun()
    // A restart under way stops at its next step; only then nothing of the job runs any more.
    await this.starting
    await this.abandonRun()
    if (this.options.checkpointPolicy.deleteOnCancellation) {
      const discarding = discardCheckpoints(this.environment.io.disk, this.directory, this.id)
      await discarding.catch((error) => this.exception('removing checkpoints', error))
    }
    this.end('cancelled', null)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.cancel()
  }

  async rescale(parallelism: number): Promise<void> {
    this.refuseInBatch('rescaling')
    const run = this.runningOrStarting()
    if (!Number.isInteger(parallelism) || parallelism < 1 || parallelism > this.options.keyGroups) {
      throw new MillraceError('PARALLELISM_INVALID', `Parallelism ${parallelism} is not possible.`, {
        hint: `Choose a whole number from 1 to ${this.options.keyGroups}.`,
      })
    }
    this.goal = 'rescale'
    this.parallelism = parallelism
    if (run !== null) this.request(run, 'final')
  }

  /** Rows that wait to be sorted are in no checkpoint. */
  private refuseInBatch(what: string): void {
    if (this.options.runtimeMode !== 'batch') return
    throw new MillraceError('BATCH_SAVEPOINT', `There is no ${what} of a batch job.`, {
      hint: 'Let it end, or run it in streaming mode.',
    })
  }

  /**
   * The run to ask for a checkpoint. Null while the job starts, when `requestWaiting` will ask, and before a rescale,
   * which asked already. Throws `JOB_NOT_RUNNING`.
   */
  private runningOrStarting(): Run | null {
    if (this.goal === 'rescale' && this.state !== 'restarting') return null
    if (this.goal === 'run') {
      if (this.state === 'starting') return null
      if (this.state === 'running' && this.run !== null) return this.run
    }
    throw new MillraceError(
      'JOB_NOT_RUNNING',
      `The job ${DOES[this.state]}.`,
      this.isOver ? { hint: 'Start it again.' } : { hint: 'Try again once it runs.', retryable: true },
    )
  }
}

/** A state in a sentence; a running job refuses what comes too late for it. */
const DOES: Readonly<Record<JobState, string>> = {
  starting: 'is starting',
  running: 'is at its end',
  restarting: 'is restarting',
  stopping: 'is stopping',
  finished: 'is finished',
  failed: 'has failed',
  cancelled: 'was cancelled',
}

const RETRY = { hint: 'Ask for it again once the job runs.', retryable: true } as const

const failureOf = (error: unknown): WorkerFailure => failureAt('coordinator', error, FINAL_CODES)

/** With these a worker says that a file of its store, which came from the checkpoint or was made since, is damaged. */
const STATE_DAMAGE: ReadonlySet<string> = new Set(['STORE_CORRUPT', 'SNAPSHOT_CORRUPT'])

/** Coordinator errors that a restart cannot mend. */
const FINAL_CODES: ReadonlySet<string> = new Set([
  'JOB_TAKEN_OVER',
  'SINK_AHEAD',
  'SINK_BEHIND',
  'SINK_MISSING',
  'OUTPUT_LOST',
  'STATE_NOT_RESTORED',
  'STATE_FILE_CORRUPT',
  'KEY_GROUPS_CHANGED',
  'STATE_BACKEND_CHANGED',
  'CHECKPOINT_DIRECTORY_NOT_EMPTY',
  'CHECKPOINT_NOT_FOUND',
  'PARALLELISM_TOO_HIGH',
])
