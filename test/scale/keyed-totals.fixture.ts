/**
 * Jobs over very many keys whose answer is known exactly: each key's rows are counted and summed in one window that ends
 * with the input. Worker threads import this module too.
 *
 * Row r of split s is fixed, so what state holds after so many rows of each split can be computed: `totalsAfter`.
 */
import assert from 'node:assert/strict'
import {
  type AggregateFunction,
  count,
  days,
  StreamExecutionEnvironment,
  schema,
  sum,
  TumblingEventTimeWindows,
  t,
  WatermarkStrategy,
} from '../../engine/api/index.ts'
import type { JobGraph } from '../../engine/contract/job-graph.ts'
import type { Sink } from '../../engine/contract/sink.ts'
import type { Source, SourceReader, SplitState } from '../../engine/contract/source.ts'
import { BATCH_ROWS_MAX, type Batch, type Column } from '../../engine/core/batch.ts'
import { ProcessorWait, threadNumber } from './processor-wait.testkit.ts'

export const ROWS = schema({ key: t.float64(), value: t.float64(), at: t.timestamp() })

export interface Row {
  readonly key: number
  readonly value: number
  readonly at: number
}

export interface TotalsOptions {
  readonly keys: number
  readonly splits: number
  readonly rowsPerSplit: number
  /** `columns`: count and sum of the engine; `objects`: an accumulator of a user's class, which `add` changes in place. */
  readonly kind: 'columns' | 'objects'
  /** Sources end where they begin: what comes out is what was restored. */
  readonly endsAtOnce?: boolean
  /** In the calling thread only: called before each batch with the rows that its split has given so far; true holds it back. */
  readonly onPoll?: (position: number) => boolean
}

/** From one row's key to the next: all keys come before one repeats, because it divides no number of keys here. */
const KEY_STEP = 7_919
const VALUES = 1_024
const BASE_MS = Date.UTC(2024, 0, 1)

/** Splits begin far apart, so that together they have all keys as soon as can be. */
const firstKey = ({ keys, splits }: TotalsOptions, split: number): number => Math.floor((split * keys) / splits)
const keyOf = (options: TotalsOptions, split: number, row: number): number =>
  ((firstKey(options, split) + row) * KEY_STEP) % options.keys

/** Counts and sums by key. */
export interface Totals {
  readonly counts: Float64Array
  readonly sums: Float64Array
}

/** What the state holds after so many rows of each split. */
export function totalsAfter(options: TotalsOptions, positions: readonly number[]): Totals {
  const counts = new Float64Array(options.keys)
  const sums = new Float64Array(options.keys)
  positions.forEach((position, split) => {
    for (let row = 0; row < position; row++) {
      const key = keyOf(options, split, row)
      counts[key]! += 1
      sums[key]! += row % VALUES
    }
  })
  return { counts, sums }
}

function totalsSource(options: TotalsOptions): Source<Row> {
  return {
    kind: 'keyed-totals',
    schema: ROWS,
    boundedness: 'bounded',
    splits: async () => Array.from({ length: options.splits }, (_, i) => ({ id: String(i), position: 0 })),
    createReader(context): SourceReader {
      const open: { id: string; next: number }[] = []
      const keys = new Float64Array(BATCH_ROWS_MAX)
      const values = new Float64Array(BATCH_ROWS_MAX)
      const times = new Float64Array(BATCH_ROWS_MAX).fill(BASE_MS)
      let turn = 0
      const batch = (split: number, from: number, length: number): Batch => {
        for (let i = 0; i < length; i++) {
          keys[i] = keyOf(options, split, from + i)
          values[i] = (from + i) % VALUES
        }
        return {
          schema: ROWS,
          length,
          columns: [
            { kind: 'float64', values: keys, nulls: null },
            { kind: 'float64', values, nulls: null },
            { kind: 'timestamp', values: times, nulls: null },
          ],
          eventTime: times,
          keys: null,
          kinds: null,
        }
      }
      return {
        async open(splits: readonly SplitState[]) {
          for (const { id, position } of splits) open.push({ id, next: position as number })
        },
        poll(rowsMax) {
          if (options.endsAtOnce === true) return { kind: 'end' }
          for (let tries = 0; tries < open.length; tries++) {
            const split = open[turn++ % open.length]!
            const length = Math.min(rowsMax, BATCH_ROWS_MAX, options.rowsPerSplit - split.next)
            if (length === 0) continue
            if (options.onPoll?.(split.next) === true) {
              context.worker.io.timers.schedule(1, () => context.wake())
              return { kind: 'pending' }
            }
            const from = split.next
            split.next += length
            return { kind: 'batch', split: split.id, batch: batch(Number(split.id), from, length) }
          }
          return { kind: 'end' }
        },
        snapshot: () => open.map(({ id, next }) => ({ id, position: next })),
        async close() {},
      }
    },
  }
}

