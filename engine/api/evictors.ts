/**
 * Built-in evictors, with Flink's names: which elements a window drops around the call of its function. Given
 * to `WindowedStream.evictor`; a window with an evictor keeps all its elements.
 */
import type { Evictor, TimestampedValue } from '../contract/windows.ts'
import { MillraceError } from '../core/errors.ts'
import { type Duration, toMs } from '../core/time.ts'
import type { DeltaFunction } from './triggers.ts'

/** Evicts before the function is called, or after it when `doEvictAfter` is set. */
abstract class OneSidedEvictor<T> implements Evictor<T> {
  private readonly doEvictAfter: boolean

  constructor(doEvictAfter: boolean) {
    this.doEvictAfter = doEvictAfter
  }

  evictBefore(elements: TimestampedValue<T>[]): void {
    if (!this.doEvictAfter) this.evict(elements)
  }

  evictAfter(elements: TimestampedValue<T>[]): void {
    if (this.doEvictAfter) this.evict(elements)
  }

  protected abstract evict(elements: TimestampedValue<T>[]): void
}

/** Keeps the elements for which `keeps` is true, in place. */
function retain<T>(elements: TimestampedValue<T>[], keeps: (element: TimestampedValue<T>) => boolean): void {
  let kept = 0
  for (const element of elements) if (keeps(element)) elements[kept++] = element
  elements.length = kept
}

/** Keeps the last `maxCount` elements. */
export class CountEvictor extends OneSidedEvictor<unknown> {
  private readonly maxCount: number

  private constructor(maxCount: number, doEvictAfter: boolean) {
    super(doEvictAfter)
    if (!Number.isInteger(maxCount) || maxCount < 0) {
      throw new MillraceError('WINDOW_INVALID', `A window cannot keep ${maxCount} elements.`, {
        hint: 'Give a whole number.',
      })
    }
    this.maxCount = maxCount
  }

  /** Throws `WINDOW_INVALID`. */
  static of(maxCount: number, doEvictAfter = false): CountEvictor {
    return new CountEvictor(maxCount, doEvictAfter)
  }

  protected evict(elements: TimestampedValue<unknown>[]): void {
    if (elements.length > this.maxCount) elements.splice(0, elements.length - this.maxCount)
  }
}

/** Keeps elements less than `windowSize` older than the newest one; all where elements have no event times. */
export class TimeEvictor extends OneSidedEvictor<unknown> {
  private readonly windowSizeMs: number

  private constructor(windowSize: Duration | number, doEvictAfter: boolean) {
    super(doEvictAfter)
    this.windowSizeMs = toMs(windowSize)
    if (!(this.windowSizeMs >= 0)) {
      throw new MillraceError('WINDOW_INVALID', `A window cannot keep elements of the last ${this.windowSizeMs} ms.`, {
        hint: 'Give a duration of 0 or more, for example seconds(5).',
      })
    }
  }

  /** Throws `WINDOW_INVALID`. */
  static of(windowSize: Duration | number, doEvictAfter = false): TimeEvictor {
    return new TimeEvictor(windowSize, doEvictAfter)
  }

  protected evict(elements: TimestampedValue<unknown>[]): void {
    if (elements.length === 0 || Number.isNaN(elements[0]!.timestamp)) return
    const newest = elements.reduce((latest, element) => Math.max(latest, element.timestamp), Number.NEGATIVE_INFINITY)
    retain(elements, (element) => element.timestamp > newest - this.windowSizeMs)
  }
}

/** Keeps elements nearer than `threshold` to the last one. */
export class DeltaEvictor<T> extends OneSidedEvictor<T> {
  private readonly threshold: number
  private readonly delta: DeltaFunction<T>

  private constructor(threshold: number, delta: DeltaFunction<T>, doEvictAfter: boolean) {
    super(doEvictAfter)
    this.threshold = threshold
    this.delta = delta
  }

  static of<T>(threshold: number, delta: DeltaFunction<T>, doEvictAfter = false): DeltaEvictor<T> {
    return new DeltaEvictor(threshold, delta, doEvictAfter)
  }

  protected evict(elements: TimestampedValue<T>[]): void {
    const last = elements.at(-1)
    if (last === undefined) return
    retain(elements, (element) => this.delta(element.value, last.value) < this.threshold)
  }
}
