/**
 * The job of `millrace bench latency`: records arrive at a steady rate, each changes its key's running sum, and the
 * sink notes how old the record is when its result is emitted.
 *
 * Two ages are kept: since the source read the record, and since it was due to arrive, which counts the time that
 * the worker was too busy to read it as well.
 */
import { schema, t, WatermarkStrategy } from 'millrace'
import type { JobGraph } from '../engine/contract/job-graph.ts'
import type { Sink } from '../engine/contract/sink.ts'
import type { Source, SourceReader, SourceReaderContext, SplitState } from '../engine/contract/source.ts'
import { BATCH_ROWS_MAX, type Batch, type Float64Column } from '../engine/core/batch.ts'
import { benchEnvironment } from './bench-job.ts'
import { LatencyHistogram } from './latency-histogram.ts'

const READING = schema({ key: t.string(), dueMs: t.float64(), readMs: t.float64(), total: t.float64() })

interface Reading {
  readonly key: string
  readonly dueMs: number
  readonly readMs: number
  readonly total: number
}

/** Milliseconds on a clock that all threads of the process share. */
const nowMs = (): number => performance.timeOrigin + performance.now()

export interface LatencyTally {
  /** Since the source's read. */
  readonly read: LatencyHistogram
  /** Since the record was due. */
  readonly due: LatencyHistogram
}

interface PaceOptions {
  readonly splits: number
  /** Records a second of all splits together. */
  readonly rate: number
  readonly seconds: number
  readonly keys: number
}

const KEY_BYTES = 12

/** Records of one split that are due by now. */
class PacedReader implements SourceReader {
  private readonly options: PaceOptions
  private readonly context: SourceReaderContext
  private readonly open_: { id: string; next: number; startMs: number }[] = []
  private timer: NodeJS.Timeout | null = null
  private readonly bytes = Buffer.alloc(BATCH_ROWS_MAX * KEY_BYTES)
  private readonly starts = Int32Array.from({ length: BATCH_ROWS_MAX }, (_, i) => i * KEY_BYTES)
  private readonly ends = this.starts.map((start) => start + KEY_BYTES)
  private readonly due = new Float64Array(BATCH_ROWS_MAX)
  private readonly read = new Float64Array(BATCH_ROWS_MAX)
  private readonly total = new Float64Array(BATCH_ROWS_MAX).fill(1)

  constructor(options: PaceOptions, context: SourceReaderContext) {
    this.options = options
    this.context = context
  }

  async open(splits: readonly SplitState[]): Promise<void> {
    for (const { id, position } of splits) this.open_.push({ id, next: position as number, startMs: nowMs() })
  }

  poll(rowsMax: number) {
    const { rate, splits, seconds } = this.options
    const perMs = rate / splits / 1_000
    const size = Math.floor(perMs * seconds * 1_000)
    const now = nowMs()
    let ended = true
    for (const split of this.open_) {
      const dueCount = Math.min(size, Math.floor((now - split.startMs) * perMs))
      const count = Math.min(dueCount - split.next, rowsMax, BATCH_ROWS_MAX)
      if (count > 0) {
        const batch = this.make(split.next, count, split.startMs, perMs, now)
        split.next += count
        return { kind: 'batch', split: split.id, batch } as const
      }
      if (split.next < size) ended = false
    }
    if (ended) return { kind: 'end' } as const
    this.timer ??= setTimeout(() => {
      this.timer = null
      this.context.wake()
    }, 1)
    return { kind: 'pending' } as const
  }

  private make(from: number, count: number, startMs: number, perMs: number, now: number): Batch {
    for (let i = 0; i < count; i++) {
      const key = ((from + i) * 7_919) % this.options.keys
      this.bytes.latin1Write(String(key).padStart(KEY_BYTES, '0'), i * KEY_BYTES)
      this.due[i] = startMs + (from + i + 1) / perMs
      this.read[i] = now
    }
    return {
      schema: READING,
      length: count,
      columns: [
        { kind: 'string', bytes: this.bytes, starts: this.starts, ends: this.ends, nulls: null },
        { kind: 'float64', values: this.due, nulls: null },
        { kind: 'float64', values: this.read, nulls: null },
        { kind: 'float64', values: this.total, nulls: null },
      ],
      eventTime: this.due,
      keys: null,
      kinds: null,
    }
  }

  snapshot(): SplitState[] {
    return this.open_.map(({ id, next }) => ({ id, position: next }))
  }

  async close(): Promise<void> {
    if (this.timer !== null) clearTimeout(this.timer)
  }
}

function pacedSource(options: PaceOptions): Source<Reading> {
  return {
    kind: 'paced',
    schema: READING,
    boundedness: 'bounded',
    splits: async () => Array.from({ length: options.splits }, (_, i) => ({ id: String(i), position: 0 })),
    createReader: (context) => new PacedReader(options, context),
  }
}

/** Ages of results, but for those of the first `warmUpMs`. */
function latencySink(warmUpMs: number, tally: LatencyTally): Sink {
  return {
    kind: 'latency',
    guarantee: 'at-least-once',
    createWriter(context) {
      const own: LatencyTally = { read: new LatencyHistogram(), due: new LatencyHistogram() }
      let countsFromMs = Number.POSITIVE_INFINITY
      return {
        async open() {
          countsFromMs = nowMs() + warmUpMs
        },
        write(batch, from) {
          const now = nowMs()
          if (now < countsFromMs) return batch.length
          const due = (batch.columns[1] as Float64Column).values
          const read = (batch.columns[2] as Float64Column).values
          for (let i = from; i < batch.length; i++) {
            own.due.add(now - due[i]!)
            own.read.add(now - read[i]!)
          }
          return batch.length
        },
        async prepareCommit() {
          context.post({ read: own.read.take(), due: own.due.take() })
          return null
        },
        async close() {},
      }
    },
    onMessage(message) {
      const part = message as { read: Float64Array; due: Float64Array }
      tally.read.merge(part.read)
      tally.due.merge(part.due)
    },
  }
}

export function buildLatencyBench(config: Readonly<Record<string, string>>): { graph: JobGraph; tally: LatencyTally } {
  const { env, parallelism, keys, option } = benchEnvironment(config)
  const tally: LatencyTally = { read: new LatencyHistogram(), due: new LatencyHistogram() }
  env
    .fromSource(
      pacedSource({ splits: parallelism, rate: option('rate', 50_000), seconds: option('seconds', 60), keys }),
      WatermarkStrategy.forMonotonousTimestamps<Reading>().withTimestampAssigner('dueMs'),
    )
    .keyBy('key')
    .reduce((sum, reading) => ({ ...reading, total: sum.total + reading.total }))
    .sinkTo(latencySink(option('warm-up', 5) * 1_000, tally))
  return { graph: env.getGraph(), tally }
}

/** What worker threads import. */
export default { build: buildLatencyBench }
