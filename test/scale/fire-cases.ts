/**
 * The operators that have something to do for every key at one time, each with the naive model that says what it
 * has to give: windows of every operator, timers of both kinds, the clean-up of a join.
 *
 * Used by million-key-fire.test.ts. A model plays the log of few keys at a time, row by row; that of windows is
 * Flink's WindowOperator as operators/window-semantics.testkit.ts has it.
 */
import { EventTimeSessionWindows } from '../../engine/api/index.ts'
import type { KeyedProcessFunction, ValueState } from '../../engine/contract/functions.ts'
import type { ProcessJoinFunction } from '../../engine/contract/joint-functions.ts'
import type { Operator } from '../../engine/contract/operator.ts'
import { intervalJoinOperator } from '../../operators/interval-join.ts'
import { keyedProcessOperator } from '../../operators/process.ts'
import { windowOperator } from '../../operators/window-aggregate.ts'
import { tumblingWindows } from '../../operators/window-assigner.ts'
import { columnarKernel } from '../../operators/window-columnar.ts'
import { listContents } from '../../operators/window-contents.ts'
import { processKernel } from '../../operators/window-kernels.ts'
import {
  cumulativeModel,
  eventTimeModel,
  type ModelAssigner,
  sessionModel,
  slidingModel,
  tumblingModel,
  WindowModel,
} from '../../operators/window-semantics.testkit.ts'
import { cumulativeSlices, type SliceScheme, slidingSlices } from '../../operators/window-slices.ts'
import { isMerging, slicedWindowOperator } from '../../operators/window-slices-operator.ts'
import { triggeredWindowOperator } from '../../operators/window-triggered.ts'
import { stateCodec } from '../../state/schema-codec.ts'
import { objectCodec } from '../../state/value-codec.ts'
import { FIRE_ROWS, type FireRow, type Result } from './fire-rig.ts'

/** Windows, timers and joined rows go by this. */
export const WINDOW_MS = 1_000
export const LATENESS_MS = 500
/** Of sessions: rows of a key within it belong together. */
const GAP_MS = 100
/** When the timers of the clock ring. */
export const RING_MS = 50_000
const JOIN_MS = 60

export interface FireModel {
  /** In order, for each key by itself. */
  readonly fired: Result[]
  late: number
  row(row: FireRow, time: number, input: number): void
  watermark(value: number): void
  clock(nowMs: number): void
}

export interface FireCase {
  readonly name: string
  readonly create: () => Operator
  readonly inputs: number
  readonly resultOf: (row: unknown) => Result
  readonly model: () => FireModel
  /** That fire in one turn. */
  readonly turnKeys: number
  /** What makes all keys fire: the watermark or the clock. */
  readonly firesBy: 'watermark' | 'clock'
  /** Results of one row for a key come in any order. */
  readonly isUnordered?: boolean
  /** Added to all times. */
  readonly offsetMs?: number
  /** Of another one, whose operator it shares: not in the short form. */
  readonly isVariant?: boolean
  /** Nothing is emitted: one call cleans up. */
  readonly isCleanup?: boolean
}

/** Of columns, of objects for each of which a function is called, of timers, of timers of windows. */
const TURN_KEYS = { columns: 2_000, objects: 500, timers: 256, sessions: 100 } as const

/** Depends on the order of the ids. */
const orderOf = (ids: readonly number[]): number => ids.reduce((sum, id) => (sum * 31 + id) % 1_000_000_007, 7)
const sumOf = (ids: readonly number[]): number => ids.reduce((sum, id) => sum + id, 0)

/** Flink's windows under their own trigger. */
class WindowsModel implements FireModel {
  readonly fired: Result[] = []
  private readonly windows: WindowModel
  private readonly summed: (ids: readonly number[]) => number

  constructor(assigner: ModelAssigner, summed: (ids: readonly number[]) => number) {
    this.windows = new WindowModel(assigner, eventTimeModel, null, LATENESS_MS)
    this.summed = summed
  }

  get late(): number {
    return this.windows.late.length
  }

  row(row: FireRow, time: number): void {
    this.windows.row(row, time)
    this.take()
  }

  watermark(value: number): void {
    this.windows.advance(value)
    this.take()
  }

  clock(): void {}

  private take(): void {
    for (const { key, start, ids } of this.windows.fired.splice(0)) {
      this.fired.push({ key, start, rows: ids.length, sum: this.summed(ids) })
    }
  }
}

interface ColumnarRow {
  readonly key: string
  readonly windowStart: number
  readonly rows: bigint
  readonly sum: number
}

