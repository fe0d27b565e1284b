/**
 * The timers of an operator, in event time and in processing time, in keyed state: they survive restores and
 * rescaling like any other entry. Flink's InternalTimerService.
 *
 * Used by operators that act for a key later: process functions, windows, joins. A timer is a time, a key and a
 * namespace (a number of the operator's own: a window's start; 0 where there is one timer a key and time).
 * Registering one that exists changes nothing. A table entry holds the times that one key registered within one
 * bucket of time, whose start is the table's namespace; the bucket that is current lies in a queue too, and each
 * timer taken from there is checked against state, because it may have been deleted meanwhile.
 *
 * Invariants:
 * - Timers of one domain fire in order of time over all keys; one registered while timers fire, and due
 *   already, fires in the same advance.
 * - A timer leaves state before the operator is called for it.
 * - After the end of input (watermark +Infinity) no processing-time timer fires, as in Flink.
 */
import type { TimeDomain } from '../engine/contract/functions.ts'
import type { SegmentChunk, SegmentScan, StateTable, ValueCodec } from '../engine/contract/keyed-state.ts'
import type { OperatorContext, Output } from '../engine/contract/operator.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { NumberQueue, type QueuedTimer, TimerQueue } from './timer-queue.ts'

const BUCKET_MS = 1_000
const SCAN_KEYS = 2_000
/** Steps a call: one for a timer, which calls a function of the user's, several for a piece of a bucket. */
const STEPS_MAX_DEFAULT = 256
const SCAN_STEPS = 128
/** Deleted timers that may lie in the queue before it is made anew. */
const STALE_MIN = 1_000

/** Called for each due timer; valid during the call. The key is row 0 of `timer.keys`. */
export type FireTimer = (timer: Readonly<QueuedTimer>, domain: TimeDomain) => void

export interface TimerServiceOptions {
  /** Of the tables; an operator with several services gives each its own. */
  readonly name?: string
  /** False: every namespace is 0, and times take half the room. */
  readonly namespaced?: boolean
  /** Timers that one call fires at most: fewer where each means much work. */
  readonly stepsMax?: number
}

/** Pairs of time and namespace in order of time, 8 bytes a number, little-endian; times alone without namespaces. */
function timesCodec(namespaced: boolean): ValueCodec {
  const stride = namespaced ? 1 : 2
  return {
    description: namespaced ? 'times and namespaces' : 'times',
    encode(value) {
      const pairs = value as number[]
      const stored = new Float64Array(pairs.length / stride)
      for (let i = 0; i < stored.length; i++) stored[i] = pairs[i * stride]
      return new Uint8Array(stored.buffer)
    },
    decode(bytes, start, end) {
      const view = new DataView(bytes.buffer, bytes.byteOffset + start, end - start)
      const pairs: number[] = []
      for (let at = 0; at < end - start; at += 8) {
        pairs.push(view.getFloat64(at, true))
        if (!namespaced) pairs.push(0)
      }
      return pairs
    },
  }
}

const bucketOf = (timeMs: number): number =>
  Number.isFinite(timeMs) ? Math.floor(timeMs / BUCKET_MS) * BUCKET_MS : timeMs

/** Where the pair is; where it belongs, as ~position, when it is not there. */
function positionOf(pairs: readonly number[], timeMs: number, namespace: number): number {
  let low = 0
  let high = pairs.length / 2
  while (low < high) {
    const middle = (low + high) >> 1
    const time = pairs[middle * 2]
    if (time < timeMs || (time === timeMs && pairs[middle * 2 + 1] < namespace)) low = middle + 1
    else high = middle
  }
  return pairs[low * 2] === timeMs && pairs[low * 2 + 1] === namespace ? low * 2 : ~(low * 2)
}

/** The timers of one domain. */
class Timers {
  private readonly table: StateTable
  private readonly domain: TimeDomain
  private readonly rows = new Int32Array(1)
  private readonly slots = new Int32Array(1)
  /** All timers of buckets up to `loadedUpTo`, besides deleted ones. */
  private readonly queue = new TimerQueue()
  private loadedUpTo = Number.NEGATIVE_INFINITY
  /** Buckets after `loadedUpTo`, some perhaps twice. */
  private readonly buckets = new NumberQueue()
  /** Loaded buckets that are still in the table. */
  private readonly loaded = new Set<number>()
  /** The bucket being loaded. */
  private scan: SegmentScan | null = null
  private scanned = Number.NEGATIVE_INFINITY
  private stale = 0
  private readonly stepsMax: number

  constructor(table: StateTable, domain: TimeDomain, stepsMax: number) {
    this.table = table
    this.domain = domain
    this.stepsMax = stepsMax
    for (const bucket of table.namespaces()) this.buckets.push(bucket)
  }