interface Spent {
  readonly key: number
  readonly events: number
  readonly value: number
}

class Spending {
  key = 0
  events = 0
  value = 0
  readonly lasts: number[] = []
}

const spending: AggregateFunction<Row, Spending, Spent> = {
  createAccumulator: () => new Spending(),
  add(row, total) {
    total.key = row.key
    total.events++
    total.value += row.value
    total.lasts[row.value % 2] = row.value
    return total
  },
  getResult: ({ key, events, value }) => ({ key, events, value }),
  merge(a, b) {
    a.events += b.events
    a.value += b.value
    return a
  },
}

export interface TotalsSink extends Sink {
  /** What came, added up by key, on the coordinator's thread. */
  readonly totals: Totals
  /** Keys of which a result came more than once. */
  twice: number
  /** By the number of a worker's thread, for how long it had waited for a processor when its sink was cut last, in ms. */
  readonly waitedMs: Map<number | null, number>
}

type Posted =
  | { readonly thread: number | null; readonly waitedMs: number }
  | { readonly columns: readonly Float64Array[] }

function totalsSink(keys: number): TotalsSink {
  const totals: Totals = { counts: new Float64Array(keys), sums: new Float64Array(keys) }
  const waitedMs: TotalsSink['waitedMs'] = new Map()
  const sink: TotalsSink = {
    kind: 'keyed-totals',
    guarantee: 'at-least-once',
    totals,
    twice: 0,
    waitedMs,
    createWriter(context) {
      const thread = threadNumber()
      const wait = new ProcessorWait(thread)
      const postWait = () => context.post({ thread, waitedMs: wait.ms() } satisfies Posted)
      return {
        async open() {
          postWait()
        },
        write(batch, from) {
          context.post({ columns: columnsOf(batch, from) } satisfies Posted)
          return batch.length
        },
        async prepareCommit() {
          postWait()
          return null
        },
        async close() {},
      }
    },
    onMessage(message) {
      const posted = message as Posted
      if ('waitedMs' in posted) {
        waitedMs.set(posted.thread, posted.waitedMs)
        return
      }
      const [key, events, value] = posted.columns
      for (let i = 0; i < key!.length; i++) {
        const at = key![i]!
        if (totals.counts[at] !== 0) sink.twice++
        totals.counts[at] = events![i]!
        totals.sums[at] = value![i]!
      }
    },
  }
  return sink
}

/** Key, events and value of rows, which have columns or are objects. */
function columnsOf(batch: Batch, from: number): Float64Array[] {
  const { schema: ofRows, columns, length } = batch
  const values = (column: Column | undefined) => (column as Extract<Column, { kind: 'float64' | 'opaque' }>).values
  const names = ['key', 'events', 'value'] as const
  if (ofRows.isOpaque) {
    const rows = values(columns[0]).slice(from, length) as readonly Spent[]
    return names.map((name) => Float64Array.from(rows, (row) => row[name]))
  }
  const fields = ofRows.fields.map((field) => field.name)
  return names.map((name) => Float64Array.from(values(columns[fields.indexOf(name)]).slice(from, length) as number[]))
}

export function totalsJob(options: TotalsOptions): { readonly graph: JobGraph; readonly sink: TotalsSink } {
  const env = StreamExecutionEnvironment.createEnvironment({})
  const sink = totalsSink(options.keys)
  const windowed = env
    .fromSource(
      totalsSource(options),
      WatermarkStrategy.forMonotonousTimestamps<Row>().withTimestampAssigner('at'),
      'rows',
    )
    .uid('rows')
    .keyBy('key')
    .window(TumblingEventTimeWindows.of(days(1)))
  if (options.kind === 'columns') {
    windowed
      .aggregate({ events: count(), value: sum('value') })
      .uid('totals')
      .sinkTo(sink)
  } else {
    windowed.aggregate(spending).uid('totals').sinkTo(sink)
  }
  return { graph: env.getGraph(), sink }
}

/** What worker threads import. */
export default {
  build: (config: Readonly<Record<string, string>>) => totalsJob(JSON.parse(config['totals']!) as TotalsOptions),
}

/** Every key's count and sum. */
export function assertTotals(sink: TotalsSink, expected: Totals): void {
  const { counts, sums } = sink.totals
  const isWrong = (key: number): boolean => counts[key] !== expected.counts[key] || sums[key] !== expected.sums[key]
  const wrong = Array.from(expected.counts.keys()).filter(isWrong)
  const [first] = wrong
  const told = first === undefined ? '' : `, key ${first}: ${counts[first]} rows of ${expected.counts[first]}`
  assert.equal(wrong.length, 0, `${wrong.length} of ${counts.length} keys are wrong${told}`)
  assert.equal(sink.twice, 0, 'each result comes once')
}
