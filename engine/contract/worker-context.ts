/**
 * What a worker hands to everything it builds. There are no singletons: two jobs may share a thread.
 */
import type { Io } from '../core/io.ts'
import type { StringInterner } from '../core/strings.ts'

export interface WorkerContext {
  /** 0 <= index < workers. */
  readonly workerIndex: number
  readonly io: Io
  readonly interner: StringInterner
  /** Processing time in milliseconds, read once a turn. */
  nowMs(): number
  /** A text unique in the process, for the source of generated functions. */
  uniqueId(prefix: string): string
}
