/**
 * One subtask: a chain of operators with its inputs (channels or a source) and its output channels.
 *
 * The worker calls `step` again and again; each call does a bounded piece of work and never waits. What
 * a call does is decided in one order: empty the chain, let go of the consumed input, move time forward,
 * cut a checkpoint, and only then take new input.
 *
 * Invariants:
 * - New input is taken only when the chain is drained, so input memory may be reused by then.
 * - After a barrier on one input nothing more is taken from it until every input has brought it (I8),
 *   unless checkpoints are at-least-once.
 * - While an async operator holds enough rows no batch is taken, but watermarks and barriers are.
 * - A checkpoint is cut between records: state, offsets, outbox and watermark belong to one instant; the
 *   barrier is sent on before any later output.
 * - Behind an assigner of watermarks in its chain the subtask is idle when that has no rows, whatever its inputs say.
 * - A barrier older than the newest one seen, or of an aborted attempt, is ignored.
 */
import { assert } from '../core/assert.ts'
import { BATCH_ROWS_MAX } from '../core/batch.ts'
import { WATERMARK_MAX, WATERMARK_MIN } from '../core/time.ts'
import type { Chain } from './chain.ts'
import type { ChannelReader } from './channel.ts'
import { IdleClock } from './idle-clock.ts'
import type { OutputRouter } from './output-router.ts'
import { Pace, QUEUE_MS } from './pace.ts'
import type { SourceDriver } from './source-driver.ts'
import type { Rest } from './task-times.ts'

/** Watermarks follow records at most this far behind; a message per batch and channel would cost more. */
const WATERMARK_INTERVAL_MS = 5
/** How often the rows that may wait are set anew. */
const PACE_INTERVAL_MS = 5

/** A channel into the subtask, and which input of its first operator it feeds. */
export interface InputChannel {
  readonly reader: ChannelReader
  readonly input: number
}

interface Input extends InputChannel {
  watermark: number
  idle: boolean
  /** Brought the barrier of the alignment under way. */
  aligned: boolean
}

export interface SubtaskHooks {
  /** The cut of `attempt` is to be taken now, synchronously. */
  capture(attempt: number, alignmentMs: number): void
  /** Every record is processed and the final watermark passed on. */
  ended(): void
}

export interface SubtaskOptions {
  readonly chain: Chain
  readonly router: OutputRouter
  readonly source: SourceDriver | null
  readonly inputs: readonly InputChannel[]
  readonly hooks: SubtaskHooks
  /** False for at-least-once checkpoints: an input goes on after its barrier. */
  readonly alignsBarriers: boolean
  /** Batch execution: the only watermark is the last one. */
  readonly isBatch?: boolean
  /** Monotonic milliseconds, for measuring alignment. */
  readonly monotonicMs: () => number
}

export class Subtask {
  recordsIn = 0
  /** Watermark that the chain has seen. */
  watermark = WATERMARK_MIN
  isEnded = false
  /** How the last `run` left it: what it needs to go on. */
  rest: Rest = 'idle'
  private readonly chain: Chain
  private readonly router: OutputRouter
  readonly source: SourceDriver | null
  private readonly inputs: readonly Input[]
  private readonly hooks: SubtaskHooks
  private readonly alignsBarriers: boolean
  private readonly isBatch: boolean
  private readonly monotonicMs: () => number
  private held: ChannelReader | null = null
  private readonly pace = new Pace()
  /** Rows taken and not yet through, and since when they are worked on; NaN while there is nothing to do. */
  private rowsUnderWay = 0
  private workingSinceMs = Number.NaN
  private lastPaceMs = Number.NEGATIVE_INFINITY
  private nextInput = 0
  /** For an assigner in the chain: how long it has had no rows. */
  private readonly assignerClock: IdleClock
  private assignerRecords = 0
  private assignerHeardAtMs = 0
  private sourceEnded = false
  private sentIdle = false
  private wantsIdle = false
  private lastWatermarkMs = Number.NEGATIVE_INFINITY
  /** The source asked for its watermark to go out before the next row. */
  private isPunctuated = false
  private triggered = 0
  /** The attempt after whose cut the source rests; 0 for none. */
  private lastAttempt = 0
  private aligning = 0
  private alignmentStartMs = 0
  /** Newest attempt that was cut or given up; older barriers mean nothing. */
  private settledAttempt = 0

