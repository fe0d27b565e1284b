/**
 * Window assigners: which windows an element belongs to. Given to `KeyedStream.window`.
 *
 * Windows in event time go by the elements' timestamps and end by the watermark; windows in processing time go
 * by the machine's clock when an element comes, and those not over at the end of bounded input are dropped, as
 * in Flink.
 */

import {
  MergingWindowAssigner,
  TimeWindow,
  type Trigger,
  WindowAssigner,
  type WindowAssignerContext,
} from '../contract/windows.ts'
import { MillraceError } from '../core/errors.ts'
import { type Duration, toMs } from '../core/time.ts'
import { ZoneOffsets } from '../core/zone-offsets.ts'
import { EndOfStreamTrigger, EventTimeTrigger, NeverTrigger, ProcessingTimeTrigger } from './triggers.ts'

const DAY_MS = 86_400_000

/** What windows are aligned to: by default 1970 UTC. */
export interface WindowAlignment {
  /** Shifts every window; smaller than the window. */
  readonly offset?: Duration | number
  /**
   * A name of the IANA list: windows begin by the clocks there, so that days begin at midnight and have 23 or
   * 25 hours when clocks change. A window begins when a clock first shows its beginning. Where clocks change by
   * a multiple of the window's length, windows keep their length: an hour shown twice is two windows.
   */
  readonly timeZone?: string
}

/** A bare duration is the offset. */
type Alignment = Duration | number | WindowAlignment

interface Grid {
  readonly offsetMs: number
  readonly timeZone: string | null
}

/** From local times to instants near one instant. */
interface NearbyClock {
  /** No clock has shown a later time up to now. */
  readonly latestLocal: number
  toInstant(local: number): number
}

function durationMs(duration: Duration | number, what: string): number {
  const ms = toMs(duration)
  if (Number.isInteger(ms) && ms >= 1) return ms
  throw new MillraceError('WINDOW_INVALID', `A ${what} of ${ms} ms is not possible.`, {
    hint: 'Give a whole number of milliseconds, 1 or more, for example minutes(5).',
  })
}

function gridOf(alignment: Alignment, unitMs: number): Grid {
  const isOffset = typeof alignment === 'number' || 'ms' in alignment
  const offsetMs = toMs(isOffset ? alignment : (alignment.offset ?? 0))
  if (!Number.isInteger(offsetMs) || Math.abs(offsetMs) >= unitMs) {
    throw new MillraceError('WINDOW_INVALID', `An offset of ${offsetMs} ms does not fit windows of ${unitMs} ms.`, {
      hint: 'The offset is a whole number of milliseconds, smaller than the window.',
    })
  }
  return { offsetMs, timeZone: isOffset ? null : (alignment.timeZone ?? null) }
}

/** The windows of one instant, and the instants [from, to) around it that have the same ones. */
interface Assigned {
  readonly windows: readonly TimeWindow[]
  readonly from: number
  readonly to: number
}

/** Windows that depend on the time alone. */
export abstract class AlignedWindows extends WindowAssigner {
  readonly offsetMs: number
  readonly timeZone: string | null
  private readonly zone: ZoneOffsets | null
  private recent: Assigned = { windows: [], from: Number.NaN, to: Number.NaN }

  constructor(grid: Grid) {
    super()
    this.offsetMs = grid.offsetMs
    this.timeZone = grid.timeZone
    this.zone = grid.timeZone === null ? null : new ZoneOffsets(grid.timeZone)
  }

  assignWindows(_element: unknown, timestamp: number, context: WindowAssignerContext): readonly TimeWindow[] {
    const time = this.isEventTime() ? timestamp : context.currentProcessingTime
    const { recent } = this
    if (time >= recent.from && time < recent.to) return recent.windows
    this.recent = this.windowsAt(time)
    return this.recent.windows
  }

