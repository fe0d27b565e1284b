/**
 * What windows with triggers, sessions and lists cost beside aligned windows over the same rows, on one core.
 *
 * `node bench/micro/windows.ts` prints for each kind nanoseconds an event, with firing and checkpoints, and its speed
 * as a ratio to aligned windows with the same AggregateFunction in the same round; the median of the rounds. All state
 * is in memory. Rows are in order but for a few seconds; the watermark follows them.
 */

import {
  ContinuousEventTimeTrigger,
  CountEvictor,
  CountTrigger,
  EventTimeSessionWindows,
  EventTimeTrigger,
  type Evictor,
  GlobalWindows,
  PurgingTrigger,
  TumblingEventTimeWindows,
} from '../../engine/api/index.ts'
import { type WindowWork, windowOperatorFactory } from '../../engine/api/window-operators.ts'
import type { Operator } from '../../engine/contract/operator.ts'
import type { Trigger, WindowAssigner } from '../../engine/contract/windows.ts'
import { BATCH_ROWS_MAX, type Batch, withKeys } from '../../engine/core/batch.ts'
import { fieldKeyExtractor } from '../../engine/core/keys.ts'
import { batchOfRows } from '../../engine/core/rows.ts'
import { OPAQUE_SCHEMA, schema, t } from '../../engine/core/schema.ts'
import { WriteBatchBuilder } from '../../state/keyed-layout.ts'
import { openAlone } from './lone-operator.ts'

export const ROWS = schema({ key: t.string(), value: t.float64() })
interface Row {
  readonly key: string
  readonly value: number
}
/** Times are as large as they are in life: numbers that do not fit 32 bits cost more. */
const START_MS = 1_700_000_040_000
const EVENTS_A_SECOND = 50_000
const OUT_OF_ORDER_MS = 2_000
const BATCHES_A_CHECKPOINT = 100

const average: WindowWork = {
  kind: 'aggregate',
  fn: {
    createAccumulator: () => ({ count: 0, sum: 0 }),
    add(row: unknown, acc: unknown) {
      const own = acc as { count: number; sum: number }
      own.count++
      own.sum += (row as Row).value
      return own
    },
    getResult: (acc: unknown) => (acc as { sum: number; count: number }).sum / (acc as { count: number }).count,
    merge(a: unknown, b: unknown) {
      const [left, right] = [a, b] as { count: number; sum: number }[]
      return { count: left!.count + right!.count, sum: left!.sum + right!.sum }
    },
  },
  process: null,
}
const reduced: WindowWork = {
  kind: 'reduce',
  fn: (a, b) => ({ key: (b as Row).key, value: (a as Row).value + (b as Row).value }),
  process: null,
}
const listed: WindowWork = {
  kind: 'process',
  process: (_context, rows, collect) => collect([...rows].length),
}

interface Kind {
  readonly assigner: () => WindowAssigner
  readonly trigger?: () => Trigger
  readonly evictor?: () => Evictor
  readonly work: WindowWork
}

const minute = () => TumblingEventTimeWindows.of(60_000)
const session = () => EventTimeSessionWindows.withGap(15_000)

export const KINDS: Readonly<Record<string, Kind>> = {
  'aligned aggregate': { assigner: minute, work: average },
  'aligned reduce': { assigner: minute, work: reduced },
  'aligned process': { assigner: minute, work: listed },
  'event time trigger': { assigner: minute, trigger: () => EventTimeTrigger.create(), work: average },
  'event time trigger, reduce': { assigner: minute, trigger: () => EventTimeTrigger.create(), work: reduced },
  'purging event time': {
    assigner: minute,
    trigger: () => PurgingTrigger.of(EventTimeTrigger.create()),
    work: average,
  },
  'every 10 s': { assigner: minute, trigger: () => ContinuousEventTimeTrigger.of(10_000), work: average },
  'every 100 events': { assigner: minute, trigger: () => CountTrigger.of(100), work: average },
  'count window of 100': {
    assigner: () => GlobalWindows.create(),
    trigger: () => PurgingTrigger.of(CountTrigger.of(100)),
    work: average,
  },
  sessions: { assigner: session, work: average },
  'sessions, reduce': { assigner: session, work: reduced },
  'sessions, process': { assigner: session, work: listed },
  'process with evictor': {
    assigner: minute,
    evictor: () => CountEvictor.of(10),
    work: listed,
  },
}

