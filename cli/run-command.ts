/**
 * `millrace run JOB.ts`: loads the job's module and runs the job in it, as `node JOB.ts` would.
 *
 * The module may export `job(...)`, or start jobs itself by `execute`, `executeAsync` or a way of collecting. Then it is
 * a program as under `flink run`: it ends when it is loaded and no job of it runs any more, with 1 if one failed.
 */
import { existsSync, realpathSync, statSync } from 'node:fs'
import { extname, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type LaunchContext, launchContext } from '../engine/api/launch-context.ts'
import { closest, type ParsedFlags, runFlagsOf, usageError } from '../engine/api/run-flags.ts'
import { printFailure } from './failure.ts'

/** What `job(...)` makes. Told by its shape, because the job may use its own copy of this package. */
interface StartableJob {
  start(args: readonly string[], moduleUrl: string): Promise<number | null>
}

function isJob(value: unknown): value is StartableJob {
  const candidate = value as { start?: unknown; build?: unknown } | null | undefined
  return typeof candidate?.start === 'function' && typeof candidate.build === 'function'
}

/** The default export; of a CommonJS module, as bundlers write them, all exports are that. */
function jobOf({ default: exported }: { readonly default?: unknown }): StartableJob | null {
  if (isJob(exported)) return exported
  const inner = (exported as { default?: unknown } | null | undefined)?.default
  return isJob(inner) ? inner : null
}

function jobFile(positionals: readonly string[]): string {
  const [file, stray] = positionals
  if (file === undefined) throw usageError('Which job?', 'Write millrace run JOB.ts.')
  if (stray !== undefined)
    throw usageError(`"${stray}" is one job too many.`, 'Flags need two dashes: --parallelism 4.')
  const path = resolve(file)
  if (existsSync(path) && statSync(path).isDirectory()) {
    throw usageError(`${path} is a directory.`, 'Give the path of the module that declares the job.')
  }
  if (!existsSync(path)) {
    const near = existsSync(`${path}.ts`) ? `${file}.ts` : closest(file, ['JOB.ts'])
    throw usageError(
      `There is no file ${path}.`,
      near !== null && near !== 'JOB.ts'
        ? `Did you mean ${near}?`
        : 'Give the path of the module that declares the job.',
    )
  }
  if (!MODULE_EXTENSIONS.includes(extname(path))) {
    throw usageError(
      `${path} is no module of TypeScript or JavaScript.`,
      `Its name has to end with one of ${MODULE_EXTENSIONS.join(', ')}.`,
    )
  }
  return realpathSync(path)
}

/** What Node can import. */
const MODULE_EXTENSIONS = ['.ts', '.mts', '.cts', '.js', '.mjs', '.cjs']

/** Resolves to the exit code. `args` is everything after `run`. */
export async function runCommandLine(flags: ParsedFlags, args: readonly string[]): Promise<number> {
  const path = jobFile(flags.positionals)
  // Checked before the job's code runs.
  runFlagsOf(flags)
  const moduleUrl = pathToFileURL(path).href
  const jobArgs = withoutFile(args, flags.positionals[0]!)
  const context = launchContext()
  context.cli = { args: jobArgs, moduleUrl }
  process.on('unhandledRejection', (error) => {
    printFailure(error)
    process.exit(1)
  })
  const job = jobOf((await import(moduleUrl)) as { readonly default?: unknown })
  if (job !== null) return (await job.start(jobArgs, moduleUrl)) ?? 0
  await someLaunch(path)
  await allEnd(context)
  return 0
}

/** Resolves when no job of the program runs; rejects with the cause when one failed. */
async function allEnd({ running }: LaunchContext): Promise<void> {
  for (let ended = 0; ended < running.length; ) {
    ended = running.length
    await Promise.all(running)
    // What waits for a job may start another one.
    await new Promise(setImmediate)
  }
}

/** The arguments without the job's file: its first mention that is no flag's value stands where it was parsed. */
function withoutFile(args: readonly string[], file: string): string[] {
  const at = args.findIndex((arg, i) => arg === file && !isValueOfFlag(args[i - 1]))
  return args.filter((_, i) => i !== at)
}

const SWITCHES = new Set(['--json', '--check', '--allow-non-restored-state', '--accept-duplicates', '--help'])

function isValueOfFlag(before: string | undefined): boolean {
  return before?.startsWith('--') === true && !before.includes('=') && !SWITCHES.has(before)
}

/** Resolves once the module has called `execute`; rejects when the process would end without it. */
function someLaunch(path: string): Promise<void> {
  const context = launchContext()
  if (context.launches > 0) return Promise.resolve()
  return new Promise((resolve, reject) => {
    const timer = setInterval(() => {
      if (context.launches > 0) done(resolve)
    }, 10)
    timer.unref()
    const atEnd = (): void =>
      done(() =>
        context.launches > 0
          ? resolve()
          : reject(
              usageError(
                `${path} declares no job.`,
                'Write "export default job(name, env => { ... })", or call env.execute(name) in it.',
              ),
            ),
      )
    const done = (act: () => void): void => {
      clearInterval(timer)
      process.off('beforeExit', atEnd)
      act()
    }
    process.once('beforeExit', atEnd)
  })
}
