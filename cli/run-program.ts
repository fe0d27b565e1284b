/**
 * Runs a job as the process's program: dashboard, output, token, signals, exit codes.
 *
 * Shared by `millrace run JOB.ts` and `node JOB.ts`, so that both do the same. It owns the process: on
 * SIGINT and SIGTERM it takes a final checkpoint and exits with 130 or 143; a second signal exits at once.
 */
import type { JobSettings, Placement } from '../engine/api/job-settings.ts'
import { toJobOptions } from '../engine/api/job-settings.ts'
import type { RunFlags } from '../engine/api/run-flags.ts'
import type { JobGraph } from '../engine/contract/job-graph.ts'
import { launchJob } from '../engine/runtime/launcher.ts'
import type { JobExecutionResult, RunningJob } from '../engine/runtime/launcher-types.ts'
import type { JobEvent } from '../engine/runtime/status.ts'
import { startServer } from '../engine/server/server.ts'
import { checkProgram } from './check-program.ts'
import { exitProcess } from './exit-process.ts'
import { exitCodeForError, isUsageError, printFailure } from './failure.ts'
import { runHelp } from './help.ts'
import { humanOutput, jsonOutput, type RunOutput } from './output.ts'
import { storeToken } from './rest-token.ts'

export interface ProgramRun {
  readonly name: string
  readonly graph: JobGraph
  readonly settings: JobSettings
  readonly flags: RunFlags
  readonly placement: Placement
  /** A line to print first, or once it is known; null for none. */
  readonly notice: string | null | Promise<string | null>
  /** Told of each event, besides what is printed. */
  readonly onEvent?: ((event: JobEvent) => void) | undefined
  /** The job is deployed. */
  readonly onRunning?: (job: RunningJob) => void
}

const EXIT_SIGINT = 130
const EXIT_SIGTERM = 143

function tell(output: RunOutput, notice: ProgramRun['notice']): void {
  if (typeof notice === 'string') output.note(notice)
  else notice?.then((line) => line !== null && output.note(line))
}

/**
 * Runs the job to its end; rejects with the cause when it fails. Where the flags ask for help or a check,
 * it does that and ends the process.
 */
export async function runProgram(run: ProgramRun): Promise<JobExecutionResult> {
  if (run.flags.help) {
    process.stdout.write(`${runHelp()}\n`)
    return exitProcess(0)
  }
  const output = run.flags.json ? jsonOutput(process) : humanOutput(process)
  tell(output, run.notice)
  const options = toJobOptions(run.name, run.settings, run.flags, run.placement, (event) => {
    output.onEvent(event)
    run.onEvent?.(event)
  })
  if (run.flags.check) return exitProcess(await checkProgram(run.graph, options))

  let running: RunningJob | null = null
  const signals = catchSignals(output, () => running)
  const server = await startServer({
    port: run.flags.port ?? undefined,
    jobs: () => (running === null ? [] : [running]),
    logger: { info: () => {}, warn: (message) => output.note(message) },
  })
  let forgetToken = (): void => {}
  try {
    output.note(`dashboard ${server.url}`)
    running = await launchJob(run.graph, options)
    forgetToken = storeToken(server.port, server.token, options.checkpointDirectory)
    // Signals end the process from where they are caught, past the `finally` below.
    process.once('exit', forgetToken)
    output.watch(() => running!.status())
    run.onRunning?.(running)
    const result = await running.done
    await signals.settled()
    return result
  } catch (error) {
    await signals.settled()
    throw error
  } finally {
    output.close()
    process.off('exit', forgetToken)
    forgetToken()
    signals.release()
    await server.close()
  }
}

interface Signals {
  /** Never resolves once a signal ends the process. */
  settled(): Promise<void>
  release(): void
}

function catchSignals(output: RunOutput, running: () => RunningJob | null): Signals {
  let ending: Promise<never> | null = null
  const end = async (code: number): Promise<never> => {
    const job = running()
    if (job === null) return exitProcess(code)
    output.note('stopping with a final checkpoint; again to stop at once')
    try {
      await job.stop()
    } catch (error) {
      output.close()
      printFailure(error)
      return exitProcess(exitCodeForError(error))
    }
    output.close()
    return exitProcess(code)
  }
  const handler = (code: number) => () => {
    if (ending !== null) process.exit(code)
    ending = end(code)
  }
  const onInterrupt = handler(EXIT_SIGINT)
  const onTerminate = handler(EXIT_SIGTERM)
  process.on('SIGINT', onInterrupt)
  process.on('SIGTERM', onTerminate)
  return {
    async settled() {
      if (ending !== null) await ending
    },
    release() {
      process.off('SIGINT', onInterrupt)
      process.off('SIGTERM', onTerminate)
    },
  }
}

/** Runs `main` and turns its end into an exit code; errors are printed. */
export async function exitCodeOf(main: () => Promise<unknown>): Promise<number> {
  try {
    await main()
    return 0
  } catch (error) {
    printFailure(error)
    return exitCodeForError(error)
  }
}

/** Ends the process with 2 when `error` is one of usage; the job's own `catch` should not see those. */
export async function exitOnUsageError(error: unknown): Promise<void> {
  if (!isUsageError(error)) return
  printFailure(error)
  await exitProcess(exitCodeForError(error))
}
