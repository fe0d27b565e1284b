/**
 * What an environment asks for, and how the command line overrides it: the way to `JobOptions`.
 *
 * Order of precedence: flags, then the program's settings, then defaults.
 */
import type { CheckpointPolicy } from '../checkpoint/checkpoint-policy.ts'
import { DEFAULT_KEY_GROUPS } from '../core/keys.ts'
import type { JobOptions, RestartStrategy, StateBackendName } from '../runtime/launcher-types.ts'
import { defaultStateBackend } from '../runtime/store-factories.ts'
import { type RunFlags, usageError } from './run-flags.ts'
import { type RuntimeExecutionMode, runtimeModeOf } from './runtime-mode.ts'

/** Null means that the program did not say. */
export interface JobSettings {
  readonly parallelism: number | null
  readonly runtimeMode: RuntimeExecutionMode
  /** Names of the sources that never end. */
  readonly unboundedSources: readonly string[]
  /** Key groups of the job. */
  readonly maxParallelism: number | null
  readonly checkpointIntervalMs: number | null
  readonly checkpointTimeoutMs: number
  readonly checkpointPolicy: CheckpointPolicy
  readonly checkpointDirectory: string | null
  readonly stateBackend: StateBackendName | null
  /** Working memory of keyed state, bytes a worker. */
  readonly stateMemoryBytes: number | null
  readonly restart: RestartStrategy | null
}

/** How a job is placed: worker threads that import `moduleUrl`, or the calling thread. */
export interface Placement {
  readonly workers: number
  readonly moduleUrl: string | null
}

const STATE_MEMORY_BYTES = 512 * 1_048_576

/** With checkpoints a failure restarts the job ten times, without them it ends the job. */
const RESTART_DEFAULT: RestartStrategy = { kind: 'fixed-delay', attempts: 10, delayMs: 1_000 }
const RESTART_NEVER: RestartStrategy = { kind: 'none' }

/** Placement of a job whose module worker threads may import; `cores` is the default of `--workers`. */
export function threadsPlacement(flags: RunFlags, moduleUrl: string, cores: number): Placement {
  const workers = flags.workers ?? cores
  return { workers, moduleUrl: workers === 0 ? null : moduleUrl }
}

/** Throws `BATCH_UNBOUNDED`, and `USAGE` where there is nothing to restore from. */
export function toJobOptions(
  name: string,
  settings: JobSettings,
  flags: RunFlags,
  placement: Placement,
  onEvent: JobOptions['onEvent'],
): JobOptions {
  const runtimeMode = runtimeModeOf(flags.runtimeMode ?? settings.runtimeMode, settings.unboundedSources)
  const checkpointIntervalMs =
    runtimeMode === 'batch' ? null : (flags.checkpointIntervalMs ?? settings.checkpointIntervalMs)
  const checkpointDirectory = flags.checkpointDirectory ?? settings.checkpointDirectory
  if (flags.restore === 'latest' && checkpointDirectory === null) {
    throw usageError(
      '--restore latest needs to know where checkpoints are.',
      'Add --checkpoint-dir DIR, or have the job call setCheckpointStorage(DIR).',
    )
  }
  return {
    name,
    parallelism: flags.parallelism ?? settings.parallelism ?? Math.max(1, placement.workers),
    workers: placement.workers,
    moduleUrl: placement.moduleUrl,
    runtimeMode,
    checkpointIntervalMs,
    checkpointTimeoutMs: settings.checkpointTimeoutMs,
    checkpointPolicy: settings.checkpointPolicy,
    checkpointDirectory,
    stateBackend: flags.stateBackend ?? settings.stateBackend ?? defaultStateBackend(),
    restore: flags.restore,
    allowNonRestoredState: flags.allowNonRestoredState,
    acceptDuplicates: flags.acceptDuplicates,
    restart: settings.restart ?? (checkpointIntervalMs === null ? RESTART_NEVER : RESTART_DEFAULT),
    keyGroups: settings.maxParallelism ?? DEFAULT_KEY_GROUPS,
    stateMemoryBytes: flags.stateMemoryBytes ?? settings.stateMemoryBytes ?? STATE_MEMORY_BYTES,
    config: flags.config,
    onEvent,
  }
}
