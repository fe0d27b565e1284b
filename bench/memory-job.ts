/**
 * The job of `millrace bench memory`: columns made in memory, keyed by a string, counted in windows. Two shapes:
 *   flat  keys that live for one window of ten seconds, then never come again;
 *   keys  one window a day that all keys stay in, each of them updated several times.
 */
import { count, days, seconds, sum, TumblingEventTimeWindows, WatermarkStrategy } from 'millrace'
import { type BuiltBench, benchEnvironment } from './bench-job.ts'
import { type ColumnRow, columnPoolSource } from './column-pool-source.ts'
import { tallySink } from './tally-sink.ts'

/** Events a second of event time. */
const RATE = 100_000
const SHORT = seconds(10)

export function buildMemoryBench(config: Readonly<Record<string, string>>): BuiltBench {
  const { env, parallelism, events, keys, option } = benchEnvironment(config)
  const isFlat = option('flat', 1) === 1
  const sink = tallySink()
  const load = { events, splits: parallelism, keys, eventsPerSecond: RATE }
  env
    .fromSource(
      columnPoolSource(
        isFlat ? { ...load, rowsUntilFresh: Math.floor((RATE * SHORT.ms) / 1_000 / parallelism) } : load,
      ),
      WatermarkStrategy.forBoundedOutOfOrderness<ColumnRow>(seconds(1)).withTimestampAssigner('timestamp'),
    )
    .keyBy('key')
    .window(TumblingEventTimeWindows.of(isFlat ? SHORT : days(1)))
    .aggregate({ events: count(), value: sum('value') })
    .sinkTo(sink)
  return { graph: env.getGraph(), tally: sink.tally, windowsOfEvent: 1 }
}

/** What worker threads import. */
export default { build: buildMemoryBench }
