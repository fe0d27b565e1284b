/**
 * What the command line, the job module and `execute` must agree on inside one thread.
 *
 * It hangs on a symbol of the process's registry and not in a module, because a job may load its own
 * copy of this package beside the one whose command line runs it. It says how the process was started;
 * it holds no state of a job.
 */

const SLOT = Symbol.for('millrace.launch')

export interface LaunchContext {
  /** Jobs that this thread was asked to start as its own program, so far. */
  launches: number
  /** The ends of those of them that were started by `execute` or the like. */
  readonly running: Promise<unknown>[]
  /** Flags of `millrace run`, with the module it runs; null when the command line does not run this process. */
  cli: { readonly args: readonly string[]; readonly moduleUrl: string } | null
}

export function launchContext(): LaunchContext {
  const holder = globalThis as { [SLOT]?: LaunchContext }
  holder[SLOT] ??= { launches: 0, running: [], cli: null }
  return holder[SLOT]
}
