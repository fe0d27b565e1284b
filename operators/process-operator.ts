/**
 * The operator of every function that is called for elements: process functions of one input or two, broadcast
 * functions, functions with a life. What differs between them is a `ProcessLogic`.
 *
 * Keyed state is user-state.ts, timers are timers.ts; both act for the key of the record or timer that is being
 * processed, and both are refused on streams without keys. Invariants:
 * - Timers fire in order of time. What an event-time timer emits carries its time; what a processing-time timer
 *   emits has no event time.
 */
import type {
  CheckpointListener,
  FunctionSnapshotContext,
  OnTimerContext,
  OutputTag,
  RichFunction,
  TimeDomain,
  TimerService,
} from '../engine/contract/functions.ts'
import type { BatchInput, Operator, OperatorContext, Output } from '../engine/contract/operator.ts'
import type { Batch } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { OPAQUE_SCHEMA, type Schema } from '../engine/core/schema.ts'
import { WATERMARK_MAX, WATERMARK_MIN } from '../engine/core/time.ts'
import { RowCollector, SideCollectors } from './collector.ts'
import { CurrentKey } from './current-key.ts'
import { FunctionLife } from './function-life.ts'
import { restoredWatermarks, type WatermarkFloors, watermarksToJson } from './restored-watermarks.ts'
import type { QueuedTimer } from './timer-queue.ts'
import { InternalTimerService } from './timers.ts'
import { asyncFunctionError, isPromise, RowSource, userFunctionError } from './user-function.ts'
import type { CodecFactory, UserStates } from './user-state.ts'
import { lowestRestoredWatermark } from './watermark-json.ts'

export interface ProcessOptions {
  readonly codecOf: CodecFactory
  /** Of what the function collects; opaque values without one. */
  readonly outputSchema?: Schema
}

export type Collect = (result: unknown) => void

/** Calls the user's function for one element. */
export type ElementFunction<Context = OnTimerContext<unknown>> = (
  value: unknown,
  context: Context,
  collect: Collect,
) => unknown

export type TimerFunction = (timeMs: number, context: OnTimerContext<unknown>, collect: Collect) => unknown

/** What the operator asks for beyond a function's own state: see broadcast-process.ts. */
export interface ProcessExtension {
  open(context: OperatorContext, states: UserStates, current: CurrentKey): void
  /** Joins the operator's snapshot. */
  snapshot(): Readonly<Record<string, JsonValue>>
}

export interface ProcessLogic {
  /** The user's object, for its life: `open`, `close`, `initializeState`, `snapshotState`. */
  readonly fn: RichFunction
  /** One an input. */
  readonly elements: readonly ElementFunction[]
  /** Whether the rows of each input have keys; state and timers exist when any does. */
  readonly keyed: readonly boolean[]
  readonly onTimer?: TimerFunction | undefined
  /** Records without a result count as filtered. */
  readonly isFilter?: boolean
  readonly extension?: ProcessExtension
  /** Where batch execution is to order the inputs. */
  readonly batchInputs?: readonly BatchInput[]
}

export class ProcessOperator implements Operator {
  readonly batchInputs: readonly BatchInput[] | undefined
  private readonly logic: ProcessLogic
  private readonly options: ProcessOptions
  private readonly collector: RowCollector
  private readonly sides = new SideCollectors()
  private readonly current = new CurrentKey()
  private life!: FunctionLife
  private context!: OperatorContext
  private rows!: readonly RowSource[]
  private timers: InternalTimerService | null = null
  private watermark = WATERMARK_MIN
  /** Key groups that were further when they were restored; null when all are past that. */
  private floors: WatermarkFloors | null = null
  private firingAt: number | null = null
  /** Event time of the record, or time of the timer. */
  private timestamp = Number.NaN
  /** Event time of what is emitted. */
  private emitTime = Number.NaN
  private timeDomain: TimeDomain = 'EVENT_TIME'
  private output!: Output
  private emitted = true
  private collected = 0
  private readonly userContext: OnTimerContext<unknown>
  private readonly collect = (result: unknown): void => {
    if (isPromise(result)) throw asyncFunctionError(this.context.name)
    this.collected++
    if (this.collector.add(result, this.emitTime, this.output)) this.emitted = true
  }

  constructor(logic: ProcessLogic, options: ProcessOptions) {
    this.logic = logic
    this.batchInputs = logic.batchInputs
    this.options = options
    this.collector = new RowCollector(options.outputSchema ?? OPAQUE_SCHEMA)
    this.userContext = this.makeUserContext()
  }

