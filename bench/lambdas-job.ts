/**
 * The job of `millrace bench lambdas`: the records of the engine benchmark as plain row objects, filtered and mapped
 * by functions, keyed by a function, aggregated by an AggregateFunction of a user's class.
 */
import { type AggregateFunction, minutes, seconds, TumblingEventTimeWindows, WatermarkStrategy } from 'millrace'
import { type BuiltBench, benchEnvironment } from './bench-job.ts'
import { CLICK, type Click, clicks } from './json-pool-source.ts'
import { tallySink } from './tally-sink.ts'

interface Visit {
  readonly session: string
  readonly cents: number
}

class Spending {
  events = 0
  cents = 0
}

const spending: AggregateFunction<Visit, Spending, { events: number; value: number }> = {
  createAccumulator: () => new Spending(),
  add(visit, total) {
    total.events++
    total.cents += visit.cents
    return total
  },
  getResult: (total) => ({ events: total.events, value: total.cents / 100 }),
  merge(a, b) {
    a.events += b.events
    a.cents += b.cents
    return a
  },
}

export function buildLambdasBench(config: Readonly<Record<string, string>>): BuiltBench {
  const { env, parallelism, events, keys } = benchEnvironment(config)
  const sink = tallySink()
  env
    .fromSource(
      clicks({ schema: CLICK, events, splits: parallelism, keys, lengthMs: 20 * 60_000 }),
      WatermarkStrategy.forBoundedOutOfOrderness<Click>(seconds(5)).withTimestampAssigner('timestamp'),
    )
    .filter((click) => click.value >= 0)
    .map((click): Visit => ({ session: click.sessionId, cents: Math.round(click.value * 100) }))
    .keyBy((visit) => visit.session)
    .window(TumblingEventTimeWindows.of(minutes(5)))
    .aggregate(spending)
    .sinkTo(sink)
  return { graph: env.getGraph(), tally: sink.tally, windowsOfEvent: 1 }
}

/** What worker threads import. */
export default { build: buildLambdasBench }