const columnar = () =>
  columnarKernel({
    inputSchema: FIRE_ROWS,
    keyKind: 'string',
    aggregates: { rows: { kind: 'count' }, sum: { kind: 'sum', field: 'id' } },
  })

const columnarResult = (row: unknown): Result => {
  const { key, windowStart, rows, sum } = row as ColumnarRow
  return { key, start: windowStart, rows: Number(rows), sum }
}

function slicedCase(name: string, slices: SliceScheme | null, assigner: ModelAssigner, offsetMs = 0): FireCase {
  return {
    name,
    offsetMs,
    isVariant: offsetMs > 0,
    create() {
      const kernel = columnar()
      if (slices === null || !isMerging(kernel)) throw new Error('these windows overlap, and counts merge')
      return slicedWindowOperator({ slices, kernel, allowedLatenessMs: LATENESS_MS })
    },
    inputs: 1,
    resultOf: columnarResult,
    model: () => new WindowsModel(assigner, sumOf),
    turnKeys: TURN_KEYS.columns,
    firesBy: 'watermark',
  }
}

const asResult = (row: unknown): Result => row as Result

const resultOfRows = (key: string, start: number, rows: Iterable<FireRow>): Result => {
  const ids = Array.from(rows, ({ id }) => id)
  return { key, start, rows: ids.length, sum: orderOf(ids) }
}

const WINDOWS: readonly FireCase[] = [
  {
    name: 'tumbling windows of columns',
    create: () =>
      windowOperator({ assigner: tumblingWindows(WINDOW_MS), kernel: columnar(), allowedLatenessMs: LATENESS_MS }),
    inputs: 1,
    resultOf: columnarResult,
    model: () => new WindowsModel(tumblingModel(true, WINDOW_MS, 0), sumOf),
    turnKeys: TURN_KEYS.columns,
    firesBy: 'watermark',
  },
  {
    name: 'tumbling windows that keep their rows',
    create: () =>
      windowOperator({
        assigner: tumblingWindows(WINDOW_MS),
        kernel: processKernel<FireRow, Result, string>(
          ({ key, window }, rows, collect) => collect(resultOfRows(key, window.start, rows)),
          { codec: objectCodec() },
        ),
        allowedLatenessMs: LATENESS_MS,
      }),
    inputs: 1,
    resultOf: asResult,
    model: () => new WindowsModel(tumblingModel(true, WINDOW_MS, 0), orderOf),
    turnKeys: TURN_KEYS.objects,
    firesBy: 'watermark',
  },
  slicedCase(
    'sliding windows of slices',
    slidingSlices(2 * WINDOW_MS, WINDOW_MS),
    slidingModel(true, 2 * WINDOW_MS, WINDOW_MS, 0),
  ),
  slicedCase(
    'cumulative windows of slices',
    cumulativeSlices(2 * WINDOW_MS, WINDOW_MS),
    cumulativeModel(2 * WINDOW_MS, WINDOW_MS),
    // The window that fires is the second of its period, of two slices.
    WINDOW_MS,
  ),
  {
    name: 'sessions, each key with timers',
    create() {
      const assigner = EventTimeSessionWindows.withGap(GAP_MS)
      return triggeredWindowOperator({
        assigner,
        trigger: assigner.getDefaultTrigger(),
        evictor: null,
        kept: { kind: 'elements', contents: listContents(), codec: objectCodec() },
        elementCodec: objectCodec(),
        createFunction: () => ({
          process({ key, window }, rows, collect) {
            collect(resultOfRows(key as string, window.start, rows as Iterable<FireRow>))
          },
        }),
        codecOf: stateCodec,
        allowedLatenessMs: LATENESS_MS,
      })
    },
    inputs: 1,
    resultOf: asResult,
    model: () => new WindowsModel(sessionModel(true, GAP_MS), orderOf),
    turnKeys: TURN_KEYS.sessions,
    firesBy: 'watermark',
  },
]

interface Sum {
  readonly rows: number
  readonly sum: number
}

/** Sums a key's rows until its timer; a row behind that time answers at once. */
class SumUntil implements KeyedProcessFunction<string, FireRow, Result> {
  private readonly byClock: boolean
  private sum!: ValueState<Sum>

  constructor(byClock: boolean) {
    this.byClock = byClock
  }

  open(context: Parameters<NonNullable<KeyedProcessFunction<string, FireRow, Result>['open']>>[0]): void {
    this.sum = context.getState<Sum>({ kind: 'value', name: 'sum', version: 1 })
  }

