/**
 * What the process says about itself: CPU time, memory and how late its main thread's event loop runs.
 *
 * server.ts owns one sampler from start to close. The loop lag is that of the last complete window
 * of `windowMs`, so that several scrapers see the same figure and none of them resets it.
 */
import { type Histogram, monitorEventLoopDelay } from 'node:perf_hooks'
import type { Exposition } from './exposition.ts'

const resolutionMs = 50
const windowMs = 10_000

export interface EventLoopLag {
  readonly p50Ms: number
  readonly p99Ms: number
  readonly maxMs: number
}

/** The histogram measures whole timer intervals; the lag is what exceeds the interval asked for. */
function lagMs(intervalNs: number): number {
  return Number.isFinite(intervalNs) ? Math.max(0, intervalNs / 1e6 - resolutionMs) : 0
}

function lagOf(histogram: Histogram): EventLoopLag {
  if (histogram.count === 0) return { p50Ms: 0, p99Ms: 0, maxMs: 0 }
  return {
    p50Ms: lagMs(histogram.percentile(50)),
    p99Ms: lagMs(histogram.percentile(99)),
    maxMs: lagMs(histogram.max),
  }
}

export class ProcessMetrics {
  readonly #histogram = monitorEventLoopDelay({ resolution: resolutionMs })
  readonly #timer: NodeJS.Timeout
  #lastWindow: EventLoopLag | null = null

  constructor() {
    this.#histogram.enable()
    this.#timer = setInterval(() => {
      this.#lastWindow = lagOf(this.#histogram)
      this.#histogram.reset()
    }, windowMs)
    this.#timer.unref()
  }

  /** Until the first window is complete, the lag since start. */
  eventLoopLag(): EventLoopLag {
    return this.#lastWindow ?? lagOf(this.#histogram)
  }

  writeTo(exposition: Exposition): void {
    const cpu = process.cpuUsage()
    const memory = process.memoryUsage()
    exposition
      .family('process_cpu_seconds_total', 'counter', 'CPU time of the whole process, all threads, in seconds.')
      .add({}, (cpu.user + cpu.system) / 1e6)
    exposition
      .family('process_resident_memory_bytes', 'gauge', 'Resident memory of the whole process.')
      .add({}, memory.rss)
    exposition
      .family('millrace_heap_used_bytes', 'gauge', "JavaScript heap used by the coordinator's thread.")
      .add({}, memory.heapUsed)
    exposition
      .family('millrace_uptime_seconds', 'gauge', 'Seconds since the process started.')
      .add({}, process.uptime())
    const lag = this.eventLoopLag()
    const family = exposition.family(
      'millrace_event_loop_lag_seconds',
      'gauge',
      "Lateness of timers on the coordinator's thread over the last 10 s.",
    )
    family.add({ statistic: 'p50' }, lag.p50Ms / 1000)
    family.add({ statistic: 'p99' }, lag.p99Ms / 1000)
    family.add({ statistic: 'max' }, lag.maxMs / 1000)
  }

  close(): void {
    clearInterval(this.#timer)
    this.#histogram.disable()
  }
}
