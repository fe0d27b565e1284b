/**
 * A sink's writer as the last operator of a chain.
 *
 * A writer that takes fewer rows than offered is full; the link keeps the rest and offers it again when
 * the writer wakes the worker. The last watermark, +Infinity, comes after every row: it ends the writer's input.
 */
import type { FunctionSnapshotContext } from '../contract/functions.ts'
import type { Operator, OperatorContext, Output } from '../contract/operator.ts'
import type { SinkWriter } from '../contract/sink.ts'
import type { Batch } from '../core/batch.ts'
import { BATCH_ROWS_MAX, sliceBatch } from '../core/batch.ts'
import { MillraceError } from '../core/errors.ts'
import type { JsonValue } from '../core/json-value.ts'
import { BatchBuilder, type RowReader, rowReader } from '../core/rows.ts'
import type { Schema } from '../core/schema.ts'
import { WATERMARK_MAX } from '../core/time.ts'
import { kindOf } from './source-promises.ts'

export class SinkOperator implements Operator {
  /** Rows the writer took. */
  recordsOut = 0
  isWaiting = false
  /** The last one that came. */
  watermark = Number.NEGATIVE_INFINITY
  readonly writer: SinkWriter
  private readonly input: Schema
  private readonly target: Schema
  private read: RowReader | null = null
  private converted: Batch | null = null
  private convertedFrom: Batch | null = null
  private convertedStart = 0

  /** `target` is the sink's schema; rows of streams without one are converted to it. */
  constructor(createWriter: (operator: SinkOperator) => SinkWriter, input: Schema, target: Schema) {
    this.writer = createWriter(this)
    this.input = input
    this.target = target
  }

  open(context: OperatorContext): void {
    if (this.input === this.target) return
    this.read = rowReader(this.input, context.worker.interner, context.worker.uniqueId(`sink ${context.uid}`))
  }

  process(batch: Batch, from: number, _output: Output): number {
    const taken = this.read === null ? this.write(batch, from) : this.writeConverted(batch, from)
    this.recordsOut += taken - from
    this.isWaiting = taken < batch.length
    return taken
  }

  /** Throws `SINK_INVALID` unless the writer answers with a row of the batch, or its end. */
  private write(batch: Batch, from: number): number {
    const taken: unknown = this.writer.write(batch, from)
    if (Number.isInteger(taken) && (taken as number) >= from && (taken as number) <= batch.length)
      return taken as number
    const what = typeof taken === 'number' ? `${taken} of ${batch.length} rows from ${from} on` : kindOf(taken)
    throw new MillraceError('SINK_INVALID', `The sink's writer does not keep its promises: write gave ${what}.`, {
      hint: 'Return at once, with the index of the first row that was not taken: batch.length when all were.',
    })
  }

  private writeConverted(batch: Batch, from: number): number {
    if (this.convertedFrom !== batch || this.converted === null) {
      const builder = new BatchBuilder(this.target)
      const to = Math.min(batch.length, from + BATCH_ROWS_MAX)
      for (let i = from; i < to; i++) builder.append(this.read!(batch, i), batch.eventTime[i]!)
      this.converted = builder.build()
      this.convertedFrom = batch
      this.convertedStart = from
    }
    const start = this.convertedStart
    const taken = start + this.write(sliceBatch(this.converted, 0, this.converted.length), from - start)
    if (taken === start + this.converted.length) this.convertedFrom = null
    return taken
  }

  advanceWatermark(watermark: number): boolean {
    const isEnd = watermark === WATERMARK_MAX && this.watermark !== WATERMARK_MAX
    this.watermark = watermark
    if (isEnd) this.writer.endInput?.()
    return true
  }

  snapshot(context: FunctionSnapshotContext): JsonValue {
    return this.writer.snapshotState?.(context) ?? null
  }

  get checkpointListener(): SinkWriter {
    return this.writer
  }
}
