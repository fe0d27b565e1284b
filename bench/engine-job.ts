/**
 * The job of `millrace bench engine`: JSON bytes, keyed by a string, aggregated in windows of five minutes of event
 * time, counted by a sink. Its options come in through `env.config`.
 */
import { count, minutes, seconds, sum, TumblingEventTimeWindows, WatermarkStrategy } from 'millrace'
import { type BuiltBench, benchEnvironment } from './bench-job.ts'
import { CLICK, type Click, clicks } from './json-pool-source.ts'
import { tallySink } from './tally-sink.ts'

/** The job's graph, with the totals that its sink counts on the coordinator's thread. */
export function buildEngineBench(config: Readonly<Record<string, string>>): BuiltBench {
  const { env, parallelism, events, keys } = benchEnvironment(config)
  const sink = tallySink()
  env
    .fromSource(
      // Event time of the whole run: twenty minutes, so that windows fire four times while it runs.
      clicks({ schema: CLICK, events, splits: parallelism, keys, lengthMs: 20 * 60_000 }),
      WatermarkStrategy.forBoundedOutOfOrderness<Click>(seconds(5)).withTimestampAssigner('timestamp'),
    )
    .keyBy('sessionId')
    .window(TumblingEventTimeWindows.of(minutes(5)))
    .aggregate({ events: count(), value: sum('value') })
    .sinkTo(sink)
  return { graph: env.getGraph(), tally: sink.tally, windowsOfEvent: 1 }
}

/** What worker threads import. */
export default { build: buildEngineBench }