  processElement: KeyedProcessFunction<string, FireRow, Result>['processElement'] = (row, context, collect) => {
    const { rows, sum } = this.sum.value() ?? { rows: 0, sum: 0 }
    const after = { rows: rows + 1, sum: sum + row.id }
    this.sum.update(after)
    const { timerService } = context
    const dueMs = dueOf(context.timestamp!, this.byClock)
    const isPast = dueMs <= (this.byClock ? timerService.currentProcessingTime() : timerService.currentWatermark())
    if (isPast) collect({ key: row.key, start: -1, ...after })
    else if (this.byClock) timerService.registerProcessingTimeTimer(dueMs)
    else timerService.registerEventTimeTimer(dueMs)
  }

  onTimer: NonNullable<KeyedProcessFunction<string, FireRow, Result>['onTimer']> = (timeMs, context, collect) => {
    const after = this.sum.value()
    if (after !== null && after !== undefined) collect({ key: context.currentKey, start: timeMs, ...after })
    this.sum.clear()
  }
}

const dueOf = (time: number, byClock: boolean): number =>
  byClock ? RING_MS : Math.floor(time / WINDOW_MS) * WINDOW_MS + WINDOW_MS - 1

class SumUntilModel implements FireModel {
  readonly fired: Result[] = []
  readonly late = 0
  private readonly byClock: boolean
  private now = Number.NEGATIVE_INFINITY
  private readonly keys = new Map<string, { rows: number; sum: number; timers: Set<number> }>()

  constructor(byClock: boolean) {
    this.byClock = byClock
  }

  row({ key, id }: FireRow, time: number): void {
    const own = this.keys.get(key) ?? { rows: 0, sum: 0, timers: new Set<number>() }
    this.keys.set(key, own)
    own.rows++
    own.sum += id
    const due = dueOf(time, this.byClock)
    if (due <= this.now) this.fired.push({ key, start: -1, rows: own.rows, sum: own.sum })
    else own.timers.add(due)
  }

  watermark(value: number): void {
    if (!this.byClock) this.advance(value)
  }

  clock(nowMs: number): void {
    // A timer rings when its millisecond is over, but to a row that comes then it is past.
    if (this.byClock) this.advance(nowMs)
  }

  private advance(now: number): void {
    this.now = now
    for (const [key, own] of this.keys) {
      for (const timer of [...own.timers].sort((a, b) => a - b)) {
        if (timer > now) continue
        own.timers.delete(timer)
        if (own.rows > 0) this.fired.push({ key, start: timer, rows: own.rows, sum: own.sum })
        own.rows = 0
        own.sum = 0
      }
    }
  }
}

const sumUntil = (name: string, byClock: boolean): FireCase => ({
  name,
  create: () => keyedProcessOperator(() => new SumUntil(byClock), { codecOf: stateCodec }),
  inputs: 1,
  resultOf: asResult,
  model: () => new SumUntilModel(byClock),
  turnKeys: TURN_KEYS.timers,
  firesBy: byClock ? 'clock' : 'watermark',
  isVariant: byClock,
})

const pairs: ProcessJoinFunction<FireRow, FireRow, Result> = {
  processElement(left, right, context, collect) {
    collect({ key: left.key, start: context.leftTimestamp, rows: 2, sum: left.id * 7 + right.id })
  },
}

class PairsModel implements FireModel {
  readonly fired: Result[] = []
  late = 0
  private now = Number.NEGATIVE_INFINITY
  private readonly keys = new Map<string, { row: FireRow; time: number; input: number }[]>()

  row(row: FireRow, time: number, input: number): void {
    if (time < this.now) {
      this.late++
      return
    }
    const own = this.keys.get(row.key) ?? []
    this.keys.set(row.key, own)
    for (const other of own) {
      if (other.input === input || Math.abs(other.time - time) > JOIN_MS) continue
      const [left, right] = input === 0 ? [row, other.row] : [other.row, row]
      const start = input === 0 ? time : other.time
      this.fired.push({ key: row.key, start, rows: 2, sum: left.id * 7 + right.id })
    }
    own.push({ row, time, input })
  }

  watermark(value: number): void {
    this.now = value
  }

  clock(): void {}
}

export const FIRE_CASES: readonly FireCase[] = [
  ...WINDOWS,
  sumUntil('timers of a process function, in event time', false),
  sumUntil('timers of a process function, by the clock', true),
  {
    name: 'the clean-up of an interval join',
    create: () =>
      intervalJoinOperator(() => pairs, {
        lowerMs: -JOIN_MS,
        upperMs: JOIN_MS,
        leftCodec: objectCodec(),
        rightCodec: objectCodec(),
        codecOf: stateCodec,
      }),
    inputs: 2,
    resultOf: asResult,
    model: () => new PairsModel(),
    turnKeys: TURN_KEYS.columns,
    firesBy: 'watermark',
    isUnordered: true,
    isCleanup: true,
  },
]
