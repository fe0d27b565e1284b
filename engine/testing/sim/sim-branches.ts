/**
 * The parts of which simulated jobs are made: each builds a piece of a program with the public API, ends
 * in sinks, and says what these must hold in the end.
 *
 * A job is a random choice of them over the same sources (sim-job.ts). The model of each is naive and
 * single-threaded, and takes nothing from the engine. Where the answer depends on which rows were late,
 * the model says what must hold whichever they were: every row in its window or in the late output (I9).
 */
import {
  AsyncDataStream,
  CumulativeEventTimeWindows,
  count,
  type DataStream,
  type KeyedProcessFunction,
  type OutputTag,
  outputTag,
  type SingleOutputStreamOperator,
  SlidingEventTimeWindows,
  sum,
  TumblingEventTimeWindows,
  type WindowAssigner,
} from '../../api/index.ts'
import type { WindowedStream } from '../../api/windowed-stream.ts'
import type { InputRow, SimShape } from './sim-input.ts'
import { NUMBERED, Numbering } from './sim-operators.ts'
import type { BranchResults } from './sim-results.ts'

export interface BranchStreams {
  readonly shape: SimShape
  /** One a source; `streams[1]` is there when the branch asked for two. */
  readonly streams: readonly DataStream<InputRow>[]
  /** Answers with the row itself, after a while. */
  ask(row: InputRow): Promise<InputRow[]>
  /** Ends a stream in the sink of this id. */
  sink<T>(stream: DataStream<T>, id: string): void
}

export interface Branch {
  /** Sources that it reads. */
  readonly sources: 1 | 2
  build(streams: BranchStreams): void
  check(results: BranchResults): void
}

/** Rows pass through chained lambdas, change subtask, and fan out. */
const stateless: Branch = {
  sources: 1,
  build({ streams, sink }) {
    const twice = streams[0]!
      .filter((row) => row.id % 3 !== 0)
      .map((row) => ({ ...row, id: row.id * 2 }))
      .rebalance()
      .flatMap((row) => [row, { ...row, id: row.id + 1 }])
    sink(twice, 'stateless')
  },
  check(results) {
    const expected = results.rows(0).flatMap(({ id }) => (id % 3 === 0 ? [] : [`${id * 2}`, `${id * 2 + 1}`]))
    results.same('rows', expected, results.texts('stateless', ['id']))
  },
}

/** Each record gets the next number of its key, and of its group after a second hop; totals at the end. */
const numbers: Branch = {
  sources: 1,
  build({ streams, sink }) {
    const byKey = streams[0]!
      .keyBy('key')
      .addKeyed('Numbering', NUMBERED, () => new Numbering(1))
      .uid('numbers-by-key')
    sink(byKey, 'numbers')
    const byGroup = byKey
      .keyBy('group')
      .addKeyed('Numbering', NUMBERED, () => new Numbering(2))
      .uid('numbers-by-group')
    sink(byGroup, 'groups')
  },
  check(results) {
    const expected = results.rows(0).map(({ key, id }) => `${key} ${id}`)
    const totals = [...results.countBy(results.rows(0), (row) => row.key)]
    for (const [id, field] of [
      ['numbers', 'key'],
      ['groups', 'group'],
    ] as const) {
      const rows = results.sink(id)
      const records = rows.filter((row) => row['id'] !== -1)
      results.same(`${id}: records`, expected, results.textsOf(records, ['key', 'id']))
      const isTotal = (row: { id?: unknown }): boolean => row.id === -1
      const shown = field === 'key' ? ['key', 'number'] : ['key']
      const wanted = totals.map(([key, n]) => (field === 'key' ? `${key} ${n}` : key))
      results.same(`${id}: totals`, wanted, results.textsOf(rows.filter(isTotal), shown))
      results.numbered(id, field === 'key' ? records : rows, field)
    }
  },
}

