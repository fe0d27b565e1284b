/**
 * Metrics that user functions register: counters, gauges, meters and histograms, with Flink's names.
 *
 * An operator subtask has one registry; the runtime takes a snapshot with each status report, which the server
 * shows under `/metrics`. Invariants: registering a name again with the same kind gives the same metric; a
 * histogram and a meter take bounded memory; a gauge that throws or gives no number has no sample.
 */
import { MillraceError } from './errors.ts'

export interface Counter {
  /** Adds 1, or `n`. */
  inc(n?: number): void
  dec(n?: number): void
  getCount(): number
}

/** Events a second over the last minute. */
export interface Meter {
  markEvent(n?: number): void
  getRate(): number
  getCount(): number
}

/** Quantiles of all values so far, within 1 % of the true ones. */
export interface Histogram {
  update(value: number): void
  getCount(): number
  /** NaN while empty. 0 <= q <= 1. */
  getQuantile(q: number): number
}

export interface MetricGroup {
  /** Names are letters, digits and `_`, not beginning with a digit. Throws `METRIC_NAME_INVALID`, `METRIC_EXISTS`. */
  counter(name: string): Counter
  /** `read` is called with each report, a few times a second. */
  gauge(name: string, read: () => number): void
  meter(name: string): Meter
  histogram(name: string): Histogram
  /** Metrics whose names begin with `name` and `_`. */
  addGroup(name: string): MetricGroup
}

export type MetricKind = 'counter' | 'gauge' | 'meter' | 'histogram'

/** One metric at one instant. Plain data. */
export interface MetricSample {
  readonly name: string
  readonly kind: MetricKind
  /** Count, value, rate a second, or number of values. */
  readonly value: number
  /** Of a histogram: sum of the values, and pairs of q and value. */
  readonly summary?: { readonly sum: number; readonly quantiles: readonly (readonly [number, number])[] }
}

export const SUMMARY_QUANTILES: readonly number[] = [0.5, 0.75, 0.95, 0.99, 0.999]

class CounterMetric implements Counter {
  private count = 0
  inc(n = 1): void {
    this.count += n
  }
  dec(n = 1): void {
    this.count -= n
  }
  getCount(): number {
    return this.count
  }
}

const METER_BUCKET_MS = 5_000
const METER_BUCKETS = 12

class MeterMetric implements Meter {
  private readonly nowMs: () => number
  private readonly buckets = new Float64Array(METER_BUCKETS)
  private readonly startMs: number
  private bucket: number
  private count = 0

  constructor(nowMs: () => number) {
    this.nowMs = nowMs
    this.startMs = nowMs()
    this.bucket = Math.floor(this.startMs / METER_BUCKET_MS)
  }

  /** Empties the buckets of times in which nothing came. */
  private turn(): number {
    const now = this.nowMs()
    const bucket = Math.floor(now / METER_BUCKET_MS)
    for (let skipped = Math.min(bucket - this.bucket, METER_BUCKETS); skipped > 0; skipped--) {
      this.buckets[(bucket - skipped + 1) % METER_BUCKETS] = 0
    }
    if (bucket > this.bucket) this.bucket = bucket
    return now
  }

  markEvent(n = 1): void {
    this.turn()
    this.count += n
    this.buckets[this.bucket % METER_BUCKETS]! += n
  }

  getRate(): number {
    const now = this.turn()
    const windowMs = (METER_BUCKETS - 1) * METER_BUCKET_MS + (now % METER_BUCKET_MS)
    const spanMs = Math.max(1_000, Math.min(windowMs, now - this.startMs))
    return (this.buckets.reduce((sum, n) => sum + n, 0) * 1_000) / spanMs
  }

  getCount(): number {
    return this.count
  }
}

/** Growth from one bucket to the next: a value is at most 1 % from its bucket's middle. */
const GAMMA = 1.02
const LOG_GAMMA = Math.log(GAMMA)
const BUCKETS_MAX = 4_096

/** Counts in buckets whose bounds grow geometrically: DDSketch (Masson, Rim, Lee, VLDB 2019), without decay. */
class HistogramMetric implements Histogram {
  /** Bucket i of the positive values holds (GAMMA ** (i - 1), GAMMA ** i]. */
  private readonly positive = new Map<number, number>()
  private readonly negative = new Map<number, number>()
  private zeros = 0
  private count = 0
  sum = 0