  constructor(options: SubtaskOptions) {
    this.chain = options.chain
    this.router = options.router
    this.source = options.source
    this.hooks = options.hooks
    this.alignsBarriers = options.alignsBarriers
    this.isBatch = options.isBatch === true
    this.monotonicMs = options.monotonicMs
    this.assignerClock = new IdleClock(options.monotonicMs())
    this.inputs = options.inputs.map((channel) => ({
      ...channel,
      watermark: WATERMARK_MIN,
      idle: false,
      aligned: false,
    }))
  }

  /**
   * Asks a source subtask to cut attempt `attempt` before its next record. After a `last` one it holds
   * its input back: what came later would only be processed again.
   */
  trigger(attempt: number, last: boolean): void {
    if (attempt <= this.settledAttempt) return
    this.triggered = attempt
    this.lastAttempt = last ? attempt : 0
  }

  /** Gives an attempt up: its barriers are ignored from now on. */
  abort(attempt: number): void {
    if (this.triggered <= attempt) this.triggered = 0
    if (this.lastAttempt <= attempt) this.lastAttempt = 0
    if (this.aligning !== 0 && this.aligning <= attempt) this.endAlignment()
    this.settledAttempt = Math.max(this.settledAttempt, attempt)
  }

  /** Lets go of rows that wait for room. */
  close(): void {
    this.chain.close()
    this.router.close()
  }

  /** Earliest processing time at which an operator wants to be called. */
  get dueAtMs(): number {
    return this.chain.dueAtMs
  }

  /** Rows into and out of each operator of the chain. */
  get records(): Chain['records'] {
    return this.chain.records
  }

  /** Place in the chain of the operator that keeps the subtask waiting, when `rest` says so. */
  get waitingAt(): number {
    return this.chain.waitingAt
  }

  /** Works for a while; false when there is nothing to do until woken. */
  run(nowMs: number, untilMs: number): boolean {
    if (!this.step(nowMs)) return false
    while (this.monotonicMs() < untilMs) if (!this.step(nowMs)) return true
    this.rest = 'ready'
    return true
  }

  /** One piece of work; false when there was none to do. */
  step(nowMs: number): boolean {
    const progress = this.chain.advance(nowMs)
    this.rest = progress === 'blocked' ? (this.router.blocked ? 'blocked' : 'waiting') : 'idle'
    if (progress === 'blocked') this.cannotListen()
    if (progress !== 'drained') return progress === 'yield'
    if (this.held !== null) {
      this.held.pop()
      this.held = null
    }
    if (this.rowsUnderWay > 0) this.measurePace()
    if (this.reachedEnd()) return true
    this.hearAssigner()
    if (this.wantsIdle !== this.sentIdle) this.setIdle(this.wantsIdle)
    if (this.pushDueWatermark(this.isPunctuated)) return true
    if (this.cutDue()) return true
    if (this.source === null ? this.takeInput() : this.pollSource(this.source)) return true
    if (this.chain.assigner !== null && this.rest === 'idle') {
      this.assignerClock.enter('listening', this.monotonicMs())
      this.hearAssigner()
    }
    return false
  }

  private cannotListen(): void {
    this.source?.blocked()
    if (this.chain.assigner !== null) this.assignerClock.enter('blocked', this.monotonicMs())
  }

  /** Idleness of an assigner in the chain, in place of that of the inputs. */
  private hearAssigner(): void {
    const { assigner } = this.chain
    if (assigner === null) return
    const { recordsIn, operator } = assigner
    if (recordsIn !== this.assignerRecords) {
      this.assignerClock.enter('working', this.monotonicMs())
      this.assignerRecords = recordsIn
      this.assignerHeardAtMs = this.assignerClock.runningMs
    }
    const idleAfterMs = operator.idleAfterMs ?? null
    const isSilent = idleAfterMs !== null && this.assignerClock.runningMs - this.assignerHeardAtMs >= idleAfterMs
    this.setIdle(this.watermark !== WATERMARK_MAX && (isSilent || operator.isIdle === true))
  }

