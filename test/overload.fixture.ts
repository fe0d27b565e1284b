/**
 * A job that meets one kind of overload, as a process of its own for test/overload.test.ts:
 *   node test/overload.fixture.ts <scenario> <scale> <directory> [<MiB of state memory a worker>]
 *
 * It runs on two worker threads with RocksDB state, an exchange and an exactly-once files sink, and prints one JSON
 * line: how many rows came in, how much memory the process had before the first row and at most (from the kernel's
 * high-water mark, so that no peak is missed), and how the job ended. Worker threads import this module too.
 */
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { isMainThread } from 'node:worker_threads'
import { filesSink, filesSource } from '../connectors/files/index.ts'
import {
  type KeyedProcessFunction,
  type ListState,
  ListStateDescriptor,
  outputTag,
  type ProcessContext,
  type RuntimeContext,
  StreamExecutionEnvironment,
  schema,
  seconds,
  TumblingEventTimeWindows,
  t,
  type ValueState,
  ValueStateDescriptor,
  WatermarkStrategy,
} from '../engine/api/index.ts'
import type { JobGraph } from '../engine/contract/job-graph.ts'
import type { Sink } from '../engine/contract/sink.ts'
import type { Source } from '../engine/contract/source.ts'
import { BATCH_ROWS_MAX, type Batch } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { optionsOf } from '../engine/runtime/job.testkit.ts'
import { launchJob } from '../engine/runtime/launcher.ts'

export type Scenario =
  | 'slow-sink'
  | 'skew'
  | 'late-storm'
  | 'late-dropped'
  | 'huge-records'
  | 'huge-restored'
  | 'deep-value'

interface Settings {
  readonly scenario: Scenario
  readonly scale: number
  readonly directory: string
  /** Keyed working set of a worker. */
  readonly stateMiB: number
}

export interface Outcome {
  readonly recordsIn: number
  readonly late: number
  readonly deadLettered: number
  /** MiB before the first row, and at most. */
  readonly rssBefore: number
  readonly rssPeak: number
  readonly checkpoints: number
  readonly restarts: number
  /** Processor time from the first row to the end. */
  readonly cpuSeconds: number
  /** Bytes of the rows' strings that sources handed out, MiB. */
  readonly offeredMiB: number
  readonly error: { readonly code: string; readonly message: string; readonly hint: string } | null
}

/** Keyed working set of a worker, if nothing else is said. */
export const STATE_MEMORY_MIB = 8
const MIB = 1 << 20
/** The longest record of `huge-records`, times the scale. */
export const HUGE_MIB = 10
const DEPTH = 100_000
/** A day of 2024. */
const START_MS = 1_714_521_600_000

const ROWS = schema({ key: t.string(), at: t.timestamp(), body: t.string() })
interface Row {
  readonly key: string
  readonly at: number
  readonly body: string
}

interface Load {
  readonly rows: number
  readonly bodyBytes: number
  /** At most this long, for loads that outrun what they meet. */
  readonly seconds?: number
  readonly keyOf: (n: number) => number
  readonly timeOf: (n: number) => number
}

/** Splits of rows that cost nothing to make: all bodies are one and the same piece of memory. */
function loadSource(load: Load, splitCount: number): Source<Row> {
  const body = Buffer.alloc(load.bodyBytes, 'overload ')
  return {
    kind: 'load',
    schema: ROWS,
    boundedness: 'bounded',
    splits: async () => Array.from({ length: splitCount }, (_, i) => ({ id: String(i), position: 0 })),
    createReader() {
      const next = new Map<string, number>()
      let endsMs = Number.NaN
      return {
        async open(splits) {
          for (const { id, position } of splits) next.set(id, position as number)
        },
        poll(rowsMax) {
          if (Number.isNaN(endsMs)) endsMs = performance.now() + (load.seconds ?? 3_600) * 1_000
          for (const [split, from] of next) {
            const count = Math.min(rowsMax, BATCH_ROWS_MAX, load.rows / splitCount - from)
            if (count <= 0 || performance.now() > endsMs) continue
            next.set(split, from + count)
            const batch = batchOf(load, body, Number(split) + splitCount * from, count, splitCount)
            return { kind: 'batch', split, batch }
          }
          return { kind: 'end' }
        },
        snapshot: () => [...next].map(([id, position]) => ({ id, position })),
        async close() {},
      }
    },
  }
}