  private makeUserContext(): OnTimerContext<unknown> {
    const { current, sides } = this
    const timestampOf = () => this.timestamp
    const domainOf = () => this.timeDomain
    const timers = (): InternalTimerService => {
      if (this.timers !== null) return this.timers
      throw new MillraceError('TIMERS_NOT_KEYED', `Operator "${this.context.name}" sets timers without keys.`, {
        hint: 'Put a keyBy before it: a timer belongs to a key.',
      })
    }
    const timerService: TimerService = {
      currentWatermark: () => this.floors?.of(current.hash, this.watermark) ?? this.watermark,
      currentProcessingTime: () => this.context.worker.nowMs(),
      registerEventTimeTimer: (timeMs) => timers().registerEventTimeTimer(current.require(), current.rows[0], timeMs),
      deleteEventTimeTimer: (timeMs) => {
        timers().deleteEventTimeTimer(current.require(), current.rows[0], timeMs)
      },
      registerProcessingTimeTimer: (timeMs) =>
        timers().registerProcessingTimeTimer(current.require(), current.rows[0], timeMs),
      deleteProcessingTimeTimer: (timeMs) => {
        timers().deleteProcessingTimeTimer(current.require(), current.rows[0], timeMs)
      },
    }
    return {
      get currentKey() {
        return current.get()
      },
      get timestamp() {
        return timestampOf()
      },
      get timeDomain() {
        return domainOf()
      },
      timerService,
      output: <X>(tag: OutputTag<X>, value: X) => {
        if (isPromise(value)) throw asyncFunctionError(this.context.name)
        sides.add(tag.id, value, this.emitTime, this.output)
        this.emitted = true
      },
    }
  }

  open(context: OperatorContext): void {
    this.context = context
    this.rows = this.logic.keyed.map(() => new RowSource(context))
    if (this.logic.keyed.includes(true)) {
      const { watermark, floors } = restoredWatermarks(context)
      this.watermark = watermark
      this.floors = floors
      this.timers = new InternalTimerService(context)
    } else this.watermark = lowestRestoredWatermark(context.restored)
    this.life = new FunctionLife(this.logic.fn, context, this.current, this.options.codecOf)
    this.logic.extension?.open(context, this.life.states, this.current)
    this.life.open()
  }

  process(batch: Batch, from: number, output: Output, input: number): number {
    const { keys } = batch
    const isKeyed = this.logic.keyed[input]
    if (keys === null && isKeyed) {
      throw new MillraceError('STATE_NOT_KEYED', 'A keyed process operator got rows without keys.', {
        domain: 'internal',
      })
    }
    if (output.blocked) return from
    this.output = output
    if (isKeyed) this.life.states.prefetch(keys!, from, batch.length)
    const read = this.rows[input].readerOf(batch)
    const element = this.logic.elements[input]
    const { current, userContext, collect } = this
    const collectedBefore = this.collected
    let i = from
    this.emitted = false
    try {
      for (; i < batch.length; i++) {
        if (this.emitted && output.blocked) break
        this.emitted = false
        if (isKeyed) current.set(keys!, i)
        this.timestamp = batch.eventTime[i]
        this.emitTime = this.timestamp
        const returned = element(read(batch, i), userContext, collect)
        if (isPromise(returned)) throw asyncFunctionError(this.context.name)
      }
    } catch (error) {
      throw userFunctionError(error, this.context.name)
    }
    if (this.logic.isFilter) this.context.counters.filtered += i - from - (this.collected - collectedBefore)
    this.finishCall(output)
    return i
  }

  private finishCall(output: Output): void {
    this.current.clear()
    this.collector.flush(output)
    this.sides.flush(output)
  }

  advanceWatermark(watermark: number, output: Output): boolean {
    if (this.firingAt === null) {
      if (watermark <= this.watermark) return true
      this.watermark = watermark
      this.firingAt = watermark
    }
    if (output.blocked) return false
    this.output = output
    const done = this.timers === null || this.timers.advanceWatermark(this.firingAt, output, this.fire)
    this.finishCall(output)
    if (!done) return false
    this.firingAt = null
    if (this.floors !== null) this.floors = this.floors.above(this.watermark)
    return true
  }

  endKey(output: Output): boolean {
    if (output.blocked) return false
    this.output = output
    this.watermark = WATERMARK_MAX
    const done = this.timers === null || this.timers.endKey(output, this.fire)
    this.finishCall(output)
    if (done) this.watermark = WATERMARK_MIN
    return done
  }

  onProcessingTime(nowMs: number, output: Output): boolean {
    if (this.timers === null) return true
    this.output = output
    const done = this.timers.onProcessingTime(nowMs, output, this.fire)
    this.finishCall(output)
    return done
  }

  private readonly fire = (timer: QueuedTimer, domain: TimeDomain): void => {
    this.current.set(timer.keys, 0)
    this.timestamp = timer.timeMs
    this.emitTime = domain === 'EVENT_TIME' ? timer.timeMs : Number.NaN
    this.timeDomain = domain
    this.life.guard(() => this.logic.onTimer?.(timer.timeMs, this.userContext, this.collect))
  }

  snapshot(context: FunctionSnapshotContext): JsonValue {
    return {
      ...watermarksToJson(this.watermark, this.floors),
      lists: this.life.snapshot(context),
      ...this.logic.extension?.snapshot(),
    }
  }

  get checkpointListener(): CheckpointListener {
    return this.life.listener
  }

  close(): Promise<void> {
    return this.life?.close()
  }
}