  /** What the inputs say; an assigner behind them knows better. */
  private setInputIdle(idle: boolean): void {
    if (this.chain.assigner === null) this.setIdle(idle)
  }

  private measurePace(): void {
    const nowMs = this.monotonicMs()
    this.pace.add(this.rowsUnderWay, nowMs - this.workingSinceMs)
    this.rowsUnderWay = 0
    this.workingSinceMs = nowMs
    if (nowMs - this.lastPaceMs < PACE_INTERVAL_MS || this.source !== null) return
    this.lastPaceMs = nowMs
    const waiting = this.inputs.reduce((sum, { reader }) => sum + (reader.peek() === null ? 0 : 1), 0)
    const rows = this.pace.rowsIn(QUEUE_MS / Math.max(1, waiting))
    for (const { reader } of this.inputs) reader.allow(rows)
  }

  private begin(rows: number): void {
    this.recordsIn += rows
    this.rowsUnderWay = rows
    if (Number.isNaN(this.workingSinceMs)) this.workingSinceMs = this.monotonicMs()
  }

  /** As many rows as pass soon enough: what they become has to find room before a barrier can be sent. */
  private rowsToPoll(): number {
    const wanted = this.router.rowsWanted
    const { recordsOut } = this.router
    // Of rows that are mostly filtered out, more are needed to make a batch.
    const enough = wanted * Math.max(1, this.recordsIn / Math.max(1, recordsOut))
    return Math.max(1, Math.min(BATCH_ROWS_MAX, Math.ceil(enough), this.pace.rowsIn(QUEUE_MS)))
  }

  private reachedEnd(): boolean {
    if (this.isEnded || this.watermark !== WATERMARK_MAX || this.chain.isPending) return false
    this.isEnded = true
    this.hooks.ended()
    return true
  }

  /** `atOnce`: without waiting for the interval. */
  private pushDueWatermark(atOnce: boolean): boolean {
    this.isPunctuated = false
    const watermark = this.inputWatermark()
    if (watermark <= this.watermark || (this.isBatch && watermark !== WATERMARK_MAX)) return false
    const throttled = this.source !== null && watermark !== WATERMARK_MAX && !atOnce
    if (this.source !== null) {
      const nowMs = this.monotonicMs()
      if (throttled && nowMs - this.lastWatermarkMs < WATERMARK_INTERVAL_MS) return false
      this.lastWatermarkMs = nowMs
    }
    this.watermark = watermark
    this.chain.pushWatermark(watermark)
    return true
  }

  private inputWatermark(): number {
    if (this.source !== null) return this.source.currentWatermark()
    let minimum = WATERMARK_MAX
    let idleMaximum = WATERMARK_MIN
    let idle = false
    for (const input of this.inputs) {
      if (input.idle) {
        idle = true
        if (input.watermark > idleMaximum && input.watermark !== WATERMARK_MAX) idleMaximum = input.watermark
      } else if (input.watermark < minimum) minimum = input.watermark
    }
    // None holds another back when all that have not ended are idle: as in Flink the furthest of them counts. An idle
    // input may still bring records, so this is not the end.
    return idle && minimum === WATERMARK_MAX ? idleMaximum : minimum
  }

  private cutDue(): boolean {
    if (this.source !== null) {
      if (this.triggered === 0 || this.source.isMidBatch) return false
      const attempt = this.triggered
      this.triggered = 0
      this.cut(attempt, 0)
      return true
    }
    if (this.aligning === 0 || !this.inputs.every((input) => input.aligned)) return false
    const attempt = this.aligning
    const alignmentMs = this.monotonicMs() - this.alignmentStartMs
    this.endAlignment()
    this.cut(attempt, alignmentMs)
    return true
  }

