/**
 * How `execute` runs a job: decides where its subtasks go, and starts it.
 *
 * - In a worker thread: it attaches and never resolves.
 * - At the top level of the entry file, or anywhere under `millrace run`: as the process's program, with worker
 *   threads that import that file, the flags of the command line, dashboard, output and signals.
 * - Anywhere else (a service, a test, a prompt): quietly on the calling thread, or on worker threads that
 *   import `module` when it is given.
 *
 * `executeAsync` and the ways of collecting are for services too, whose entry file must not be imported again and whose
 * flags are their own: they make the process's program only under `millrace run`.
 */
import { availableParallelism } from 'node:os'
import { isMainThread } from 'node:worker_threads'
import type { JobGraph } from '../contract/job-graph.ts'
import { MillraceError } from '../core/errors.ts'
import { provideRequire } from '../core/own-module.ts'
import { attachWorker, launchJob, workerBootstrap } from '../runtime/launcher.ts'
import type { JobExecutionResult, RunningJob } from '../runtime/launcher-types.ts'
import type { JobEvent } from '../runtime/status.ts'
import { currentFrames, entryModuleUrl } from './entry-detection.ts'
import { type JobSettings, type Placement, threadsPlacement, toJobOptions } from './job-settings.ts'
import { launchContext } from './launch-context.ts'
import { parseRunFlags, type RunFlags } from './run-flags.ts'

export interface ExecuteOptions {
  /**
   * `import.meta.url` of a module that worker threads may import to reach this same `execute`: gives a
   * job in a service worker threads of its own.
   */
  readonly module?: string
  /** Flags as on the command line, instead of the process's own. */
  readonly args?: readonly string[]
  readonly onEvent?: (event: JobEvent) => void
  /** Cancels the job when it is aborted, at the latest once it is deployed; its result then has the state `cancelled`. */
  readonly signal?: AbortSignal
}

export interface Program {
  readonly name: string
  readonly graph: JobGraph
  readonly settings: JobSettings
  /** An iterator of this thread takes rows from the job's sink, so the job cannot run on others. */
  readonly sharesMemory: boolean
}

const ON_CALLING_THREAD: Placement = { workers: 0, moduleUrl: null }

/** The entry file's URL when the caller runs at its top level, on the main thread and outside tests. */
export function currentEntryModule(): string | null {
  return entryModuleUrl({
    entryArgument: process.argv[1],
    frames: currentFrames(),
    isMainThread,
    isTest: process.env['NODE_TEST_CONTEXT'] !== undefined,
  })
}

/** How this thread was started, as far as `execute` cares. */
export type ExecutionMode =
  | { readonly kind: 'worker' }
  /** The process's program. */
  | { readonly kind: 'program'; readonly moduleUrl: string; readonly args: readonly string[] }
  | { readonly kind: 'embedded' }

/**
 * Must be called synchronously from what the user called: it looks at the stack. With `asService` a job is the process's
 * program only where the command line says so.
 */
export function executionMode(asService = false): ExecutionMode {
  if (workerBootstrap() !== null) return { kind: 'worker' }
  const { cli } = launchContext()
  if (cli !== null && isMainThread) return { kind: 'program', moduleUrl: cli.moduleUrl, args: cli.args }
  if (asService) return { kind: 'embedded' }
  const moduleUrl = currentEntryModule()
  return moduleUrl === null ? { kind: 'embedded' } : { kind: 'program', moduleUrl, args: process.argv.slice(2) }
}

/** `env.config` of a new environment: the `--set` pairs that reached this thread. */
export function inheritedConfig(): Readonly<Record<string, string>> {
  const bootstrap = workerBootstrap()
  if (bootstrap !== null) return bootstrap.config
  const mode = executionMode()
  if (mode.kind !== 'program') return {}
  try {
    return parseRunFlags(mode.args).config
  } catch {
    // Wrong flags are reported by `execute`, where the process can still end with the right exit code.
    return {}
  }
}

/** A job that was asked for: it and its end. Neither settles in a worker thread. */
export interface Started {
  readonly job: Promise<RunningJob>
  readonly result: Promise<JobExecutionResult>
}

/** Starts a job; `mode` was taken synchronously. */
export function startJob(
  program: Program,
  config: Readonly<Record<string, string>>,
  mode: ExecutionMode,
  options: ExecuteOptions,
): Started {
  if (mode.kind === 'worker') {
    const never = attachWorker(program.graph)
    return { job: never, result: never }
  }
  const started =
    mode.kind === 'embedded' || options.module !== undefined
      ? embedded(startEmbedded(program, config, options))
      : startFromFile(program, config, mode, options)
  if (options.signal !== undefined) cancelOn(options.signal, started)
  // The caller looks at one of the two.
  started.job.catch(() => {})
  started.result.catch(() => {})
  return started
}

