/**
 * `millrace bench alignment`: how long barriers take when every channel is full. Three loads, each with sources at full
 * speed on every worker: keys spread evenly, most rows of one key, and a slow function that holds the sources back.
 *
 * Of each checkpoint two times are kept: the longest alignment of a subtask, from its first barrier to its last, in
 * which the inputs that brought theirs are held; and the barrier's way, from the trigger until the last subtask has cut.
 */
import { parseArgs } from 'node:util'
import type { JobStatus } from '../engine/runtime/status.ts'
import { buildAlignmentBench } from './alignment-job.ts'
import { LatencyHistogram } from './latency-histogram.ts'
import { type JobCost, measureJob } from './measure-job.ts'
import { wholeFlag } from './throughput.ts'

export interface AlignmentLoad {
  /** Percent of rows that are of one key. */
  readonly hotPercent: number
  /** Microseconds that each row costs in a function before the window, 0 without it. */
  readonly slowUs: number
}

export interface AlignmentOptions extends AlignmentLoad {
  readonly seconds: number
  readonly keys: number
  readonly parallelism: number
  readonly checkpointIntervalMs: number
}

export interface Quantiles {
  readonly p50: number
  readonly p99: number
  readonly max: number
}

export interface AlignmentResult extends AlignmentOptions, JobCost {
  readonly eventsPerCpuSecond: number
  /** Checkpoints that were measured; those of the first second are not. */
  readonly measured: number
  /** Milliseconds of the slowest subtask's alignment in a checkpoint. */
  readonly alignmentMs: Quantiles
  /** Milliseconds from a checkpoint's trigger to the last subtask's cut. */
  readonly barrierMs: Quantiles
  /** Milliseconds by which a timer was late on the coordinator's thread, which rests: what the machine adds by itself. */
  readonly timerLateMs: Quantiles
}

const TIMER_MS = 5
const WARM_UP_MS = 1_000

const quantilesOf = (histogram: LatencyHistogram): Quantiles => ({
  p50: histogram.quantileMs(0.5),
  p99: histogram.quantileMs(0.99),
  max: histogram.quantileMs(1),
})

/** Throws when rows are missing from the windows. */
export async function measureAlignment(options: AlignmentOptions): Promise<AlignmentResult> {
  const { hotPercent, slowUs, seconds, keys, parallelism, checkpointIntervalMs } = options
  const config = {
    'hot-percent': String(hotPercent),
    'slow-us': String(slowUs),
    seconds: String(seconds),
    keys: String(keys),
    parallelism: String(parallelism),
  }
  const { graph, tally } = buildAlignmentBench(config)
  const alignment = new LatencyHistogram()
  const barrier = new LatencyHistogram()
  const timer = new LatencyHistogram()
  let lastId = 0
  let sinceLook = 0
  let beforeMs = Number.NaN
  const look = ({ checkpoints, startedAtMs }: JobStatus): void => {
    for (const { id, status, kind, triggeredAtMs, alignmentMsMax, barrierMsMax } of checkpoints) {
      if (id <= lastId || status !== 'completed' || kind !== 'checkpoint') continue
      lastId = id
      if (triggeredAtMs < startedAtMs + WARM_UP_MS) continue
      alignment.add(alignmentMsMax!)
      barrier.add(barrierMsMax!)
    }
  }
  const cost = await measureJob({
    name: 'bench-alignment',
    graph,
    module: './alignment-job',
    config,
    parallelism,
    checkpointIntervalMs,
    sample: {
      everyMs: TIMER_MS,
      take(status) {
        const now = performance.now()
        if (!Number.isNaN(beforeMs)) timer.add(now - beforeMs - TIMER_MS)
        beforeMs = now
        if (sinceLook++ % 50 === 0) look(status())
      },
    },
  })
  if (tally.events !== cost.recordsIn) throw new Error(`The windows hold ${tally.events} of ${cost.recordsIn} events.`)
  return {
    ...options,
    ...cost,
    eventsPerCpuSecond: cost.recordsIn / cost.cpuSeconds,
    measured: alignment.count,
    alignmentMs: quantilesOf(alignment),
    barrierMs: quantilesOf(barrier),
    timerLateMs: quantilesOf(timer),
  }
}

const HELP = `millrace bench alignment: time that barriers take when sources run at full speed
  --load NAME              even, skewed (90 % of rows of one key), slow (each row costs its function 5 us) or all (default)
  --seconds S              of each load (default 60)
  --keys N                 distinct keys (default 100000)
  --parallelism N          worker threads and subtasks (default 2)
  --checkpoint-interval MS (default 200)
  --slow-us US             what a row costs the function of the slow load (default 5)
  --json                   one JSON object a load on stdout
`

/** Resolves to the exit code. */
export async function runAlignment(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      load: { type: 'string' },
      seconds: { type: 'string' },
      keys: { type: 'string' },
      parallelism: { type: 'string' },
      'checkpoint-interval': { type: 'string' },
      'slow-us': { type: 'string' },
      json: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  })
  const loads: Readonly<Record<string, AlignmentLoad>> = {
    even: { hotPercent: 0, slowUs: 0 },
    skewed: { hotPercent: 90, slowUs: 0 },
    slow: { hotPercent: 0, slowUs: wholeFlag(values['slow-us'], 5, 'slow-us') },
  }
  const { load = 'all' } = values
  if (values.help === true || (load !== 'all' && !Object.hasOwn(loads, load))) {
    process.stdout.write(HELP)
    return values.help === true ? 0 : 2
  }
  const common = {
    seconds: wholeFlag(values.seconds, 60, 'seconds'),
    keys: wholeFlag(values.keys, 100_000, 'keys'),
    parallelism: wholeFlag(values.parallelism, 2, 'parallelism'),
    checkpointIntervalMs: wholeFlag(values['checkpoint-interval'], 200, 'checkpoint-interval'),
  }
  for (const [name, shape] of Object.entries(loads)) {
    if (load !== 'all' && load !== name) continue
    const result = await measureAlignment({ ...common, ...shape })
    process.stdout.write(values.json === true ? `${JSON.stringify(result)}\n` : textOf(name, result))
  }
  return 0
}

function textOf(name: string, result: AlignmentResult): string {
  const line = (what: string, { p50, p99, max }: Quantiles): string =>
    `  ${what.padEnd(11)}p50 ${p50.toFixed(2)} ms   p99 ${p99.toFixed(2)} ms   max ${max.toFixed(2)} ms`
  return [
    `${name}: ${result.measured} checkpoints every ${result.checkpointIntervalMs} ms, ${result.parallelism} workers, ${result.stateBackend}, ${(result.eventsPerCpuSecond / 1e6).toFixed(2)} M events per CPU-second`,
    line('alignment', result.alignmentMs),
    line('barrier', result.barrierMs),
    line('timer late', result.timerLateMs),
    '',
  ].join('\n')
}
