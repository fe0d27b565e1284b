/**
 * The job of the golden checkpoints: every kind of state that a checkpoint of today's format holds. Its shape is fixed:
 * what changes here needs new golden data, beside the old.
 */
import {
  count,
  type KeyedProcessFunction,
  type ListState,
  ListStateDescriptor,
  type MapState,
  MapStateDescriptor,
  minutes,
  type RunningJob,
  type RuntimeContext,
  type StateBackendName,
  StreamExecutionEnvironment,
  schema,
  sum,
  TumblingEventTimeWindows,
  t,
  type ValueState,
  ValueStateDescriptor,
  WatermarkStrategy,
} from '../../engine/api/index.ts'
import type { Source } from '../../engine/contract/source.ts'
import { BatchBuilder } from '../../engine/core/rows.ts'

export const ROW = schema({ name: t.string(), n: t.float64(), at: t.timestamp() })

export interface Row {
  readonly name: string
  readonly n: number
  readonly at: number
}

/** Row n is of key n modulo `keys`, half a minute after row n - 1. With `hold` it waits after the last one. */
export function rows(limit: number, hold: boolean, keys = 7): Source<Row> {
  return {
    kind: 'golden rows',
    schema: ROW,
    boundedness: hold ? 'unbounded' : 'bounded',
    splits: async () => [{ id: '0', position: 0 }],
    createReader() {
      let next: number | null = null
      return {
        async open([split]) {
          if (split !== undefined) next = split.position as number
        },
        poll() {
          if (next === null || next >= limit) return hold ? { kind: 'pending' } : { kind: 'end' }
          const builder = new BatchBuilder(ROW)
          builder.append({ name: `k${next % keys}`, n: next, at: next * 30_000 }, Number.NaN)
          next++
          return { kind: 'batch', split: '0', batch: builder.build() }
        },
        snapshot: () => (next === null ? [] : [{ id: '0', position: next }]),
        async close() {},
      }
    },
  }
}

class Mean {
  sum = 0
  count = 0
  name = ''
}

class Everything implements KeyedProcessFunction<string, Row, string> {
  private mean!: ValueState<Mean>
  private free!: ValueState<{ tags: string[]; seen: Map<string, bigint> }>
  private row!: ValueState<Row>
  private map!: MapState<string, number>
  private list!: ListState<number>

  open(context: RuntimeContext): void {
    this.mean = context.getState(new ValueStateDescriptor<Mean>('mean', { template: () => new Mean() }))
    this.free = context.getState(new ValueStateDescriptor('free'))
    this.row = context.getState(new ValueStateDescriptor<Row>('row', { schema: ROW }))
    this.map = context.getMapState(new MapStateDescriptor<string, number>('map'))
    this.list = context.getListState(new ListStateDescriptor<number>('list'))
  }

  processElement(
    row: Row,
    context: Parameters<KeyedProcessFunction<string, Row, string>['processElement']>[1],
    collect: (line: string) => void,
  ): void {
    const mean = this.mean.value() ?? Object.assign(new Mean(), { name: row.name })
    mean.sum += row.n
    mean.count++
    this.mean.update(mean)
    const free = this.free.value() ?? { tags: [], seen: new Map<string, bigint>() }
    free.tags.push(`t${row.n}`)
    free.seen.set(row.name, BigInt(row.n))
    this.free.update(free)
    const last = this.row.value()?.n ?? -1
    this.row.update(row)
    this.map.put(`m${row.n % 3}`, row.n)
    this.list.add(row.n)
    context.timerService.registerEventTimeTimer(row.at + 200_000)
    const seen = [...free.seen].map(([name, n]) => `${name}=${n}`).join()
    const mapped = [...this.map.entries()].map(([key, value]) => `${key}:${value}`).sort()
    collect([mean.name, mean.sum, mean.count, free.tags.length, seen, last, mapped, [...this.list.get()]].join(' '))
  }

  onTimer(timeMs: number, context: { currentKey: string }, collect: (line: string) => void): void {
    // How many rows came before a timer depends on when watermarks are sent; that the state is there does not.
    collect(`timer ${context.currentKey} ${timeMs} ${this.mean.value()?.name}`)
  }
}

export interface GoldenRun {
  readonly directory: string
  readonly stateBackend: StateBackendName
  readonly limit: number
  readonly hold: boolean
  readonly restore?: string
  readonly parallelism?: number
}

/** Starts the job; `lines` grows as results come. */
export async function startGolden(run: GoldenRun): Promise<{ readonly job: RunningJob; readonly lines: string[] }> {
  const env = StreamExecutionEnvironment.createEnvironment()
  env.setParallelism(run.parallelism ?? 1).setStateBackend(run.stateBackend)
  env.getCheckpointConfig().setCheckpointStorage(run.directory)
  const lines: string[] = []
  const print = (line: string): void => void lines.push(line)
  const stream = env
    .fromSource(
      rows(run.limit, run.hold),
      WatermarkStrategy.forMonotonousTimestamps<Row>().withTimestampAssigner((row) => row.at),
    )
    .uid('rows')
  stream.keyBy('name').process(new Everything()).uid('everything').addSink(print).uid('everything-out')
  stream
    .keyBy('name')
    .window(TumblingEventTimeWindows.of(minutes(5)))
    .aggregate({ rows: count(), total: sum('n') })
    .uid('columns')
    .map((row) => `columns ${row.key} ${row.windowStart} ${row.rows} ${row.total}`)
    .addSink(print)
    .uid('columns-out')
  const args = run.restore === undefined ? [] : ['--restore', run.restore]
  return { job: await env.executeAsync('golden', { args }), lines }
}
