/**
 * A small real job made of bare contracts, for the runtime's own tests: numbers from several splits are
 * keyed, counted in keyed state at the end of input, and written by an exactly-once sink.
 */
import type { JobGraph } from '../contract/job-graph.ts'
import type { StateTable } from '../contract/keyed-state.ts'
import type { Operator, OperatorContext, Output } from '../contract/operator.ts'
import type { OutboxSegment, Sink } from '../contract/sink.ts'
import type { Source, SourceReader, SplitState } from '../contract/source.ts'
import type { Batch, Float64Column } from '../core/batch.ts'
import type { JsonValue } from '../core/json-value.ts'
import { decodeKey, fieldKeyExtractor } from '../core/keys.ts'
import { BatchBuilder, batchOfRows } from '../core/rows.ts'
import { schema, t } from '../core/schema.ts'

export const INPUT = schema({ name: t.string(), amount: t.float64() })
export const OUTPUT = schema({ name: t.string(), count: t.float64(), sum: t.float64() })

export interface FixtureOptions {
  readonly splits: number
  readonly rowsPerSplit: number
  readonly keys: number
  /** Called with every emitted row index of a split; may throw to simulate a failing source. */
  readonly onPoll?: (split: number, row: number) => void
  /** A reader throws after this many rows, each time it is opened. */
  readonly failAfterRows?: number
  /** After that many rows it takes memory without end, each time it is opened. */
  readonly leakAfterRows?: number
  /** Milliseconds that a reader pauses after each batch. */
  readonly pauseMs?: number
  /** How many rows of each split may be read by now: holds a job where a test wants it. On the calling thread only. */
  readonly rowsAllowed?: () => number
}

/** The row `i` of a split: fixed, so that every run and the model agree. */
export function fixtureRow(split: number, i: number, keys: number): { name: string; amount: number } {
  return { name: `key-${(split * 7919 + i * 31) % keys}`, amount: i % 10 }
}

export function expectedTotals(options: FixtureOptions): Map<string, { count: number; sum: number }> {
  const totals = new Map<string, { count: number; sum: number }>()
  for (let split = 0; split < options.splits; split++) {
    for (let i = 0; i < options.rowsPerSplit; i++) {
      const { name, amount } = fixtureRow(split, i, options.keys)
      const total = totals.get(name) ?? { count: 0, sum: 0 }
      total.count++
      total.sum += amount
      totals.set(name, total)
    }
  }
  return totals
}

/** How often a reader looks whether it may read on. */
const LOOK_MS = 2

function leak(): never {
  const held: { text: string }[] = []
  for (;;) held.push({ text: `held ${held.length}` })
}

function fixtureSource(options: FixtureOptions): Source {
  return {
    kind: 'fixture',
    schema: INPUT,
    boundedness: 'bounded',
    splits: async () => Array.from({ length: options.splits }, (_, i) => ({ id: String(i), position: 0 })),
    createReader(context): SourceReader {
      let splits: { id: string; next: number }[] = []
      let turn = 0
      let given = 0
      let pausedUntil = 0
      return {
        async open(assigned: readonly SplitState[]) {
          splits = assigned.map((split) => ({ id: split.id, next: split.position as number }))
        },
        poll() {
          const unread = splits.filter((split) => split.next < options.rowsPerSplit)
          if (unread.length === 0) return { kind: 'end' }
          const now = context.worker.io.clock.monotonicMs()
          if (now < pausedUntil) return { kind: 'pending' }
          const allowed = Math.min(options.rowsPerSplit, options.rowsAllowed?.() ?? Number.POSITIVE_INFINITY)
          const open = unread.filter((split) => split.next < allowed)
          if (open.length === 0) {
            context.worker.io.timers.schedule(LOOK_MS, () => context.wake())
            return { kind: 'pending' }
          }
          if (options.pauseMs !== undefined) {
            pausedUntil = now + options.pauseMs
            context.worker.io.timers.schedule(options.pauseMs + 1, () => context.wake())
          }
          if (given >= (options.failAfterRows ?? Number.POSITIVE_INFINITY)) throw new Error('planned failure')
          if (given >= (options.leakAfterRows ?? Number.POSITIVE_INFINITY)) leak()
          const split = open[turn++ % open.length]!
          const to = Math.min(allowed, split.next + 100)
          const rows: unknown[] = []
          for (; split.next < to; split.next++) {
            options.onPoll?.(Number(split.id), split.next)
            given++
            rows.push(fixtureRow(Number(split.id), split.next, options.keys))
          }
          return { kind: 'batch', split: split.id, batch: batchOfRows(INPUT, rows) }
        },
        snapshot: () => splits.map((split) => ({ id: split.id, position: split.next })),
        async close() {},
      }
    },
  }
}

function floats(batch: Batch, column: number): Float64Array {
  return (batch.columns[column] as Float64Column).values
}

