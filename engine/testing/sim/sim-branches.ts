/**
 * The parts of which simulated jobs are made: a job is a random choice of them over the same sources
 * (sim-job.ts). Here those without windows, joins and clocks.
 */
import {
  type FunctionInitializationContext,
  type KeyedProcessFunction,
  type ListState,
  ListStateDescriptor,
  type MapState,
  MapStateDescriptor,
  type ProcessFunction,
} from '../../api/index.ts'
import type { Branch } from './sim-branch.ts'
import { changelogs, totalled } from './sim-changelog-branches.ts'
import { alarms, arrivals, forgotten } from './sim-clock-branches.ts'
import type { InputRow } from './sim-input.ts'
import { intervals, joined } from './sim-join-branches.ts'
import { connected, grouped, matched, met, ruled } from './sim-joint-branches.ts'
import { NUMBERED, Numbering } from './sim-operators.ts'
import { retried } from './sim-request-branches.ts'
import { held, portioned } from './sim-sink-branches.ts'
import { listed, mapped } from './sim-state-branches.ts'
import { fired, gathered, rolling } from './sim-trigger-branches.ts'
import { asking, counts, sessions, windows } from './sim-window-branches.ts'

/** Rows pass through chained lambdas, change subtask, and fan out. */
const stateless: Branch = {
  sources: 1,
  mayRepeat: true,
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
      results.numbered(id, field === 'key' ? records : rows, field, false)
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
    const sums = [...results.countBy(results.rows(0), ({ key }) => key)]
    // Batch execution shows the last one only.
    const firstOf = (n: number): number => (results.shape.isBatch ? n : 1)
    const expected = sums.flatMap(([key, n]) =>
      Array.from({ length: n - firstOf(n) + 1 }, (_, i) => `${key} ${firstOf(n) + i}`),
    )
    results.same('running sums', expected, results.texts('reduced', ['key', 'n']))
  },
}

/** Counts rows of a key by buckets of time, and emits each when a timer at its end fires. */
function bucketCounter(
  bucketMs: number,
): KeyedProcessFunction<string, InputRow, { key: string; end: number; n: number }> {
  let counts: MapState<number, number>
  return {
    open(context) {
      counts = context.getMapState(new MapStateDescriptor<number, number>('counts'))
    },
    processElement(row, context) {
      const end = (Math.floor(row.time / bucketMs) + 1) * bucketMs
      counts.put(end, (counts.get(end) ?? 0) + 1)
      context.timerService.registerEventTimeTimer(end - 1)
    },
    onTimer(timeMs, context, collect) {
      const n = counts.get(timeMs + 1)
      if (n !== undefined) collect({ key: context.currentKey, end: timeMs + 1, n })
      counts.remove(timeMs + 1)
    },
  }
}

/** State and timers of a user's own function. */
const timers: Branch = {
  sources: 1,
  mayRepeat: true,
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

/** Passes each row on when the next one comes: the last one of a subtask waits in operator state. */
class OneBehind implements ProcessFunction<InputRow, { id: number }> {
  private waiting: number[] = []
  private saved!: ListState<number>

  initializeState({ operatorStateStore }: FunctionInitializationContext): void {
    this.saved = operatorStateStore.getListState(new ListStateDescriptor<number>('waiting'))
    this.waiting = [...this.saved.get()]
  }

  snapshotState(): void {
    this.saved.update(this.waiting)
  }

  processElement(row: InputRow, _: unknown, collect: (result: { id: number }) => void): void {
    for (const id of this.waiting) collect({ id })
    this.waiting = [row.id]
  }
}

/** State of subtasks, which is dealt out anew when their number changes. */
const behind: Branch = {
  sources: 1,
  mayRepeat: true,
  build({ streams, sink }) {
    const passed = streams[0]!
      .rebalance()
      .process(() => new OneBehind())
      .uid('behind-one')
    sink(passed, 'behind')
  },
  check(results) {
    const ids = results.rows(0).map((row) => String(row.id))
    results.allBut('rows', PARALLELISM_MAX, ids, results.texts('behind', ['id']))
  },
}

/** Subtasks at most of an operator in a simulated job. */
const PARALLELISM_MAX = 4

export const BRANCHES = {
  stateless,
  numbers,
  reduced,
  timers,
  behind,
  windows,
  sessions,
  counts,
  asking,
  joined,
  intervals,
  matched,
  grouped,
  connected,
  ruled,
  arrivals,
  alarms,
  forgotten,
  mapped,
  listed,
  fired,
  gathered,
  rolling,
  met,
  retried,
  held,
  portioned,
  changelogs,
  totalled,
} as const satisfies Record<string, Branch>
export type BranchName = keyof typeof BRANCHES