/**
 * In each of two splits a row with a huge body; once a checkpoint holds it the reader fails the job, and once restored
 * it hands out a row with an empty body.
 */
function recalledSource(load: Load): Source<Row> {
  return {
    kind: 'recalled',
    schema: ROWS,
    boundedness: 'bounded',
    splits: async () => ['0', '1'].map((id) => ({ id, position: 0 })),
    createReader(context) {
      const next = new Map<string, number>()
      const toBeSaved = new Set<string>()
      return {
        async open(splits) {
          for (const { id, position } of splits) next.set(id, position as number)
        },
        poll() {
          for (const [split, step] of next) {
            if (step === 2 || toBeSaved.has(split)) continue
            next.set(split, step + 1)
            if (step === 0) toBeSaved.add(split)
            const body = Buffer.alloc(step === 0 ? load.bodyBytes : 0, 'x')
            return { kind: 'batch', split, batch: batchOf(load, body, Number(split), 1, 2) }
          }
          return toBeSaved.size === 0 ? { kind: 'end' } : { kind: 'pending' }
        },
        snapshot: () => [...next].map(([id, position]) => ({ id, position })),
        notifyCheckpointComplete(splits) {
          if (splits.some(({ id, position }) => toBeSaved.has(id) && position === 1))
            context.fail(new Error('as planned'))
        },
        async close() {},
      }
    },
  }
}

const KEY_BYTES = 8

/** Rows `first`, `first + step`, ... */
function batchOf({ keyOf, timeOf }: Load, body: Buffer, first: number, count: number, step: number): Batch {
  const keys = Buffer.alloc(count * KEY_BYTES)
  const times = new Float64Array(count)
  for (let i = 0; i < count; i++) {
    keys.latin1Write(String(keyOf(first + step * i)).padStart(KEY_BYTES, '0'), i * KEY_BYTES)
    times[i] = timeOf(first + step * i)
  }
  const starts = Int32Array.from({ length: count }, (_, i) => i * KEY_BYTES)
  return {
    schema: ROWS,
    length: count,
    columns: [
      { kind: 'string', bytes: keys, starts, ends: starts.map((at) => at + KEY_BYTES), nulls: null },
      { kind: 'timestamp', values: times, nulls: null },
      {
        kind: 'string',
        bytes: body,
        starts: new Int32Array(count),
        ends: new Int32Array(count).fill(body.length),
        nulls: null,
      },
    ],
    eventTime: times,
    keys: null,
    kinds: null,
  }
}

/** The sink with a writer that takes a few rows each millisecond or so, and a committer that takes its time. */
function slowly<T>(sink: Sink<T>, rowsAtOnce: number): Sink<T> {
  return {
    ...sink,
    createWriter(context) {
      const writer = sink.createWriter(context)
      let waits = false
      return {
        open: () => writer.open(),
        prepareCommit: () => writer.prepareCommit(),
        close: () => writer.close(),
        write(batch, from) {
          if (waits) return from
          waits = true
          setTimeout(() => {
            waits = false
            context.wake()
          }, 1)
          const part = Math.min(batch.length, from + rowsAtOnce)
          return writer.write({ ...batch, length: part }, from)
        },
      }
    },
    createCommitter(context) {
      const committer = sink.createCommitter!(context)
      return {
        ...committer,
        open: () => committer.open(),
        readMarker: () => committer.readMarker(),
        close: () => committer.close(),
        async commit(epoch, committables) {
          await new Promise((resolve) => setTimeout(resolve, 150))
          await committer.commit(epoch, committables)
        },
      }
    },
  }
}

/** Keeps every body of its key in a list, and says how many there are. */
class Collect implements KeyedProcessFunction<string, Row, { key: string; nth: number }> {
  private bodies!: ListState<string>
  private count!: ValueState<number>

  open(context: RuntimeContext): void {
    this.bodies = context.getListState(new ListStateDescriptor<string>('bodies'))
    this.count = context.getState(new ValueStateDescriptor<number>('count'))
  }

  processElement(
    row: Row,
    context: ProcessContext<string>,
    collect: (row: { key: string; nth: number }) => void,
  ): void {
    this.bodies.add(row.body)
    const nth = (this.count.value() ?? 0) + 1
    this.count.update(nth)
    if (nth % 1_000 === 0) collect({ key: context.currentKey, nth })
  }
}

