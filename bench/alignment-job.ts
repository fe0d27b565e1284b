/**
 * The job of `millrace bench alignment`: a source at full speed on every worker, an exchange by key, a keyed window, and
 * another exchange, so that every barrier is aligned twice while channels are full.
 *
 * Settings beside those of all benchmarks: `hot-percent`, the share of rows that are of one key; `slow-us`, microseconds
 * for which a function keeps its worker busy with each row, after one more exchange in front.
 */
import { count, seconds, sum, TumblingEventTimeWindows, WatermarkStrategy } from 'millrace'
import { type BuiltBench, benchEnvironment } from './bench-job.ts'
import { COLUMN_ROWS, type ColumnRow, columnPoolSource } from './column-pool-source.ts'
import { tallySink } from './tally-sink.ts'

/** Events a second of event time. */
const RATE = 1_000_000

/** Hands a row on, after so much time on the processor. */
function slowly(us: number): (row: ColumnRow) => ColumnRow {
  return (row) => {
    const untilMs = performance.now() + us / 1_000
    while (performance.now() < untilMs);
    return row
  }
}

export function buildAlignmentBench(config: Readonly<Record<string, string>>): BuiltBench {
  const { env, parallelism, keys, option } = benchEnvironment(config)
  const sink = tallySink()
  const rows = env.fromSource(
    columnPoolSource({
      events: Number.MAX_SAFE_INTEGER,
      seconds: option('seconds', 1),
      splits: parallelism,
      keys,
      eventsPerSecond: RATE,
      hotPercent: option('hot-percent', 0),
    }),
    WatermarkStrategy.forBoundedOutOfOrderness<ColumnRow>(seconds(1)).withTimestampAssigner('timestamp'),
  )
  const slowUs = option('slow-us', 0)
  const worked = slowUs === 0 ? rows : rows.rebalance().map(slowly(slowUs), { schema: COLUMN_ROWS })
  worked
    .keyBy('key')
    .window(TumblingEventTimeWindows.of(seconds(1)))
    .aggregate({ events: count(), value: sum('value') })
    .rebalance()
    .sinkTo(sink)
  return { graph: env.getGraph(), tally: sink.tally, windowsOfEvent: 1 }
}

/** What worker threads import. */
export default { build: buildAlignmentBench }
