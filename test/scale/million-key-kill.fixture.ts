/**
 * A job whose windows and timers all fire at one watermark, and which dies by `kill -9` in the midst of that, as a process of
 * its own for million-key-kill.test.ts:
 *   node test/scale/million-key-kill.fixture.ts <settings as JSON>
 *
 * Two splits hand out two rows a key, wait until a checkpoint has the state that these made, and go on with a row far ahead,
 * whose watermark makes every key fire, and with late rows that fire their keys again. `dieAt` says at which firing of a
 * thread the process is to die. Worker threads import this module too.
 */
import { join } from 'node:path'
import { isMainThread } from 'node:worker_threads'
import { filesSink } from '../../connectors/files/index.ts'
import {
  type KeyedProcessFunction,
  type RuntimeContext,
  StreamExecutionEnvironment,
  schema,
  seconds,
  TumblingEventTimeWindows,
  t,
  type ValueState,
  ValueStateDescriptor,
  WatermarkStrategy,
} from '../../engine/api/index.ts'
import type { JobGraph } from '../../engine/contract/job-graph.ts'
import type { Source } from '../../engine/contract/source.ts'
import { BATCH_ROWS_MAX } from '../../engine/core/batch.ts'
import { batchOfRows } from '../../engine/core/rows.ts'
import { optionsOf } from '../../engine/runtime/job.testkit.ts'
import { launchJob } from '../../engine/runtime/launcher.ts'

export interface Settings {
  readonly directory: string
  /** Even: half of them come from each of two splits. */
  readonly keys: number
  /** Keys of a split that also have a late row. */
  readonly lateKeys: number
  readonly stateBytes: number
  readonly restore: boolean
  /** Null: it does not die. */
  readonly dieAt: { readonly branch: Branch; readonly firing: number } | null
}

export type Branch = 'windows' | 'timers'

/** A line of either sink: how many rows of a key had come when it fired. */
export interface Fired {
  readonly key: number
  readonly rows: number
}

const ROWS = schema({ key: t.int32(), at: t.timestamp() })
interface Row {
  readonly key: number
  readonly at: number
}

/** A full second. */
const START_MS = 1_714_521_600_000
const AHEAD_MS = 5_000

/** Row n of a split: two a key, then the one far ahead, then the late ones. */
function rowOf(split: number, n: number, own: number): Row {
  if (n < 2 * own) return { key: split + 2 * (n % own), at: START_MS + ((n * 7_919) % 1_000) }
  if (n === 2 * own) return { key: -1 - split, at: START_MS + AHEAD_MS }
  return { key: split + 2 * (n - 2 * own - 1), at: START_MS + 500 }
}

function rowsSource({ keys, lateKeys }: Settings): Source<Row> {
  const own = keys / 2
  return {
    kind: 'firing',
    schema: ROWS,
    boundedness: 'bounded',
    splits: async () => ['0', '1'].map((id) => ({ id, position: 0 })),
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
            const isLoaded = from >= 2 * own
            if (isLoaded && saved.get(split)! < 2 * own) {
              waits = true
              continue
            }
            const count = Math.min(rowsMax, BATCH_ROWS_MAX, (isLoaded ? 2 * own + 1 + lateKeys : 2 * own) - from)
            if (count <= 0) continue
            next.set(split, from + count)
            const rows = Array.from({ length: count }, (_, i) => rowOf(Number(split), from + i, own))
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

/** Counts the firings of one branch in this thread, and dies at one of them. */
class Fate {
  private readonly diesAt: number
  private fired = 0

  constructor({ dieAt }: Settings, branch: Branch) {
    this.diesAt = dieAt?.branch === branch ? dieAt.firing : Number.POSITIVE_INFINITY
  }

  fire(): void {
    if (++this.fired === this.diesAt) process.kill(process.pid, 'SIGKILL')
  }
}

/** Says at the end of the second how many rows of it there were, and at each late one how many there are now. */
class CountUntil implements KeyedProcessFunction<number, Row, Fired> {
  private readonly fate: Fate
  private rows!: ValueState<number>

  constructor(fate: Fate) {
    this.fate = fate
  }

  open(context: RuntimeContext): void {
    this.rows = context.getState(new ValueStateDescriptor<number>('rows'))
  }

  processElement: KeyedProcessFunction<number, Row, Fired>['processElement'] = (row, { timerService }, collect) => {
    const rows = (this.rows.value() ?? 0) + 1
    this.rows.update(rows)
    const endMs = row.at - (row.at % 1_000) + 999
    if (endMs > timerService.currentWatermark()) timerService.registerEventTimeTimer(endMs)
    else collect({ key: row.key, rows })
  }

  onTimer: NonNullable<KeyedProcessFunction<number, Row, Fired>['onTimer']> = (_timeMs, context, collect) => {
    this.fate.fire()
    collect({ key: context.currentKey, rows: this.rows.value() ?? 0 })
  }
}

export function millionKeyGraph(settings: Settings): JobGraph {
  const env = StreamExecutionEnvironment.createEnvironment()
  const rows = env
    .fromSource(
      rowsSource(settings),
      WatermarkStrategy.forMonotonousTimestamps<Row>().withTimestampAssigner('at'),
      'Rows',
    )
    .uid('rows')
  const keyed = rows.keyBy('key')
  const fate = new Fate(settings, 'windows')
  keyed
    .window(TumblingEventTimeWindows.of(seconds(1)))
    .allowedLateness(seconds(60))
    .aggregate(
      {
        createAccumulator: () => 0,
        add: (_row: Row, rows: number) => rows + 1,
        getResult: (rows: number) => rows,
        merge: (a, b) => a + b,
      },
      ({ key }, [count], collect: (fired: Fired) => void) => {
        fate.fire()
        collect({ key, rows: count! })
      },
    )
    .uid('windows')
    .sinkTo(filesSink<Fired>({ path: join(settings.directory, 'windows') }))
    .uid('windows-out')
  keyed
    .process(() => new CountUntil(new Fate(settings, 'timers')))
    .uid('timers')
    .sinkTo(filesSink<Fired>({ path: join(settings.directory, 'timers') }))
    .uid('timers-out')
  return env.getGraph()
}

async function main(settings: Settings): Promise<void> {
  const job = await launchJob(
    millionKeyGraph(settings),
    optionsOf({
      parallelism: 2,
      workers: 2,
      moduleUrl: import.meta.url,
      config: { settings: JSON.stringify(settings) },
      checkpointIntervalMs: 500,
      checkpointTimeoutMs: 600_000,
      checkpointDirectory: join(settings.directory, 'checkpoints'),
      stateBackend: 'rocksdb',
      stateMemoryBytes: settings.stateBytes,
      restore: settings.restore ? 'latest' : null,
    }),
  )
  const { recordsIn } = await job.done
  process.stdout.write(`${recordsIn}\n`)
}

/** What worker threads import. */
export default {
  build(config: Readonly<Record<string, string>>): { graph: JobGraph } {
    return { graph: millionKeyGraph(JSON.parse(config['settings']!) as Settings) }
  },
}

if (isMainThread && process.argv[1] === import.meta.filename) await main(JSON.parse(process.argv[2]!) as Settings)
