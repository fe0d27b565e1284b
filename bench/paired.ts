/**
 * `millrace bench checkpoint-loss | scaling`: two variants of one benchmark in turn (A B A B), each run in a process of
 * its own, compared pair by pair. Other load on the machine hits both members of a pair about alike, so that the
 * median of ratios says more than any single figure.
 */
import { execFile } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { parseArgs, promisify } from 'node:util'
import { siblingModule } from '../engine/core/own-module.ts'
import { PIPELINES, type PipelineName, type ThroughputResult, wholeFlag } from './throughput.ts'

export interface Variant {
  readonly name: string
  /** Arguments after `millrace bench`. */
  readonly args: readonly string[]
}

export interface Pair {
  readonly a: ThroughputResult
  readonly b: ThroughputResult
}

/** Runs the variants in turn, `pairs` times; the order within a pair alternates, against drift. */
export async function runPairs(a: Variant, b: Variant, pairs: number, onPair: (pair: Pair) => void): Promise<Pair[]> {
  const results: Pair[] = []
  for (let i = 0; i < pairs; i++) {
    const order = i % 2 === 0 ? [a, b] : [b, a]
    const first = await runVariant(order[0]!)
    const second = await runVariant(order[1]!)
    const pair = i % 2 === 0 ? { a: first, b: second } : { a: second, b: first }
    results.push(pair)
    onPair(pair)
  }
  return results
}

async function runVariant({ args }: Variant): Promise<ThroughputResult> {
  const cli = siblingModule(import.meta.url, '../cli/main').pathname
  const { stdout } = await promisify(execFile)(process.execPath, [cli, 'bench', ...args, '--json'])
  return JSON.parse(stdout) as ThroughputResult
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((x, y) => x - y)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

export interface PairedResult {
  readonly comparison: ComparisonName
  readonly pipeline: PipelineName
  readonly events: number
  readonly a: string
  readonly b: string
  /** The figure of b over that of a, a pair each. */
  readonly ratios: readonly number[]
  readonly ratioMedian: number
  readonly pairs: readonly Pair[]
}

interface Comparison {
  readonly title: string
  readonly a: Variant
  readonly b: Variant
  /** What is compared: of one run, more is better. */
  readonly figure: (result: ThroughputResult) => number
  readonly figureName: string
  /** Says what the median ratio means. */
  readonly conclusion: (ratio: number) => string
}

const COMPARISONS = {
  'checkpoint-loss': {
    title: 'checkpoints every 10 s against none',
    a: { name: 'no checkpoints', args: ['--checkpoint-interval', '0'] },
    b: { name: 'every 10 s', args: ['--checkpoint-interval', '10000'] },
    figure: (result) => result.eventsPerCpuSecond,
    figureName: 'M events per CPU-second',
    conclusion: (ratio) => `checkpoints cost ${((1 - ratio) * 100).toFixed(1)} % of the throughput`,
  },
  scaling: {
    title: 'two workers against one',
    a: { name: '1 worker', args: ['--parallelism', '1'] },
    b: { name: '2 workers', args: ['--parallelism', '2'] },
    figure: (result) => result.eventsPerSecond,
    figureName: 'M events/s by the wall clock',
    conclusion: (ratio) => `two workers are ${ratio.toFixed(2)} times as fast as one`,
  },
} as const satisfies Readonly<Record<string, Comparison>>

export type ComparisonName = keyof typeof COMPARISONS

export interface PairedOptions {
  readonly pipeline: PipelineName
  readonly events: number
  readonly pairs: number
}

export async function comparePairs(
  name: ComparisonName,
  options: PairedOptions,
  onPair: (line: string) => void = () => {},
): Promise<PairedResult> {
  const { a, b, figure } = COMPARISONS[name]
  const withLoad = (variant: Variant): Variant => ({
    name: variant.name,
    args: [options.pipeline, '--events', String(options.events), ...variant.args],
  })
  const ratioOf = (pair: Pair): number => figure(pair.b) / figure(pair.a)
  const pairs = await runPairs(withLoad(a), withLoad(b), options.pairs, (pair) => {
    const shown = (result: ThroughputResult): string => (figure(result) / 1e6).toFixed(2)
    const byCpu = (pair.b.eventsPerCpuSecond / pair.a.eventsPerCpuSecond).toFixed(3)
    onPair(
      `${a.name} ${shown(pair.a)}   ${b.name} ${shown(pair.b)}   ratio ${ratioOf(pair).toFixed(3)}, per CPU-second ${byCpu}`,
    )
  })
  const ratios = pairs.map(ratioOf)
  return {
    comparison: name,
    pipeline: options.pipeline,
    events: options.events,
    a: a.name,
    b: b.name,
    ratios,
    ratioMedian: median(ratios),
    pairs,
  }
}

const helpOf = (name: ComparisonName): string => `millrace bench ${name}: ${COMPARISONS[name].title}
  --pipeline NAME  ${Object.keys(PIPELINES).join(', ')} (default engine)
  --events N       records of a run (default 30000000)
  --pairs N        (default 3)
  --json           one JSON object on stdout
`

/** Resolves to the exit code. */
export async function runPaired(name: ComparisonName, args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      pipeline: { type: 'string', default: 'engine' },
      events: { type: 'string' },
      pairs: { type: 'string' },
      json: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  })
  if (values.help === true) {
    process.stdout.write(helpOf(name))
    return 0
  }
  const { pipeline } = values
  if (!Object.hasOwn(PIPELINES, pipeline)) throw new Error(`There is no pipeline ${pipeline}.`)
  const { title, figureName, conclusion } = COMPARISONS[name]
  if (values.json !== true) {
    process.stdout.write(`${name} ${pipeline}: ${title}, ${figureName}, ${availableParallelism()} cores\n`)
  }
  const result = await comparePairs(
    name,
    {
      pipeline: pipeline as PipelineName,
      events: wholeFlag(values.events, 30_000_000, 'events'),
      pairs: wholeFlag(values.pairs, 3, 'pairs'),
    },
    (line) => {
      if (values.json !== true) process.stdout.write(`${line}\n`)
    },
  )
  process.stdout.write(values.json === true ? `${JSON.stringify(result)}\n` : `${conclusion(result.ratioMedian)}\n`)
  return 0
}
