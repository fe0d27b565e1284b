/**
 * `export default job(name, env => { ... })`: a job as a value, which worker threads build again.
 *
 * Main thread and workers call only `build`, so the module's other code runs without any streams around.
 * When the module is the file that Node was started with, the job starts by itself once the module is
 * loaded, with the flags of the command line; `millrace run` does the same through `start`.
 */
import type { JobGraph } from '../contract/job-graph.ts'
import { MillraceError } from '../core/errors.ts'
import { attachWorker, workerBootstrap } from '../runtime/launcher.ts'
import { StreamExecutionEnvironment } from './environment.ts'
import { currentEntryModule, runAsProgram } from './execution.ts'
import type { JobSettings } from './job-settings.ts'
import { launchContext } from './launch-context.ts'

export interface BuiltJob {
  readonly graph: JobGraph
  readonly settings: JobSettings
}

export class JobDefinition {
  readonly name: string
  private readonly define: (env: StreamExecutionEnvironment) => void
  private hasStarted = false

  constructor(name: string, define: (env: StreamExecutionEnvironment) => void) {
    if (name.trim() === '') {
      throw new MillraceError('JOB_NAME_INVALID', 'A job needs a name.', {
        hint: 'Write job("my job", env => { ... }).',
      })
    }
    this.name = name
    this.define = define
  }

  /** Builds the job's graph from scratch; `config` becomes `env.config`. Throws what the program throws. */
  build(config: Readonly<Record<string, string>> = {}): BuiltJob {
    const env = StreamExecutionEnvironment.createEnvironment(config)
    const result: unknown = this.define(env)
    if (result instanceof Promise) {
      throw new MillraceError('JOB_ASYNC', `The function of job "${this.name}" is asynchronous.`, {
        hint: 'Declare the streams synchronously; connectors connect when the job starts.',
      })
    }
    return { graph: env.getGraph(), settings: env.getSettings() }
  }

  /** Runs this thread's part of the job; called in a worker thread of a bundled program. Never resolves. */
  attach(): Promise<never> {
    return attachWorker(this.build(workerBootstrap()?.config).graph)
  }

  /**
   * Runs the job as this process's program, once: the second of `millrace run` and the module itself
   * does nothing. Resolves to the process's exit code.
   */
  async start(args: readonly string[], moduleUrl: string): Promise<number | null> {
    if (this.hasStarted) return null
    this.hasStarted = true
    return runAsProgram({ name: this.name, build: (config) => this.build(config), args, moduleUrl })
  }
}

/**
 * Declares a job. `define` builds its streams on `env`; it calls no `execute`, and it must build the same
 * streams each time, because every worker thread calls it.
 */
export function job(name: string, define: (env: StreamExecutionEnvironment) => void): JobDefinition {
  const definition = new JobDefinition(name, define)
  // Under `millrace run` the command line starts the job when the module is loaded.
  const moduleUrl = launchContext().cli === null ? currentEntryModule() : null
  if (moduleUrl !== null) {
    // After the module: what `define` uses may stand below the call of `job`.
    setImmediate(async () => {
      const code = await definition.start(process.argv.slice(2), moduleUrl)
      if (code !== null) process.exitCode = code
    })
  }
  return definition
}
