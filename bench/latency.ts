/**
 * `millrace bench latency`: from the source's read of a record to the emission of the running keyed sum that it
 * changed, at a steady rate, with checkpoints.
 */
import { parseArgs } from 'node:util'
import { LatencyHistogram } from './latency-histogram.ts'
import { buildLatencyBench } from './latency-job.ts'
import { type JobCost, measureJob } from './measure-job.ts'
import { wholeFlag } from './throughput.ts'

export interface LatencyOptions {
  /** Records a second. */
  readonly rate: number
  readonly seconds: number
  readonly warmUpSeconds: number
  readonly keys: number
  readonly parallelism: number
  readonly checkpointIntervalMs: number | null
}

/** Period of the timer that shows how busy the machine is. */
const TIMER_MS = 5

const QUANTILES = { p50: 0.5, p99: 0.99, p999: 0.999, p9999: 0.9999, max: 1 } as const

export type Quantiles = Readonly<Record<keyof typeof QUANTILES, number>>

export interface LatencyResult extends LatencyOptions, JobCost {
  /** Results that were measured, after the warm-up. */
  readonly measured: number
  /** Milliseconds since the source read the record. */
  readonly sinceReadMs: Quantiles
  /** Milliseconds since the record was due to arrive: time in which nothing was read counts too. */
  readonly sinceDueMs: Quantiles
  /** Milliseconds by which a timer was late on the coordinator's thread, which rests: what the machine adds by itself. */
  readonly timerLateMs: Quantiles
}

/** Throws when results are missing. */
export async function measureLatency(options: LatencyOptions): Promise<LatencyResult> {
  const { rate, seconds, warmUpSeconds, keys, parallelism, checkpointIntervalMs } = options
  const config = {
    rate: String(rate),
    seconds: String(seconds),
    'warm-up': String(warmUpSeconds),
    keys: String(keys),
    parallelism: String(parallelism),
  }
  const { graph, tally } = buildLatencyBench(config)
  const startedMs = performance.now()
  const timer = new LatencyHistogram()
  let beforeMs = Number.NaN
  const cost = await measureJob({
    sample: {
      everyMs: TIMER_MS,
      take() {
        const now = performance.now()
        if (now - startedMs > warmUpSeconds * 1_000) timer.add(now - beforeMs - TIMER_MS)
        beforeMs = now
      },
    },
    name: 'bench-latency',
    graph,
    module: './latency-job',
    config,
    parallelism,
    checkpointIntervalMs,
  })
  const measured = tally.read.count
  // Deployment eats into the warm-up, and the last results may come a little later than their second.
  if (measured < rate * (seconds - warmUpSeconds) * 0.9) {
    throw new Error(`Only ${measured} results came of ${rate} records a second for ${seconds} s.`)
  }
  const quantiles = (of: (share: number) => number): Quantiles =>
    Object.fromEntries(Object.entries(QUANTILES).map(([name, share]) => [name, of(share)])) as Quantiles
  return {
    ...options,
    ...cost,
    measured,
    sinceReadMs: quantiles((share) => tally.read.quantileMs(share)),
    sinceDueMs: quantiles((share) => tally.due.quantileMs(share)),
    timerLateMs: quantiles((share) => timer.quantileMs(share)),
  }
}

const HELP = `millrace bench latency: read of a record to emission of the running keyed sum that it changed
  --rate N                 records a second (default 50000)
  --seconds S              (default 60)
  --warm-up S              results of the first seconds are not counted (default 5)
  --keys N                 distinct keys (default 100000)
  --parallelism N          worker threads and subtasks (default 1)
  --checkpoint-interval MS (default 10000; 0 for no checkpoints)
  --json                   one JSON object on stdout
`

/** Resolves to the exit code. */
export async function runLatency(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      rate: { type: 'string' },
      seconds: { type: 'string' },
      'warm-up': { type: 'string' },
      keys: { type: 'string' },
      parallelism: { type: 'string' },
      'checkpoint-interval': { type: 'string' },
      json: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  })
  if (values.help === true) {
    process.stdout.write(HELP)
    return 0
  }
  const intervalMs = wholeFlag(values['checkpoint-interval'], 10_000, 'checkpoint-interval', 0)
  const result = await measureLatency({
    rate: wholeFlag(values.rate, 50_000, 'rate'),
    seconds: wholeFlag(values.seconds, 60, 'seconds'),
    warmUpSeconds: wholeFlag(values['warm-up'], 5, 'warm-up', 0),
    keys: wholeFlag(values.keys, 100_000, 'keys'),
    parallelism: wholeFlag(values.parallelism, 1, 'parallelism'),
    checkpointIntervalMs: intervalMs === 0 ? null : intervalMs,
  })
  process.stdout.write(values.json === true ? `${JSON.stringify(result)}\n` : textOf(result))
  return 0
}

function textOf(result: LatencyResult): string {
  const line = (name: string, quantiles: Quantiles): string =>
    `${name.padEnd(11)}${Object.entries(quantiles)
      .map(([quantile, ms]) => `${quantile} ${ms.toFixed(2)} ms`)
      .join('   ')}`
  return [
    `latency    ${result.rate} records a second, ${result.keys} keys, parallelism ${result.parallelism}, ${result.stateBackend}, ${result.checkpoints} checkpoints`,
    line('since read', result.sinceReadMs),
    line('since due', result.sinceDueMs),
    line('timer late', result.timerLateMs),
    `measured   ${result.measured} results, ${(result.cpuSeconds / result.seconds).toFixed(2)} CPU-seconds a second`,
    '',
  ].join('\n')
}
