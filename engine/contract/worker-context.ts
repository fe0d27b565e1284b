/**
 * What a worker hands to everything it builds. There are no singletons: two jobs may share a thread.
 */
import type { Io } from '../core/io.ts'
import type { StringInterner } from '../core/strings.ts'

/** The job that a worker runs its share of. */
export interface JobContext {
  /** As the status and the REST answers name it: another one when the program is started again, the same over restarts. */
  readonly id: string
  readonly name: string
  /** What `env.config` holds. */
  readonly parameters: Readonly<Record<string, string>>
}

export interface WorkerContext {
  readonly job: JobContext
  /** 0 <= index < workers. */
  readonly workerIndex: number
  readonly io: Io
  readonly interner: StringInterner
  /** Processing time in milliseconds, read once a turn. */
  nowMs(): number
  /** A text unique in the process, for the source of generated functions. */
  uniqueId(prefix: string): string
}