  /** No timer is due before this time; Infinity when there is none. */
  get earliestMs(): number {
    if (this.scan !== null) return this.scanned
    return this.queue.size > 0 ? this.queue.firstTimeMs : this.buckets.first
  }

  register(keys: KeyColumn, row: number, timeMs: number, namespace: number): void {
    if (typeof timeMs !== 'number' || Number.isNaN(timeMs)) {
      throw new MillraceError('TIMER_INVALID', `A timer cannot be set for ${String(timeMs)}.`, {
        hint: 'Give milliseconds since 1970 UTC.',
      })
    }
    this.giveUpScan()
    const bucket = bucketOf(timeMs)
    const isLoaded = bucket <= this.loadedUpTo
    if (isLoaded) this.loaded.add(bucket)
    else if (this.table.existing(bucket) === null) this.buckets.push(bucket)
    const segment = this.table.segment(bucket)
    this.rows[0] = row
    segment.upsert(keys, this.rows, 1, this.slots)
    const slot = this.slots[0]
    const pairs = (segment.objects[slot] as number[] | undefined) ?? []
    segment.objects[slot] = pairs
    const at = positionOf(pairs, timeMs, namespace)
    if (at >= 0) return
    pairs.splice(~at, 0, timeMs, namespace)
    if (isLoaded) this.queue.push(timeMs, namespace, keys, row)
  }

  /** Forgets a timer; returns false when there is none. */
  delete(keys: KeyColumn, row: number, timeMs: number, namespace: number): boolean {
    this.giveUpScan()
    const deleted = this.take(keys, row, timeMs, namespace)
    if (deleted && bucketOf(timeMs) <= this.loadedUpTo) this.countStale()
    return deleted
  }

  private take(keys: KeyColumn, row: number, timeMs: number, namespace: number): boolean {
    const segment = this.table.existing(bucketOf(timeMs))
    if (segment === null) return false
    this.rows[0] = row
    segment.find(keys, this.rows, 1, this.slots)
    const slot = this.slots[0]
    if (slot < 0) return false
    const pairs = segment.objects[slot] as number[]
    const at = positionOf(pairs, timeMs, namespace)
    if (at < 0) return false
    if (pairs.length === 2) segment.remove(slot)
    else {
      pairs.splice(at, 2)
      segment.markDirty(slot)
    }
    return true
  }

  /**
   * Fires what is due at or before `upTo`, until `output` is blocked or the call has done its share; true when
   * nothing is left. Called again with the same time, or a later one, until then.
   */
  fire(upTo: number, output: Output, fire: FireTimer): boolean {
    for (let left = this.stepsMax; left > 0; left--) {
      if (output.blocked) return false
      if (this.scan === null && this.queue.size > 0 && this.queue.firstTimeMs <= upTo) {
        const timer = this.queue.pop()
        if (this.take(timer.keys, 0, timer.timeMs, timer.namespace)) fire(timer, this.domain)
        else if (this.stale > 0) this.stale--
        continue
      }
      if (this.scan === null && (this.buckets.isEmpty || this.buckets.first > upTo)) {
        this.dropFired(upTo)
        return true
      }
      this.loadMore()
      left -= SCAN_STEPS
    }
    return false
  }

  /** Brings a piece of the next bucket into the queue, whose earlier timers have all fired. */
  private loadMore(): void {
    if (this.scan === null) {
      const bucket = this.buckets.pop()!
      const segment = this.table.existing(bucket)
      if (segment === null || bucket <= this.loadedUpTo) return
      this.scanned = bucket
      this.scan = segment.scan()
    }
    const chunk = this.scan.next(SCAN_KEYS)
    if (chunk !== null) {
      this.takeChunk(chunk)
      return
    }
    this.scan.close()
    this.scan = null
    this.loaded.add(this.scanned)
    this.loadedUpTo = this.scanned
  }

  private takeChunk(chunk: SegmentChunk): void {
    for (let i = 0; i < chunk.count; i++) {
      const pairs = chunk.objects[i] as number[]
      for (let k = 0; k < pairs.length; k += 2) this.queue.push(pairs[k], pairs[k + 1], chunk.keys, i)
    }
  }

  /** A scan cannot go on once its segment changes: the bucket will be loaded from its beginning. */
  private giveUpScan(): void {
    if (this.scan === null) return
    this.scan.close()
    this.scan = null
    this.queue.clear()
    this.buckets.push(this.scanned)
  }

  /** All have fired, and their state is about to be dropped. */
  forget(): void {
    this.queue.clear()
    this.loaded.clear()
    this.loadedUpTo = Number.NEGATIVE_INFINITY
    this.stale = 0
  }

