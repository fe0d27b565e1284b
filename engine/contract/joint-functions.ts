/**
 * The functions that users write over two inputs, with Flink's names.
 *
 * As in functions.ts every function is synchronous. One object serves both inputs, so what it keeps in fields or
 * state is shared by them; elements of the two inputs come in any order.
 */
import type { OutputTag, RuntimeContext } from './functions.ts'

/** What a `ProcessJoinFunction` is called with. */
export interface ProcessJoinContext {
  /** Event time of the left element. */
  readonly leftTimestamp: number
  /** Event time of the right element. */
  readonly rightTimestamp: number
  /** The later of the two: the event time of results. */
  readonly timestamp: number
  output<X>(tag: OutputTag<X>, value: X): void
}

/** Called once for each pair of elements of an interval join. A fresh one is made for each subtask. */
export interface ProcessJoinFunction<L, R, Out> {
  open?(context: RuntimeContext): void
  /** The elements stay in state: do not change them. */
  processElement(left: L, right: R, context: ProcessJoinContext, collect: (result: Out) => void): void
  close?(): void
}
