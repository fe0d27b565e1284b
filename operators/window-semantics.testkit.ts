/**
 * Flink's WindowOperator as a naive model: any windows, triggers and evictors, row by row, with plain lists and
 * timers looked for one by one. Used by the tests of the triggered window operator.
 *
 * Where the operator keeps encoded records, timers in buckets and merging sets, this keeps objects and looks
 * through all of them.
 */
import type { TimeDomain } from '../engine/contract/functions.ts'

export interface ModelRow {
  readonly key: string
  readonly id: number
  readonly gap: number
}

export interface Placed {
  readonly row: ModelRow
  readonly time: number
}

/** What a window of one key is, whatever its trigger. */
export interface ModelWindow {
  readonly start: number
  readonly end: number
  elements: Placed[]
  /** Waiting times by domain. */
  readonly timers: Record<TimeDomain, Set<number>>
  /** What the trigger remembers. */
  count: number
  next: number
  last: number
}

export type Verdict = 'CONTINUE' | 'FIRE' | 'PURGE' | 'FIRE_AND_PURGE'

export interface Times {
  readonly watermark: number
  readonly nowMs: number
}

export interface ModelTrigger {
  onElement(window: ModelWindow, element: Placed, times: Times): Verdict
  onTime(window: ModelWindow, time: number, domain: TimeDomain, times: Times): Verdict
  /** `into` was made of `from`, oldest first. Null where windows never merge. */
  merge: ((into: ModelWindow, from: readonly ModelWindow[], times: Times) => void) | null
}

export interface ModelAssigner {
  readonly isEventTime: boolean
  readonly merges: boolean
  windowsOf(time: number, row: ModelRow): readonly (readonly [start: number, end: number])[]
}

export interface ModelEvictor {
  before(elements: readonly Placed[]): Placed[]
  after(elements: readonly Placed[]): Placed[]
}

/** A window's elements when its function was called. */
export interface Fired {
  readonly key: string
  readonly start: number
  readonly end: number
  readonly ids: readonly number[]
}

const maxOf = (window: { readonly end: number }): number => window.end - 1

export class WindowModel {
  readonly fired: Fired[] = []
  readonly late: number[] = []
  private readonly keys = new Map<string, ModelWindow[]>()
  private readonly times = { watermark: Number.NEGATIVE_INFINITY, nowMs: 1_000 }
  private readonly assigner: ModelAssigner
  private readonly trigger: ModelTrigger
  private readonly evictor: ModelEvictor | null
  private readonly lateness: number

  constructor(assigner: ModelAssigner, trigger: ModelTrigger, evictor: ModelEvictor | null, lateness: number) {
    this.assigner = assigner
    this.trigger = trigger
    this.evictor = evictor
    this.lateness = assigner.isEventTime ? lateness : 0
  }

  row(row: ModelRow, time: number): void {
    const windows = this.keys.get(row.key) ?? []
    this.keys.set(row.key, windows)
    const { isEventTime } = this.assigner
    let skipped = true
    for (const [start, end] of this.assigner.windowsOf(isEventTime ? time : this.times.nowMs, row)) {
      const window = this.windowFor(start, end, windows)
      if (window === null) continue
      skipped = false
      const element = { row, time }
      window.elements.push(element)
      this.obey(row.key, window, this.trigger.onElement(window, element, this.times))
      const over = maxOf(window) + this.lateness
      if (over < Number.POSITIVE_INFINITY) window.timers[isEventTime ? 'EVENT_TIME' : 'PROCESSING_TIME'].add(over)
    }
    if (skipped && isEventTime && time + this.lateness <= this.times.watermark) this.late.push(row.id)
  }

