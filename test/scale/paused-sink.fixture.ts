/**
 * A job whose sink stands still, as a process of its own for test/scale/paused-sink.test.ts:
 *   node test/scale/paused-sink.fixture.ts <directory> <most bytes of pending output> [<restore>]
 *
 * Two worker threads with RocksDB state, an exchange, and the Postgres sink on an embedded database whose commits begin
 * only when the file `open` is in the directory. The source makes rows as fast as they are taken, until it finds the
 * file `enough`. Each 250 ms it prints a line of JSON on how the job is, and at the end one with its result. Worker
 * threads import this module too.
 */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isMainThread } from 'node:worker_threads'
import { postgresSink } from '../../connectors/postgres/index.ts'
import {
  type KeyedProcessFunction,
  type ProcessContext,
  type RuntimeContext,
  StreamExecutionEnvironment,
  schema,
  t,
  type ValueState,
  ValueStateDescriptor,
} from '../../engine/api/index.ts'
import { CHECKPOINT_POLICY_DEFAULT } from '../../engine/checkpoint/checkpoint-policy.ts'
import type { JobGraph } from '../../engine/contract/job-graph.ts'
import type { Sink } from '../../engine/contract/sink.ts'
import type { Source } from '../../engine/contract/source.ts'
import { BATCH_ROWS_MAX, type Batch } from '../../engine/core/batch.ts'
import { optionsOf } from '../../engine/runtime/job.testkit.ts'
import { launchJob } from '../../engine/runtime/launcher.ts'

/** `key` is one of `KEYS`; `id` counts the rows of both splits, the even ones of one and the odd ones of the other. */
const ROWS = schema({ key: t.float64(), id: t.float64(), body: t.string() })
const OUT = schema({ key: t.float64(), id: t.float64(), nth: t.float64(), body: t.string() })
type Row = { readonly key: number; readonly id: number; readonly body: string }
export const KEYS = 500
const BODY_BYTES = 1_000
const SAMPLE_MS = 250

/** What the job's process says of itself. */
export interface Sample {
  readonly atMs: number
  readonly rssMiB: number
  readonly cpuSeconds: number
  readonly recordsIn: number
  /** Files that wait for their commit, or for a manifest. */
  readonly outboxBytes: number
  readonly manifests: number
  readonly checkpoints: number
  readonly checkpointsFailed: number
  /** Of the subtasks of the source. */
  readonly backPressured: number
}

interface Settings {
  readonly directory: string
}

function endlessSource({ directory }: Settings): Source<Row> {
  const body = Buffer.alloc(BODY_BYTES, 'paused sink ')
  const enough = join(directory, 'enough')
  return {
    kind: 'endless',
    schema: ROWS,
    boundedness: 'bounded',
    splits: async () => ['0', '1'].map((id) => ({ id, position: 0 })),
    createReader() {
      const next = new Map<string, number>()
      let isEnough = false
      let lookAtMs = 0
      return {
        async open(splits) {
          for (const { id, position } of splits) next.set(id, position as number)
        },
        poll(rowsMax) {
          if (performance.now() > lookAtMs) {
            isEnough = existsSync(enough)
            lookAtMs = performance.now() + SAMPLE_MS
          }
          const [split, from] = [...next].sort((a, b) => a[1] - b[1])[0] ?? ['', 0]
          if (isEnough || split === '') return { kind: 'end' }
          const count = Math.min(rowsMax, BATCH_ROWS_MAX)
          next.set(split, from + count)
          return { kind: 'batch', split, batch: batchOf(body, Number(split) + 2 * from, count) }
        },
        snapshot: () => [...next].map(([id, position]) => ({ id, position })),
        async close() {},
      }
    },
  }
}

/** Rows `first`, `first + 2`, ...; their bodies are one and the same piece of memory. */
function batchOf(body: Buffer, first: number, count: number): Batch {
  const ids = Float64Array.from({ length: count }, (_, i) => first + 2 * i)
  return {
    schema: ROWS,
    length: count,
    columns: [
      { kind: 'float64', values: ids.map((id) => (id >> 1) % KEYS), nulls: null },
      { kind: 'float64', values: ids, nulls: null },
      {
        kind: 'string',
        bytes: body,
        starts: new Int32Array(count),
        ends: new Int32Array(count).fill(body.length),
        nulls: null,
      },
    ],
    eventTime: new Float64Array(count),
    keys: null,
    kinds: null,
  }
}