  getDefaultTrigger(): Trigger {
    return this.isEventTime() ? EventTimeTrigger.create() : ProcessingTimeTrigger.create()
  }

  protected abstract windowsAt(time: number): Assigned

  /** `units`: the lengths that windows keep when clocks change by a multiple of them. */
  protected clockAt(time: number, units: readonly number[]): NearbyClock {
    const { zone } = this
    if (zone === null) return { latestLocal: time, toInstant: (local) => local }
    const steady = zone.steadyOffset(time, 2 * Math.max(...units) + DAY_MS, units)
    if (steady !== null) return { latestLocal: time + steady, toInstant: (local) => local - steady }
    return { latestLocal: zone.latestLocal(time), toInstant: (local) => zone.toInstant(local) }
  }

  protected describe(...lengths: readonly number[]): string {
    const zone = this.timeZone === null ? '' : `,${this.timeZone}`
    return `${this.constructor.name}(${lengths.join()},${this.offsetMs}${zone})`
  }
}

/** The last local time `offset + n * unit` that clocks have shown up to `time`. */
function lastAligned(clock: NearbyClock, time: number, unitMs: number, offsetMs: number): number {
  let local = offsetMs + Math.floor((clock.latestLocal - offsetMs) / unitMs) * unitMs
  // A clock may skip an aligned time, and the division may round up just below one.
  while (clock.toInstant(local) > time) local -= unitMs
  while (clock.toInstant(local + unitMs) <= time) local += unitMs
  return local
}

abstract class TumblingWindows extends AlignedWindows {
  readonly sizeMs: number

  constructor(size: Duration | number, alignment: Alignment) {
    const sizeMs = durationMs(size, 'window')
    super(gridOf(alignment, sizeMs))
    this.sizeMs = sizeMs
  }

  protected windowsAt(time: number): Assigned {
    const { sizeMs, offsetMs } = this
    const clock = this.clockAt(time, [sizeMs])
    const local = lastAligned(clock, time, sizeMs, offsetMs)
    const window = new TimeWindow(clock.toInstant(local), clock.toInstant(local + sizeMs))
    return { windows: [window], from: window.start, to: window.end }
  }

  override toString(): string {
    return this.describe(this.sizeMs)
  }
}

abstract class SlidingWindows extends AlignedWindows {
  readonly sizeMs: number
  readonly slideMs: number

  constructor(size: Duration | number, slide: Duration | number, alignment: Alignment) {
    const sizeMs = durationMs(size, 'window')
    const slideMs = durationMs(slide, 'slide')
    super(gridOf(alignment, slideMs))
    this.sizeMs = sizeMs
    this.slideMs = slideMs
  }

  protected windowsAt(time: number): Assigned {
    const { sizeMs, slideMs, offsetMs } = this
    const clock = this.clockAt(time, [sizeMs, slideMs])
    const last = lastAligned(clock, time, slideMs, offsetMs)
    const windows: TimeWindow[] = []
    let from = clock.toInstant(last)
    let to = clock.toInstant(last + slideMs)
    for (let local = last; ; local -= slideMs) {
      const end = clock.toInstant(local + sizeMs)
      if (end <= time) {
        from = Math.max(from, end)
        break
      }
      windows.push(new TimeWindow(clock.toInstant(local), end))
      to = Math.min(to, end)
    }
    return { windows, from, to }
  }

  override toString(): string {
    return this.describe(this.sizeMs, this.slideMs)
  }
}

abstract class CumulativeWindows extends AlignedWindows {
  readonly maxSizeMs: number
  readonly stepMs: number

  constructor(maxSize: Duration | number, step: Duration | number, alignment: Alignment) {
    const maxSizeMs = durationMs(maxSize, 'window')
    const stepMs = durationMs(step, 'step')
    super(gridOf(alignment, maxSizeMs))
    if (maxSizeMs % stepMs !== 0) {
      throw new MillraceError('WINDOW_INVALID', `Windows of up to ${maxSizeMs} ms cannot grow by ${stepMs} ms.`, {
        hint: 'The greatest length is a multiple of the step.',
      })
    }
    this.maxSizeMs = maxSizeMs
    this.stepMs = stepMs
  }

