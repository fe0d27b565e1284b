/**
 * Per-record logic with keyed state and timers: Flink's KeyedProcessFunction.
 *
 * State is user-state.ts, timers are timers.ts; both act for the key of the record or timer that is being
 * processed. Invariants:
 * - Timers fire in order of time. What an event-time timer emits carries its time; what a processing-time timer
 *   emits has no event time.
 */
import type {
  KeyedProcessFunction,
  OnTimerContext,
  OutputTag,
  TimeDomain,
  TimerService,
} from '../engine/contract/functions.ts'
import type { Operator, OperatorContext, Output } from '../engine/contract/operator.ts'
import type { Batch } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { OPAQUE_SCHEMA, type Schema } from '../engine/core/schema.ts'
import { WATERMARK_MIN } from '../engine/core/time.ts'
import { RowCollector, SideCollectors } from './collector.ts'
import { CurrentKey } from './current-key.ts'
import { runtimeContext } from './runtime-context.ts'
import type { QueuedTimer } from './timer-queue.ts'
import { InternalTimerService } from './timers.ts'
import { asyncFunctionError, isPromise, RowSource, userFunctionError } from './user-function.ts'
import { type CodecFactory, UserStates } from './user-state.ts'
import { lowestRestoredWatermark, watermarkToJson } from './watermark-json.ts'

export interface KeyedProcessOptions {
  readonly codecOf: CodecFactory
  /** Of what the function collects; opaque values without one. */
  readonly outputSchema?: Schema
}

/** `create` makes a fresh function for each subtask. */
export function keyedProcessOperator<K, In, Out>(
  create: () => KeyedProcessFunction<K, In, Out>,
  options: KeyedProcessOptions,
): Operator {
  return new KeyedProcessOperator(create as () => AnyFunction, options)
}

type AnyFunction = KeyedProcessFunction<unknown, unknown, unknown>

class KeyedProcessOperator implements Operator {
  private readonly fn: AnyFunction
  private readonly options: KeyedProcessOptions
  private readonly collector: RowCollector
  private readonly sides = new SideCollectors()
  private readonly current = new CurrentKey()
  private states!: UserStates
  private context!: OperatorContext
  private rows!: RowSource
  private timers!: InternalTimerService
  private watermark = WATERMARK_MIN
  private firingAt: number | null = null
  /** Event time of the record, or time of the timer. */
  private timestamp = Number.NaN
  /** Event time of what is emitted. */
  private emitTime = Number.NaN
  private timeDomain: TimeDomain = 'EVENT_TIME'
  private output!: Output
  private emitted = true
  private readonly userContext: OnTimerContext<unknown>
  private readonly collect = (result: unknown): void => {
    if (isPromise(result)) throw asyncFunctionError(this.context.name)
    if (this.collector.add(result, this.emitTime, this.output)) this.emitted = true
  }

  constructor(create: () => AnyFunction, options: KeyedProcessOptions) {
    this.fn = create()
    this.options = options
    this.collector = new RowCollector(options.outputSchema ?? OPAQUE_SCHEMA)
    this.userContext = this.makeUserContext()
  }

  private makeUserContext(): OnTimerContext<unknown> {
    const { current, sides } = this
    const timestampOf = () => this.timestamp
    const domainOf = () => this.timeDomain
    const timerService: TimerService = {
      currentWatermark: () => this.watermark,
      currentProcessingTime: () => this.context.worker.nowMs(),
      registerEventTimeTimer: (timeMs) =>
        this.timers.registerEventTimeTimer(current.require(), current.rows[0], timeMs),
      deleteEventTimeTimer: (timeMs) => {
        this.timers.deleteEventTimeTimer(current.require(), current.rows[0], timeMs)
      },
      registerProcessingTimeTimer: (timeMs) =>
        this.timers.registerProcessingTimeTimer(current.require(), current.rows[0], timeMs),
      deleteProcessingTimeTimer: (timeMs) => {
        this.timers.deleteProcessingTimeTimer(current.require(), current.rows[0], timeMs)
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
        sides.add(tag.id, value, this.emitTime, this.output)
        this.emitted = true
      },
    }
  }

  open(context: OperatorContext): void {
    this.context = context
    this.rows = new RowSource(context)
    this.watermark = lowestRestoredWatermark(context.restored)
    this.timers = new InternalTimerService(context)
    this.states = new UserStates(context, this.current, this.options.codecOf)
    this.guard(() => this.fn.open?.(runtimeContext(context, this.states)))
    this.states.endDeclarations()
  }

  private guard(call: () => unknown): void {
    let returned: unknown
    try {
      returned = call()
    } catch (error) {
      throw userFunctionError(error, this.context.name)
    }
    if (isPromise(returned)) throw asyncFunctionError(this.context.name)
  }

  process(batch: Batch, from: number, output: Output): number {
    const { keys } = batch
    if (keys === null) {
      throw new MillraceError('STATE_NOT_KEYED', 'A keyed process operator got rows without keys.', {
        domain: 'internal',
      })
    }
    if (output.blocked) return from
    this.output = output
    this.states.prefetch(keys, from, batch.length)
    const read = this.rows.readerOf(batch)
    const { fn, current, userContext, collect } = this
    let i = from
    this.emitted = false
    try {
      for (; i < batch.length; i++) {
        if (this.emitted && output.blocked) break
        this.emitted = false
        current.set(keys, i)
        this.timestamp = batch.eventTime[i]
        this.emitTime = this.timestamp
        const returned: unknown = fn.processElement(read(batch, i), userContext, collect)
        if (isPromise(returned)) throw asyncFunctionError(this.context.name)
      }
    } catch (error) {
      throw userFunctionError(error, this.context.name)
    }
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
    const done = this.timers.advanceWatermark(this.firingAt, output, this.fire)
    this.finishCall(output)
    if (done) this.firingAt = null
    return done
  }

  onProcessingTime(nowMs: number, output: Output): boolean {
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
    this.guard(() => this.fn.onTimer?.(timer.timeMs, this.userContext, this.collect))
  }

  snapshot(): JsonValue {
    return { watermark: watermarkToJson(this.watermark) }
  }

  close(): void {
    this.guard(() => this.fn.close?.())
  }
}
