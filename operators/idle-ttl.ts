/**
 * Time to live of the state of changelog operators, as Flink's `table.exec.state.ttl`: what nothing has written for that
 * long is forgotten. Who sets it accepts that a change of something forgotten is taken for something new.
 */
import type { OperatorContext } from '../engine/contract/operator.ts'

export class IdleTtl {
  private readonly timeToLiveMs: number
  readonly nowMs: () => number

  /** Null keeps state for ever. */
  constructor(timeToLiveMs: number | null, { worker }: OperatorContext) {
    this.timeToLiveMs = timeToLiveMs ?? Number.POSITIVE_INFINITY
    // State that is kept for ever needs no stamps, and has the same bytes in every run.
    this.nowMs = timeToLiveMs === null ? () => 0 : () => worker.nowMs()
  }

  get isLimited(): boolean {
    return this.timeToLiveMs !== Number.POSITIVE_INFINITY
  }

  hasExpired(atMs: number): boolean {
    return atMs + this.timeToLiveMs <= this.nowMs()
  }

  /** For the declaration of a table whose values have a stamp `atMs`. */
  get declaration(): { readonly isExpired?: (value: unknown) => boolean } {
    if (!this.isLimited) return {}
    return { isExpired: (value) => this.hasExpired((value as { readonly atMs: number }).atMs) }
  }
}
