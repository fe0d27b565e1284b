/**
 * Joins rows of two keyed inputs whose event times lie within an interval: Flink's interval join.
 *
 * A left row at time t meets the right rows of its key between t + lower and t + upper, whichever comes first.
 * Results carry the later of the two times. Rows behind the watermark are late: they meet nobody.
 *
 * Invariants:
 * - Every pair of rows that are not late meets once. A row is kept until the watermark says that no row that can
 *   still come would meet it; a bucket of rows is dropped as a whole, so it may be kept a little longer.
 * - One row may meet any number of others: a call stops in the midst of them when the output is blocked or its
 *   share of work is done, and goes on there.
 */
import type { CheckpointListener, FunctionSnapshotContext, OutputTag } from '../engine/contract/functions.ts'
import type { ProcessJoinContext, ProcessJoinFunction } from '../engine/contract/joint-functions.ts'
import type { ValueCodec } from '../engine/contract/keyed-state.ts'
import type { Operator, OperatorContext, Output } from '../engine/contract/operator.ts'
import { BATCH_ROWS_MAX, type Batch, gatherBatch, type KeyColumn, withKeys } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { OPAQUE_SCHEMA, type Schema } from '../engine/core/schema.ts'
import { WATERMARK_MAX, WATERMARK_MIN } from '../engine/core/time.ts'
import { RowCollector, SideCollectors } from './collector.ts'
import { CurrentKey } from './current-key.ts'
import { FunctionLife } from './function-life.ts'
import { type BufferCursor, JoinBuffer, PROBE_ROWS_MAX } from './join-buffer.ts'
import { restoredWatermarks, type WatermarkFloors, watermarksToJson } from './restored-watermarks.ts'
import { asyncFunctionError, isPromise, RowSource, userFunctionError } from './user-function.ts'
import type { CodecFactory } from './user-state.ts'

/** Rows looked at a call. */
const PAIRS_MAX = 20_000
const BUCKET_MS_MIN = 250
/** A row meets at most two buckets more than this. */
const BUCKETS_AN_INTERVAL = 4

export interface IntervalJoinOptions {
  readonly lowerMs: number
  readonly upperMs: number
  readonly lowerExclusive?: boolean
  readonly upperExclusive?: boolean
  /** Side outputs for late rows; without one they are counted as `lateDropped`. */
  readonly leftLateTag?: string | null
  readonly rightLateTag?: string | null
  readonly leftCodec: ValueCodec
  readonly rightCodec: ValueCodec
  readonly codecOf: CodecFactory
  /** Of what the function collects; opaque values without one. */
  readonly outputSchema?: Schema
}

type AnyFunction = ProcessJoinFunction<unknown, unknown, unknown>

/** `create` makes a fresh function for each subtask. Input 0 is the left one. */
export function intervalJoinOperator<L, R, Out>(
  create: () => ProcessJoinFunction<L, R, Out>,
  options: IntervalJoinOptions,
): Operator {
  return new IntervalJoinOperator(create() as AnyFunction, options)
}

/** What one input needs; `own` keeps its rows, `other` has those that they meet. */
interface Side {
  readonly isLeft: boolean
  readonly rows: RowSource
  readonly own: JoinBuffer
  readonly other: JoinBuffer
  /** A row at t meets others between t + lowMs and t + highMs. */
  readonly lowMs: number
  readonly highMs: number
  readonly lateTag: string | null
}

class IntervalJoinOperator implements Operator {
  readonly batchInputs = ['sorted', 'sorted'] as const
  private readonly fn: AnyFunction
  private readonly options: IntervalJoinOptions
  private readonly collector: RowCollector
  private readonly sideOutputs = new SideCollectors()
  private readonly current = new CurrentKey()
  private context!: OperatorContext
  private life!: FunctionLife
  private sides!: readonly [Side, Side]
  private bucketMs = 0
  private watermark = WATERMARK_MIN
  /** Key groups that were further when they were restored; null when all are past that. */
  private floors: WatermarkFloors | null = null
  /** Where the first row of the next call goes on; null at its beginning. */
  private cursor: BufferCursor | null = null
  /** Pairs that the call may still look at. */
  private budget = 0
  private readonly keptRows = new Int32Array(BATCH_ROWS_MAX)
  private readonly keptTimes = new Float64Array(BATCH_ROWS_MAX)
  private kept: unknown[] = []
  private readonly lateRows = new Int32Array(BATCH_ROWS_MAX)
  private lateCount = 0
  private output!: Output
  private emitted = false
  private readonly times = { leftTimestamp: 0, rightTimestamp: 0, timestamp: 0 }
  private readonly joinContext: ProcessJoinContext
  private readonly collect = (result: unknown): void => {
    if (isPromise(result)) throw asyncFunctionError(this.context.name)
    if (this.collector.add(result, this.times.timestamp, this.output)) this.emitted = true
  }

