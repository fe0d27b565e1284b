/**
 * Parts of simulated jobs whose operators tell two inputs apart: windows over two streams, functions over two
 * streams with the same keys, and broadcast state.
 */
import {
  type DataStream,
  EventTimeSessionWindows,
  type KeyedBroadcastProcessFunction,
  type KeyedCoProcessFunction,
  MapStateDescriptor,
  type ValueState,
  ValueStateDescriptor,
} from '../../api/index.ts'
import type { Branch } from './sim-branch.ts'
import { type InputRow, isOnTime, lateIsPossible, type SimShape, windowsOf } from './sim-input.ts'
import { type BranchResults, sessionsOf } from './sim-results.ts'
import { assignerOf } from './sim-window-branches.ts'

/** Few rows share it, so that pairs stay few. */
const pairKey = (row: InputRow): string => `${row.key} ${row.id % 7}`

interface Pair {
  readonly left: number
  readonly right: number
}

/** The pairs of rows in each window, once for each window that holds both; both streams at once. */
function pairsOf({ shape }: BranchResults, left: readonly InputRow[], right: readonly InputRow[]): string[] {
  const byKey = Map.groupBy(right, pairKey)
  return left.flatMap((a) =>
    (byKey.get(pairKey(a)) ?? []).flatMap((b) => {
      const windows = new Set(windowsOf(shape, b.time))
      return windowsOf(shape, a.time)
        .filter((window) => windows.has(window))
        .map(() => `${a.id} ${b.id}`)
    }),
  )
}

/** A join of two streams by key and window; rows that come late are left out. */
export const matched: Branch = {
  sources: 2,
  build({ shape, streams, sink }) {
    const pairs = streams[0]!
      .join(streams[1]!)
      .where(pairKey)
      .equalTo(pairKey)
      .window(assignerOf(shape))
      .apply((left: InputRow, right: InputRow): Pair => ({ left: left.id, right: right.id }))
      .uid('matched-by-key')
    sink(pairs, 'matched')
  },
  check(results) {
    const [left, right] = [results.rows(0), results.rows(1)]
    const onTime = (rows: readonly InputRow[]): InputRow[] => rows.filter((row) => isOnTime(results.shape, row))
    const least = pairsOf(results, onTime(left), onTime(right))
    results.between('pairs', least, pairsOf(results, left, right), results.texts('matched', ['left', 'right']))
  },
}

interface Grouped {
  readonly key: string
  /** Ids in order, with blanks between. */
  readonly left: string
  readonly right: string
}

const idsOf = (rows: Iterable<InputRow>): string =>
  Array.from(rows, (row) => row.id)
    .sort((a, b) => a - b)
    .join(' ')

/** What both streams have in a window, even when only one has something. */
export const grouped: Branch = {
  sources: 2,
  build({ shape, streams, sink }) {
    const groups = streams[0]!
      .coGroup(streams[1]!)
      .where('key')
      .equalTo('key')
      .window(assignerOf(shape))
      .apply((first: Iterable<InputRow>, second: Iterable<InputRow>, collect: (group: Grouped) => void) => {
        const [left, right] = [[...first], [...second]]
        collect({ key: (left[0] ?? right[0]!).key, left: idsOf(left), right: idsOf(right) })
      })
      .uid('grouped-by-key')
    sink(groups, 'grouped')
  },
  check(results) {
    const { shape } = results
    const groups = results.sink('grouped') as unknown as readonly Grouped[]
    // Each row counts once for each of its windows, or less often where it may have come late.
    for (const [source, side] of [
      [0, 'left'],
      [1, 'right'],
    ] as const) {
      const shown = groups.flatMap((group) => (group[side] === '' ? [] : group[side].split(' ')))
      const due = (rows: readonly InputRow[]): string[] =>
        rows.flatMap((row) => windowsOf(shape, row.time).map(() => String(row.id)))
      const rows = results.rows(source)
      results.between(side, due(rows.filter((row) => isOnTime(shape, row))), due(rows), shown)
    }
    // What is in one group is of one window.
    const windows = new Map([...results.rows(0), ...results.rows(1)].map((row) => [row.id, windowsOf(shape, row.time)]))
    for (const { key, left, right } of groups) {
      const members = [left, right].flatMap((ids) => (ids === '' ? [] : ids.split(' ').map(Number)))
      const common = members.reduce<readonly string[] | null>(
        (shared, id) => windows.get(id)?.filter((window) => shared?.includes(window) ?? true) ?? [],
        null,
      )
      if (common?.length === 0) results.fail('I5', `${key} has ${members.join(' ')} in one window`)
    }
  },
}