  private cut(attempt: number, alignmentMs: number): void {
    assert(attempt > this.settledAttempt, 'attempts are cut once and in order')
    this.settledAttempt = attempt
    this.hooks.capture(attempt, alignmentMs)
    this.router.control({ kind: 'barrier', attempt })
  }

  private endAlignment(): void {
    this.aligning = 0
    for (const input of this.inputs) input.aligned = false
  }

  private pollSource(source: SourceDriver): boolean {
    if (source.isMidBatch) return this.pollRows(source)
    if (this.sourceEnded || (this.lastAttempt !== 0 && this.settledAttempt >= this.lastAttempt)) return false
    if (this.chain.isFull || source.isHeld || source.isAhead) {
      if (this.chain.isFull) this.rest = 'waiting'
      else if (source.isHeld) this.rest = 'blocked'
      this.workingSinceMs = Number.NaN
      this.cannotListen()
      return false
    }
    return this.pollRows(source)
  }

  private pollRows(source: SourceDriver): boolean {
    const polled = source.poll(this.rowsToPoll())
    switch (polled.kind) {
      case 'batch':
        this.begin(polled.batch.length)
        this.setInputIdle(false)
        this.isPunctuated = polled.isPunctuated === true
        this.chain.push(polled.batch, 0)
        return true
      case 'end':
        this.sourceEnded = true
        this.setInputIdle(false)
        return this.pushDueWatermark(true)
      case 'pending':
        this.workingSinceMs = Number.NaN
        if (this.pushDueWatermark(true)) return true
        if (source.updateIdleness()) this.setInputIdle(true)
        return false
    }
  }

  /** Whoever is downstream was told that nothing comes for now. */
  get isTimeIdle(): boolean {
    return this.sentIdle
  }

  private setIdle(idle: boolean): void {
    this.wantsIdle = idle
    // Results of an async operator may still come: without this input's watermark they could be late.
    if (this.sentIdle === idle || (idle && this.chain.isPending)) return
    this.sentIdle = idle
    this.router.control({ kind: idle ? 'idle' : 'active' })
  }

  /** Idle: some input is, and the others are idle or at their end. */
  private updateIdle(): void {
    const inputs = this.inputs
    const resting = inputs.every((input) => input.idle || input.watermark === WATERMARK_MAX)
    this.setInputIdle(resting && inputs.some((input) => input.idle))
  }

  /** Takes the next message from an input that is not held back by alignment, in turn. */
  private takeInput(): boolean {
    const count = this.inputs.length
    const { isFull } = this.chain
    for (let i = 0; i < count; i++) {
      const at = (this.nextInput + i) % count
      const input = this.inputs[at]!
      if (input.aligned && this.alignsBarriers) continue
      const message = input.reader.peek()
      if (message === null) continue
      if (isFull && message.kind === 'batch') {
        this.rest = 'waiting'
        continue
      }
      this.nextInput = (at + 1) % count
      switch (message.kind) {
        case 'batch':
          this.begin(message.batch.length)
          this.held = input.reader
          this.chain.push(message.batch, input.input)
          return true
        case 'watermark':
          assert(message.value >= input.watermark, 'watermarks do not regress on a channel')
          input.watermark = message.value
          if (message.value === WATERMARK_MAX) this.endChannel(input)
          break
        case 'barrier':
          this.takeBarrier(input, message.attempt)
          break
        case 'idle':
          input.idle = true
          this.updateIdle()
          break
        case 'active':
          input.idle = false
          this.updateIdle()
          break
      }
      input.reader.pop()
      return true
    }
    this.workingSinceMs = Number.NaN
    return false
  }

  private endChannel({ input }: Input): void {
    this.updateIdle()
    const isOver = this.inputs.every((other) => other.input !== input || other.watermark === WATERMARK_MAX)
    if (isOver) this.chain.endInput(input)
  }

  private takeBarrier(input: Input, attempt: number): void {
    if (attempt <= this.settledAttempt || attempt < this.aligning) return
    if (attempt > this.aligning) {
      this.endAlignment()
      this.aligning = attempt
      this.alignmentStartMs = this.monotonicMs()
    }
    input.aligned = true
  }
}
