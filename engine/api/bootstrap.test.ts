/**
 * State of every kind that no job made yet: bootstrapped from rows, then gone on with by a job, as if that job had seen
 * the rows itself.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import {
  type DataStream,
  hours,
  type KeyedProcessFunction,
  type ListState,
  ListStateDescriptor,
  type MapState,
  MapStateDescriptor,
  minutes,
  type OnTimerContext,
  type ProcessContext,
  type RuntimeContext,
  StateTtlConfig,
  StreamExecutionEnvironment,
  TumblingEventTimeWindows,
  WatermarkStrategy,
} from './index.ts'
import { bootstrapWith, SavepointReader, SavepointWriter } from './state.ts'

const folder = mkdtempSync(join(tmpdir(), 'millrace-bootstrap-'))
after(() => rmSync(folder, { recursive: true, force: true }))

interface Visit {
  readonly user: string
  readonly page: string
  readonly at: number
}
const ttl = StateTtlConfig.newBuilder(hours(1)).build()
const PAGES = new ListStateDescriptor<string>('pages').enableTimeToLive(ttl)
const COUNTS = new MapStateDescriptor<string, number>('counts').enableTimeToLive(ttl)

/** Keeps what it is given; used to bootstrap, and by the job. */
class Visits implements KeyedProcessFunction<string, Visit, string> {
  protected pages!: ListState<string>
  protected counts!: MapState<string, number>

  open(context: RuntimeContext): void {
    this.pages = context.getListState(PAGES)
    this.counts = context.getMapState(COUNTS)
  }

  processElement(visit: Visit, { timerService }: ProcessContext<string>, _collect: (line: string) => void): void {
    this.pages.add(visit.page)
    this.counts.put(visit.page, (this.counts.get(visit.page) ?? 0) + 1)
    timerService.registerEventTimeTimer(visit.at + 1_000)
    // Long past: it must not fire before the job runs.
    timerService.registerProcessingTimeTimer(visit.at)
  }

  onTimer(timeMs: number, context: OnTimerContext<string>, collect: (line: string) => void): void {
    const counts = [...this.counts.entries()].sort().map(([page, n]) => `${page}${n}`)
    collect(`${context.timeDomain} ${context.currentKey} ${timeMs} ${[...this.pages.get()].join('')} ${counts}`)
  }
}

const old: readonly Visit[] = [
  { user: 'ada', page: 'x', at: 1_000 },
  { user: 'ada', page: 'y', at: 2_000 },
  { user: 'bob', page: 'x', at: 1_000 },
]
const byAt = WatermarkStrategy.forMonotonousTimestamps<Visit>().withTimestampAssigner((visit) => visit.at)
const windows = (visits: DataStream<Visit>) =>
  visits
    .keyBy((visit) => visit.user)
    .window(TumblingEventTimeWindows.of(minutes(1)))
    .aggregate({
      createAccumulator: () => '',
      add: (visit: Visit, pages: string) => pages + visit.page,
      getResult: (pages: string) => pages,
      merge: (a: string, b: string) => a + b,
    })

for (const backend of ['memory', 'rocksdb'] as const) {
  test(`lists, maps, times to live, timers and windows, on ${backend}`, async () => {
    const path = await SavepointWriter.newSavepoint({ stateBackend: backend })
      .withOperator(
        'visits',
        bootstrapWith((env) =>
          env.fromCollection(old).assignTimestampsAndWatermarks(byAt).keyBy('user').process(new Visits()),
        ),
      )
      .withOperator(
        'windows',
        bootstrapWith((env) => windows(env.fromCollection(old).assignTimestampsAndWatermarks(byAt))),
      )
      .write(join(folder, backend))
    await using savepoint = await SavepointReader.read(path)
    assert.deepEqual(savepoint.operators.map(({ uid }) => uid).sort(), ['visits', 'windows'])
    const open: string[] = []
    for await (const { key, value } of savepoint.readWindowState('windows')) open.push(`${key} ${value}`)
    assert.deepEqual(open.sort(), ['ada xy', 'bob x'])

    const lines: string[] = []
    const env = StreamExecutionEnvironment.createEnvironment().setParallelism(2).setStateBackend(backend)
    const visits = env
      .fromElements<Visit>({ user: 'ada', page: 'z', at: 1_500 })
      .assignTimestampsAndWatermarks(byAt)
      .uid('rows')
    visits
      .keyBy('user')
      .process(new Visits())
      .uid('visits')
      .addSink((line) => void lines.push(line))
      .uid('lines')
    windows(visits)
      .uid('windows')
      .addSink((pages) => void lines.push(`window ${pages}`))
      .uid('pages')
    const args = ['--restore', path, '--checkpoint-dir', join(folder, `${backend}-job`)]
    await (await env.executeAsync('go on', { args })).done
    const fired = (domain: string) => lines.filter((line) => line.startsWith(domain)).sort()
    assert.deepEqual(fired('EVENT'), [
      'EVENT_TIME ada 2000 xyz x1,y1,z1',
      'EVENT_TIME ada 2500 xyz x1,y1,z1',
      'EVENT_TIME ada 3000 xyz x1,y1,z1',
      'EVENT_TIME bob 2000 x x1',
    ])
    assert.deepEqual(fired('window'), ['window x', 'window xyz'])
    const past = fired('PROCESSING').map((line) => line.split(' ').slice(1, 3).join(' '))
    assert.deepEqual(
      past.filter((line) => !line.endsWith('1500')),
      ['ada 1000', 'ada 2000', 'bob 1000'],
    )
  })
}

test('what cannot be bootstrapped is refused', async () => {
  const write = (declare: Parameters<typeof bootstrapWith>[0], twice = false) => {
    const writer = SavepointWriter.newSavepoint({ stateBackend: 'memory' }).withOperator('a', bootstrapWith(declare))
    return (twice ? writer.withOperator('a', bootstrapWith(declare)) : writer).write(join(folder, 'refused'))
  }
  const visits = (env: StreamExecutionEnvironment) => env.fromCollection(old).keyBy('user').process(new Visits())
  await assert.rejects(write(visits, true), { code: 'OPERATOR_UID_TAKEN' })
  await assert.rejects(
    write((env) => env.fromCollection(old)),
    { code: 'BOOTSTRAP_INVALID' },
  )
  await assert.rejects(
    write((env) => env.fromDataGenerator((i) => i)),
    { code: 'BOOTSTRAP_UNBOUNDED' },
  )
})
