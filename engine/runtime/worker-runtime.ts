/**
 * One worker: hosts its subtasks, turns the loop that runs them, and answers the coordinator.
 *
 * The same class runs in a worker thread, on the calling thread, and, several at once, under the
 * simulator; what differs comes in through `WorkerEnvironment`.
 *
 * Invariants:
 * - All subtasks run on this thread, one after the other, within a turn budget; then the event loop gets
 *   its turn, because sources, sinks and timers live on it.
 * - A worker goes to sleep only after a whole pass without progress made after saying that it sleeps.
 * - After a failure nothing runs any more; the coordinator decides what follows.
 */
import { OutboxMeter } from '../checkpoint/outbox-meter.ts'
import type { CheckpointListener } from '../contract/functions.ts'
import { describeGraph, type JobGraph } from '../contract/job-graph.ts'
import type { WorkerContext } from '../contract/worker-context.ts'
import { MillraceError } from '../core/errors.ts'
import { StringInterner } from '../core/strings.ts'
import type { ChannelHub } from './channel-hub.ts'
import type { HostedSubtask } from './hosted-subtask.ts'
import type { SpillSpace } from './overflow.ts'
import { planChannels, planJob } from './planner.ts'
import type { Deployment, FromWorker, SinkCommittable, ToWorker } from './protocol.ts'
import type { SourceDriver } from './source-driver.ts'
import { openWorkerState, type StateEnvironment, type WorkerState } from './state-restore.ts'
import type { SubtaskStatus } from './status.ts'
import { buildSubtasks } from './subtask-builder.ts'
import { alignmentIntervalMs } from './watermark-alignment.ts'
import { BatchEncoder } from './wire.ts'
import { WorkerCheckpoints } from './worker-checkpoint.ts'
import { failureAt } from './worker-failure.ts'

const TURN_BUDGET_MS = 2
/** Idleness, processing-time timers and watermark intervals are looked at this often. */
const TICK_MS = 20
const STATUS_INTERVAL_MS = 250
/** The same once nothing was done for `QUIET_MS`: a worker that waits costs next to nothing. Timers are on time. */
const TICK_QUIET_MS = 100
const STATUS_INTERVAL_QUIET_MS = 1_000
const QUIET_MS = 1_000

export interface WorkerEnvironment extends StateEnvironment {
  readonly graph: JobGraph
  readonly createHub: (deployment: Deployment, wake: () => void) => ChannelHub
  readonly send: (message: FromWorker) => void
  /** Runs a task after the event loop had its turn. */
  readonly defer: (task: () => void) => void
  /** A cache that workers of one thread may share; its own when left out. */
  readonly interner?: StringInterner
  /** Bytes of batches without room that a queue keeps in memory before it spills; a few MiB when left out. */
  readonly spillBeyondBytes?: number
}

type Phase = 'new' | 'deploying' | 'ready' | 'running' | 'failed' | 'closed'

export class WorkerRuntime {
  private readonly environment: WorkerEnvironment
  private phase: Phase = 'new'
  private hub: ChannelHub | null = null
  private state: WorkerState | null = null
  /** Grows while they are built, so that `close` reaches those of a deployment that failed half-way. */
  private readonly subtasks: HostedSubtask[] = []
  private deploying: Promise<void> = Promise.resolve()
  private checkpoints: WorkerCheckpoints | null = null
  private outboxMeter: OutboxMeter | null = null
  private readonly context: { -readonly [K in keyof WorkerContext]: WorkerContext[K] }
  private turnNowMs = 0
  private ids = 0
  private scheduled = false
  private endedSubtasks = 0
  private cancelTick: (() => void) | null = null
  /** When a turn last did something, by the clock that nobody sets. */
  private progressedMs = 0
  private isQuiet = false
  /** The attempt after whose cut sources rest; 0 for none. */
  private lastAttempt = 0
  private lastStatusMs = 0
  /** How often watermarks of aligned sources are reported; null when there are none. */
  private readonly alignmentMs: number | null
  private lastAlignmentMs = Number.NEGATIVE_INFINITY