interface Part {
  readonly key: string
  readonly id: number
  readonly copy: number
}

interface Met {
  readonly key: string
  /** An id for each part, in order, with blanks between. */
  readonly left: string
  readonly right: string
}

/** With the more a session has more parts than lie in one piece of a window's elements. */
const partsOf = ({ rowsPerSplit }: SimShape): number => (rowsPerSplit % 3 === 0 ? 8 : 2)

/** The ids of rows, each as often as a session has parts of it. Throws where these are not in their order. */
function idsOfParts(parts: Iterable<Part>): string {
  const last = new Map<number, number>()
  const ids: number[] = []
  for (const { id, copy } of parts) {
    if (copy <= (last.get(id) ?? -1)) throw new Error(`part ${copy} of row ${id} came after part ${last.get(id)}`)
    last.set(id, copy)
    ids.push(id)
  }
  return ids.sort((a, b) => a - b).join(' ')
}

/** What both streams have in a session of a key, in which each row is many elements. */
export const met: Branch = {
  sources: 2,
  build({ shape, streams, sink }) {
    const [left, right] = streams.map((stream) =>
      stream.flatMap(({ key, id }) => Array.from({ length: partsOf(shape) }, (_, copy): Part => ({ key, id, copy }))),
    )
    const meetings = left!
      .coGroup(right!)
      .where(({ key }) => key)
      .equalTo(({ key }) => key)
      .window(EventTimeSessionWindows.withGap(shape.windowStepMs))
      .apply((first: Iterable<Part>, second: Iterable<Part>, collect: (met: Met) => void) => {
        const [ones, twos] = [[...first], [...second]]
        const { key } = (ones[0] ?? twos[0])!
        collect({ key, left: idsOfParts(ones), right: idsOfParts(twos) })
      })
      .uid('met-by-key')
    sink(meetings, 'met')
  },
  check(results) {
    const { shape } = results
    const meetings = results.sink('met') as unknown as readonly Met[]
    const rows = [...results.rows(0), ...results.rows(1)]
    const isOfRight = new Set(results.rows(1).map(({ id }) => id))
    if (!lateIsPossible(shape)) {
      const sessions = sessionsOf(rows, shape.windowStepMs).map(({ key, members }) => {
        const ids = members.flatMap(({ id }) => new Array<number>(partsOf(shape)).fill(id)).sort((a, b) => a - b)
        const side = (isRight: boolean): string => ids.filter((id) => isOfRight.has(id) === isRight).join(' ')
        return `${key}: ${side(false)}; ${side(true)}`
      })
      results.same(
        'sessions',
        sessions,
        meetings.map(({ key, left, right }) => `${key}: ${left}; ${right}`),
      )
      return
    }
    const shown = meetings.flatMap(({ key, left, right }) =>
      [left, right].flatMap((ids) => (ids === '' ? [] : ids.split(' ').map((id) => `${key} ${id}`))),
    )
    // Between two parts of a row time may pass its session.
    const texts = (of: readonly InputRow[]): string[] =>
      of.flatMap(({ key, id }) => new Array<string>(partsOf(shape)).fill(`${key} ${id}`))
    results.between('rows', texts(rows.filter((row) => isOnTime(shape, row))), texts(rows), shown)
  },
}

interface Sided {
  readonly key: string
  readonly id: number
  /** Of the key, over both inputs. */
  readonly number: number
  readonly lefts: number
  readonly rights: number
}

/** Numbers the rows of a key over both inputs, and counts those of each. */
function sides(): KeyedCoProcessFunction<string, InputRow, InputRow, Sided> {
  let lefts: ValueState<number>
  let rights: ValueState<number>
  const counted = (key: string, id: number): Sided => {
    const [l, r] = [lefts.value() ?? 0, rights.value() ?? 0]
    return { key, id, number: l + r, lefts: l, rights: r }
  }
  return {
    open(context) {
      lefts = context.getState(new ValueStateDescriptor<number>('lefts'))
      rights = context.getState(new ValueStateDescriptor<number>('rights'))
    },
    processElement1({ id }, { currentKey }, collect) {
      lefts.update((lefts.value() ?? 0) + 1)
      collect(counted(currentKey, id))
    },
    processElement2({ id }, { currentKey }, collect) {
      rights.update((rights.value() ?? 0) + 1)
      collect(counted(currentKey, id))
    },
  }
}