/** Keeps the newest row of each key whole, and hands it on. */
class KeepNewest implements KeyedProcessFunction<string, Row, Row> {
  private newest!: ValueState<Row>

  open(context: RuntimeContext): void {
    this.newest = context.getState(new ValueStateDescriptor<Row>('newest'))
  }

  processElement(row: Row, _context: unknown, collect: (row: Row) => void): void {
    this.newest.update(row)
    collect(row)
  }
}

/** Keeps each key's body, and says how much of it there is when an empty one comes. */
class Recall implements KeyedProcessFunction<string, Row, { key: string; length: number; isIntact: boolean }> {
  private body!: ValueState<string>

  open(context: RuntimeContext): void {
    this.body = context.getState(new ValueStateDescriptor<string>('body'))
  }

  processElement(
    row: Row,
    _context: unknown,
    collect: (row: { key: string; length: number; isIntact: boolean }) => void,
  ): void {
    if (row.body !== '') this.body.update(row.body)
    else {
      const body = this.body.value() ?? ''
      collect({ key: row.key, length: body.length, isIntact: /^x*$/.test(body) })
    }
  }
}

const DISTINCT = 5_000
/** Nine rows in ten are of key 0. */
const skewed = (n: number): number => (n % 10 === 0 ? n % DISTINCT : 0)

/** What each scenario reads: `scale` 1 is the short test. */
function loadOf({ scenario, scale }: Settings): Load {
  switch (scenario) {
    case 'slow-sink':
      return {
        rows: 1e9,
        bodyBytes: 1_024,
        seconds: 0.4 * scale,
        keyOf: (n) => n % DISTINCT,
        timeOf: (n) => START_MS + n,
      }
    case 'skew':
      return { rows: 200_000 * scale, bodyBytes: 600, keyOf: skewed, timeOf: (n) => START_MS + n / 100 }
    case 'huge-restored':
      return { rows: 2, bodyBytes: (HUGE_MIB * MIB * scale) / 2, keyOf: (n) => n, timeOf: (n) => START_MS + n }
    default: {
      // One row a thousand leads time; the others are seconds to an hour late.
      const timeOf = (n: number): number => START_MS + n / 100 - (n % 1_000 < 2 ? 0 : ((n * 7_919) % 3_600) * 1_000)
      return { rows: 150_000 * scale, bodyBytes: 600, keyOf: skewed, timeOf }
    }
  }
}

const LATE = outputTag<Row>('late')

export function overloadGraph(settings: Settings): JobGraph {
  const { scenario, directory } = settings
  const env = StreamExecutionEnvironment.createEnvironment()
  const out = (name: string) => filesSink<unknown>({ path: join(directory, name) })
  if (scenario === 'huge-records' || scenario === 'deep-value') {
    const source = filesSource({ path: join(directory, 'input'), schema: ROWS, recordBytesMax: 128 * MIB })
    const rows = env.fromSource(source)
    if (scenario === 'deep-value')
      rows
        .map(({ body }) => JSON.parse(body) as unknown)
        .rebalance()
        .sinkTo(out('deep'))
    else rows.keyBy('key').process(new KeepNewest(), { schema: ROWS }).rebalance().sinkTo(out('newest'))
    return env.getGraph()
  }
  const load = loadOf(settings)
  // A row is late once a watermark has come from every reader: of one that is not scheduled yet none comes.
  const readers = scenario.startsWith('late') ? 1 : 2
  const rows = env
    .fromSource(
      scenario === 'huge-restored' ? recalledSource(load) : loadSource(load, readers),
      WatermarkStrategy.forMonotonousTimestamps<Row>().withTimestampAssigner('at'),
    )
    .setParallelism(readers)
  if (scenario === 'slow-sink') {
    rows
      .keyBy('key')
      .process(new KeepNewest(), { schema: ROWS })
      .sinkTo(slowly(out('rows'), 4))
  } else if (scenario === 'skew') {
    rows.keyBy('key').process(new Collect()).sinkTo(out('counts'))
  } else if (scenario === 'huge-restored') {
    rows.keyBy('key').process(new Recall()).sinkTo(out('recalled'))
  } else if (scenario === 'late-dropped') {
    rows
      .keyBy('key')
      .window(TumblingEventTimeWindows.of(seconds(10)))
      .reduce((_, row) => row)
      .sinkTo(out('windows'))
  } else {
    // Late by up to half an hour: the window fires again. By more: kept aside.
    const windowed = rows
      .keyBy('key')
      .window(TumblingEventTimeWindows.of(seconds(10)))
      .allowedLateness(seconds(1_800))
      .sideOutputLateData(LATE)
      .reduce((_, row) => row)
    windowed.sinkTo(out('windows'))
    windowed.getSideOutput(LATE).sinkTo(out('late'))
  }
  return env.getGraph()
}

