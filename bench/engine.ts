/**
 * `millrace bench engine [--events N] [--parallelism N] [--json]`: JSON bytes to keyed windows, with
 * checkpoints on RocksDB, in events per CPU-second.
 *
 * CPU-seconds are the whole process's, between the deployment of the job and its end: decoding, exchange,
 * state, checkpoints, garbage collection and the coordinator; making the pool of records is left out by a
 * short run before, which also warms the code up.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { CHECKPOINT_POLICY_DEFAULT } from '../engine/checkpoint/checkpoint-policy.ts'
import { siblingModule } from '../engine/core/own-module.ts'
import { launchJob } from '../engine/runtime/launcher.ts'
import { defaultStateBackend } from '../engine/runtime/store-factories.ts'
import { buildEngineBench } from './engine-job.ts'
import { recordBytesMean } from './json-pool-source.ts'

export interface EngineBenchOptions {
  readonly events: number
  readonly parallelism: number
  readonly keys: number
  readonly checkpointIntervalMs: number
}

export interface EngineBenchResult extends EngineBenchOptions {
  readonly stateBackend: string
  readonly recordBytes: number
  readonly seconds: number
  readonly cpuSeconds: number
  readonly eventsPerSecond: number
  readonly eventsPerCpuSecond: number
  readonly rssPeakMiB: number
  readonly checkpoints: number
  readonly rowsOut: number
}

/** Runs the job once. Throws when an event is missing from the windows, or counted twice. */
export async function measureEngine(options: EngineBenchOptions): Promise<EngineBenchResult> {
  const directory = await mkdtemp(join(tmpdir(), 'millrace-bench-'))
  const config = {
    events: String(options.events),
    parallelism: String(options.parallelism),
    keys: String(options.keys),
  }
  const { graph, tally } = buildEngineBench(config)
  try {
    const job = await launchJob(graph, {
      name: 'bench-engine',
      parallelism: options.parallelism,
      workers: options.parallelism,
      moduleUrl: siblingModule(import.meta.url, './engine-job').href,
      checkpointIntervalMs: options.checkpointIntervalMs,
      checkpointTimeoutMs: 60_000,
      checkpointPolicy: CHECKPOINT_POLICY_DEFAULT,
      checkpointDirectory: directory,
      stateBackend: defaultStateBackend(),
      restore: null,
      allowNonRestoredState: false,
      acceptDuplicates: false,
      restart: { kind: 'none' },
      keyGroups: 128,
      stateMemoryBytes: 512 << 20,
      config,
      onEvent() {},
    })
    await running(job)
    const cpuBefore = process.cpuUsage()
    const startedMs = performance.now()
    const result = await job.done
    const seconds = (performance.now() - startedMs) / 1_000
    const cpu = process.cpuUsage(cpuBefore)
    const cpuSeconds = (cpu.user + cpu.system) / 1_000_000
    if (tally.events !== options.events) {
      throw new Error(`The windows hold ${tally.events} events, not ${options.events}.`)
    }
    return {
      ...options,
      stateBackend: job.status().stateBackend,
      recordBytes: Math.round(recordBytesMean(options.keys)),
      seconds,
      cpuSeconds,
      eventsPerSecond: options.events / seconds,
      eventsPerCpuSecond: options.events / cpuSeconds,
      rssPeakMiB: process.resourceUsage().maxRSS / 1_024,
      checkpoints: result.checkpoints,
      rowsOut: tally.rows,
    }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

/** Until workers are deployed; loading their modules is not the engine's speed. */
async function running(job: { status(): { readonly state: string } }): Promise<void> {
  while (job.status().state === 'starting') await new Promise((resolve) => setTimeout(resolve, 1))
}

function positive(text: string | undefined, fallback: number, name: string): number {
  if (text === undefined) return fallback
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1)
    throw new Error(`--${name} takes a whole number of 1 or more, not ${text}.`)
  return value
}

const HELP = `millrace bench engine [--events N] [--parallelism N] [--keys N] [--checkpoint-interval MS] [--json]
  --events N               records to process (default 10000000)
  --parallelism N          worker threads and subtasks (default 1)
  --keys N                 distinct keys (default 100000)
  --checkpoint-interval MS (default 10000)
  --json                   one JSON object on stdout
`

/** Resolves to the exit code. */
export async function runEngineBench(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      events: { type: 'string' },
      parallelism: { type: 'string' },
      keys: { type: 'string' },
      'checkpoint-interval': { type: 'string' },
      json: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  })
  if (values.help === true) {
    process.stdout.write(HELP)
    return 0
  }
  const result = await measureEngine({
    events: positive(values.events, 10_000_000, 'events'),
    parallelism: positive(values.parallelism, 1, 'parallelism'),
    keys: positive(values.keys, 100_000, 'keys'),
    checkpointIntervalMs: positive(values['checkpoint-interval'], 10_000, 'checkpoint-interval'),
  })
  if (values.json === true) process.stdout.write(`${JSON.stringify(result)}\n`)
  else {
    const millions = (value: number): string => (value / 1e6).toFixed(2)
    process.stdout.write(
      [
        `engine   JSON of ${result.recordBytes} bytes -> keyBy string (${result.keys} keys) -> 5 min windows, ${result.stateBackend}`,
        `events   ${result.events} with parallelism ${result.parallelism}, ${result.checkpoints} checkpoints, ${result.rowsOut} rows out`,
        `speed    ${millions(result.eventsPerCpuSecond)} M events per CPU-second (${result.cpuSeconds.toFixed(2)} CPU-seconds in ${result.seconds.toFixed(2)} s)`,
        `memory   ${result.rssPeakMiB.toFixed(0)} MiB at most`,
        '',
      ].join('\n'),
    )
  }
  return 0
}