  constructor(environment: WorkerEnvironment) {
    this.environment = environment
    this.alignmentMs = alignmentIntervalMs(environment.graph)
    this.context = {
      job: { id: '', name: '', parameters: {} },
      workerIndex: 0,
      io: environment.io,
      interner: environment.interner ?? new StringInterner(),
      nowMs: () => this.turnNowMs,
      uniqueId: (prefix) => `${prefix} ${this.context.workerIndex}.${this.ids++}`,
    }
  }

  /** Handles one message of the coordinator. Never throws: failures are sent back. */
  receive(message: ToWorker): void {
    switch (message.type) {
      case 'deploy':
        this.deploying = this.deploy(message.deployment).catch((error) => this.fail(error, 'deployment'))
        return
      case 'start':
        if (this.phase !== 'ready') return
        this.phase = 'running'
        this.progressedMs = this.environment.io.clock.monotonicMs()
        this.tick()
        this.wake()
        return
      case 'trigger':
        this.checkpoints?.triggered(message.attempt)
        this.lastAttempt = message.last ? message.attempt : 0
        for (const hosted of this.subtasks)
          if (hosted.subtask.source !== null) hosted.subtask.trigger(message.attempt, message.last)
        if (this.subtasks.length === 0) this.checkpoints?.acknowledgeEmpty(message.attempt)
        this.wake()
        return
      case 'abort':
        for (const hosted of this.subtasks) hosted.subtask.abort(message.attempt)
        this.checkpoints?.abort(message.attempt).catch((error) => this.fail(error, 'checkpoint'))
        this.notify('notifyCheckpointAborted', message.attempt)
        this.wake()
        return
      case 'splits':
        this.hostedSource(message.uid, message.subtask)?.addSplits(message.splits)
        this.wake()
        return
      case 'completed':
        this.checkpoints?.completed(message.attempt)
        this.outboxMeter?.completed(message.attempt)
        this.notify('notifyCheckpointComplete', message.attempt)
        return
      case 'alignment':
        for (const { group, watermark } of message.limits) {
          for (const hosted of this.subtasks) hosted.subtask.source?.limitTo(group, watermark)
        }
        this.wake()
        return
      case 'hold':
        for (const hosted of this.subtasks) hosted.subtask.source?.hold(message.isHeld)
        this.wake()
        return
      case 'close':
        this.close().catch(() => {})
    }
  }

  /** Comes between turns: no call of an operator is under way. */
  private notify(how: keyof CheckpointListener, attempt: number): void {
    for (const hosted of this.subtasks) {
      if (this.phase !== 'running') return
      try {
        hosted.notify(how, attempt)
      } catch (error) {
        this.fail(error, hosted.label)
      }
    }
  }

  private hostedSource(uid: string, subtask: number): SourceDriver | null {
    const hosted = this.subtasks.find((candidate) => candidate.hosts(uid, subtask))
    return hosted?.subtask.source ?? null
  }

  private async deploy(deployment: Deployment): Promise<void> {
    this.phase = 'deploying'
    this.context.job = deployment.job
    this.context.workerIndex = deployment.workerIndex
    this.turnNowMs = this.environment.io.clock.nowMs()
    const { graph, io, send } = this.environment
    refuseOtherGraph(deployment.graph, describeGraph(graph))
    const plan = planJob(graph, deployment)
    const liveDirectory = `${deployment.liveDirectory}/g${deployment.generation}-r${deployment.run}-w${deployment.workerIndex}`
    await io.disk.makeDirectory(liveDirectory)
    this.state = await openWorkerState(plan, deployment, liveDirectory, this.environment)
    io.failpoint?.('stores-opened')
    this.hub = this.environment.createHub(deployment, () => this.wake())
    this.outboxMeter = new OutboxMeter(deployment.workers, deployment.pendingOutputBytesMax, (bytes) =>
      send({ type: 'outbox', worker: deployment.workerIndex, bytes }),
    )
    await buildSubtasks(this.subtasks, {
      plan,
      channels: planChannels(plan),
      deployment,
      hub: this.hub,
      state: this.state,
      worker: this.context,
      outboxMeter: this.outboxMeter,
      spillSpace: this.spillSpace(liveDirectory),
      wake: () => this.wake(),
      fail: (error, where) => this.fail(error, where),
      send,
      capture: (hosted, attempt, alignmentMs) => this.capture(hosted, attempt, alignmentMs),
      ended: () => this.subtaskEnded(),
    })
    this.checkpoints = new WorkerCheckpoints({
      worker: deployment.workerIndex,
      generation: deployment.generation,
      subtasks: this.subtasks.length,
      io,
      directory: deployment.checkpointDirectory,
      liveDirectory,
      store: this.state.store,
      committed: deployment.stores.flatMap((store) => store.files),
      restored: this.state.restored,
      changes: this.state.changes,
      defer: this.environment.defer,
      send: (message) => this.sendOfCheckpoint(message),
      fail: (error) => this.fail(error, 'sealing output'),
    })
    if (this.phase !== 'deploying') return
    this.phase = 'ready'
    io.failpoint?.('worker-ready')
    send({ type: 'ready', worker: deployment.workerIndex })
    if (this.subtasks.length === 0) send({ type: 'ended', worker: deployment.workerIndex })
  }

