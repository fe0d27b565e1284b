/**
 * A job of many stateful operators on many worker threads, as a process of its own for many-operators.test.ts:
 *   node test/scale/many-operators.fixture.ts <settings as JSON>
 *
 * Every id comes twice. The first time each operator keeps a text of it, under a key of its own, so that rows change
 * threads between any two operators; the second time each looks whether it finds its text, and the row that arrives at the
 * sink says how many did. State as a whole is given as a budget that is smaller than what is kept.
 *
 * Prints a JSON line (`Sample`) about twice a second: what the process and the stores in it hold; `ended` in the last one.
 * Worker threads import this module too. With `exitAtId` one worker thread ends itself in the midst of its work.
 */
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { isMainThread, threadId } from 'node:worker_threads'
import { filesSink } from '../../connectors/files/index.ts'
import {
  type KeyedProcessFunction,
  type RuntimeContext,
  StreamExecutionEnvironment,
  schema,
  t,
  type ValueState,
  ValueStateDescriptor,
} from '../../engine/api/index.ts'
import type { JobGraph } from '../../engine/contract/job-graph.ts'
import type { Source } from '../../engine/contract/source.ts'
import { BATCH_ROWS_MAX } from '../../engine/core/batch.ts'
import { batchOfRows } from '../../engine/core/rows.ts'
import { optionsOf } from '../../engine/runtime/job.testkit.ts'
import { launchJob } from '../../engine/runtime/launcher.ts'
import { loadRocksdbAddon, type SharedStoreMemory } from '../../state/rocksdb-addon.ts'

export interface Settings {
  readonly directory: string
  readonly workers: number
  readonly operators: number
  readonly ids: number
  /** Bytes that an operator keeps of an id. */
  readonly textBytes: number
  /** Of keyed state, of a worker. */
  readonly stateBytes: number
  readonly restore: boolean
  /** A row that ends the thread which sees it first; the job goes on from its last checkpoint. */
  readonly exitAtId?: number
}

export interface Sample {
  /** MiB: before the first row, now, and at most so far. */
  readonly rssAtRestMiB: number
  readonly rssMiB: number
  readonly rssPeakMiB: number
  readonly shared: SharedStoreMemory
  readonly threads: number
  /** Those of RocksDB, which all stores share. */
  readonly storeThreads: number
  readonly descriptors: number
  readonly recordsIn: number
  readonly checkpoints: number
  readonly restarts: number
  /** Bytes of keyed tables in memory, of all workers together. */
  readonly tableBytes: number
  /** Bytes of the stores' files. */
  readonly storedBytes: number
  readonly state: string
  readonly ended: boolean
  readonly error: string | null
}

const SPLITS = 16
const ROWS = schema({ id: t.int32(), round: t.int32(), found: t.int32() })
interface Row {
  readonly id: number
  readonly round: number
  readonly found: number
}

/**
 * Ids of split s are s, s + 16, ...; all of them, and, once a checkpoint has the state that they made, all of them again.
 */
function idsSource({ ids }: Settings): Source<Row> {
  const rowsOf = (split: number): number => Math.floor((ids - 1 - split) / SPLITS) + 1
  return {
    kind: 'ids',
    schema: ROWS,
    boundedness: 'bounded',
    splits: async () => Array.from({ length: SPLITS }, (_, s) => ({ id: String(s), position: 0 })),
    createReader(context) {
      const next = new Map<string, number>()
      let saved = new Map<string, number>()
      return {
        async open(splits) {
          for (const { id, position } of splits) next.set(id, position as number)
          saved = new Map(next)
        },
        poll(rowsMax) {
          let waits = false
          for (const [split, from] of next) {
            const own = rowsOf(Number(split))
            const isFirstRound = from < own
            if (!isFirstRound && saved.get(split)! < own) waits = true
            const count = Math.min(rowsMax, BATCH_ROWS_MAX, (isFirstRound ? own : 2 * own) - from)
            if (count <= 0 || (!isFirstRound && saved.get(split)! < own)) continue
            const rows = Array.from({ length: count }, (_, i): Row => {
              const at = from + i
              return { id: Number(split) + (at % own) * SPLITS, round: at < own ? 0 : 1, found: 0 }
            })
            // In turn, so that all splits end at about the same time.
            next.delete(split)
            next.set(split, from + count)
            return { kind: 'batch', split, batch: batchOfRows(ROWS, rows) }
          }
          return { kind: waits ? 'pending' : 'end' }
        },
        snapshot: () => [...next].map(([id, position]) => ({ id, position })),
        notifyCheckpointComplete(splits) {
          saved = new Map(splits.map(({ id, position }) => [id, position as number]))
          context.wake()
        },
        async close() {},
      }
    },
  }
}

class Remember implements KeyedProcessFunction<number, Row, Row> {
  private readonly settings: Settings
  private readonly place: number
  private text!: ValueState<string>

  constructor(settings: Settings, place: number) {
    this.settings = settings
    this.place = place
  }

