/**
 * The job of `millrace bench engine`: JSON bytes, keyed by a string, aggregated in windows of five
 * minutes of event time, counted by a sink. Its options come in through `env.config`.
 */
import {
  count,
  minutes,
  StreamExecutionEnvironment,
  schema,
  seconds,
  sum,
  TumblingEventTimeWindows,
  t,
  WatermarkStrategy,
} from 'millrace'
import type { JobGraph } from '../engine/contract/job-graph.ts'
import type { Sink } from '../engine/contract/sink.ts'
import type { Float64Column } from '../engine/core/batch.ts'
import { jsonPoolSource } from './json-pool-source.ts'

const click = schema({ sessionId: t.string(), timestamp: t.timestamp(), value: t.float64() })
interface Click {
  readonly sessionId: string
  readonly timestamp: number
  readonly value: number
}

/** Totals of what arrived: every event must be in exactly one window's count. */
export interface Tally {
  rows: number
  events: number
  value: number
}

/** Counts rows and their events; posts totals when the stream ends. */
function tallySink(): Sink & { readonly tally: Tally } {
  const tally: Tally = { rows: 0, events: 0, value: 0 }
  return {
    kind: 'tally',
    guarantee: 'at-least-once',
    tally,
    createWriter(context) {
      let own: Tally = { rows: 0, events: 0, value: 0 }
      return {
        async open() {},
        write(batch, from) {
          const names = batch.schema.fields.map((field) => field.name)
          const events = (batch.columns[names.indexOf('events')] as Float64Column).values
          const values = (batch.columns[names.indexOf('value')] as Float64Column).values
          for (let i = from; i < batch.length; i++) {
            own.events += events[i]!
            own.value += values[i]!
          }
          own.rows += batch.length - from
          return batch.length
        },
        async prepareCommit() {
          context.post(own)
          own = { rows: 0, events: 0, value: 0 }
          return null
        },
        async close() {},
      }
    },
    onMessage(message) {
      const part = message as Tally
      tally.rows += part.rows
      tally.events += part.events
      tally.value += part.value
    },
  }
}

/** The job's graph, with the totals that its sink counts on the coordinator's thread. */
export function buildEngineBench(config: Readonly<Record<string, string>>): { graph: JobGraph; tally: Tally } {
  const env = StreamExecutionEnvironment.createEnvironment(config)
  const option = (name: string, fallback: number): number => Number(env.config[name] ?? fallback)
  const parallelism = option('parallelism', 1)
  const events = option('events', 1_000_000)
  // Event time of the whole run: twenty minutes, so that windows fire four times while it runs.
  const spacingMs = (20 * 60_000) / (events / parallelism)
  const sink = tallySink()
  env
    .fromSource(
      jsonPoolSource({ schema: click, events, splits: parallelism, keys: option('keys', 100_000), spacingMs }),
      WatermarkStrategy.forBoundedOutOfOrderness<Click>(seconds(5)).withTimestampAssigner('timestamp'),
    )
    .keyBy('sessionId')
    .window(TumblingEventTimeWindows.of(minutes(5)))
    .aggregate({ events: count(), value: sum('value') })
    .sinkTo(sink)
  return { graph: env.getGraph(), tally: sink.tally }
}

/** What worker threads import. */
export default { build: buildEngineBench }