  private spillSpace(directory: string): SpillSpace | null {
    const { io, spillBeyondBytes } = this.environment
    const { openSpill } = io
    if (openSpill === undefined) return null
    const space = { open: () => openSpill(directory), encoder: new BatchEncoder() }
    return spillBeyondBytes === undefined ? space : { ...space, memoryBytesMax: spillBeyondBytes }
  }

  private capture(hosted: HostedSubtask, attempt: number, alignmentMs: number): void {
    const sealing: Promise<SinkCommittable | null>[] = []
    this.environment.io.failpoint?.(hosted.subtask.source === null ? 'subtask-cut' : 'source-cut')
    const { clock } = this.environment.io
    const before = clock.monotonicMs()
    const capture = hosted.capture(attempt, alignmentMs, this.state?.changes?.builder ?? null, sealing)
    this.outboxMeter?.cut(attempt)
    const syncMs = clock.monotonicMs() - before
    this.checkpoints!.add(attempt, { ...capture, syncMs }, hosted.keyed, sealing)
  }

  private subtaskEnded(): void {
    this.endedSubtasks++
    if (this.endedSubtasks !== this.subtasks.length) return
    this.sendStatus()
    this.environment.send({ type: 'ended', worker: this.context.workerIndex })
  }

  /**
   * Sinks may work on what they took until the last cut is durable: what they count by then is in the result, and so are
   * the records that came since the last status before the job is stopped.
   */
  private sendOfCheckpoint(message: FromWorker): void {
    if (message.type === 'ack') {
      if (this.endedSubtasks === this.subtasks.length) this.sendStatus(null)
      else if (message.ack.attempt === this.lastAttempt) this.sendStatus()
    }
    this.environment.send(message)
  }

  /** Makes sure that a turn comes. */
  private wake(): void {
    if (this.scheduled || this.phase !== 'running') return
    this.scheduled = true
    this.environment.defer(() => this.turn())
  }

  private turn(): void {
    this.scheduled = false
    if (this.phase !== 'running') return
    this.hub!.awake()
    const room = this.checkpoints?.room() ?? null
    if (room !== null) {
      room.then(() => this.wake())
      return
    }
    if (this.pass()) {
      this.wake()
      return
    }
    const seen = this.hub!.fallAsleep()
    if (this.pass()) this.wake()
    else this.hub!.sleep(seen)
  }

  /** Runs every subtask for its share of the turn; true when any made progress. */
  private pass(): boolean {
    const clock = this.environment.io.clock
    this.turnNowMs = clock.nowMs()
    const share = TURN_BUDGET_MS / Math.max(1, this.subtasks.length)
    let progressed = false
    let before = clock.monotonicMs()
    for (const hosted of this.subtasks) {
      if (this.phase !== 'running') return false
      try {
        const moved = hosted.run(this.turnNowMs, before, before + share)
        before = clock.monotonicMs()
        hosted.ran(before, moved)
        if (moved) progressed = true
      } catch (error) {
        this.fail(error, hosted.label)
        return false
      }
    }
    this.checkpoints?.sendChanges()
    this.evict()
    if (progressed) this.madeProgress(before)
    return progressed
  }

  private evict(): void {
    try {
      for (const keyed of this.state!.keyed) keyed.maybeEvict()
    } catch (error) {
      this.fail(error, 'state')
    }
  }

