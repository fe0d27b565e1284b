/**
 * Parts of simulated jobs that go by the clock of the machine: windows and timers in processing time, and state with
 * a time to live.
 *
 * When a row arrives is no part of the input, so their models say what holds whenever it did: each row counts once,
 * nothing fires before its time, and state lives exactly as long as the function's own look at the clock says.
 * No processing-time timer fires after the end of input; so the source stays open until their sinks have every row
 * (`hasAll`).
 */
import {
  type KeyedProcessFunction,
  type ListState,
  ListStateDescriptor,
  type MapState,
  MapStateDescriptor,
  ProcessingTimeSessionWindows,
  SlidingProcessingTimeWindows,
  StateTtlConfig,
  TumblingProcessingTimeWindows,
  type ValueState,
  ValueStateDescriptor,
  type WindowAssigner,
} from '../../api/index.ts'
import type { Branch } from './sim-branch.ts'
import type { InputRow, SimShape } from './sim-input.ts'
import type { BranchResults } from './sim-results.ts'

interface Fired {
  readonly key: string
  /** Of the rows, with blanks between. */
  readonly ids: string
  /** When it had to fire, and when it did: milliseconds of processing time. */
  readonly dueMs: number
  readonly atMs: number
  /** Tells firings of a key apart. */
  readonly name: string
}

const joined = (ids: Iterable<number>): string => [...ids].join(' ')

/** Are all rows in so many firings? */
function allFired(results: BranchResults, id: string, times: number): boolean {
  const firings = results.countBy(
    results.sink(id).flatMap((row) => String(row['ids']).split(' ')),
    (row) => row,
  )
  return results.rows(0).every((row) => (firings.get(String(row.id)) ?? 0) >= times)
}

/** How many sliding windows hold a time, at least. */
const windowsAtLeast = ({ windowKind, windowMs, windowStepMs }: SimShape): number =>
  windowKind === 'sliding' ? Math.floor(windowMs / windowStepMs) : 1

/** Every row in firings that `isRight`, each firing once and in time. */
function checkFired(results: BranchResults, id: string, isRight: (firings: readonly string[]) => boolean): void {
  const fired = results.sink(id) as unknown as readonly Fired[]
  const names = fired.map(({ key, name }) => `${key} ${name}`)
  results.once(`${id}: firings`, names)
  for (const { key, name, dueMs, atMs } of fired) {
    if (atMs < dueMs) results.fail('I5', `${id}: ${key} ${name} fired ${dueMs - atMs} ms before its time`)
  }
  const byRow = Map.groupBy(
    fired.flatMap(({ key, ids, name }) => ids.split(' ').map((row) => ({ text: `${key} ${row}`, name }))),
    ({ text }) => text,
  )
  const expected = results.rows(0).map((row) => `${row.key} ${row.id}`)
  results.same(`${id}: rows`, expected, [...byRow.keys()])
  for (const [text, firings] of byRow) {
    const names = firings.map(({ name }) => name)
    if (!isRight(names)) results.fail('I5', `${id}: row ${text} is in ${names.join(', ')}`)
  }
}

function assignerOf({ windowKind, windowMs, windowStepMs }: SimShape): WindowAssigner {
  switch (windowKind) {
    case 'tumbling':
      return TumblingProcessingTimeWindows.of(windowMs)
    case 'sliding':
      return SlidingProcessingTimeWindows.of(windowMs, windowStepMs)
    case 'cumulative':
      return ProcessingTimeSessionWindows.withGap(windowStepMs)
  }
}

/** Windows by arrival: tumbling, sliding, or sessions. */
export const arrivals: Branch = {
  sources: 1,
  goesByClock: true,
  build({ shape, streams, sink }) {
    const fired = streams[0]!
      .keyBy('key')
      .window(assignerOf(shape))
      .process(({ key, window, currentProcessingTime: atMs }, rows, collect: (fired: Fired) => void) => {
        const ids = Array.from(rows, (row) => row.id)
        collect({ key, ids: joined(ids), dueMs: window.end - 1, atMs, name: `${window.start}-${window.end}` })
      })
      .uid('arrivals-by-key')
    sink(fired, 'arrivals')
  },
  check(results) {
    const { windowKind, windowMs, windowStepMs } = results.shape
    checkFired(results, 'arrivals', (windows) => {
      if (windowKind !== 'sliding') return windows.length === 1
      // Of one arrival: neighbours, as many as hold it.
      const starts = windows.map((window) => Number(window.split('-')[0])).sort((a, b) => a - b)
      const areNeighbours = starts.every((start, i) => start === starts[0]! + i * windowStepMs)
      const [few, many] = [windowsAtLeast(results.shape), Math.ceil(windowMs / windowStepMs)]
      return areNeighbours && starts.length <= many && (results.isPartial || starts.length >= few)
    })
  },
  hasAll: (results) => allFired(results, 'arrivals', windowsAtLeast(results.shape)),
}