/** A signal may live much longer than the job. */
function cancelOn(signal: AbortSignal, started: Started): void {
  const cancel = (): void => {
    started.job.then((job) => job.cancel()).catch(() => {})
  }
  const forget = (): void => signal.removeEventListener('abort', cancel)
  if (signal.aborted) cancel()
  else signal.addEventListener('abort', cancel, { once: true })
  started.result.then(forget, forget)
}

function embedded(job: Promise<RunningJob>): Started {
  return { job, result: job.then((running) => running.done) }
}

async function startEmbedded(
  program: Program,
  config: Readonly<Record<string, string>>,
  options: ExecuteOptions,
): Promise<RunningJob> {
  const parsed = parseRunFlags(options.args ?? [])
  const flags: RunFlags = { ...parsed, config: { ...config, ...parsed.config } }
  if (program.sharesMemory && options.module !== undefined) {
    throw new MillraceError(
      'COLLECT_ON_THREADS',
      'An iterator reads the job, so it cannot run on threads of its own.',
      {
        hint: 'Leave out `module`, or collect with a sink.',
      },
    )
  }
  const placement =
    options.module === undefined ? ON_CALLING_THREAD : threadsPlacement(flags, options.module, availableParallelism())
  const onEvent = options.onEvent ?? (() => {})
  return launchJob(program.graph, toJobOptions(program.name, program.settings, flags, placement, onEvent))
}

function startFromFile(
  program: Program,
  config: Readonly<Record<string, string>>,
  mode: Extract<ExecutionMode, { kind: 'program' }>,
  options: ExecuteOptions,
): Started {
  const context = launchContext()
  context.launches++
  // Workers of a second job would stop at the first `execute` of the file: it gets no threads.
  const notice =
    context.launches > 1
      ? 'a second execute in one file runs on the main thread; use one file a job'
      : program.sharesMemory
        ? 'a job whose rows are read by an iterator runs on the main thread'
        : null
  const { promise: job, resolve, reject } = Promise.withResolvers<RunningJob>()
  const result = runFromFile(program, { config, mode, options, notice, onRunning: resolve })
  result.catch(reject)
  context.running.push(result)
  return { job, result }
}

interface FileRun {
  readonly config: Readonly<Record<string, string>>
  readonly mode: Extract<ExecutionMode, { kind: 'program' }>
  readonly options: ExecuteOptions
  /** Why there are no worker threads, or null. */
  readonly notice: string | null
  readonly onRunning: (job: RunningJob) => void
}

/** Loaded lazily and only here: a job inside a service needs no dashboard and no signal handlers. */
function loadProgram(): Promise<typeof import('../../cli/run-program.ts')> {
  provideRequire()
  return import('../../cli/run-program.ts')
}

async function runFromFile(program: Program, run: FileRun): Promise<JobExecutionResult> {
  const { config, mode, options, notice, onRunning } = run
  const { exitOnUsageError, runProgram } = await loadProgram()
  try {
    const flags = parseRunFlags(options.args ?? mode.args)
    const placement =
      notice === null ? threadsPlacement(flags, mode.moduleUrl, availableParallelism()) : ON_CALLING_THREAD
    return await runProgram({
      ...program,
      flags: { ...flags, config: { ...config, ...flags.config } },
      placement,
      notice,
      onRunning,
      onEvent: options.onEvent,
    })
  } catch (error) {
    await exitOnUsageError(error)
    throw error
  }
}

/** Runs a `job(...)` as the process's program; resolves to the exit code. Prints errors itself. */
export async function runAsProgram(options: {
  readonly name: string
  readonly build: (config: Readonly<Record<string, string>>) => { graph: JobGraph; settings: JobSettings }
  readonly args: readonly string[]
  readonly moduleUrl: string
}): Promise<number> {
  const { exitCodeOf, runProgram } = await loadProgram()
  return exitCodeOf(async () => {
    launchContext().launches++
    const flags = parseRunFlags(options.args)
    const { graph, settings } = options.build(flags.config)
    const placement = threadsPlacement(flags, options.moduleUrl, availableParallelism())
    await runProgram({ name: options.name, graph, settings, flags, placement, notice: null })
  })
}