  private tick(): void {
    if (this.phase !== 'running') return
    const now = this.environment.io.clock.monotonicMs()
    this.isQuiet = now - this.progressedMs >= QUIET_MS
    const delayMs = this.isQuiet ? this.quietTickMs() : TICK_MS
    this.cancelTick = this.environment.io.timers.schedule(delayMs, () => this.tick())
    if (now - this.lastStatusMs >= (this.isQuiet ? STATUS_INTERVAL_QUIET_MS : STATUS_INTERVAL_MS)) this.sendStatus()
    if (this.alignmentMs !== null && now - this.lastAlignmentMs >= this.alignmentMs) this.sendAlignment(now)
    this.wake()
  }

  /** Until the next timer is due, at most; timers are set by turns that did something. */
  private quietTickMs(): number {
    let dueAtMs = Number.POSITIVE_INFINITY
    for (const { subtask } of this.subtasks) dueAtMs = Math.min(dueAtMs, subtask.dueAtMs)
    return Math.max(1, Math.min(TICK_QUIET_MS, dueAtMs - this.environment.io.clock.nowMs()))
  }

  private madeProgress(nowMs: number): void {
    this.progressedMs = nowMs
    if (!this.isQuiet) return
    this.isQuiet = false
    this.cancelTick?.()
    this.cancelTick = this.environment.io.timers.schedule(TICK_MS, () => this.tick())
  }

  private sendAlignment(nowMs: number): void {
    this.lastAlignmentMs = nowMs
    const reports = this.subtasks.flatMap((hosted) => hosted.alignmentReport())
    if (reports.length === 0) return
    this.environment.send({ type: 'alignment', worker: this.context.workerIndex, reports })
  }

  private sendStatus(now: number | null = this.environment.io.clock.monotonicMs()): void {
    if (now !== null) this.lastStatusMs = now
    const subtasks: SubtaskStatus[] = this.subtasks.map((hosted) => hosted.status(now))
    const splits = this.subtasks.flatMap((hosted) => hosted.splitWatermarks())
    this.environment.send({ type: 'status', worker: this.context.workerIndex, subtasks, splits })
  }

  private fail(error: unknown, where: string): void {
    if (this.phase === 'failed' || this.phase === 'closed') return
    this.phase = 'failed'
    this.environment.send({
      type: 'failed',
      worker: this.context.workerIndex,
      failure: failureAt(where, error, NOT_RESTARTABLE),
    })
  }

  private async closeSubtask(hosted: HostedSubtask): Promise<void> {
    for (const error of await hosted.close()) {
      const failure = failureAt(`close of ${hosted.label}`, error, NOT_RESTARTABLE)
      this.environment.send({ type: 'closeFailed', worker: this.context.workerIndex, failure })
    }
  }

  private async close(): Promise<void> {
    if (this.phase === 'closed') return
    this.phase = 'closed'
    this.cancelTick?.()
    // What a deployment under way opens must be closed too.
    await this.deploying
    this.hub?.close()
    // Every part is closed even when another one fails to.
    await Promise.allSettled(this.subtasks.map((hosted) => this.closeSubtask(hosted)))
    await this.checkpoints?.abort(Number.MAX_SAFE_INTEGER).catch(() => {})
    this.state?.store?.close()
    this.environment.send({ type: 'closed', worker: this.context.workerIndex })
  }
}

/** Errors that come back however often the job restarts. */
const NOT_RESTARTABLE: ReadonlySet<string> = new Set([
  'GRAPH_DIFFERS',
  'STATE_INCOMPATIBLE',
  'STATE_PRIVATE_FIELDS',
  'STATE_FILE_CORRUPT',
  'SNAPSHOT_CORRUPT',
  'STATE_MIGRATION_FAILED',
  'ROCKSDB_UNAVAILABLE',
  'SCHEMA_INVALID',
  'FIELD_UNKNOWN',
])

function refuseOtherGraph(expected: readonly string[], actual: readonly string[]): void {
  for (let i = 0; i < Math.max(expected.length, actual.length); i++) {
    if (expected[i] === actual[i]) continue
    throw new MillraceError(
      'GRAPH_DIFFERS',
      `The job module built another graph in this worker. Coordinator: ${expected[i] ?? 'nothing'}. Worker: ${actual[i] ?? 'nothing'}.`,
      { hint: 'Build the same graph in every thread: no random numbers, clocks or thread-dependent branches.' },
    )
  }
}
