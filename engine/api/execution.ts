/**
 * How `execute` runs a job: decides where its subtasks go, and starts it.
 *
 * - In a worker thread: it attaches and never resolves.
 * - At the top level of the entry file, or under `millrace run`: as the process's program, with worker
 *   threads that import that file, the flags of the command line, dashboard, output and signals.
 * - Anywhere else (a service, a test, a prompt): quietly on the calling thread, or on worker threads that
 *   import `module` when it is given.
 */
import { availableParallelism } from 'node:os'
import { isMainThread } from 'node:worker_threads'
import type { JobGraph } from '../contract/job-graph.ts'
import { attachWorker, launchJob, workerBootstrap } from '../runtime/launcher.ts'
import type { JobExecutionResult, RunningJob } from '../runtime/launcher-types.ts'
import type { JobEvent } from '../runtime/status.ts'
import { currentFrames, entryModuleUrl } from './entry-detection.ts'
import { type JobSettings, threadsPlacement, toJobOptions } from './job-settings.ts'
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
}

export interface Program {
  readonly name: string
  readonly graph: JobGraph
  readonly settings: JobSettings
}

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

/** Must be called synchronously from what the user called: it looks at the stack. */
export function executionMode(): ExecutionMode {
  if (workerBootstrap() !== null) return { kind: 'worker' }
  const { cli } = launchContext()
  if (cli !== null && isMainThread) return { kind: 'program', moduleUrl: cli.moduleUrl, args: cli.args }
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

/** Starts a job and returns without waiting for its end. Never resolves in a worker thread. */
export async function startEmbedded(
  program: Program,
  config: Readonly<Record<string, string>>,
  options: ExecuteOptions = {},
): Promise<RunningJob> {
  if (workerBootstrap() !== null) return attachWorker(program.graph)
  const parsed = parseRunFlags(options.args ?? [])
  const flags: RunFlags = { ...parsed, config: { ...config, ...parsed.config } }
  const placement =
    options.module === undefined
      ? { workers: 0, moduleUrl: null }
      : threadsPlacement(flags, options.module, availableParallelism())
  const onEvent = options.onEvent ?? (() => {})
  return launchJob(program.graph, toJobOptions(program.name, program.settings, flags, placement, onEvent))
}

/** What `env.execute` does; `mode` was taken synchronously. */
export async function executeProgram(
  program: Program,
  config: Readonly<Record<string, string>>,
  mode: ExecutionMode,
  options: ExecuteOptions,
): Promise<JobExecutionResult> {
  if (mode.kind === 'worker') return attachWorker(program.graph)
  if (mode.kind === 'embedded' || options.module !== undefined) {
    const running = await startEmbedded(program, config, options)
    return running.done
  }
  const context = launchContext()
  context.launches++
  // Workers of a second job would stop at the first `execute` of the file: it gets no threads.
  const result = runFromFile(program, config, mode, options, context.launches === 1)
  context.running.push(result)
  return result
}

async function runFromFile(
  program: Program,
  config: Readonly<Record<string, string>>,
  mode: { readonly moduleUrl: string; readonly args: readonly string[] },
  options: ExecuteOptions,
  isFirst: boolean,
): Promise<JobExecutionResult> {
  // Loaded lazily and only here: a job inside a service needs no dashboard and no signal handlers.
  const { exitOnUsageError, runProgram } = await import('../../cli/run-program.ts')
  try {
    const flags = parseRunFlags(options.args ?? mode.args)
    const placement = isFirst
      ? threadsPlacement(flags, mode.moduleUrl, availableParallelism())
      : { workers: 0, moduleUrl: null }
    const notice = isFirst ? null : 'a second execute in one file runs on the main thread; use one file a job'
    return await runProgram({
      ...program,
      flags: { ...flags, config: { ...config, ...flags.config } },
      placement,
      notice,
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
  const { exitCodeOf, runProgram } = await import('../../cli/run-program.ts')
  return exitCodeOf(async () => {
    launchContext().launches++
    const flags = parseRunFlags(options.args)
    const { graph, settings } = options.build(flags.config)
    const placement = threadsPlacement(flags, options.moduleUrl, availableParallelism())
    await runProgram({ name: options.name, graph, settings, flags, placement, notice: null })
  })
}
