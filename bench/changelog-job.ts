/**
 * The job of `millrace bench changelog`: columns made in memory, count, sum and greatest value of each key so far, as a
 * changelog: every event takes the row of its key back and sends the next. What the rows say at the end has to hold every
 * event once.
 */
import { count, max, sum, WatermarkStrategy } from 'millrace'
import { type BuiltBench, benchEnvironment } from './bench-job.ts'
import { columnPoolSource } from './column-pool-source.ts'
import { tallySink } from './tally-sink.ts'

export function buildChangelogBench(config: Readonly<Record<string, string>>): BuiltBench {
  const { env, parallelism, events, keys } = benchEnvironment(config)
  const sink = tallySink()
  const source = columnPoolSource({ events, splits: parallelism, keys, eventsPerSecond: 1_000_000 })
  env
    .fromDataStream(env.fromSource(source, WatermarkStrategy.noWatermarks()))
    .groupBy('key')
    .aggregate({ events: count(), value: sum('value'), most: max('value') })
    .sinkTo(sink as never)
  return { graph: env.getGraph(), tally: sink.tally, windowsOfEvent: 1 }
}

/** What worker threads import. */
export default { build: buildChangelogBench }
