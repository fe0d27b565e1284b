/**
 * Watermarks in snapshots: JSON has no infinities.
 */
import type { JsonValue } from '../engine/core/json-value.ts'
import { WATERMARK_MAX, WATERMARK_MIN } from '../engine/core/time.ts'

export function watermarkToJson(watermark: number): JsonValue {
  if (watermark === WATERMARK_MIN) return 'min'
  return watermark === WATERMARK_MAX ? 'max' : watermark
}

export function watermarkFromJson(value: JsonValue | undefined): number {
  if (value === 'max') return WATERMARK_MAX
  return typeof value === 'number' ? value : WATERMARK_MIN
}

/** The lowest watermark of all old subtasks; the least there is on a fresh start. */
export function lowestRestoredWatermark(restored: readonly JsonValue[]): number {
  if (restored.length === 0) return WATERMARK_MIN
  return Math.min(...restored.map((state) => watermarkFromJson((state as { watermark?: JsonValue }).watermark)))
}
