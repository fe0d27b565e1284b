/**
 * The watermarks that an operator on keys goes on from after a restore.
 *
 * Subtasks of one operator may have different watermarks at one barrier: inputs that go idle and come back reach each
 * of them in another order. Restored as it was, each has its own again. After a rescale one subtask may have key groups
 * of several old ones: its watermark is the lowest of theirs, so that the restart makes no row late, and the key groups
 * that were further keep their old one as a floor until the watermark has passed it, so that a window that had fired
 * does not fire anew and a row that was late is still late.
 *
 * Called by windows, interval joins and process operators in `open` and `snapshot`; in between they ask `floors` only
 * while there are any.
 */
import type { KeyGroupRange } from '../engine/contract/keyed-state.ts'
import type { OperatorContext, Output } from '../engine/contract/operator.ts'
import { assert } from '../engine/core/assert.ts'
import { type Batch, type KeyColumn, sliceBatch } from '../engine/core/batch.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { keyGroupOf, keyGroupRange } from '../engine/core/keys.ts'
import { WATERMARK_MIN } from '../engine/core/time.ts'
import { lowestRestoredWatermark, watermarkFromJson, watermarkToJson } from './watermark-json.ts'

/** The first key group, the one after the last, and their watermark. */
type FloorJson = readonly [from: number, to: number, watermark: JsonValue]

export interface RestoredWatermarks {
  readonly watermark: number
  /** Null when all key groups have the same watermark. */
  readonly floors: WatermarkFloors | null
}

export class WatermarkFloors {
  private readonly keyGroups: KeyGroupRange
  private readonly byGroup: Float64Array
  private readonly highest: number

  /** `byGroup[i]` is the watermark of key group `keyGroups.from + i`. */
  constructor(keyGroups: KeyGroupRange, byGroup: Float64Array) {
    this.keyGroups = keyGroups
    this.byGroup = byGroup
    this.highest = byGroup.reduce((a, b) => Math.max(a, b))
  }

  /** The watermark of a key with this hash in an operator at `watermark`; without a key the operator's. */
  of(hash: number | null, watermark: number): number {
    if (hash === null) return watermark
    return Math.max(watermark, this.byGroup[keyGroupOf(hash, this.keyGroups.total) - this.keyGroups.from])
  }

  /** Null once an operator at `watermark` has passed all of them. */
  above(watermark: number): WatermarkFloors | null {
    return watermark >= this.highest ? null : this
  }

  /** `Operator.process` in runs of rows with one watermark: `process` is told it and returns how many rows it took. */
  process(
    batch: Batch,
    from: number,
    watermark: number,
    output: Output,
    process: (rows: Batch, watermark: number) => number,
  ): number {
    assert(batch.keys !== null, 'rows that belong to key groups have keys')
    const { hashes } = batch.keys
    let i = from
    while (i < batch.length && !output.blocked) {
      const own = this.of(hashes[i], watermark)
      let to = i + 1
      while (to < batch.length && this.of(hashes[to], watermark) === own) to++
      i += process(sliceBatch(batch, i, to), own)
      if (i < to) break
    }
    return i
  }

  toJson(): FloorJson[] {
    const { byGroup, keyGroups } = this
    const runs: FloorJson[] = []
    for (let i = 0; i < byGroup.length; ) {
      let to = i + 1
      while (to < byGroup.length && byGroup[to] === byGroup[i]) to++
      runs.push([keyGroups.from + i, keyGroups.from + to, watermarkToJson(byGroup[i])])
      i = to
    }
    return runs
  }
}

/** Of an operator with keyed state. */
export function restoredWatermarks({ keyed, restored }: OperatorContext): RestoredWatermarks {
  const { keyGroups } = keyed
  const lowest = lowestRestoredWatermark(restored)
  // More subtasks than key groups: one without any gets no rows.
  if (restored.length === 0 || keyGroups.from >= keyGroups.to) return { watermark: lowest, floors: null }
  const byGroup = new Float64Array(keyGroups.to - keyGroups.from)
  restored.forEach((state, subtask) => {
    const old = keyGroupRange(subtask, restored.length, keyGroups.total)
    const { watermark, floors = [] } = state as { watermark?: JsonValue; floors?: readonly FloorJson[] }
    const set = (from: number, to: number, value: number): void => {
      // A negative place would count from the end.
      const [first, end] = [Math.max(from, keyGroups.from), Math.min(to, keyGroups.to)]
      if (first < end) byGroup.fill(value, first - keyGroups.from, end - keyGroups.from)
    }
    const own = watermarkFromJson(watermark)
    set(old.from, old.to, own)
    for (const [from, to, floor] of floors) set(from, to, Math.max(own, watermarkFromJson(floor)))
  })
  const watermark = byGroup.reduce((a, b) => Math.min(a, b))
  return { watermark, floors: new WatermarkFloors(keyGroups, byGroup).above(watermark) }
}

/** As `restoredWatermarks` reads them: part of an operator's snapshot. */
export function watermarksToJson(watermark: number, floors: WatermarkFloors | null): Record<string, JsonValue> {
  return { watermark: watermarkToJson(watermark), ...(floors === null ? {} : { floors: floors.toJson() }) }
}

/** `Operator.process` for rows of one watermark. */
export type ProcessRows = (batch: Batch, from: number, output: Output) => number

/** The event time of an operator whose windows fire when its watermark passes them. */
export class WindowTime {
  watermark: number
  private floors: WatermarkFloors | null

  /** Of the state that the operator was restored with. */
  constructor(context: OperatorContext) {
    const { watermark, floors } = restoredWatermarks(context)
    this.watermark = watermark
    this.floors = floors
  }

  /** Passes rows to `process` while `watermark` is that of their key groups. */
  process(batch: Batch, from: number, output: Output, process: ProcessRows): number {
    const { floors, watermark } = this
    if (floors === null) return process(batch, from, output)
    const next = floors.process(batch, from, watermark, output, (rows, own) => {
      this.watermark = own
      return process(rows, 0, output)
    })
    this.watermark = watermark
    return next
  }

  /** All that the watermark made due is done. */
  passed(): void {
    if (this.floors !== null) this.floors = this.floors.above(this.watermark)
  }

  /** Had a restored window that ends with `maxTimestamp` fired for key `row` of `keys` before? */
  hadFired(keys: KeyColumn, row: number, maxTimestamp: number): boolean {
    return this.floors !== null && this.floors.of(keys.hashes[row], WATERMARK_MIN) >= maxTimestamp
  }

  toJson(): Record<string, JsonValue> {
    return watermarksToJson(this.watermark, this.floors)
  }
}
