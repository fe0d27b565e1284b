/**
 * The job of `millrace bench sliding`: columns made in memory, keyed by a string, in windows of 10 s that begin every
 * 2 s. `rate` is how many events a second of event time holds: it decides how much a window has to show for a firing.
 */
import { count, SlidingEventTimeWindows, seconds, sum, WatermarkStrategy } from 'millrace'
import { type BuiltBench, benchEnvironment } from './bench-job.ts'
import { type ColumnRow, columnPoolSource } from './column-pool-source.ts'
import { tallySink } from './tally-sink.ts'

export function buildSlidingBench(config: Readonly<Record<string, string>>): BuiltBench {
  const { env, parallelism, events, keys, option } = benchEnvironment(config)
  const sink = tallySink()
  env
    .fromSource(
      columnPoolSource({ events, splits: parallelism, keys, eventsPerSecond: option('rate', 1_000_000) }),
      WatermarkStrategy.forBoundedOutOfOrderness<ColumnRow>(seconds(1)).withTimestampAssigner('timestamp'),
    )
    .keyBy('key')
    .window(SlidingEventTimeWindows.of(seconds(10), seconds(2)))
    .aggregate({ events: count(), value: sum('value') })
    .sinkTo(sink)
  return { graph: env.getGraph(), tally: sink.tally, windowsOfEvent: 5 }
}

/** What worker threads import. */
export default { build: buildSlidingBench }