  protected windowsAt(time: number): Assigned {
    const { maxSizeMs, stepMs, offsetMs } = this
    const clock = this.clockAt(time, [maxSizeMs])
    const first = lastAligned(clock, time, maxSizeMs, offsetMs)
    const start = clock.toInstant(first)
    const windows: TimeWindow[] = []
    let from = start
    for (let size = stepMs; size <= maxSizeMs; size += stepMs) {
      const end = clock.toInstant(first + size)
      if (end <= time) from = end
      // Two steps end at once where clocks skip a time.
      else if (windows.at(-1)?.end !== end) windows.push(new TimeWindow(start, end))
    }
    return { windows, from, to: windows[0]!.end }
  }

  override toString(): string {
    return this.describe(this.maxSizeMs, this.stepMs)
  }
}

/** Windows of one length, back to back. */
export class TumblingEventTimeWindows extends TumblingWindows {
  /** Days in UTC+2: `of(days(1), hours(-2))`; days in Berlin: `of(days(1), { timeZone: 'Europe/Berlin' })`. Throws `WINDOW_INVALID`. */
  static of(size: Duration | number, alignment: Alignment = 0): TumblingEventTimeWindows {
    return new TumblingEventTimeWindows(size, alignment)
  }
  isEventTime(): boolean {
    return true
  }
}

/** As `TumblingEventTimeWindows`, by the machine's clock. */
export class TumblingProcessingTimeWindows extends TumblingWindows {
  /** Throws `WINDOW_INVALID`. */
  static of(size: Duration | number, alignment: Alignment = 0): TumblingProcessingTimeWindows {
    return new TumblingProcessingTimeWindows(size, alignment)
  }
  isEventTime(): boolean {
    return false
  }
}

/** A window of `size` every `slide`: an element is in size / slide of them. */
export class SlidingEventTimeWindows extends SlidingWindows {
  /** Throws `WINDOW_INVALID`. */
  static of(size: Duration | number, slide: Duration | number, alignment: Alignment = 0): SlidingEventTimeWindows {
    return new SlidingEventTimeWindows(size, slide, alignment)
  }
  isEventTime(): boolean {
    return true
  }
}

/** As `SlidingEventTimeWindows`, by the machine's clock. */
export class SlidingProcessingTimeWindows extends SlidingWindows {
  /** Throws `WINDOW_INVALID`. */
  static of(size: Duration | number, slide: Duration | number, alignment: Alignment = 0): SlidingProcessingTimeWindows {
    return new SlidingProcessingTimeWindows(size, slide, alignment)
  }
  isEventTime(): boolean {
    return false
  }
}

/** Windows that begin together and end `step`, 2 * `step`, ... `maxSize` later: a day so far, every hour. */
export class CumulativeEventTimeWindows extends CumulativeWindows {
  /** Throws `WINDOW_INVALID`, also when `maxSize` is not a multiple of `step`. */
  static of(maxSize: Duration | number, step: Duration | number, alignment: Alignment = 0): CumulativeEventTimeWindows {
    return new CumulativeEventTimeWindows(maxSize, step, alignment)
  }
  isEventTime(): boolean {
    return true
  }
}

/** One window for all elements of a key. */
export class GlobalWindows extends WindowAssigner {
  private static readonly windows: readonly TimeWindow[] = [
    new TimeWindow(Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY),
  ]
  private readonly trigger: Trigger

  private constructor(trigger: Trigger) {
    super()
    this.trigger = trigger
  }

  /** Never fires by itself: set a trigger. */
  static create(): GlobalWindows {
    return new GlobalWindows(NeverTrigger.create())
  }

