/**
 * `millrace bench engine | lambdas | sliding | changelog`: a whole job on bounded load, in events per CPU-second.
 */
import { parseArgs } from 'node:util'
import { usageError } from '../engine/api/run-flags.ts'
import type { BuiltBench } from './bench-job.ts'
import { type JobCost, measureJob } from './measure-job.ts'

export interface ThroughputOptions {
  readonly events: number
  readonly parallelism: number
  readonly keys: number
  /** Null: no checkpoints while the job runs. */
  readonly checkpointIntervalMs: number | null
  /** Events a second of event time holds, for jobs that ask. */
  readonly rate?: number
}

export interface ThroughputResult extends ThroughputOptions, JobCost {
  readonly pipeline: PipelineName
  readonly eventsPerSecond: number
  readonly eventsPerCpuSecond: number
  readonly rowsOut: number
}

export const PIPELINES = {
  engine: {
    title: 'JSON of 215 bytes -> keyBy string -> count and sum in 5 min windows',
    module: './engine-job',
    load: async () => (await import('./engine-job.ts')).default,
  },
  lambdas: {
    title: 'JSON of 215 bytes -> filter, map, keyBy of row objects -> AggregateFunction in 5 min windows',
    module: './lambdas-job',
    load: async () => (await import('./lambdas-job.ts')).default,
  },
  sliding: {
    title: 'columns -> keyBy string -> count and sum in 10 s windows every 2 s',
    module: './sliding-job',
    load: async () => (await import('./sliding-job.ts')).default,
  },
  changelog: {
    title: 'columns -> groupBy string -> count, sum and max so far, as a changelog',
    module: './changelog-job',
    load: async () => (await import('./changelog-job.ts')).default,
  },
} as const

export type PipelineName = keyof typeof PIPELINES

/** Runs a job once. Throws when an event is missing from a window, or counted twice. */
export async function measureThroughput(pipeline: PipelineName, options: ThroughputOptions): Promise<ThroughputResult> {
  const { module, load } = PIPELINES[pipeline]
  const config = {
    events: String(options.events),
    parallelism: String(options.parallelism),
    keys: String(options.keys),
    ...(options.rate === undefined ? {} : { rate: String(options.rate) }),
  }
  const { graph, tally, windowsOfEvent }: BuiltBench = (await load()).build(config)
  const { parallelism, checkpointIntervalMs } = options
  const cost = await measureJob({ name: `bench-${pipeline}`, graph, module, config, parallelism, checkpointIntervalMs })
  if (tally.events !== options.events * windowsOfEvent) {
    throw new Error(`The windows hold ${tally.events} events, not ${options.events} times ${windowsOfEvent}.`)
  }
  return {
    pipeline,
    ...options,
    ...cost,
    eventsPerSecond: options.events / cost.seconds,
    eventsPerCpuSecond: options.events / cost.cpuSeconds,
    rowsOut: tally.rows,
  }
}

/** A whole number of at least `least`, out of a flag. */
export function wholeFlag(text: string | undefined, fallback: number, name: string, least = 1): number {
  if (text === undefined) return fallback
  const value = Number(text)
  if (Number.isInteger(value) && value >= least) return value
  throw usageError(`--${name} ${text} is not possible.`, `Give a whole number, ${least} or more.`)
}

const helpOf = (pipeline: PipelineName): string => `millrace bench ${pipeline}: ${PIPELINES[pipeline].title}
  --events N               records to process (default 10000000)
  --parallelism N          worker threads and subtasks (default 1)
  --keys N                 distinct keys (default 100000)
  --checkpoint-interval MS (default 10000; 0 for no checkpoints)
  --rate N                 sliding: events in a second of event time (default 1000000)
  --json                   one JSON object on stdout
`

/** Resolves to the exit code. */
export async function runThroughput(pipeline: PipelineName, args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      events: { type: 'string' },
      parallelism: { type: 'string' },
      keys: { type: 'string' },
      'checkpoint-interval': { type: 'string' },
      rate: { type: 'string' },
      json: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  })
  if (values.help === true) {
    process.stdout.write(helpOf(pipeline))
    return 0
  }
  const intervalMs = wholeFlag(values['checkpoint-interval'], 10_000, 'checkpoint-interval', 0)
  const result = await measureThroughput(pipeline, {
    events: wholeFlag(values.events, 10_000_000, 'events'),
    parallelism: wholeFlag(values.parallelism, 1, 'parallelism'),
    keys: wholeFlag(values.keys, 100_000, 'keys'),
    checkpointIntervalMs: intervalMs === 0 ? null : intervalMs,
    rate: wholeFlag(values.rate, 1_000_000, 'rate'),
  })
  process.stdout.write(values.json === true ? `${JSON.stringify(result)}\n` : textOf(result))
  return 0
}

function textOf(result: ThroughputResult): string {
  const millions = (result.eventsPerCpuSecond / 1e6).toFixed(2)
  return [
    `${result.pipeline.padEnd(8)} ${PIPELINES[result.pipeline].title}`,
    `state    ${result.stateBackend}, ${result.keys} keys, ${result.checkpoints} checkpoints`,
    `events   ${result.events} with parallelism ${result.parallelism}, ${result.rowsOut} rows out`,
    `speed    ${millions} M events per CPU-second (${result.cpuSeconds.toFixed(2)} CPU-seconds in ${result.seconds.toFixed(2)} s)`,
    `memory   ${result.rssPeakMiB.toFixed(0)} MiB at most`,
    '',
  ].join('\n')
}