  private countStale(): void {
    if (++this.stale < STALE_MIN || this.stale < this.queue.size / 2) return
    this.stale = 0
    this.queue.clear()
    this.loadedUpTo = Number.NEGATIVE_INFINITY
    for (const bucket of this.loaded) this.buckets.push(bucket)
    this.loaded.clear()
  }

  /** Every time of a bucket before that of `upTo` has fired. */
  private dropFired(upTo: number): void {
    const current = bucketOf(upTo)
    for (const bucket of this.loaded) {
      if (bucket >= current) continue
      this.table.drop(bucket)
      this.loaded.delete(bucket)
    }
  }
}

export class InternalTimerService {
  private readonly eventTime: Timers
  private readonly processingTime: Timers
  private readonly context: OperatorContext
  /** The call that is asked for already. */
  private scheduledAtMs = Number.POSITIVE_INFINITY
  private ended = false

  /** Make it in the operator's `open`: it declares two tables. */
  constructor(context: OperatorContext, options: TimerServiceOptions = {}) {
    const { name = '$timers', namespaced = false, stepsMax = STEPS_MAX_DEFAULT } = options
    this.context = context
    const tableOf = (table: string) =>
      context.keyed.table({ name: table, version: 1, layout: { kind: 'object', codec: timesCodec(namespaced) } })
    this.eventTime = new Timers(tableOf(name), 'EVENT_TIME', stepsMax)
    this.processingTime = new Timers(tableOf(`${name}.processing`), 'PROCESSING_TIME', stepsMax)
    this.schedule(this.processingTime.earliestMs)
  }

  /** A timer of key `row` of `keys`. Throws `TIMER_INVALID`. */
  registerEventTimeTimer(keys: KeyColumn, row: number, timeMs: number, namespace = 0): void {
    if (this.isBatchEnd) return
    this.eventTime.register(keys, row, timeMs, namespace)
  }

  /** As `registerEventTimeTimer` for what the operator itself has to do, at the end of batch execution too. */
  wakeInEventTime(keys: KeyColumn, row: number, timeMs: number): void {
    this.eventTime.register(keys, row, timeMs, 0)
  }

  wakeInProcessingTime(keys: KeyColumn, row: number, timeMs: number): void {
    this.processingTime.register(keys, row, timeMs, 0)
    this.schedule(timeMs)
  }

  /** Returns false when there is no such timer. */
  deleteEventTimeTimer(keys: KeyColumn, row: number, timeMs: number, namespace = 0): boolean {
    return this.eventTime.delete(keys, row, timeMs, namespace)
  }

  /** A timer of key `row` of `keys`; one of the past fires at once. Throws `TIMER_INVALID`. */
  registerProcessingTimeTimer(keys: KeyColumn, row: number, timeMs: number, namespace = 0): void {
    if (this.isBatchEnd) return
    this.processingTime.register(keys, row, timeMs, namespace)
    this.schedule(timeMs)
  }

  /** Returns false when there is no such timer. */
  deleteProcessingTimeTimer(keys: KeyColumn, row: number, timeMs: number, namespace = 0): boolean {
    return this.processingTime.delete(keys, row, timeMs, namespace)
  }

  /** In batch execution a timer that is registered while the last ones fire would be one of the past. */
  get isBatchEnd(): boolean {
    return this.ended && this.context.isBatch === true
  }

  private schedule(timeMs: number): void {
    // In batch execution processing time ends with the input.
    if (timeMs >= this.scheduledAtMs || this.context.isBatch === true) return
    this.scheduledAtMs = timeMs
    this.context.scheduleProcessingTime(timeMs)
  }

  /** To be called from `advanceWatermark`, with what it has to return. */
  advanceWatermark(watermark: number, output: Output, fire: FireTimer): boolean {
    if (watermark === Number.POSITIVE_INFINITY) this.ended = true
    if (!this.eventTime.fire(watermark, output, fire)) return false
    return !this.isBatchEnd || this.processingTime.fire(watermark, output, fire)
  }

  /** To be called from `endKey`, with what it has to return: the key's timers fire as at the end of input. */
  endKey(output: Output, fire: FireTimer): boolean {
    if (!this.advanceWatermark(Number.POSITIVE_INFINITY, output, fire)) return false
    this.ended = false
    this.eventTime.forget()
    this.processingTime.forget()
    return true
  }

  /** To be called from `onProcessingTime`, with what it has to return. */
  onProcessingTime(nowMs: number, output: Output, fire: FireTimer): boolean {
    this.scheduledAtMs = Number.POSITIVE_INFINITY
    if (this.ended) return true
    if (!this.processingTime.fire(nowMs, output, fire)) return false
    this.schedule(this.processingTime.earliestMs)
    return true
  }
}