/** Emits the rows of a key when none came for a while: each sets the timer anew. */
function alarm(delayMs: number): KeyedProcessFunction<string, InputRow, Fired> {
  let waiting: ListState<number>
  let due: ValueState<number>
  return {
    open(context) {
      waiting = context.getListState(new ListStateDescriptor<number>('waiting'))
      due = context.getState(new ValueStateDescriptor<number>('due'))
    },
    processElement(row, { timerService }) {
      const before = due.value()
      if (before !== undefined) timerService.deleteProcessingTimeTimer(before)
      const dueMs = timerService.currentProcessingTime() + delayMs
      waiting.add(row.id)
      due.update(dueMs)
      timerService.registerProcessingTimeTimer(dueMs)
    },
    onTimer(timeMs, { currentKey: key, timerService }, collect) {
      // A timer that was deleted, or fires again, meets another time or none.
      const name = timeMs === due.value() ? String(timeMs) : `${timeMs}, which is not set,`
      collect({ key, ids: joined(waiting.get()), dueMs: timeMs, atMs: timerService.currentProcessingTime(), name })
      waiting.clear()
      due.clear()
    },
  }
}

/** Processing-time timers that are set, deleted and set again. */
export const alarms: Branch = {
  sources: 1,
  goesByClock: true,
  build({ shape, streams, sink }) {
    const fired = streams[0]!
      .keyBy('key')
      .process(() => alarm(shape.livesMs))
      .uid('alarms-by-key')
    sink(fired, 'alarms')
  },
  check(results) {
    checkFired(results, 'alarms', (firings) => firings.length === 1)
    const wrong = results.sink('alarms').find((row) => String(row['name']).includes('not set'))
    if (wrong !== undefined) results.fail('I5', `alarms: ${wrong['key']} has a timer at ${wrong['name']} that fired`)
  },
  hasAll: (results) => allFired(results, 'alarms', 1),
}

interface Counted {
  readonly key: string
  readonly id: number
  /** Of the key, without gaps. */
  readonly number: number
  /** As the states with a time to live say: of rows since they were last forgotten. */
  readonly written: number
  readonly read: number
  readonly atMs: number
}

/** Counts rows of a key in state that is forgotten unless it is used. */
function forgetful(livesMs: number): KeyedProcessFunction<string, InputRow, Counted> {
  let number: ValueState<number>
  let written: ValueState<number>
  let read: MapState<string, number>
  return {
    open(context) {
      const lives = StateTtlConfig.newBuilder(livesMs).build()
      const longer = StateTtlConfig.newBuilder(livesMs).setUpdateType('OnReadAndWrite').build()
      number = context.getState(new ValueStateDescriptor<number>('number'))
      written = context.getState(new ValueStateDescriptor<number>('written').enableTimeToLive(lives))
      read = context.getMapState(new MapStateDescriptor<string, number>('read').enableTimeToLive(longer))
    },
    processElement({ id }, { currentKey: key, timerService }, collect) {
      const next = (number.value() ?? 0) + 1
      number.update(next)
      const rows = (written.value() ?? 0) + 1
      // Only every other row writes; all of them read.
      if (next % 2 === 1) written.update(rows)
      const reads = (read.get('rows') ?? 0) + 1
      if (reads === 1) read.put('rows', 1)
      collect({ key, id, number: next, written: rows, read: reads, atMs: timerService.currentProcessingTime() })
    },
  }
}

/** State with a time to live: there until it has passed, and not a moment longer. */
export const forgotten: Branch = {
  sources: 1,
  goesByClock: true,
  build({ shape, streams, sink }) {
    const counted = streams[0]!
      .keyBy('key')
      .process(() => forgetful(shape.livesMs))
      .uid('forgotten-by-key')
    sink(counted, 'forgotten')
  },
  check(results) {
    const expected = results.rows(0).map(({ key, id }) => `${key} ${id}`)
    results.same('rows', expected, results.texts('forgotten', ['key', 'id']))
    results.numbered('forgotten', results.sink('forgotten'), 'key')
    const byKey = Map.groupBy(results.sink('forgotten') as unknown as readonly Counted[], ({ key }) => key)
    for (const [key, rows] of byKey) checkForgotten(results, key, rows)
  },
}

function checkForgotten(results: BranchResults, key: string, rows: readonly Counted[]): void {
  const { livesMs } = results.shape
  /** What the states hold, and since when. */
  let written = { value: 0, atMs: Number.NEGATIVE_INFINITY }
  let read = { value: 0, atMs: Number.NEGATIVE_INFINITY }
  for (const row of [...rows].sort((a, b) => a.number - b.number)) {
    const alive = (atMs: number): boolean => atMs + livesMs > row.atMs
    const due = (alive(written.atMs) ? written.value : 0) + 1
    const dueRead = (alive(read.atMs) ? read.value : 0) + 1
    if (row.written !== due || row.read !== dueRead) {
      const found = `${row.written} and ${row.read}`
      results.fail('I5', `row ${row.number} of ${key} found ${found} where ${due} and ${dueRead} are due`)
      return
    }
    if (row.number % 2 === 1) written = { value: due, atMs: row.atMs }
    // Read or written, it is used.
    read = { value: 1, atMs: row.atMs }
  }
}