/** Counts and sums a key; emits every total at the end of input. */
class TotalsOperator implements Operator {
  private table!: StateTable
  private readonly slots = new Int32Array(4_096)
  /** A checkpoint at the end of input has it: a restart from there must not emit again. */
  private hasEmitted = false

  open(context: OperatorContext): void {
    const { restored, subtask, parallelism } = context
    const own = restored.length === parallelism ? [restored[subtask]] : restored
    this.hasEmitted = own.length > 0 && own.every((hasEmitted) => hasEmitted === true)
    this.table = context.keyed.table({ name: 'totals', version: 1, layout: { kind: 'doubles', initial: [0, 0] } })
  }

  process(batch: Batch, from: number, _output: Output): number {
    const segment = this.table.segment(0)
    segment.upsert(batch.keys!, null, batch.length, this.slots)
    const amounts = floats(batch, 1)
    const [counts, sums] = segment.doubles
    for (let i = from; i < batch.length; i++) {
      const slot = this.slots[i]!
      counts![slot]! += 1
      sums![slot]! += amounts[i]!
    }
    return batch.length
  }

  advanceWatermark(watermark: number, output: Output): boolean {
    if (watermark !== Number.POSITIVE_INFINITY || this.hasEmitted) return true
    this.hasEmitted = true
    const scan = this.table.existing(0)?.scan()
    const builder = new BatchBuilder(OUTPUT)
    for (let chunk = scan?.next(1_000) ?? null; chunk !== null; chunk = scan!.next(1_000)) {
      for (let i = 0; i < chunk.count; i++) {
        const name = decodeKey(chunk.keys.bytes, chunk.keys.starts[i]!, chunk.keys.ends[i]!)
        builder.append({ name, count: chunk.doubles[0]![i], sum: chunk.doubles[1]![i] }, 0)
      }
      output.emit(builder.build())
    }
    scan?.close()
    return true
  }

  snapshot(): JsonValue {
    return this.hasEmitted
  }
}

export interface Delivered {
  readonly rows: { name: string; count: number; sum: number }[]
  marker: number
}

/** Rows appear in `delivered` when their epoch commits. */
function fixtureSink(delivered: Delivered): Sink {
  return {
    kind: 'fixture',
    guarantee: 'exactly-once',
    createWriter(context) {
      const outbox = context.createOutbox()
      return {
        async open() {},
        write(batch, from) {
          const names = batch.columns[0] as Extract<Batch['columns'][number], { kind: 'string' }>
          for (let i = from; i < batch.length; i++) {
            const name = Buffer.from(names.bytes.subarray(names.starts[i], names.ends[i])).toString()
            const count = floats(batch, 1)[i]
            const sum = floats(batch, 2)[i]
            outbox.append(Buffer.from(JSON.stringify({ name, count, sum })))
          }
          return batch.length
        },
        prepareCommit: async () => (await outbox.seal()) as never,
        close: () => outbox.close(),
      }
    },
    createCommitter: (context) => ({
      async open() {},
      readMarker: async () => delivered.marker,
      peekMarker: async () => delivered.marker,
      async commit(epoch, committables) {
        if (epoch <= delivered.marker) return
        const rows: Delivered['rows'] = []
        for (const segment of committables as unknown as OutboxSegment[]) {
          for await (const record of context.readOutbox(segment)) rows.push(JSON.parse(Buffer.from(record).toString()))
        }
        delivered.rows.push(...rows)
        delivered.marker = epoch
      },
      async close() {},
    }),
  }
}

export function fixtureGraph(options: FixtureOptions, delivered: Delivered): JobGraph {
  const common = { uidIsExplicit: true, parallelism: 0, maxParallelism: 0, chaining: 'always' as const }
  return {
    nodes: [
      {
        ...common,
        id: 1,
        name: 'numbers',
        uid: 'numbers',
        role: 'source',
        outputSchema: INPUT,
        source: fixtureSource(options),
        watermarks: null,
      },
      {
        ...common,
        id: 2,
        name: 'totals',
        uid: 'totals',
        role: 'operator',
        outputSchema: OUTPUT,
        isKeyed: true,
        create: () => new TotalsOperator(),
      },
      {
        ...common,
        id: 3,
        name: 'delivered',
        uid: 'delivered',
        role: 'sink',
        outputSchema: OUTPUT,
        sink: fixtureSink(delivered),
      },
    ],
    edges: [
      { from: 1, to: 2, partitioning: 'hash', createKeys: () => fieldKeyExtractor(INPUT, 0), sideTag: null },
      { from: 2, to: 3, partitioning: 'forward', createKeys: null, sideTag: null },
    ],
  }
}

/** The module that worker threads import in tests: `config` carries the options. */
export default {
  build(config: Readonly<Record<string, string>>): { graph: JobGraph } {
    return { graph: fixtureGraph(JSON.parse(config['fixture'] ?? '{}') as FixtureOptions, { rows: [], marker: 0 }) }
  },
}
