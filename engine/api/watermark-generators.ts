/**
 * The watermark generators behind `WatermarkStrategy`, one object a split.
 *
 * Invariant: the watermark never regresses, whatever order event times come in.
 */
import type { WatermarkGenerator } from '../core/graph.ts'
import { WATERMARK_MIN } from '../core/time.ts'

/**
 * Greatest event time so far, minus the bound, minus 1 ms: a record as old as the bound is still in
 * time (Flink's BoundedOutOfOrdernessWatermarks). Bound 0 is the generator for ascending times.
 */
export class BoundedOutOfOrdernessGenerator implements WatermarkGenerator {
  private readonly boundMs: number
  private watermark = WATERMARK_MIN

  constructor(boundMs: number) {
    this.boundMs = boundMs
  }

  onBatch(eventTimes: Float64Array, count: number): void {
    let latest = WATERMARK_MIN
    // NaN (no timestamp) loses every comparison.
    for (let i = 0; i < count; i++) if (eventTimes[i]! > latest) latest = eventTimes[i]!
    const watermark = latest - this.boundMs - 1
    if (watermark > this.watermark) this.watermark = watermark
  }

  current(): number {
    return this.watermark
  }

  restore(watermark: number): void {
    if (watermark > this.watermark) this.watermark = watermark
  }
}

/** For streams without event time: no watermark before the end of input. */
export class NoWatermarksGenerator implements WatermarkGenerator {
  onBatch(): void {}

  current(): number {
    return WATERMARK_MIN
  }

  restore(): void {}
}