  private windowFor(start: number, end: number, windows: ModelWindow[]): ModelWindow | null {
    let wanted = { start, end }
    const touched = this.assigner.merges ? windows.filter((w) => w.start <= end && start <= w.end) : []
    for (const w of touched) wanted = { start: Math.min(wanted.start, w.start), end: Math.max(wanted.end, w.end) }
    if (this.assigner.isEventTime && maxOf(wanted) + this.lateness <= this.times.watermark) return null
    const known = windows.find((w) => w.start === wanted.start && w.end === wanted.end)
    if (known !== undefined) return known
    const made: ModelWindow = {
      ...wanted,
      elements: [],
      timers: { EVENT_TIME: new Set(), PROCESSING_TIME: new Set() },
      count: 0,
      next: Number.NaN,
      last: Number.NaN,
    }
    windows.push(made)
    if (touched.length > 0) {
      touched.sort((a, b) => a.start - b.start)
      this.trigger.merge!(made, touched, this.times)
      made.elements = touched.flatMap((w) => w.elements)
      for (const w of touched) windows.splice(windows.indexOf(w), 1)
    }
    return made
  }

  private obey(key: string, window: ModelWindow, verdict: Verdict): void {
    if (verdict.startsWith('FIRE') && window.elements.length > 0) {
      const { start, end } = window
      const seen = this.evictor === null ? window.elements : this.evictor.before(window.elements)
      this.fired.push({ key, start, end, ids: seen.map(({ row }) => row.id) })
      if (this.evictor !== null) window.elements = this.evictor.after(seen)
    }
    if (verdict.endsWith('PURGE')) window.elements = []
  }

  advance(watermark: number): void {
    this.times.watermark = Math.max(this.times.watermark, watermark)
    this.fireUpTo(watermark, 'EVENT_TIME')
  }

  processingTime(nowMs: number): void {
    this.times.nowMs = nowMs
    this.fireUpTo(nowMs, 'PROCESSING_TIME')
  }

  private fireUpTo(limit: number, domain: TimeDomain): void {
    for (const [key, windows] of this.keys) {
      for (;;) {
        const earliest = Math.min(...windows.flatMap((w) => [...w.timers[domain]]))
        if (windows.every((w) => w.timers[domain].size === 0) || earliest > limit) break
        for (const window of windows.filter((w) => w.timers[domain].has(earliest))) {
          window.timers[domain].delete(earliest)
          this.obey(key, window, this.trigger.onTime(window, earliest, domain, this.times))
          const isOver = earliest === maxOf(window) + this.lateness
          if (isOver && (domain === 'EVENT_TIME') === this.assigner.isEventTime) {
            windows.splice(windows.indexOf(window), 1)
          }
        }
      }
    }
  }
}

/** Every `unit`-aligned start in reach of `time`, latest first. */
function starts(time: number, unit: number, offset: number, reach: number): number[] {
  const found: number[] = []
  let start = offset
  while (start <= time) start += unit
  while (start > time) start -= unit
  for (; start > time - reach; start -= unit) found.push(start)
  return found
}

export const tumblingModel = (isEventTime: boolean, size: number, offset: number): ModelAssigner => ({
  isEventTime,
  merges: false,
  windowsOf: (time) => starts(time, size, offset, size).map((start) => [start, start + size]),
})

export const slidingModel = (isEventTime: boolean, size: number, slide: number, offset: number): ModelAssigner => ({
  isEventTime,
  merges: false,
  windowsOf: (time) => starts(time, slide, offset, size).map((start) => [start, start + size]),
})

export const cumulativeModel = (size: number, step: number): ModelAssigner => ({
  isEventTime: true,
  merges: false,
  windowsOf(time) {
    const [start] = starts(time, size, 0, size)
    const ends = Array.from({ length: size / step }, (_, k) => start! + (k + 1) * step)
    return ends.filter((end) => end > time).map((end) => [start!, end])
  },
})

export const sessionModel = (isEventTime: boolean, gap: number | null): ModelAssigner => ({
  isEventTime,
  merges: true,
  windowsOf: (time, row) => [[time, time + (gap ?? row.gap)]],
})

