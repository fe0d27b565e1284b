/**
 * What clocks on the wall of a time zone show: offsets from UTC over time, and back from a local time to an
 * instant. Used by the window assigners that take a `timeZone`, and by the files sink's folders by date.
 *
 * A local time is milliseconds since 1970 as if the wall clock showed UTC. Offsets come from Node's own time
 * zone data (Intl), a year at a time, because asking it costs microseconds.
 */
import { MillraceError } from './errors.ts'

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
/** No zone is further from UTC. */
const OFFSET_MAX_MS = 16 * HOUR_MS
const YEARS_MAX = 400
/** Years that Intl and Date.UTC agree on; before and after them the nearest one's offset holds. */
const INSTANT_MIN = Date.UTC(100, 1)
const INSTANT_MAX = Date.UTC(9_999, 10)

/** Instants [from, to) with one offset; two in a row may have the same. */
interface Segment {
  readonly from: number
  readonly to: number
  readonly offsetMs: number
}

export class ZoneOffsets {
  readonly timeZone: string
  private readonly format: Intl.DateTimeFormat
  /** By UTC year. */
  private readonly years = new Map<number, readonly Segment[]>()

  /** Throws `WINDOW_INVALID` on a name that nobody knows. */
  constructor(timeZone: string) {
    this.timeZone = timeZone
    try {
      this.format = new Intl.DateTimeFormat('en-US', {
        timeZone,
        hourCycle: 'h23',
        year: 'numeric',
        month: 'numeric',
        day: 'numeric',
        hour: 'numeric',
        minute: 'numeric',
        second: 'numeric',
      })
    } catch (error) {
      throw new MillraceError('WINDOW_INVALID', `There is no time zone ${JSON.stringify(timeZone)}.`, {
        hint: "Give a name of the IANA list, as 'Europe/Berlin'.",
        cause: error,
      })
    }
  }

  /** The earliest instant at which the clock shows `local` or later. */
  toInstant(local: number): number {
    for (const { from, to, offsetMs } of this.segments(local - OFFSET_MAX_MS, local + OFFSET_MAX_MS + DAY_MS)) {
      const instant = Math.max(from, local - offsetMs)
      if (instant < to) return instant
    }
    return local - this.offsetAt(local)
  }

  /** The latest time that the clock has shown up to `instant`, within a day. */
  latestLocal(instant: number): number {
    let latest = Number.NEGATIVE_INFINITY
    for (const { from, to, offsetMs } of this.segments(instant - DAY_MS, instant + 1)) {
      if (from <= instant) latest = Math.max(latest, Math.min(instant, to) + offsetMs)
    }
    return latest
  }

  /**
   * The offset at `instant`, when within `spanMs` of it the clock is only ever changed by multiples of all
   * `units`, so that times which are aligned to them stay so; else null.
   */
  steadyOffset(instant: number, spanMs: number, units: readonly number[]): number | null {
    const offsetMs = this.offsetAt(instant)
    for (const segment of this.segments(instant - spanMs, instant + spanMs)) {
      const shift = segment.offsetMs - offsetMs
      if (shift !== 0 && units.some((unit) => shift % unit !== 0)) return null
    }
    return offsetMs
  }

  /** What the clock is ahead of UTC at `instant`, in milliseconds. */
  offsetAt(instant: number): number {
    for (const segment of this.segments(instant, instant + 1)) return segment.offsetMs
    return this.read(instant)
  }

  /** Segments that touch [from, to), in order. */
  private *segments(from: number, to: number): Iterable<Segment> {
    const lastYear = new Date(clamp(to)).getUTCFullYear()
    for (let year = new Date(clamp(from)).getUTCFullYear(); year <= lastYear; year++) {
      for (const segment of this.yearOf(year)) if (segment.to > from && segment.from < to) yield segment
    }
  }

  private yearOf(year: number): readonly Segment[] {
    let segments = this.years.get(year)
    if (segments === undefined) {
      if (this.years.size >= YEARS_MAX) this.years.clear()
      segments = this.readYear(yearStart(year), yearStart(year + 1))
      this.years.set(year, segments)
    }
    return segments
  }

  private readYear(start: number, end: number): Segment[] {
    const segments: Segment[] = []
    let from = start
    let offsetMs = this.read(start)
    for (let at = start; at < end; ) {
      const next = Math.min(at + DAY_MS, end)
      if (this.read(next) !== offsetMs && next < end) {
        const change = this.changeIn(at, next, offsetMs)
        segments.push({ from, to: change, offsetMs })
        from = change
        offsetMs = this.read(change)
      }
      at = next
    }
    segments.push({ from, to: end, offsetMs })
    return segments
  }

  /** The first second in (before, after] whose offset is another one. */
  private changeIn(before: number, after: number, offsetMs: number): number {
    let low = before
    let high = after
    while (high - low > 1_000) {
      const middle = low + Math.floor((high - low) / 2_000) * 1_000
      if (this.read(middle) === offsetMs) low = middle
      else high = middle
    }
    return high
  }

  private read(instant: number): number {
    const at = Math.floor(clamp(instant) / 1_000) * 1_000
    const shown: Record<string, number> = {}
    for (const { type, value } of this.format.formatToParts(at)) shown[type] = Number(value)
    const { year, month, day, hour, minute, second } = shown
    return Date.UTC(year!, month! - 1, day, hour, minute, second) - at
  }
}

const clamp = (instant: number): number => Math.min(INSTANT_MAX, Math.max(INSTANT_MIN, instant))
const yearStart = (year: number): number => Date.UTC(year, 0)
