/**
 * The main job end to end, for start.ts. Feeds the log with flights (or simulated campaign traffic) and runs
 * jobs/pattern-detection.ts on it, with everything embedded.
 *
 * All state is in `.millrace/pattern-detection` below the working directory, under one lock. A second start
 * goes on where the first stopped, however it stopped; only `--fresh` deletes anything.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { openLog, readSealedEnds } from '../connectors/log/index.ts'
import { threadsPlacement } from '../engine/api/job-settings.ts'
import {
  type FlagSpecs,
  integerFlag,
  type ParsedFlags,
  parseFlags,
  type RunFlags,
  usageError,
} from '../engine/api/run-flags.ts'
import { layout } from '../engine/checkpoint/layout.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { feedEvents, prepareTopic } from '../jobs/feeder.ts'
import { campaignEvent, flightEvents, type LearningEvent } from '../jobs/learning-events.ts'
import definition, { DEFAULT_DIRECTORY, TOPIC } from '../jobs/pattern-detection.ts'
import { acquireFileLock } from '../state/file-lock.ts'
import { exitProcess } from './exit-process.ts'
import { exitCodeForError, printFailure } from './failure.ts'
import { runProgram } from './run-program.ts'

const FLAGS: FlagSpecs = {
  rate: { type: 'string', value: 'N', help: 'events a second (default 2000); 0 is as fast as possible' },
  window: { type: 'string', value: '10s|5m|1d', help: 'window size (default 1d; 10s with --traffic)' },
  traffic: { type: 'string', value: 'N', help: 'N simulated campaign events a second instead of the flights' },
  exit: { type: 'boolean', help: 'end after the last flight' },
  fresh: { type: 'boolean', help: 'delete the state of earlier starts first' },
  parallelism: { type: 'string', value: 'N', help: 'subtasks of an operator (default: one a core)' },
  workers: { type: 'string', value: 'N', help: 'worker threads (default: one a core)' },
  postgres: { type: 'string', value: 'URL', help: 'pattern store on a Postgres server instead of PGlite' },
  port: { type: 'string', value: 'P', help: 'dashboard and REST (default: 8081, or the next free port)' },
  json: { type: 'boolean', help: 'events as JSON lines on stdout' },
  help: { type: 'boolean', help: 'show this text' },
}

const DAY_MS = 86_400_000
const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: DAY_MS }
const DEFAULT_RATE = 2_000

function help(): string {
  const lines = Object.entries(FLAGS).map(([name, { value, help }]) => {
    const flag = value === undefined ? `--${name}` : `--${name} ${value}`
    return `  ${flag.padEnd(22)} ${help}`
  })
  return `npm start -- [OPTIONS]   detects success patterns in real flights, or in simulated campaign traffic\n\n${lines.join('\n')}`
}

/** A duration as `10s`, `5m` or `1d`, in milliseconds. Throws `USAGE`. */
export function parseWindow(text: string): number {
  const match = /^(\d+)(ms|s|m|h|d)$/.exec(text)
  const ms = match === null ? 0 : Number(match[1]) * UNIT_MS[match[2]!]!
  if (ms === 0) throw usageError(`--window ${text} is no window size.`, 'Write a number and a unit, as 10s, 5m or 1d.')
  return ms
}

interface StartOptions {
  readonly directory: string
  readonly rate: number
  readonly windowMs: number
  readonly traffic: number | null
  readonly exit: boolean
  readonly fresh: boolean
  readonly flags: ParsedFlags
}

function readOptions(flags: ParsedFlags): StartOptions {
  if (flags.positionals.length > 0)
    throw usageError(`${flags.positionals[0]} is not an option.`, 'See npm start -- --help.')
  const traffic = integerFlag(flags, 'traffic', 1, 10_000_000)
  if (traffic !== null && flags.has('exit')) throw usageError('--exit needs an end, and --traffic has none.')
  if (traffic !== null && flags.has('rate')) throw usageError('--traffic N is a rate already.', 'Leave --rate out.')
  const windowText = flags.text('window')
  return {
    directory: traffic === null ? DEFAULT_DIRECTORY : join(DEFAULT_DIRECTORY, 'traffic'),
    rate: traffic ?? integerFlag(flags, 'rate', 0, 10_000_000) ?? DEFAULT_RATE,
    windowMs: windowText === null ? (traffic === null ? DAY_MS : 10_000) : parseWindow(windowText),
    traffic,
    exit: flags.has('exit'),
    fresh: flags.has('fresh'),
    flags,
  }
}

