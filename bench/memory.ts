/**
 * `millrace bench memory flat | keys`: the process's resident memory over a long run.
 *
 * `flat` fails when memory grows: it compares the medians of the second and of the last quarter of the run, because
 * the first quarter fills caches and compiles code. `keys` fails when memory passes the budget.
 */
import { parseArgs } from 'node:util'
import { type JobCost, measureJob } from './measure-job.ts'
import { buildMemoryBench } from './memory-job.ts'
import { median } from './paired.ts'
import { wholeFlag } from './throughput.ts'

export type MemoryShape = 'flat' | 'keys'

export interface MemoryOptions {
  readonly shape: MemoryShape
  readonly events: number
  /** `flat`: distinct keys a window. `keys`: all of them. */
  readonly keys: number
  readonly parallelism: number
  readonly checkpointIntervalMs: number
  /** Memory that the whole process may take. */
  readonly budgetMiB: number
  /** Of all workers together, the part of it that is given to keyed state. */
  readonly stateMiB: number
}

export interface MemoryResult extends MemoryOptions, JobCost {
  readonly eventsPerCpuSecond: number
  /** Resident memory at equal distances of time, MiB. */
  readonly samplesMiB: readonly number[]
  /** Median of the last quarter over that of the second, less one. */
  readonly growth: number
  readonly passed: boolean
}

/**
 * More growth than this between the second and the last quarter is neither garbage that waits nor RocksDB's caches that
 * fill: of some 300 MiB it is less than a byte for each event.
 */
const GROWTH_MAX = 0.1
const SAMPLE_MS = 200
const MIB = 1 << 20

/** Throws when an event is missing from a window, or counted twice. */
export async function measureMemory(options: MemoryOptions): Promise<MemoryResult> {
  const { shape, events, keys, parallelism, checkpointIntervalMs, budgetMiB, stateMiB } = options
  const config = {
    flat: shape === 'flat' ? '1' : '0',
    events: String(events),
    keys: String(keys),
    parallelism: String(parallelism),
  }
  const { graph, tally } = buildMemoryBench(config)
  const samplesMiB: number[] = []
  const cost = await measureJob({
    name: `bench-memory-${shape}`,
    graph,
    module: './memory-job',
    config,
    parallelism,
    checkpointIntervalMs,
    stateMemoryBytes: (stateMiB * MIB) / parallelism,
    sample: { everyMs: SAMPLE_MS, take: () => samplesMiB.push(process.memoryUsage.rss() / MIB) },
  })
  if (tally.events !== events) throw new Error(`The windows hold ${tally.events} events, not ${events}.`)
  const growth = growthOf(samplesMiB)
  return {
    ...options,
    ...cost,
    eventsPerCpuSecond: events / cost.cpuSeconds,
    samplesMiB,
    growth,
    passed: cost.rssPeakMiB <= budgetMiB && (shape === 'keys' || growth <= GROWTH_MAX),
  }
}

/** 0 for runs too short to tell. */
export function growthOf(samples: readonly number[]): number {
  const quarter = Math.floor(samples.length / 4)
  if (quarter === 0) return 0
  return median(samples.slice(-quarter)) / median(samples.slice(quarter, 2 * quarter)) - 1
}

const HELP = `millrace bench memory flat|keys: resident memory of the process
  --events N               (default flat 100000000, keys 20000000)
  --keys N                 flat: distinct keys a window (default 200000); keys: all (default 10000000)
  --parallelism N          worker threads and subtasks (default 1)
  --checkpoint-interval MS (default 2000, so that the store's caches fill early)
  --budget MIB             the most that the process may take (default 1024)
  --state-memory MIB       the part of it that keyed state is given (default three quarters)
  --json                   one JSON object on stdout
`

/** Resolves to the exit code: 1 when memory grew, or passed the budget. */
export async function runMemory(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      events: { type: 'string' },
      keys: { type: 'string' },
      parallelism: { type: 'string' },
      'checkpoint-interval': { type: 'string' },
      budget: { type: 'string' },
      'state-memory': { type: 'string' },
      json: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  })
  const [shape] = positionals
  if (values.help === true || (shape !== 'flat' && shape !== 'keys')) {
    process.stdout.write(HELP)
    return values.help === true ? 0 : 2
  }
  const budgetMiB = wholeFlag(values.budget, 1_024, 'budget')
  const result = await measureMemory({
    shape,
    events: wholeFlag(values.events, shape === 'flat' ? 100_000_000 : 20_000_000, 'events'),
    keys: wholeFlag(values.keys, shape === 'flat' ? 200_000 : 10_000_000, 'keys'),
    parallelism: wholeFlag(values.parallelism, 1, 'parallelism'),
    checkpointIntervalMs: wholeFlag(values['checkpoint-interval'], 2_000, 'checkpoint-interval'),
    budgetMiB,
    stateMiB: wholeFlag(values['state-memory'], Math.floor((budgetMiB * 3) / 4), 'state-memory'),
  })
  process.stdout.write(values.json === true ? `${JSON.stringify(result)}\n` : textOf(result))
  return result.passed ? 0 : 1
}

function textOf(result: MemoryResult): string {
  const { samplesMiB } = result
  const points = Array.from({ length: 10 }, (_, i) => samplesMiB[Math.floor(((i + 1) * samplesMiB.length) / 10) - 1])
  const shown = points.map((mib) => mib?.toFixed(0) ?? '-').join(' ')
  return [
    `memory   ${result.shape}: ${result.events} events, ${result.keys} keys${result.shape === 'flat' ? ' a window' : ''}, ${result.stateBackend}, ${result.checkpoints} checkpoints`,
    `resident ${shown} MiB at each tenth of the run; ${result.rssPeakMiB.toFixed(0)} MiB at most of ${result.budgetMiB}, ${result.stateMiB} of them for state`,
    `growth   ${(result.growth * 100).toFixed(1)} % from the second to the last quarter`,
    `speed    ${(result.eventsPerCpuSecond / 1e6).toFixed(2)} M events per CPU-second`,
    result.passed ? 'passed' : 'FAILED',
    '',
  ].join('\n')
}