  update(value: number): void {
    if (!Number.isFinite(value)) return
    this.count++
    this.sum += value
    if (value === 0) {
      this.zeros++
      return
    }
    const buckets = value > 0 ? this.positive : this.negative
    const index = Math.ceil(Math.log(Math.abs(value)) / LOG_GAMMA)
    const known = buckets.get(index)
    // Only absurd ranges fill all buckets; then values join the bucket at hand that is nearest.
    if (known === undefined && buckets.size >= BUCKETS_MAX) {
      const nearest = [...buckets.keys()].reduce((a, b) => (Math.abs(a - index) <= Math.abs(b - index) ? a : b))
      buckets.set(nearest, buckets.get(nearest)! + 1)
    } else buckets.set(index, (known ?? 0) + 1)
  }

  getCount(): number {
    return this.count
  }

  getQuantile(q: number): number {
    return this.getQuantiles([q])[0]!
  }

  getQuantiles(qs: readonly number[]): number[] {
    const middle = (index: number) => (2 * GAMMA ** index) / (GAMMA + 1)
    const sorted = (buckets: Map<number, number>) => [...buckets].sort(([a], [b]) => a - b)
    const values: [number, number][] = [
      ...sorted(this.negative)
        .reverse()
        .map(([index, count]): [number, number] => [-middle(index), count]),
      [0, this.zeros],
      ...sorted(this.positive).map(([index, count]): [number, number] => [middle(index), count]),
    ]
    return qs.map((q) => {
      if (this.count === 0) return Number.NaN
      const rank = Math.min(this.count - 1, Math.floor(q * this.count))
      let seen = 0
      for (const [value, count] of values) {
        seen += count
        if (seen > rank) return value
      }
      return Number.NaN
    })
  }
}

type Metric =
  | { readonly kind: 'counter'; readonly metric: CounterMetric }
  | { readonly kind: 'gauge'; readonly metric: () => number }
  | { readonly kind: 'meter'; readonly metric: MeterMetric }
  | { readonly kind: 'histogram'; readonly metric: HistogramMetric }

const NAME = /^[A-Za-z_][A-Za-z0-9_]*$/

export class MetricRegistry implements MetricGroup {
  private readonly metrics: Map<string, Metric>
  private readonly nowMs: () => number
  private readonly prefix: string

  /** `nowMs` is processing time, for meters. */
  constructor(nowMs: () => number, prefix = '', metrics: Map<string, Metric> = new Map()) {
    this.nowMs = nowMs
    this.prefix = prefix
    this.metrics = metrics
  }

  counter(name: string): Counter {
    return this.register(name, 'counter', () => new CounterMetric())
  }

  gauge(name: string, read: () => number): void {
    this.metrics.delete(this.prefix + name)
    this.register(name, 'gauge', () => read)
  }

  meter(name: string): Meter {
    return this.register(name, 'meter', () => new MeterMetric(this.nowMs))
  }

  histogram(name: string): Histogram {
    return this.register(name, 'histogram', () => new HistogramMetric())
  }

  addGroup(name: string): MetricGroup {
    this.check(name)
    return new MetricRegistry(this.nowMs, `${this.prefix}${name}_`, this.metrics)
  }

  private check(name: string): void {
    if (NAME.test(name)) return
    throw new MillraceError('METRIC_NAME_INVALID', `A metric cannot be named ${JSON.stringify(name)}.`, {
      hint: 'Use letters, digits and _, and begin with no digit.',
    })
  }

  private register<M>(name: string, kind: MetricKind, create: () => M): M {
    this.check(name)
    const full = this.prefix + name
    const known = this.metrics.get(full)
    if (known === undefined) {
      const metric = create()
      this.metrics.set(full, { kind, metric } as Metric)
      return metric
    }
    if (known.kind === kind) return known.metric as M
    throw new MillraceError('METRIC_EXISTS', `Metric ${full} is a ${known.kind} already.`, {
      hint: 'Give each metric of an operator its own name.',
    })
  }

  snapshot(): MetricSample[] {
    const samples: MetricSample[] = []
    for (const [name, { kind, metric }] of this.metrics) {
      switch (kind) {
        case 'counter':
          samples.push({ name, kind, value: metric.getCount() })
          break
        case 'gauge': {
          const value = gaugeValue(metric)
          if (value !== null) samples.push({ name, kind, value })
          break
        }
        case 'meter':
          samples.push({ name, kind, value: metric.getRate() })
          break
        case 'histogram': {
          const values = metric.getQuantiles(SUMMARY_QUANTILES)
          const quantiles = SUMMARY_QUANTILES.map((q, k) => [q, values[k]!] as const)
          samples.push({ name, kind, value: metric.getCount(), summary: { sum: metric.sum, quantiles } })
        }
      }
    }
    return samples
  }
}

function gaugeValue(read: () => unknown): number | null {
  try {
    const value = read()
    return typeof value === 'number' ? value : null
  } catch {
    return null
  }
}
