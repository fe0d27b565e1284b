/**
 * Parts of simulated jobs with windows: of time, of sessions, of counts.
 */
import {
  AsyncDataStream,
  CumulativeEventTimeWindows,
  count,
  type DataStream,
  EventTimeSessionWindows,
  outputTag,
  type SingleOutputStreamOperator,
  SlidingEventTimeWindows,
  sum,
  TumblingEventTimeWindows,
  type WindowAssigner,
} from '../../api/index.ts'
import type { WindowedStream } from '../../api/windowed-stream.ts'
import type { Branch } from './sim-branch.ts'
import { type InputRow, REQUESTS_DEFAULT, type SimShape } from './sim-input.ts'

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

const LATE = outputTag<InputRow>('late')

export function assignerOf({ windowKind, windowMs, windowStepMs }: SimShape): WindowAssigner {
  switch (windowKind) {
    case 'tumbling':
      return TumblingEventTimeWindows.of(windowMs)
    case 'sliding':
      return SlidingEventTimeWindows.of(windowMs, windowStepMs)
    case 'cumulative':
      return CumulativeEventTimeWindows.of(windowMs, windowStepMs)
  }
}

/** Rows ask an outside system, many at once: those under way are state. */
export const asking: Branch = {
  sources: 1,
  mayRepeat: true,
  build({ shape, streams, sink, ask }) {
    const { isOrdered, capacity } = shape.requests ?? REQUESTS_DEFAULT
    const wait = isOrdered ? AsyncDataStream.orderedWait : AsyncDataStream.unorderedWait
    const rows = streams[0]!.rebalance()
    sink(wait(rows, ask, 0, capacity, { schema: rows.schema }).uid('asking-rows'), 'asking')
  },
  check(results) {
    const ids = results.rows(0).map(({ id }) => String(id))
    results.same('rows', ids, results.texts('asking', ['id']))
  },
}

/** Windows of all kinds with late rows in a side output; before them rows may ask an outside system. */
export const windows: Branch = {
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

/** Sessions of a key, which merge as rows come between them. */
export const sessions: Branch = {
  sources: 1,
  build({ shape, streams, sink }) {
    const windowed = streams[0]!
      .keyBy('key')
      .window(EventTimeSessionWindows.withGap(shape.windowStepMs))
      .allowedLateness(shape.latenessMs)
      .sideOutputLateData(LATE)
    const { operator, results } = aggregated(windowed, shape.windowWork)
    operator.uid('sessions-by-key')
    sink(results, 'sessions')
    sink(operator.getSideOutput(LATE), 'late-sessions')
  },
  check: (results) => results.sessions('sessions', 'late-sessions'),
}

/** So many rows of a key at a time, in the order in which they come. */
export const counts: Branch = {
  sources: 1,
  build({ shape, streams, sink }) {
    const counted = streams[0]!
      .keyBy('key')
      .countWindow(shape.countSize)
      .process(({ key }, rows, collect: (result: { key: string; ids: string }) => void) => {
        collect({ key, ids: Array.from(rows, (row) => row.id).join(' ') })
      })
      .uid('counts-by-key')
    sink(counted, 'counts')
  },
  check(results) {
    const { countSize } = results.shape
    const rows = results.sink('counts')
    const expected = [...results.countBy(results.rows(0), (row) => row.key)].flatMap(([key, n]) =>
      Array.from({ length: Math.floor(n / countSize) }, () => `${key} ${countSize}`),
    )
    const ids = rows.map((row) => String(row['ids']).split(' '))
    results.same(
      'counts',
      expected,
      rows.map((row, i) => `${row['key']} ${ids[i]!.length}`),
    )
    results.once('counts', ids.flat())
  },
}