/** The running sum of each key after each record. */
const reduced: Branch = {
  sources: 1,
  build({ streams, sink }) {
    const counted = streams[0]!
      .map(({ key }) => ({ key, n: 1 }))
      .keyBy((row) => row.key)
      .reduce((a, b) => ({ key: a.key, n: a.n + b.n }))
      .uid('reduced-sums')
    sink(counted, 'reduced')
  },
  check(results) {
    const seen = new Map<string, number>()
    const expected = results.rows(0).map(({ key }) => {
      const n = (seen.get(key) ?? 0) + 1
      seen.set(key, n)
      return `${key} ${n}`
    })
    results.same('running sums', expected, results.texts('reduced', ['key', 'n']))
  },
}

interface WindowResult {
  readonly key: string
  /** Start and end. */
  readonly window: string
  readonly n: number
  readonly ids: number
}

interface Windowed {
  readonly operator: SingleOutputStreamOperator<unknown>
  readonly results: DataStream<WindowResult>
}

type Emit = (result: WindowResult) => void

/** The same results by each of the ways to aggregate a window. */
function aggregated(windows: WindowedStream<InputRow, string>, work: SimShape['windowWork']): Windowed {
  if (work === 'columns') {
    const operator = windows.aggregate({ n: count(), ids: sum('id') })
    const results = operator.map(({ key, windowStart, windowEnd, n, ids }) => ({
      key,
      window: `${windowStart}-${windowEnd}`,
      n,
      ids,
    }))
    return { operator, results }
  }
  const operator =
    work === 'aggregate' ? byAccumulator(windows) : work === 'reduce' ? byReduce(windows) : whole(windows)
  return { operator, results: operator }
}

function byAccumulator(windows: WindowedStream<InputRow, string>): SingleOutputStreamOperator<WindowResult> {
  return windows.aggregate(
    {
      createAccumulator: () => ({ n: 0, ids: 0 }),
      // Changes its accumulator: state must hold what it was at the barrier.
      add(row, accumulator) {
        accumulator.n++
        accumulator.ids += row.id
        return accumulator
      },
      getResult: (accumulator) => accumulator,
      merge: (a, b) => ({ n: a.n + b.n, ids: a.ids + b.ids }),
    },
    ({ key, window }, accumulated, collect: Emit) => {
      for (const { n, ids } of accumulated) collect({ key, window: `${window.start}-${window.end}`, n, ids })
    },
  )
}

/** Groups are strung together, so that their number tells how many rows there were. */
function byReduce(windows: WindowedStream<InputRow, string>): SingleOutputStreamOperator<WindowResult> {
  return windows.reduce(
    (a, b) => ({ key: a.key, time: a.time, group: `${a.group}|${b.group}`, id: a.id + b.id }),
    ({ key, window }, reduced, collect: Emit) => {
      for (const { id, group } of reduced) {
        collect({ key, window: `${window.start}-${window.end}`, n: group.split('|').length, ids: id })
      }
    },
  )
}

function whole(windows: WindowedStream<InputRow, string>): SingleOutputStreamOperator<WindowResult> {
  return windows.process(({ key, window }, rows, collect: Emit) => {
    const ids = Array.from(rows, (row) => row.id)
    collect({ key, window: `${window.start}-${window.end}`, n: ids.length, ids: ids.reduce((a, b) => a + b, 0) })
  })
}

const LATE: OutputTag<InputRow> = outputTag<InputRow>('late')

function assignerOf({ windowKind, windowMs, windowStepMs }: SimShape): WindowAssigner {
  switch (windowKind) {
    case 'tumbling':
      return TumblingEventTimeWindows.of(windowMs)
    case 'sliding':
      return SlidingEventTimeWindows.of(windowMs, windowStepMs)
    case 'cumulative':
      return CumulativeEventTimeWindows.of(windowMs, windowStepMs)
  }
}

/** Windows of all kinds with late rows in a side output; before them rows may ask an outside system. */
const windows: Branch = {
  sources: 1,
  build({ shape, streams, sink, ask }) {
    const { requests } = shape
    const wait = requests?.isOrdered === true ? AsyncDataStream.orderedWait : AsyncDataStream.unorderedWait
    const rows = streams[0]!
    const asked =
      requests === null ? rows : wait(rows, ask, 0, requests.capacity, { schema: rows.schema }).uid('windows-asking')
    const windowed = asked
      .keyBy('key')
      .window(assignerOf(shape))
      .allowedLateness(shape.latenessMs)
      .sideOutputLateData(LATE)
    const { operator, results } = aggregated(windowed, shape.windowWork)
    operator.uid('windows-by-key')
    sink(results, 'windows')
    sink(operator.getSideOutput(LATE), 'late')
  },
  check: (results) => results.windows('windows', 'late'),
}