/** Batches of rows of `keys` keys in turn and shuffled. */
export function inputOf(keys: number, batches: number): Batch[] {
  const extract = fieldKeyExtractor(ROWS, 0)
  let seed = 1
  const next = (): number => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0
    return (seed >>> 4) / 2 ** 28
  }
  return Array.from({ length: batches }, (_, b) => {
    const rows = Array.from({ length: BATCH_ROWS_MAX }, () => ({
      key: `session-${Math.floor(next() * keys)
        .toString(36)
        .padStart(4, '0')}`,
      value: next(),
    }))
    const times = rows.map((_row, i) =>
      Math.floor(START_MS + ((b * BATCH_ROWS_MAX + i) * 1_000) / EVENTS_A_SECOND - next() * OUT_OF_ORDER_MS),
    )
    const batch = batchOfRows(ROWS, rows, times)
    const { bytes, starts, ends, hashes } = extract(batch)
    const end = ends[batch.length - 1]!
    const kept = { bytes: new Uint8Array(bytes.subarray(0, end)), starts: starts.slice(), ends: ends.slice() }
    return withKeys(batch, { ...kept, hashes: hashes.slice() })
  })
}

function operatorOf(kind: Kind): Operator {
  return windowOperatorFactory(
    {
      assigner: kind.assigner(),
      trigger: kind.trigger?.() ?? null,
      evictor: kind.evictor?.() ?? null,
      allowedLatenessMs: 0,
      lateTag: null,
      inputSchema: ROWS,
    },
    kind.work,
    OPAQUE_SCHEMA,
  )()
}

/** Nanoseconds an event, results, and bytes that the checkpoints took. */
export function runKind(
  name: string,
  input: readonly Batch[],
): { ns: number; results: number; checkpointBytes: number } {
  const operator = operatorOf(KINDS[name]!)
  const { backend, output, rowsOut } = openAlone(operator)
  const builder = new WriteBatchBuilder()
  let checkpointBytes = 0
  const start = process.cpuUsage()
  for (let b = 0; b < input.length; b++) {
    const batch = input[b]!
    for (let row = 0; row < batch.length; ) row = operator.process(batch, row, output, 0)
    backend.maybeEvict()
    const watermark = START_MS + ((b + 1) * BATCH_ROWS_MAX * 1_000) / EVENTS_A_SECOND - OUT_OF_ORDER_MS - 1
    while (!operator.advanceWatermark(watermark, output)) backend.maybeEvict()
    if ((b + 1) % BATCHES_A_CHECKPOINT !== 0) continue
    builder.clear()
    backend.captureDirty(builder)
    backend.checkpointSettled()
    checkpointBytes += builder.byteLength
  }
  while (!operator.advanceWatermark(Number.POSITIVE_INFINITY, output)) backend.maybeEvict()
  operator.close?.()
  const { user, system } = process.cpuUsage(start)
  return { ns: ((user + system) * 1_000) / (input.length * BATCH_ROWS_MAX), results: rowsOut(), checkpointBytes }
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!
}

const baselineOf = (name: string): string => {
  const { work, evictor } = KINDS[name]!
  if (work.kind === 'reduce') return 'aligned reduce'
  return work.kind === 'process' || evictor !== undefined ? 'aligned process' : 'aligned aggregate'
}

if (import.meta.main) {
  const rounds = Number(process.argv[2] ?? 3)
  const only = process.argv[3]
  const input = inputOf(10_000, 300)
  const names = Object.keys(KINDS).filter((name) => only === undefined || name.includes(only))
  const lines = new Map(names.map((name) => [name, [] as ReturnType<typeof runKind>[]]))
  for (let round = 0; round < rounds; round++) {
    for (const [name, runs] of lines) runs.push(runKind(name, input))
  }
  console.log(`${'kind'.padEnd(28)} ns/event  ratio  results  MB in checkpoints`)
  for (const [name, runs] of lines) {
    const baseline = lines.get(baselineOf(name)) ?? runs
    const ratio = median(runs.map(({ ns }, round) => baseline[round]!.ns / ns))
    const { results, checkpointBytes } = runs[0]!
    const figures = [
      median(runs.map(({ ns }) => ns))
        .toFixed(0)
        .padStart(8),
      ratio.toFixed(2).padStart(6),
    ]
    console.log(
      `${name.padEnd(28)} ${figures.join(' ')} ${String(results).padStart(8)} ${(checkpointBytes / 1e6).toFixed(1)}`,
    )
  }
}