  constructor(fn: AnyFunction, options: IntervalJoinOptions) {
    this.fn = fn
    this.options = options
    this.collector = new RowCollector(options.outputSchema ?? OPAQUE_SCHEMA)
    this.joinContext = Object.assign(this.times, {
      output: <X>(tag: OutputTag<X>, value: X) => {
        this.sideOutputs.add(tag.id, value, this.times.timestamp, this.output)
        this.emitted = true
      },
    })
  }

  open(context: OperatorContext): void {
    const { lowerMs, upperMs, codecOf, ...options } = this.options
    this.context = context
    const { watermark, floors } = restoredWatermarks(context)
    this.watermark = watermark
    this.floors = floors
    this.bucketMs = restoredBucketMs(context.restored) ?? bucketMsOf(lowerMs, upperMs)
    const { bucketMs } = this
    const left = new JoinBuffer(context.keyed, { name: '$left', rows: options.leftCodec, bucketMs })
    const right = new JoinBuffer(context.keyed, { name: '$right', rows: options.rightCodec, bucketMs })
    this.sides = [
      {
        isLeft: true,
        rows: new RowSource(context),
        own: left,
        other: right,
        lowMs: lowerMs,
        highMs: upperMs,
        lateTag: options.leftLateTag ?? null,
      },
      {
        isLeft: false,
        rows: new RowSource(context),
        own: right,
        other: left,
        lowMs: 0 - upperMs,
        highMs: 0 - lowerMs,
        lateTag: options.rightLateTag ?? null,
      },
    ]
    this.life = new FunctionLife(this.fn, context, this.current, codecOf)
    this.life.open()
  }

  process(batch: Batch, from: number, output: Output, input: number): number {
    const { keys } = batch
    if (keys === null) {
      throw new MillraceError('STATE_NOT_KEYED', 'An interval join got rows without keys.', { domain: 'internal' })
    }
    if (output.blocked) return from
    this.output = output
    this.budget = PAIRS_MAX
    this.emitted = false
    const side = this.sides[input]
    let i = from
    for (let stopped = false; i < batch.length && !stopped; ) {
      const to = Math.min(batch.length, i + PROBE_ROWS_MAX)
      side.other.prepare(keys, batch.eventTime, i, to, side.lowMs, side.highMs)
      const next = this.joinRows(side, batch, keys, i, to)
      stopped = next < to
      i = next
    }
    side.own.add(keys, this.keptRows, this.keptTimes, this.kept, this.kept.length)
    this.kept = []
    this.finishCall(side, batch, output)
    return i
  }

  /** Joins rows [from, to), and returns the first that is not done. */
  private joinRows(side: Side, batch: Batch, keys: KeyColumn, from: number, to: number): number {
    const { watermark, floors, context } = this
    const read = side.rows.readerOf(batch)
    for (let i = from; i < to; i++) {
      const time = batch.eventTime[i]
      if (Number.isNaN(time)) throw timestampMissing(context.name)
      if (time < (floors === null ? watermark : floors.of(keys.hashes[i], watermark))) {
        this.lateRows[this.lateCount++] = i
        continue
      }
      if (this.budget <= 0 || (this.emitted && this.output.blocked)) return i
      const row = read(batch, i)
      if (!this.joinRow(side, keys, i, from, row, time)) return i
      // A row that nobody who is not late can meet any more need not wait for them.
      if (time + side.highMs < watermark) continue
      this.keptRows[this.kept.length] = i
      this.keptTimes[this.kept.length] = time
      this.kept.push(row)
    }
    return to
  }