  open(context: RuntimeContext): void {
    this.text = context.getState(new ValueStateDescriptor<string>('text'))
  }

  processElement(row: Row, _context: unknown, collect: (row: Row) => void): void {
    const { settings, place } = this
    if (row.id === settings.exitAtId && row.round === 1 && place === 0) exitOnce(settings)
    const text = `${place} ${row.id} `.padEnd(settings.textBytes, `${row.id * 7 + place} `)
    if (row.round === 0) {
      this.text.update(text)
      collect(row)
    } else collect({ ...row, found: row.found + (this.text.value() === text ? 1 : 0) })
  }
}

/** Ends this thread where it stands, the first time. */
function exitOnce({ directory }: Settings): void {
  const mark = join(directory, 'exited')
  if (existsSync(mark)) return
  writeFileSync(mark, String(threadId))
  process.exit(3)
}

export function manyOperatorsGraph(settings: Settings): JobGraph {
  const env = StreamExecutionEnvironment.createEnvironment()
  let rows = env.fromSource(idsSource(settings)).uid('ids')
  for (let place = 0; place < settings.operators; place++) {
    rows = rows
      .keyBy((row) => row.id * 31 + place)
      .process(() => new Remember(settings, place), { schema: ROWS })
      .uid(`remember-${place}`)
  }
  rows
    .filter(({ round }) => round === 1)
    .uid('second-round')
    .sinkTo(filesSink<Row>({ path: join(settings.directory, 'found') }))
    .uid('found')
  return env.getGraph()
}

const statusOf = (name: string): number =>
  Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(readFileSync('/proc/self/status', 'utf8'))![1]) / 1_024

function threadNames(): string[] {
  return readdirSync('/proc/self/task').flatMap((task) => {
    try {
      return [readFileSync(`/proc/self/task/${task}/comm`, 'utf8').trim()]
    } catch {
      return []
    }
  })
}

/** Of table files below a directory from which files go meanwhile. */
function storedBytes(directory: string): number {
  let bytes = 0
  try {
    for (const name of readdirSync(directory, { recursive: true, encoding: 'utf8' })) {
      if (name.endsWith('.sst') && name.includes('/store/')) bytes += statSync(join(directory, name)).size
    }
  } catch {
    return bytes
  }
  return bytes
}

async function main(settings: Settings): Promise<void> {
  const addon = loadRocksdbAddon()
  let restarts = 0
  const job = await launchJob(
    manyOperatorsGraph(settings),
    optionsOf({
      parallelism: settings.workers,
      workers: settings.workers,
      moduleUrl: import.meta.url,
      config: { settings: JSON.stringify(settings) },
      checkpointIntervalMs: 1_000,
      checkpointTimeoutMs: 600_000,
      checkpointDirectory: join(settings.directory, 'checkpoints'),
      stateBackend: 'rocksdb',
      stateMemoryBytes: settings.stateBytes,
      restore: settings.restore ? 'latest' : null,
      restart: { kind: 'fixed-delay', attempts: 3, delayMs: 0 },
      onEvent(event) {
        if (event.type === 'restart') restarts++
      },
    }),
  )
  while (job.status().state === 'starting') await new Promise((resolve) => setTimeout(resolve, 1))
  const rssAtRestMiB = statusOf('VmRSS')
  const sample = (ended: boolean, error: string | null): Sample => {
    const { subtasks, vertices, checkpointsCompleted, state } = job.status()
    const source = vertices.find(({ role }) => role === 'source')!.id
    const names = threadNames()
    return {
      rssAtRestMiB,
      rssMiB: statusOf('VmRSS'),
      rssPeakMiB: statusOf('VmHWM'),
      shared: addon.sharedMemory(),
      threads: names.length,
      storeThreads: names.filter((name) => name.startsWith('rocksdb:')).length,
      descriptors: readdirSync('/proc/self/fd').length,
      recordsIn: subtasks.reduce((sum, one) => sum + (one.vertex === source ? one.recordsIn : 0), 0),
      checkpoints: checkpointsCompleted,
      restarts,
      tableBytes: subtasks.reduce((sum, { stateBytes }) => sum + stateBytes, 0),
      storedBytes: storedBytes(join(settings.directory, 'checkpoints', 'live')),
      state,
      ended,
      error,
    }
  }
  const say = (line: Sample): void => {
    process.stdout.write(`${JSON.stringify(line)}\n`)
  }
  const timer = setInterval(() => say(sample(false, null)), 500)
  const error = await job.done.then(
    () => null,
    (cause: unknown) => String(cause),
  )
  clearInterval(timer)
  say(sample(true, error))
}

/** What worker threads import. */
export default {
  build(config: Readonly<Record<string, string>>): { graph: JobGraph } {
    return { graph: manyOperatorsGraph(JSON.parse(config['settings']!) as Settings) }
  },
}

if (isMainThread && process.argv[1] === import.meta.filename) await main(JSON.parse(process.argv[2]!) as Settings)
