/**
 * What a part of a simulated job promises: a piece of a program with the public API that ends in sinks, and a
 * model that says what these must hold in the end.
 *
 * Models are naive and single-threaded, and take nothing from the engine. Where the answer depends on which rows
 * were late, they say what must hold whichever they were.
 */
import type { DataStream } from '../../api/index.ts'
import type { SinkRow } from './sim-external.ts'
import type { InputRow, SimShape } from './sim-input.ts'
import type { BranchResults } from './sim-results.ts'

export interface BranchStreams {
  readonly shape: SimShape
  /** One a source; `streams[1]` is there when the branch asked for two. */
  readonly streams: readonly DataStream<InputRow>[]
  /** Answers with the row itself, after a while. */
  ask(row: InputRow): Promise<InputRow[]>
  /** Resolves after as long as an outside system takes. */
  wait(): Promise<void>
  /** Ends a stream in the sink of this id, whose writers hold so many rows back as their state; none unless told. */
  sink<T>(stream: DataStream<T>, id: string, heldMax?: number): void
  /** Adds rows outside at once, in no transaction; may fail, and have been done all the same. */
  put(id: string, rows: readonly SinkRow[]): Promise<void>
}

export interface Branch {
  /** Sources that it reads. */
  readonly sources: 1 | 2
  /** Goes by the clock of the machine, which must not be set back then. */
  readonly goesByClock?: boolean
  /** Its model knows what at-least-once means: rows may count more than once after a failure, none is lost. */
  readonly mayRepeat?: boolean
  /** Its sink is at-least-once whatever the job's checkpoints are. */
  readonly isAtLeastOnce?: boolean
  /** Uids of operators with state begin with the branch's name. */
  build(streams: BranchStreams): void
  check(results: BranchResults): void
  /** Where something is due by the clock, which is dropped at the end of input: has all of it come? */
  hasAll?(results: BranchResults): boolean
}