/** Keeps what state depends on; a start that contradicts it is refused. */
function keepSettings(options: StartOptions): void {
  const path = join(options.directory, 'settings.json')
  if (existsSync(path)) {
    const { windowMs } = JSON.parse(readFileSync(path, 'utf8')) as { windowMs: number }
    if (windowMs === options.windowMs) return
    throw new MillraceError(
      'WINDOW_CHANGED',
      `The state in ${options.directory} has windows of ${windowMs} ms, not ${options.windowMs}.`,
      {
        hint: 'Start with the same --window, or with --fresh.',
      },
    )
  }
  writeFileSync(path, JSON.stringify({ windowMs: options.windowMs }))
}

function clear(directory: string): void {
  for (const name of readdirSync(directory)) {
    if (name !== 'lock') rmSync(join(directory, name), { recursive: true, force: true })
  }
}

function runFlags(options: StartOptions, checkpoints: string): RunFlags {
  const { flags } = options
  const postgres = flags.text('postgres')
  const manifests = layout.manifests(checkpoints)
  const hasCheckpoint = existsSync(manifests) && readdirSync(manifests).some((name) => name.endsWith('.json'))
  return {
    parallelism: integerFlag(flags, 'parallelism', 1, 128),
    runtimeMode: null,
    workers: integerFlag(flags, 'workers', 0, 256),
    checkpointDirectory: checkpoints,
    checkpointIntervalMs: null,
    stateBackend: null,
    restore: hasCheckpoint ? 'latest' : null,
    allowNonRestoredState: false,
    acceptDuplicates: false,
    port: integerFlag(flags, 'port', 0, 65_535),
    config: {
      dir: options.directory,
      'window-ms': String(options.windowMs),
      'until-sealed': String(options.exit),
      ...(postgres === null ? {} : { postgres }),
    },
    json: flags.has('json'),
    check: false,
    help: false,
  }
}

/** The events in order: flights from the file, or endless traffic at today's time. */
function eventsOf(options: StartOptions): (index: number) => LearningEvent | null {
  if (options.traffic !== null) return (index) => campaignEvent(index, Date.now())
  const flights = flightEvents()
  return (index) => flights[index] ?? null
}

export async function startMainJob(args: readonly string[]): Promise<void> {
  const flags = parseFlags(args, FLAGS)
  if (flags.has('help')) {
    process.stdout.write(`${help()}\n`)
    return
  }
  const options = readOptions(flags)
  const { directory } = options
  mkdirSync(directory, { recursive: true })
  const lock = acquireFileLock(join(DEFAULT_DIRECTORY, 'lock'))
  if (options.fresh) clear(directory)
  keepSettings(options)

  const moduleUrl = new URL('../jobs/pattern-detection.ts', import.meta.url).href
  const run = runFlags(options, join(directory, 'checkpoints'))
  const { graph, settings } = definition.build(run.config)

  const log = await openLog(join(directory, 'log'))
  await prepareTopic(log)
  const stopFeeding = new AbortController()
  const feeding = feed(options, log, stopFeeding.signal)
  feeding.catch(async (error) => {
    printFailure(error)
    await exitProcess(exitCodeForError(error))
  })
  try {
    const placement = threadsPlacement(run, moduleUrl, availableParallelism())
    await runProgram({
      name: definition.name,
      graph,
      settings,
      flags: run,
      placement,
      notice: feeding.catch(() => null),
    })
  } finally {
    stopFeeding.abort()
    await feeding
    await log.close()
    lock.release()
  }
}

/** Feeds until the signal; resolves to what to tell whoever waits for more, if there is no more. */
async function feed(
  options: StartOptions,
  log: Awaited<ReturnType<typeof openLog>>,
  signal: AbortSignal,
): Promise<string | null> {
  // A sealed topic is complete: an earlier start with --exit fed it to the end.
  if ((await readSealedEnds(join(options.directory, 'log'), TOPIC)) !== null) return null
  const feeding = { eventAt: eventsOf(options), rate: options.rate, sealAtEnd: options.exit, signal }
  const { events, complete } = await feedEvents(log, feeding)
  if (!complete || options.exit) return null
  return `all ${events.toLocaleString('en-US')} flights are read: --fresh begins again, --traffic 1000 simulates campaign events`
}