export const globalModel: ModelAssigner = {
  isEventTime: false,
  merges: false,
  windowsOf: () => [[Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY]],
}

export const eventTimeModel: ModelTrigger = {
  onElement(window, _element, { watermark }) {
    if (maxOf(window) <= watermark) return 'FIRE'
    window.timers.EVENT_TIME.add(maxOf(window))
    return 'CONTINUE'
  },
  onTime: (window, time, domain) => (domain === 'EVENT_TIME' && time === maxOf(window) ? 'FIRE' : 'CONTINUE'),
  merge(into, _from, { watermark }) {
    if (maxOf(into) > watermark) into.timers.EVENT_TIME.add(maxOf(into))
  },
}

export const processingTimeModel: ModelTrigger = {
  onElement(window) {
    window.timers.PROCESSING_TIME.add(maxOf(window))
    return 'CONTINUE'
  },
  onTime: (_window, _time, domain) => (domain === 'PROCESSING_TIME' ? 'FIRE' : 'CONTINUE'),
  merge(into, _from, { nowMs }) {
    if (maxOf(into) > nowMs) into.timers.PROCESSING_TIME.add(maxOf(into))
  },
}

export const countModel = (max: number): ModelTrigger => ({
  onElement(window) {
    window.count++
    if (window.count < max) return 'CONTINUE'
    window.count = 0
    return 'FIRE'
  },
  onTime: () => 'CONTINUE',
  merge(into, from) {
    for (const window of from) into.count += window.count
  },
})

export const deltaModel = (threshold: number): ModelTrigger => ({
  onElement(window, { row }) {
    const isFirst = Number.isNaN(window.last)
    if (!isFirst && row.id - window.last <= threshold) return 'CONTINUE'
    window.last = row.id
    return isFirst ? 'CONTINUE' : 'FIRE'
  },
  onTime: () => 'CONTINUE',
  merge: null,
})

/** Fires at each multiple of `interval` after the first element, and at the end. */
export const continuousModel = (domain: TimeDomain, interval: number): ModelTrigger => {
  const schedule = (window: ModelWindow, from: number, { watermark }: Times): void => {
    const atEnd = domain === 'EVENT_TIME' && watermark === Number.POSITIVE_INFINITY && watermark === maxOf(window)
    const next = Math.min(atEnd ? Number.POSITIVE_INFINITY : from + interval, maxOf(window))
    window.next = domain === 'PROCESSING_TIME' && next <= from ? Number.NaN : next
    if (!Number.isNaN(window.next)) window.timers[domain].add(next)
  }
  return {
    onElement(window, { time }, times) {
      const { watermark, nowMs } = times
      const now = domain === 'EVENT_TIME' ? time : nowMs
      if (domain === 'EVENT_TIME') {
        if (maxOf(window) <= watermark) return 'FIRE'
        window.timers.EVENT_TIME.add(maxOf(window))
      }
      if (Number.isNaN(window.next)) schedule(window, now - (now % interval), times)
      return 'CONTINUE'
    },
    onTime(window, time, which, times) {
      if (which !== domain) return 'CONTINUE'
      if (domain === 'EVENT_TIME' && time === maxOf(window)) return 'FIRE'
      if (window.next !== time) return 'CONTINUE'
      schedule(window, time, times)
      return 'FIRE'
    },
    merge(into, from) {
      const known = from.map((window) => window.next).filter((next) => !Number.isNaN(next))
      if (known.length === 0) return
      into.next = Math.min(...known)
      into.timers[domain].add(into.next)
    },
  }
}

export const purgingModel = (nested: ModelTrigger): ModelTrigger => {
  const purging = (verdict: Verdict): Verdict => (verdict === 'FIRE' ? 'FIRE_AND_PURGE' : verdict)
  return {
    onElement: (window, element, times) => purging(nested.onElement(window, element, times)),
    onTime: (window, time, domain, times) => purging(nested.onTime(window, time, domain, times)),
    merge: nested.merge,
  }
}
