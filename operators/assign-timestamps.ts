/**
 * Event times and watermarks assigned in the middle of a stream.
 *
 * Watermarks from upstream end here, except the last one of bounded input. Only the engine sends
 * watermarks on, so it asks `currentWatermark` after each call. A generator that looks at each row may stop a call
 * after any of them, so that its watermark goes out there.
 */
import type { OperatorContext, Output, WatermarkingOperator } from '../engine/contract/operator.ts'
import { type Batch, sliceBatch, withEventTime } from '../engine/core/batch.ts'
import type { WatermarkGenerator, WatermarkPlan } from '../engine/core/graph.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { WATERMARK_MAX } from '../engine/core/time.ts'
import { lowestRestoredWatermark, watermarkToJson } from './watermark-json.ts'

export function assignTimestampsOperator(plan: WatermarkPlan): WatermarkingOperator {
  return new AssignTimestampsOperator(plan)
}

class AssignTimestampsOperator implements WatermarkingOperator {
  private readonly generator: WatermarkGenerator
  private readonly assign: ((batch: Batch) => Float64Array) | null
  private ended = false
  isPunctuated = false
  readonly idleAfterMs: number | null
  /** Event times of the batch that is under way, when it was stopped in the midst of it. */
  private assigned: { readonly batch: Batch; readonly eventTime: Float64Array } | null = null

  constructor(plan: WatermarkPlan) {
    this.generator = plan.createGenerator()
    this.idleAfterMs = plan.idleAfterMs
    this.assign = plan.createAssigner === null ? null : plan.createAssigner()
  }

  open(context: OperatorContext): void {
    if (context.restored.length > 0) this.generator.restore(lowestRestoredWatermark(context.restored))
  }

  process(batch: Batch, from: number, output: Output): number {
    if (output.blocked) return from
    if (this.generator.onRows !== undefined) return this.processRows(batch, from, output)
    const rows = sliceBatch(batch, from, batch.length)
    const eventTime = this.assign === null ? rows.eventTime : this.assign(rows)
    const timed = withEventTime(rows, eventTime)
    this.generator.onBatch(eventTime, rows.length, timed)
    output.emit(timed)
    return batch.length
  }

  private processRows(batch: Batch, from: number, output: Output): number {
    const { generator, assign } = this
    const eventTime =
      this.assigned?.batch === batch ? this.assigned.eventTime : assign === null ? batch.eventTime : assign(batch)
    const timed = withEventTime(batch, eventTime)
    const before = generator.current()
    const to = generator.onRows!(eventTime, from, batch.length, timed)
    this.isPunctuated = generator.current() > before
    this.assigned = to < batch.length ? { batch, eventTime } : null
    output.emit(sliceBatch(timed, from, to))
    return to
  }

  advanceWatermark(watermark: number): boolean {
    if (watermark === WATERMARK_MAX) this.ended = true
    return true
  }

  get isIdle(): boolean {
    return this.generator.isIdle === true
  }

  currentWatermark(): number {
    return this.ended ? WATERMARK_MAX : this.generator.current()
  }

  snapshot(): JsonValue {
    return { watermark: watermarkToJson(this.generator.current()) }
  }
}