  /** Fires at the end of bounded input. */
  static createWithEndOfStreamTrigger(): GlobalWindows {
    return new GlobalWindows(EndOfStreamTrigger.create())
  }

  assignWindows(): readonly TimeWindow[] {
    return GlobalWindows.windows
  }

  getDefaultTrigger(): Trigger {
    return this.trigger
  }

  isEventTime(): boolean {
    return false
  }

  override toString(): string {
    return 'GlobalWindows()'
  }
}

/** The length of silence after an element that ends its session, more than 0. */
export type SessionWindowTimeGapExtractor<T> = (element: T) => Duration | number

/** A window for each run of elements with gaps shorter than the session gap; a gap just as long does not end it. */
abstract class SessionWindows<T> extends MergingWindowAssigner<T> {
  override readonly mergesTouching = true
  private readonly gap: number | SessionWindowTimeGapExtractor<T>

  constructor(gap: Duration | number | SessionWindowTimeGapExtractor<T>) {
    super()
    this.gap = typeof gap === 'function' ? gap : durationMs(gap, 'session gap')
  }

  assignWindows(element: T, timestamp: number, context: WindowAssignerContext): readonly TimeWindow[] {
    const time = this.isEventTime() ? timestamp : context.currentProcessingTime
    const gapMs = typeof this.gap === 'number' ? this.gap : dynamicGapMs(this.gap(element))
    return [new TimeWindow(time, time + gapMs)]
  }

  mergeWindows(
    windows: readonly TimeWindow[],
    merge: (merged: readonly TimeWindow[], result: TimeWindow) => void,
  ): void {
    const inOrder = [...windows].sort((a, b) => a.start - b.start)
    let from = 0
    while (from < inOrder.length) {
      const { start } = inOrder[from]!
      let { end } = inOrder[from]!
      let to = from + 1
      for (; to < inOrder.length && inOrder[to]!.start <= end; to++) end = Math.max(end, inOrder[to]!.end)
      if (to > from + 1) merge(inOrder.slice(from, to), new TimeWindow(start, end))
      from = to
    }
  }

  getDefaultTrigger(): Trigger<T> {
    return this.isEventTime() ? EventTimeTrigger.create() : ProcessingTimeTrigger.create()
  }

  override toString(): string {
    return `${this.constructor.name}(${typeof this.gap === 'number' ? this.gap : 'dynamic'})`
  }
}

function dynamicGapMs(gap: Duration | number): number {
  const gapMs = toMs(gap)
  if (gapMs > 0 && Number.isFinite(gapMs)) return gapMs
  throw new MillraceError('WINDOW_INVALID', `A session gap of ${gapMs} ms is not possible.`, {
    hint: 'The gap function returns a duration above 0.',
  })
}

export class EventTimeSessionWindows<T = unknown> extends SessionWindows<T> {
  /** Throws `WINDOW_INVALID`. */
  static withGap(gap: Duration | number): EventTimeSessionWindows {
    return new EventTimeSessionWindows(gap)
  }
  /** A gap for each element. */
  static withDynamicGap<T>(gapOf: SessionWindowTimeGapExtractor<T>): EventTimeSessionWindows<T> {
    return new EventTimeSessionWindows(gapOf)
  }
  isEventTime(): boolean {
    return true
  }
}

/** As `EventTimeSessionWindows`, by the machine's clock. */
export class ProcessingTimeSessionWindows<T = unknown> extends SessionWindows<T> {
  /** Throws `WINDOW_INVALID`. */
  static withGap(gap: Duration | number): ProcessingTimeSessionWindows {
    return new ProcessingTimeSessionWindows(gap)
  }
  /** A gap for each element. */
  static withDynamicGap<T>(gapOf: SessionWindowTimeGapExtractor<T>): ProcessingTimeSessionWindows<T> {
    return new ProcessingTimeSessionWindows(gapOf)
  }
  isEventTime(): boolean {
    return false
  }
}