/** Numbers the rows of each key. */
class Count implements KeyedProcessFunction<number, Row, Row & { readonly nth: number }> {
  private count!: ValueState<number>

  open(context: RuntimeContext): void {
    this.count = context.getState(new ValueStateDescriptor<number>('count'))
  }

  processElement(
    row: Row,
    _context: ProcessContext<number>,
    collect: (row: Row & { readonly nth: number }) => void,
  ): void {
    const nth = (this.count.value() ?? 0) + 1
    this.count.update(nth)
    collect({ ...row, nth })
  }
}

/** The sink with commits that begin when the file is there. */
function gated<T>(sink: Sink<T>, file: string): Sink<T> {
  return {
    ...sink,
    createCommitter(context) {
      const committer = sink.createCommitter!(context)
      return {
        open: () => committer.open(),
        readMarker: () => committer.readMarker(),
        close: () => committer.close(),
        async commit(epoch, committables) {
          while (!existsSync(file)) await sleep(20)
          await committer.commit(epoch, committables)
        },
      }
    },
  }
}

function graphOf(settings: Settings): JobGraph {
  const env = StreamExecutionEnvironment.createEnvironment()
  const sink = postgresSink({
    table: 'rows',
    columns: { id: 'bigint not null', key: 'integer not null', nth: 'integer not null', body: 'text' },
    connection: { kind: 'pglite', directory: join(settings.directory, 'database') },
  })
  env
    .fromSource(endlessSource(settings))
    .keyBy('key')
    .process(new Count(), { schema: OUT })
    .rebalance()
    .sinkTo(gated(sink, join(settings.directory, 'open')))
  return env.getGraph()
}

function bytesIn(folder: string): number {
  const sizes = readdirSync(folder).map((name) => statSync(join(folder, name), { throwIfNoEntry: false })?.size ?? 0)
  return sizes.reduce((sum, size) => sum + size, 0)
}

const rssMiB = (): number => Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))![1]) / 1_024

async function main(directory: string, pendingOutputBytesMax: number, restore: string | null): Promise<void> {
  const checkpointDirectory = join(directory, 'checkpoints')
  const job = await launchJob(
    graphOf({ directory }),
    optionsOf({
      parallelism: 2,
      workers: 2,
      moduleUrl: import.meta.url,
      config: { directory },
      // Output makes checkpoints due long before, so that each epoch is longer than a transaction of its sink.
      checkpointIntervalMs: 20_000,
      checkpointPolicy: { ...CHECKPOINT_POLICY_DEFAULT, pendingOutputBytesMax },
      checkpointDirectory,
      restore,
      stateBackend: 'rocksdb',
      stateMemoryBytes: 8 << 20,
    }),
  )
  const print = (line: unknown): boolean => process.stdout.write(`${JSON.stringify(line)}\n`)
  while (job.status().state === 'starting') await sleep(1)
  const sampler = setInterval(() => {
    const { subtasks, checkpointsCompleted, checkpointsFailed } = job.status()
    const sources = subtasks.filter(({ vertex }) => vertex === 0)
    const { user, system } = process.cpuUsage()
    print({
      atMs: Math.round(performance.now()),
      rssMiB: Math.round(rssMiB()),
      cpuSeconds: (user + system) / 1e6,
      recordsIn: sources.reduce((sum, { recordsIn }) => sum + recordsIn, 0),
      outboxBytes: bytesIn(join(checkpointDirectory, 'outbox')),
      manifests: readdirSync(join(checkpointDirectory, 'manifests')).length,
      checkpoints: checkpointsCompleted,
      checkpointsFailed,
      backPressured: sources.reduce((sum, { backPressured }) => sum + backPressured, 0) / Math.max(1, sources.length),
    } satisfies Sample)
  }, SAMPLE_MS)
  const { recordsIn, state } = await job.done.finally(() => clearInterval(sampler))
  print({ state, recordsIn })
}

/** What worker threads import. */
export default {
  build: (config: Readonly<Record<string, string>>): { graph: JobGraph } => ({
    graph: graphOf({ directory: config['directory']! }),
  }),
}

if (isMainThread && process.argv[1] === import.meta.filename) {
  const [directory, bytesMax, restore = null] = process.argv.slice(2)
  await main(directory!, Number(bytesMax), restore)
}