  /** Joins row i, the one at `i - from` of the last `prepare`; false when it has to go on later. */
  private joinRow(side: Side, keys: KeyColumn, i: number, from: number, row: unknown, time: number): boolean {
    const cursor = this.cursor ?? { bucket: Number.NEGATIVE_INFINITY, piece: 0, index: 0 }
    this.cursor = null
    for (;;) {
      const others = side.other.read(keys, i, i - from, cursor)
      if (others === null) return true
      const { length } = others
      for (let k = cursor.index; k < length; k++) {
        if (this.budget-- <= 0 || (this.emitted && this.output.blocked)) {
          cursor.index = k
          this.cursor = cursor
          return false
        }
        const other = others[k]
        if (!this.meet(side.isLeft ? time : other.atMs, side.isLeft ? other.atMs : time)) continue
        this.emitted = false
        this.current.set(keys, i)
        if (side.isLeft) this.call(row, other.value, time, other.atMs)
        else this.call(other.value, row, other.atMs, time)
      }
      cursor.piece++
      cursor.index = 0
    }
  }

  private meet(left: number, right: number): boolean {
    const { lowerMs, upperMs, lowerExclusive, upperExclusive } = this.options
    const low = left + lowerMs
    const high = left + upperMs
    return (lowerExclusive ? right > low : right >= low) && (upperExclusive ? right < high : right <= high)
  }

  private call(left: unknown, right: unknown, leftTimestamp: number, rightTimestamp: number): void {
    const { times } = this
    times.leftTimestamp = leftTimestamp
    times.rightTimestamp = rightTimestamp
    times.timestamp = Math.max(leftTimestamp, rightTimestamp)
    let returned: unknown
    try {
      returned = this.fn.processElement(left, right, this.joinContext, this.collect)
    } catch (error) {
      throw userFunctionError(error, this.context.name)
    }
    if (isPromise(returned)) throw asyncFunctionError(this.context.name)
  }

  private finishCall(side: Side, batch: Batch, output: Output): void {
    this.current.clear()
    this.collector.flush(output)
    this.sideOutputs.flush(output)
    if (this.lateCount === 0) return
    if (side.lateTag === null) this.context.counters.lateDropped += this.lateCount
    else output.emitSide(side.lateTag, gatherBatch(withKeys(batch, null), this.lateRows, this.lateCount))
    this.lateCount = 0
  }

  advanceWatermark(watermark: number): boolean {
    // After a restore sources may begin behind where their end had brought it: what was passed stays passed.
    if (watermark <= this.watermark) return true
    this.watermark = watermark
    if (this.floors !== null) this.floors = this.floors.above(watermark)
    // A row t is of use while a row of the other side at or after the watermark may meet it: t + highMs >= watermark.
    for (const { own, highMs } of this.sides) own.dropUpTo(watermark - highMs)
    return true
  }

  endKey(): boolean {
    for (const { own } of this.sides) own.dropUpTo(WATERMARK_MAX)
    return true
  }

  snapshot(context: FunctionSnapshotContext): JsonValue {
    const lists = this.life.snapshot(context)
    return { ...watermarksToJson(this.watermark, this.floors), bucketMs: this.bucketMs, lists }
  }

  get checkpointListener(): CheckpointListener {
    return this.life.listener
  }

  close(): Promise<void> {
    return this.life?.close()
  }
}

function bucketMsOf(lowerMs: number, upperMs: number): number {
  return Math.max(BUCKET_MS_MIN, Math.ceil((upperMs - lowerMs) / BUCKETS_AN_INTERVAL))
}

/** Rows lie in buckets of the width that they were stored with, so that the bounds of a join may change. */
function restoredBucketMs(restored: readonly JsonValue[]): number | null {
  for (const state of restored) {
    const { bucketMs } = state as { bucketMs?: number }
    if (bucketMs !== undefined) return bucketMs
  }
  return null
}

function timestampMissing(name: string): MillraceError {
  return new MillraceError('TIMESTAMP_MISSING', `Operator ${JSON.stringify(name)} got a row without event time.`, {
    hint: 'Give the sources a WatermarkStrategy with a timestamp assigner, or call assignTimestampsAndWatermarks before the join.',
  })
}