/** Rows of two streams that meet in state by key, after a function without keys over both. */
export const connected: Branch = {
  sources: 2,
  build({ streams, sink }) {
    const [left, right] = [streams[0]!.keyBy('key'), streams[1]!.keyBy('key')]
    const counted = left.connect(right).process(sides).uid('connected-by-key')
    sink(counted, 'connected')
    const tagged = streams[0]!.connect(streams[1]!).map({
      map1: ({ id }: InputRow) => ({ id, input: 1 }),
      map2: ({ id }: InputRow) => ({ id, input: 2 }),
    })
    tagged.uid('connected-tags')
    sink(tagged, 'tagged')
  },
  check(results) {
    const [left, right] = [results.rows(0), results.rows(1)]
    const expected = [...left, ...right].map(({ key, id }) => `${key} ${id}`)
    results.same('rows', expected, results.texts('connected', ['key', 'id']))
    const inputs = [...left.map(({ id }) => `${id} 1`), ...right.map(({ id }) => `${id} 2`)]
    results.same('inputs', inputs, results.texts('tagged', ['id', 'input']))
    const rows = results.sink('connected')
    results.numbered('connected', rows, 'key')
    const isLeft = new Set(left.map(({ id }) => id))
    const counts = new Map<unknown, number>()
    for (const row of [...rows].sort((a, b) => (a['number'] as number) - (b['number'] as number))) {
      const lefts = (counts.get(row['key']) ?? 0) + (isLeft.has(row['id'] as number) ? 1 : 0)
      counts.set(row['key'], lefts)
      if (row['lefts'] === lefts) continue
      results.fail('I5', `${row['key']} has ${row['lefts']} rows of the first input where ${lefts} are due`)
      return
    }
  },
}

const RULES = new MapStateDescriptor<number, number>('rules')

interface Judged {
  readonly key: string
  /** -1 at the end of input. */
  readonly id: number
  readonly number: number
  /** Rules that were known, and the sum of their ids. */
  readonly rules: number
  readonly sum: number
}

/** After every row; only the end of input comes later. */
const END_MS = 4_000_000_000_000

/** Says of each row of a key how many rules were known, and of each key which were at the end. */
function judging(): KeyedBroadcastProcessFunction<string, InputRow, InputRow, Judged> {
  let number: ValueState<number>
  const judge = (key: string, id: number, rules: Iterable<number>): Judged => {
    number.update((number.value() ?? 0) + 1)
    const known = [...rules]
    const sum = known.reduce((a, b) => a + b, 0)
    return { key, id, number: number.value()!, rules: known.length, sum }
  }
  return {
    open(context) {
      number = context.getState(new ValueStateDescriptor<number>('number'))
    },
    processElement(row, context, collect) {
      context.timerService.registerEventTimeTimer(END_MS)
      collect(judge(context.currentKey, row.id, context.getBroadcastState(RULES).values()))
    },
    processBroadcastElement(rule, context) {
      context.getBroadcastState(RULES).put(rule.id, rule.id)
    },
    onTimer(_, context, collect) {
      collect(judge(context.currentKey, -1, context.getBroadcastState(RULES).values()))
    },
  }
}

/** Rows that are judged by rules which every subtask knows: rules never become fewer, and at the end all are known. */
export const ruled: Branch = {
  sources: 2,
  build({ streams, sink }) {
    const rules: DataStream<InputRow> = streams[1]!
    const judged = streams[0]!.keyBy('key').connect(rules.broadcast(RULES)).process(judging).uid('ruled-by-key')
    sink(judged, 'ruled')
  },
  check(results) {
    const rows = results.rows(0)
    const keys = new Set(rows.map((row) => row.key))
    const expected = [...rows.map(({ key, id }) => `${key} ${id}`), ...[...keys].map((key) => `${key} -1`)]
    results.same('rows', expected, results.texts('ruled', ['key', 'id']))
    const judged = results.sink('ruled') as unknown as readonly Judged[]
    results.numbered('ruled', results.sink('ruled'), 'key')
    for (const [key, of] of Map.groupBy(judged, (row) => row.key)) {
      const ordered = [...of].sort((a, b) => a.number - b.number)
      const drop = ordered.findIndex((row, i) => i > 0 && row.rules < ordered[i - 1]!.rules)
      if (results.shape.isBatch && ordered.some((row) => row.rules !== results.rows(1).length)) {
        results.fail('I5', `${key} was judged before all rules had come, in batch execution`)
      }
      if (drop > 0) results.fail('I5', `${key} knew ${ordered[drop]!.rules} rules after ${ordered[drop - 1]!.rules}`)
    }
    const all = results.rows(1)
    const sum = all.reduce((ids, row) => ids + row.id, 0)
    for (const last of judged.filter((row) => row.id === -1)) {
      if (last.rules !== all.length || last.sum !== sum) {
        results.fail('I5', `${last.key} knew ${last.rules} of ${all.length} rules at the end`)
      }
    }
  },
}
