/**
 * Per-record logic with keyed state and timers: Flink's KeyedProcessFunction.
 *
 * States are tables declared in the function's `open`; an entry belongs to the key of the record or timer
 * that is being processed. Invariants:
 * - State and timers are looked up by the current key at each use, so no slot outlives a call.
 * - Timers fire in order of time. What an event-time timer emits carries its time; what a processing-time timer
 *   emits has no event time.
 * - Before a batch is processed its keys are looked up in every state, so cold entries cost one read of the
 *   store a batch and state.
 */
import type {
  AggregatingState,
  AggregatingStateDescriptor,
  KeyedProcessFunction,
  OnTimerContext,
  OutputTag,
  RuntimeContext,
  TimeDomain,
  TimerService,
  ValueState,
  ValueStateDescriptor,
} from '../engine/contract/functions.ts'
import type { StateTable, ValueCodec } from '../engine/contract/keyed-state.ts'
import type { Operator, OperatorContext, Output } from '../engine/contract/operator.ts'
import { BATCH_ROWS_MAX, type Batch, type KeyColumn } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { decodeKey, type Key } from '../engine/core/keys.ts'
import { OPAQUE_SCHEMA, type Schema } from '../engine/core/schema.ts'
import { WATERMARK_MIN } from '../engine/core/time.ts'
import { RowCollector, SideCollectors } from './collector.ts'
import type { QueuedTimer } from './timer-queue.ts'
import { InternalTimerService } from './timers.ts'
import { asyncFunctionError, isPromise, RowSource, userFunctionError } from './user-function.ts'
import { lowestRestoredWatermark, watermarkToJson } from './watermark-json.ts'

/** Makes the codec of a state's values; `what` names the state in errors, `id` is unique in the process. */
export type CodecFactory = (template: (() => unknown) | undefined, options: { what: string; id: string }) => ValueCodec

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

/** The key that user code is called for: row `row` of `keys`. */
class CurrentKey {
  keys: KeyColumn | null = null
  readonly rows = new Int32Array(1)
  private value: Key | undefined = undefined

  set(keys: KeyColumn, row: number): void {
    this.keys = keys
    this.rows[0] = row
    this.value = undefined
  }

  /** Decoded when it is first asked for. */
  get(): Key {
    const { bytes, starts, ends } = this.require()
    const row = this.rows[0]
    this.value ??= decodeKey(bytes, starts[row], ends[row])
    return this.value
  }

  require(): KeyColumn {
    if (this.keys !== null) return this.keys
    throw new MillraceError('STATE_WITHOUT_KEY', 'Keyed state was used outside processElement and onTimer.', {
      hint: 'Use it only there, where a key is current.',
    })
  }

  clear(): void {
    this.keys = null
    this.value = undefined
  }
}

/** One table of one object a key. */
class KeyedValue {
  private readonly table: StateTable
  private readonly current: CurrentKey
  private readonly slots = new Int32Array(1)

  constructor(table: StateTable, current: CurrentKey) {
    this.table = table
    this.current = current
  }

  get(): unknown {
    const segment = this.table.segment(0)
    segment.find(this.current.require(), this.current.rows, 1, this.slots)
    return this.slots[0] < 0 ? undefined : segment.objects[this.slots[0]]
  }

  set(value: unknown): void {
    const segment = this.table.segment(0)
    segment.upsert(this.current.require(), this.current.rows, 1, this.slots)
    segment.objects[this.slots[0]] = value
  }

  clear(): void {
    const segment = this.table.segment(0)
    segment.find(this.current.require(), this.current.rows, 1, this.slots)
    if (this.slots[0] >= 0) segment.remove(this.slots[0])
  }

  prefetch(keys: KeyColumn, rows: Int32Array, count: number, slots: Int32Array): void {
    this.table.segment(0).find(keys, rows, count, slots)
  }
}

class KeyedProcessOperator implements Operator {
  private readonly fn: AnyFunction
  private readonly options: KeyedProcessOptions
  private readonly collector: RowCollector
  private readonly sides = new SideCollectors()
  private readonly current = new CurrentKey()
  private readonly states: KeyedValue[] = []
  private readonly rowsAhead = new Int32Array(BATCH_ROWS_MAX)
  private readonly slotsAhead = new Int32Array(BATCH_ROWS_MAX)
  private context!: OperatorContext
  private rows!: RowSource
  private timers!: InternalTimerService
  private opening = true
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
    this.guard(() => this.fn.open?.(this.runtimeContext()))
    this.opening = false
  }

  private runtimeContext(): RuntimeContext {
    const { context } = this
    return {
      taskName: context.name,
      indexOfThisSubtask: context.subtask,
      numberOfParallelSubtasks: context.parallelism,
      getState: <V>(descriptor: ValueStateDescriptor<V>) => this.valueState(descriptor),
      getAggregatingState: <In, Acc, Out>(descriptor: AggregatingStateDescriptor<In, Acc, Out>) =>
        this.aggregatingState(descriptor),
    }
  }

  private stateOf(name: string, version: number, template: (() => unknown) | undefined): KeyedValue {
    if (!this.opening) {
      throw new MillraceError('STATE_DECLARED_LATE', `State ${JSON.stringify(name)} is declared after open.`, {
        hint: 'Get every state in the open method and keep it in a property.',
      })
    }
    const codec = this.options.codecOf(template, {
      what: `State ${JSON.stringify(name)}`,
      id: this.context.worker.uniqueId(name),
    })
    const table = this.context.keyed.table({ name, version, layout: { kind: 'object', codec } })
    const state = new KeyedValue(table, this.current)
    this.states.push(state)
    return state
  }

  private valueState<V>(descriptor: ValueStateDescriptor<V>): ValueState<V> {
    const state = this.stateOf(descriptor.name, descriptor.version, descriptor.template)
    return {
      value: () => state.get() as V | undefined,
      update: (value) => {
        if (isPromise(value)) throw asyncFunctionError(this.context.name)
        state.set(value)
      },
      clear: () => state.clear(),
    }
  }

  private aggregatingState<In, Acc, Out>(
    descriptor: AggregatingStateDescriptor<In, Acc, Out>,
  ): AggregatingState<In, Out> {
    const { aggregate } = descriptor
    const state = this.stateOf(descriptor.name, descriptor.version, () => aggregate.createAccumulator())
    return {
      add: (value) => {
        const accumulated = (state.get() as Acc | undefined) ?? aggregate.createAccumulator()
        state.set(aggregate.add(value, accumulated))
      },
      get: () => {
        const accumulated = state.get() as Acc | undefined
        return accumulated === undefined ? undefined : aggregate.getResult(accumulated)
      },
      clear: () => state.clear(),
    }
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
    this.prefetch(keys, from, batch.length)
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

  private prefetch(keys: KeyColumn, from: number, to: number): void {
    for (let i = from; i < to; i++) this.rowsAhead[i - from] = i
    for (const state of this.states) state.prefetch(keys, this.rowsAhead, to - from, this.slotsAhead)
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
