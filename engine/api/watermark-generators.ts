/**
 * The watermark generators behind `WatermarkStrategy`, one object a split.
 *
 * Invariant: the watermark never regresses, whatever order event times come in.
 */
import { isPromise } from '../../operators/user-function.ts'
import type { Batch } from '../core/batch.ts'
import { MillraceError } from '../core/errors.ts'
import type { WatermarkGenerator as EngineGenerator } from '../core/graph.ts'
import { type RowReader, rowReader } from '../core/rows.ts'
import type { Schema } from '../core/schema.ts'
import { StringInterner } from '../core/strings.ts'
import { WATERMARK_MIN } from '../core/time.ts'
import { callingUser } from '../core/user-error.ts'

/**
 * Greatest event time so far, minus the bound, minus 1 ms: a record as old as the bound is still in
 * time (Flink's BoundedOutOfOrdernessWatermarks). Bound 0 is the generator for ascending times.
 */
export class BoundedOutOfOrdernessGenerator implements EngineGenerator {
  private readonly boundMs: number
  private watermark = WATERMARK_MIN

  constructor(boundMs: number) {
    this.boundMs = boundMs
  }

  onBatch(eventTimes: Float64Array, count: number): void {
    let latest = WATERMARK_MIN
    // NaN (no timestamp) loses every comparison, and an endless time is no end of input.
    for (let i = 0; i < count; i++) {
      const timeMs = eventTimes[i]!
      if (timeMs > latest && timeMs < Number.POSITIVE_INFINITY) latest = timeMs
    }
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
export class NoWatermarksGenerator implements EngineGenerator {
  onBatch(): void {}

  current(): number {
    return WATERMARK_MIN
  }

  restore(): void {}
}

/** Where a generator puts its watermarks. */
export interface WatermarkOutput {
  /** No later record will have this event time or an earlier one. A watermark that does not grow changes nothing. */
  emitWatermark(timestamp: number): void
  /** The split holds time back no more, until its next record or watermark, or `markActive`. */
  markIdle(): void
  markActive(): void
}

/** Makes the watermarks of one split: Flink's interface of the same name. Its own fields are not in checkpoints. */
export interface WatermarkGenerator<in T = unknown> {
  /** What it emits goes out directly after `event`: a watermark for each costs much more than one now and then. */
  onEvent(event: T, eventTimestamp: number, output: WatermarkOutput): void
  /** Called after every batch of records, and many times a second while there are none. */
  onPeriodicEmit(output: WatermarkOutput): void
}

function promiseFromGenerator(): MillraceError {
  return new MillraceError('PROMISE_RETURNED', 'A watermark generator returned a promise.', {
    hint: 'Watermark generators are synchronous.',
  })
}

const GENERATOR = 'A watermark generator'

/** Calls a user's generator for each row. */
export class CustomGenerator implements EngineGenerator {
  isIdle = false
  private readonly generator: WatermarkGenerator<unknown>
  private readonly read: RowReader
  private watermark = WATERMARK_MIN
  private readonly output: WatermarkOutput = {
    emitWatermark: (timestamp) => {
      this.isIdle = false
      if (timestamp > this.watermark) this.watermark = timestamp
    },
    markIdle: () => {
      this.isIdle = true
    },
    markActive: () => {
      this.isIdle = false
    },
  }

  constructor(generator: WatermarkGenerator<unknown>, schema: Schema) {
    this.generator = generator
    this.read = rowReader(schema, new StringInterner(), 'watermark generator')
  }

  onBatch(eventTimes: Float64Array, count: number, rows?: Batch): void {
    for (let i = 0; i < count; ) i = this.onRows(eventTimes, i, count, rows!)
  }

  onRows(eventTimes: Float64Array, from: number, to: number, rows: Batch): number {
    return callingUser(GENERATOR, () => this.rowsUntilChange(eventTimes, from, to, rows))
  }

  /** The row after the first that changes something, or `to`. */
  private rowsUntilChange(eventTimes: Float64Array, from: number, to: number, rows: Batch): number {
    const { watermark } = this
    for (let i = from; i < to; i++) {
      this.isIdle = false
      const returned: unknown = this.generator.onEvent(this.read(rows, i), eventTimes[i]!, this.output)
      if (isPromise(returned)) throw promiseFromGenerator()
      if (this.watermark > watermark || this.isIdle) return i + 1
    }
    return to
  }

  current(): number {
    callingUser(GENERATOR, () => this.generator.onPeriodicEmit(this.output))
    return this.watermark
  }

  restore(watermark: number): void {
    if (watermark > this.watermark) this.watermark = watermark
  }
}
