/**
 * Flink's `BoundedOutOfOrdernessTimestampExtractor`, for programs written in that style. New programs use
 * `WatermarkStrategy.forBoundedOutOfOrderness`.
 */
import type { Schema } from '../core/schema.ts'
import type { Duration } from '../core/time.ts'
import { timestampOf, WatermarkStrategy } from './watermark-strategy.ts'

/** Fields that hold event time when a program does not say which, in this order. */
const TIME_FIELDS = ['timestamp', 'eventTime'] as const

export class BoundedOutOfOrdernessTimestampExtractor<T = unknown> {
  private readonly maxOutOfOrderness: Duration | number

  /** `maxOutOfOrderness` is in milliseconds when it is a bare number. */
  constructor(maxOutOfOrderness: Duration | number) {
    this.maxOutOfOrderness = maxOutOfOrderness
  }

  /**
   * Event time of an element in milliseconds since 1970 UTC; a subclass may override it. Takes the
   * element's field `timestamp` or `eventTime`, else the source's timestamp.
   */
  extractTimestamp(element: T, recordTimestamp: number): number {
    if (element !== null && typeof element === 'object') {
      for (const field of TIME_FIELDS) {
        const value = (element as Readonly<Record<string, unknown>>)[field]
        if (value !== undefined && value !== null) return timestampOf(value)
      }
    }
    return recordTimestamp
  }

  /** For the engine: the equal strategy over rows of `schema`. */
  toStrategy(schema: Schema): WatermarkStrategy<T> {
    const strategy = WatermarkStrategy.forBoundedOutOfOrderness<T>(this.maxOutOfOrderness)
    const isOverridden = this.extractTimestamp !== BoundedOutOfOrdernessTimestampExtractor.prototype.extractTimestamp
    if (isOverridden || schema.isOpaque) {
      return strategy.withTimestampAssigner<T>((row, recordTimestamp) => this.extractTimestamp(row, recordTimestamp))
    }
    // With a schema the field is known now, and its column is read without making rows.
    const field = TIME_FIELDS.find((name) => schema.fields.some((known) => known.name === name))
    return field === undefined ? strategy : (strategy.withTimestampAssigner(field) as WatermarkStrategy<T>)
  }
}