interface Pending {
  /** Rows by the end of their bucket of time. */
  readonly counts: Record<string, number>
}

/** Counts rows of a key by buckets of time, and emits each when a timer at its end fires. */
function bucketCounter(
  bucketMs: number,
): KeyedProcessFunction<string, InputRow, { key: string; end: number; n: number }> {
  let pending: { value(): Pending | undefined; update(value: Pending): void; clear(): void }
  return {
    open(context) {
      pending = context.getState<Pending>({ kind: 'value', name: 'pending', version: 1 })
    },
    processElement(row, context) {
      const end = (Math.floor(row.time / bucketMs) + 1) * bucketMs
      const counts = pending.value()?.counts ?? {}
      pending.update({ counts: { ...counts, [end]: (counts[end] ?? 0) + 1 } })
      context.timerService.registerEventTimeTimer(end - 1)
    },
    onTimer(timeMs, context, collect) {
      const { [timeMs + 1]: n, ...others } = pending.value()?.counts ?? {}
      if (n !== undefined) collect({ key: context.currentKey, end: timeMs + 1, n })
      if (Object.keys(others).length === 0) pending.clear()
      else pending.update({ counts: others })
    },
  }
}

/** State and timers of a user's own function. */
const timers: Branch = {
  sources: 1,
  build({ shape, streams, sink }) {
    const counted = streams[0]!
      .keyBy('key')
      .process(() => bucketCounter(shape.windowMs))
      .uid('timers-buckets')
    sink(counted, 'timers')
  },
  check(results) {
    const { windowMs } = results.shape
    const end = (time: number): number => (Math.floor(time / windowMs) + 1) * windowMs
    const expected = results.countBy(results.rows(0), (row) => `${row.key} ${end(row.time)}`)
    // Rows after their bucket's timer set another one, so only sums are certain then.
    results.sums('timers', expected, (row) => `${row['key']} ${row['end']}`, 'n')
  },
}

interface Sides {
  readonly left: readonly number[]
  readonly right: readonly number[]
}

type Tagged = InputRow & { readonly side: keyof Sides }

/** Keeps the rows of both sides of a key, and pairs each new one with all of the other side. */
function pairing(): KeyedProcessFunction<string, Tagged, { key: string; left: number; right: number }> {
  let sides: { value(): Sides | undefined; update(value: Sides): void }
  return {
    open(context) {
      sides = context.getState<Sides>({ kind: 'value', name: 'sides', version: 1 })
    },
    processElement({ id, side }, { currentKey: key }, collect) {
      const { left, right } = sides.value() ?? { left: [], right: [] }
      if (side === 'left') {
        for (const other of right) collect({ key, left: id, right: other })
        sides.update({ left: [...left, id], right })
      } else {
        for (const other of left) collect({ key, left: other, right: id })
        sides.update({ left, right: [...right, id] })
      }
    },
  }
}

const joinKey = (row: InputRow): string => `${row.key} ${row.id % 5}`

/** Every pair of rows of two sources with the same key, once. */
const joined: Branch = {
  sources: 2,
  build({ streams, sink }) {
    const left = streams[0]!.map((row): Tagged => ({ ...row, side: 'left' }))
    const right = streams[1]!.map((row): Tagged => ({ ...row, side: 'right' }))
    const pairs = left.union(right).keyBy(joinKey).process(pairing).uid('joined-pairs')
    sink(pairs, 'joined')
  },
  check(results) {
    const byKey = Map.groupBy(results.rows(1), joinKey)
    const expected = results
      .rows(0)
      .flatMap((left) => (byKey.get(joinKey(left)) ?? []).map((right) => `${left.id} ${right.id}`))
    results.same('pairs', expected, results.texts('joined', ['left', 'right']))
  },
}

export const BRANCHES = { stateless, numbers, reduced, windows, timers, joined } as const satisfies Record<
  string,
  Branch
>
export type BranchName = keyof typeof BRANCHES