/** Records far larger than any buffer, without ever holding one: what is measured afterwards is the job's memory. */
function writeInput({ scenario, scale, directory }: Settings): void {
  const file = openSync(join(directory, 'input'), 'w')
  const fill = (text: string, length: number): void => {
    const piece = Buffer.alloc(Math.min(length, 1 << 16), text)
    for (let left = length; left > 0; left -= piece.length) writeSync(file, piece, 0, Math.min(left, piece.length))
  }
  const line = (key: string, quote: string, write: () => void): void => {
    writeSync(file, `{"key":"${key}","at":${START_MS},"body":${quote}`)
    write()
    writeSync(file, `${quote}}\n`)
  }
  const nested = (): void => {
    fill('[', DEPTH)
    fill(']', DEPTH)
  }
  if (scenario === 'deep-value') {
    line('deep', '"', nested)
  } else {
    const bytes = HUGE_MIB * MIB * scale
    for (const key of ['a', 'b', 'c']) line(key, '"', () => fill('x', bytes / 2))
    line('long', '"', () => fill('y', bytes))
    line('nested', '', nested)
    line('small', '"', () => fill('z', 1))
  }
  closeSync(file)
}

const statusOf = (name: string): number =>
  Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(readFileSync('/proc/self/status', 'utf8'))![1]) / 1_024

async function main(settings: Settings): Promise<Outcome> {
  const { scenario, directory } = settings
  const isFromFile = scenario === 'huge-records' || scenario === 'deep-value'
  if (isFromFile) writeInput(settings)
  let rssBefore = 0
  let error: unknown = null
  const job = await launchJob(
    overloadGraph(settings),
    optionsOf({
      parallelism: 2,
      workers: 2,
      moduleUrl: import.meta.url,
      config: { overload: JSON.stringify(settings) },
      checkpointIntervalMs: scenario === 'skew' ? 2_000 : 100,
      checkpointDirectory: join(directory, 'checkpoints'),
      stateBackend: 'rocksdb',
      stateMemoryBytes: settings.stateMiB * MIB,
      restart: scenario === 'huge-restored' ? { kind: 'fixed-delay', attempts: 5, delayMs: 0 } : { kind: 'none' },
    }),
  )
  while (job.status().state === 'starting') await new Promise((resolve) => setTimeout(resolve, 1))
  rssBefore = statusOf('VmRSS')
  const cpuBefore = process.cpuUsage()
  await job.done.catch((failure: unknown) => {
    error = failure
  })
  const result = await job.done.catch(() => null)
  const recordsIn = result?.recordsIn ?? 0
  const cpu = process.cpuUsage(cpuBefore)
  return {
    recordsIn,
    late: result?.late ?? 0,
    deadLettered: result?.deadLettered ?? 0,
    rssBefore,
    rssPeak: statusOf('VmHWM'),
    checkpoints: result?.checkpoints ?? 0,
    restarts: result?.restarts ?? 0,
    cpuSeconds: (cpu.user + cpu.system) / 1e6,
    offeredMiB: isFromFile ? 0 : (recordsIn * loadOf(settings).bodyBytes) / MIB,
    error:
      error instanceof MillraceError
        ? { code: error.code, message: error.message, hint: error.hint ?? '' }
        : error === null
          ? null
          : { code: '', message: String(error), hint: '' },
  }
}

/** What worker threads import. */
export default {
  build(config: Readonly<Record<string, string>>): { graph: JobGraph } {
    return { graph: overloadGraph(JSON.parse(config['overload']!) as Settings) }
  },
}

if (isMainThread && process.argv[1] === import.meta.filename) {
  const [scenario, scale, directory, stateMiB = STATE_MEMORY_MIB] = process.argv.slice(2)
  const outcome = await main({
    scenario: scenario as Scenario,
    scale: Number(scale),
    directory: directory!,
    stateMiB: Number(stateMiB),
  })
  process.stdout.write(`${JSON.stringify(outcome)}\n`)
}
