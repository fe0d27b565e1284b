/**
 * Whole jobs of process functions, rich functions and rolling aggregates on the calling thread.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { batchOfRows } from '../core/rows.ts'
import { OPAQUE_SCHEMA } from '../core/schema.ts'
import { until } from '../runtime/job.testkit.ts'
import {
  AsyncDataStream,
  type FunctionInitializationContext,
  hours,
  type KeyedProcessFunction,
  type ListState,
  ListStateDescriptor,
  type MapState,
  MapStateDescriptor,
  type OnTimerContext,
  outputTag,
  type ProcessContext,
  type ProcessFunction,
  perSubtask,
  RestartStrategies,
  RichFilterFunction,
  RichMapFunction,
  type RuntimeContext,
  type Schema,
  type Source,
  StateTtlConfig,
  StreamExecutionEnvironment,
  schema,
  t,
  type ValueState,
  ValueStateDescriptor,
  WatermarkStrategy,
} from './index.ts'

interface Visit {
  readonly user: string
  readonly page: string
  readonly at: number
}
const pages = ['a', 'b', 'c']
const visits: readonly Visit[] = Array.from({ length: 600 }, (_, i) => {
  return { user: `user-${i % 7}`, page: pages[(i * i) % 3]!, at: i * 10 }
})
const environment = () =>
  StreamExecutionEnvironment.getExecutionEnvironment().setParallelism(2).setStateBackend('memory')
const byAt = WatermarkStrategy.forMonotonousTimestamps<Visit>().withTimestampAssigner((visit) => visit.at)

/** Pages a user visited until a second after the first visit, told when that second is over. */
class PagesOfUser implements KeyedProcessFunction<string, Visit, { user: string; pages: string; visits: number }> {
  private pages!: MapState<string, number>
  private times!: ListState<number>
  private isOpen!: ValueState<boolean>

  open(context: RuntimeContext): void {
    const ttl = StateTtlConfig.newBuilder(hours(1)).setUpdateType('OnReadAndWrite').build()
    this.pages = context.getMapState(new MapStateDescriptor<string, number>('pages').enableTimeToLive(ttl))
    this.times = context.getListState(new ListStateDescriptor<number>('times'))
    this.isOpen = context.getState(new ValueStateDescriptor<boolean>('open'))
  }

  processElement(visit: Visit, context: ProcessContext<string>): void {
    if (this.isOpen.value() !== true) {
      this.isOpen.update(true)
      context.timerService.registerEventTimeTimer(context.timestamp + 1_000)
    }
    this.pages.put(visit.page, (this.pages.get(visit.page) ?? 0) + 1)
    this.times.add(visit.at)
  }

  onTimer(
    _timeMs: number,
    context: OnTimerContext<string>,
    collect: (result: { user: string; pages: string; visits: number }) => void,
  ): void {
    assert.equal(context.timeDomain, 'EVENT_TIME')
    const seen = [...this.pages.entries()].sort(([a], [b]) => (a < b ? -1 : 1))
    const visitCount = [...this.times.get()].length
    collect({ user: context.currentKey, pages: seen.map(([page, n]) => page + n).join(), visits: visitCount })
    this.pages.clear()
    this.times.clear()
    this.isOpen.clear()
  }
}

/** Numbers from 0 up to `count`, ten a batch, as far as `gate` lets them through; ends when it opens up to Infinity. */
function numbersUntil(count: number, gate: () => number): Source<number> {
  return {
    kind: 'numbers',
    schema: OPAQUE_SCHEMA as Schema<number>,
    boundedness: 'bounded',
    splits: async () => [{ id: '0', position: 0 }],
    createReader() {
      let next = count
      let hasSplit = false
      return {
        async open([split]) {
          hasSplit = split !== undefined
          if (split !== undefined) next = split.position as number
        },
        poll() {
          const to = Math.min(count, gate(), next + 10)
          if (to <= next) return gate() === Number.POSITIVE_INFINITY ? { kind: 'end' } : { kind: 'pending' }
          const rows = Array.from({ length: to - next }, (_, i) => next + i)
          next = to
          return { kind: 'batch', split: '0', batch: batchOfRows(OPAQUE_SCHEMA, rows) }
        },
        snapshot: () => (hasSplit ? [{ id: '0', position: next }] : []),
        async close() {},
      }
    },
  }
}

describe('process functions in jobs', () => {
  test('state by key may be declared in initializeState too, where there are keys', async () => {
    class Count implements KeyedProcessFunction<string, string, string> {
      private times!: ValueState<number>
      initializeState({ keyedStateStore }: FunctionInitializationContext): void {
        this.times = keyedStateStore.getState(new ValueStateDescriptor<number>('times'))
      }
      snapshotState(): void {}
      processElement(word: string, _context: ProcessContext<string>, collect: (line: string) => void): void {
        this.times.update((this.times.value() ?? 0) + 1)
        collect(`${word} ${this.times.value()}`)
      }
    }
    const words = () => environment().fromElements('a', 'b', 'a')
    const counted = words().keyBy((word) => word)
    assert.deepEqual((await counted.process(new Count()).executeAndCollect()).sort(), ['a 1', 'a 2', 'b 1'])
    const unkeyed = words().process(new Count() as never)
    await assert.rejects(unkeyed.executeAndCollect(), { code: 'STATE_NOT_KEYED' })
  })

  test('keyed: map and list state, timers, a schema for the results', async () => {
    const rows = await environment()
      .fromCollection(visits)
      .assignTimestampsAndWatermarks(byAt)
      .keyBy((visit) => visit.user)
      .process(new PagesOfUser(), { schema: schema({ user: t.string(), pages: t.string(), visits: t.int32() }) })
      .executeAndCollect()
    // How often a user's window of a second begins depends on when watermarks come; what is in them does not.
    const seen = new Map<string, number>()
    let times = 0
    for (const row of rows) {
      times += row.visits
      for (const text of row.pages.split(',')) {
        const key = `${row.user} ${text[0]}`
        seen.set(key, (seen.get(key) ?? 0) + Number(text.slice(1)))
      }
    }
    const expected = new Map<string, number>()
    for (const { user, page } of visits) expected.set(`${user} ${page}`, (expected.get(`${user} ${page}`) ?? 0) + 1)
    assert.equal(times, visits.length)
    assert.deepEqual([...seen].sort(), [...expected].sort())
  })

  test('processing-time timers fire while the job runs', async () => {
    const env = environment()
    const fired: number[] = []
    env
      .fromSource(
        numbersUntil(4, () => (fired.length === 4 ? Number.POSITIVE_INFINITY : 4)),
        WatermarkStrategy.noWatermarks(),
        'numbers',
      )
      .keyBy((n) => n % 2)
      .process<number>(() => ({
        processElement(n, context) {
          context.timerService.registerProcessingTimeTimer(context.timerService.currentProcessingTime() + 5 + n)
          context.timerService.registerProcessingTimeTimer(1e15)
        },
        onTimer(timeMs, context, collect) {
          assert.equal(context.timeDomain, 'PROCESSING_TIME')
          assert.ok(context.timerService.currentProcessingTime() >= timeMs)
          collect(context.currentKey)
        },
      }))
      .addSink((key) => void fired.push(key))
    await env.execute('timers')
    assert.deepEqual(fired.sort(), [0, 0, 1, 1])
  })

  test('state and timers of both domains outlive a failure and two changes of parallelism', async () => {
    const env = environment().enableCheckpointing(20).setRestartStrategy(RestartStrategies.fixedDelayRestart(3, 1))
    const keys = 40
    const count = 4_000
    let gate = 1_000
    let failed = false
    const fired = new Map<number, number>()
    class Counting implements KeyedProcessFunction<number, number, [number, number, number]> {
      private byHundred!: MapState<number, number>
      private all!: ListState<number>
      open(context: RuntimeContext): void {
        this.byHundred = context.getMapState(new MapStateDescriptor<number, number>('by hundred'))
        this.all = context.getListState(new ListStateDescriptor<number>('all'))
      }
      processElement(n: number, context: ProcessContext<number>): void {
        if (n === 1_500 && !failed) {
          failed = true
          throw new Error('once')
        }
        const hundred = Math.floor(n / 100)
        this.byHundred.put(hundred, (this.byHundred.get(hundred) ?? 0) + 1)
        this.all.add(n)
        // Set once for a key and time, however often it is registered.
        context.timerService.registerEventTimeTimer(7)
        if (n < keys) context.timerService.registerProcessingTimeTimer(context.timerService.currentProcessingTime())
      }
      onTimer(
        _time: number,
        context: OnTimerContext<number>,
        collect: (result: [number, number, number]) => void,
      ): void {
        if (context.timeDomain === 'PROCESSING_TIME') {
          fired.set(context.currentKey, (fired.get(context.currentKey) ?? 0) + 1)
          return
        }
        const sum = [...this.byHundred.values()].reduce((a, b) => a + b, 0)
        collect([context.currentKey, sum, [...this.all.get()].length])
      }
    }
    const results: [number, number, number][] = []
    env
      .fromSource(
        numbersUntil(count, () => gate),
        WatermarkStrategy.noWatermarks(),
        'numbers',
      )
      .keyBy((n) => n % keys)
      .process(() => new Counting())
      .addSink((result) => void results.push(result))
    const job = await env.executeAsync('rescaled')
    const read = (): number => job.status().subtasks.reduce((sum, { recordsOut }) => Math.max(sum, recordsOut), 0)
    await until(() => fired.size === keys && read() > 0)
    await job.rescale(3)
    gate = 2_500
    await until(() => failed && job.status().state === 'running' && job.status().restarts > 0)
    await until(() => job.status().checkpointsCompleted > 2)
    await job.rescale(1)
    gate = Number.POSITIVE_INFINITY
    const result = await job.done
    assert.equal(result.state, 'finished')
    // The sink is at-least-once: a result may come again, not another one.
    const unique = [...new Set(results.map((r) => r.join()))].sort()
    const expected = Array.from({ length: keys }, (_, key) => [key, count / keys, count / keys].join()).sort()
    assert.deepEqual(unique, expected)
  })

  test('without keys: side outputs with the type of their tag, a failure and restored operator state', async () => {
    const env = environment().setRestartStrategy(RestartStrategies.fixedDelayRestart(3, 1)).enableCheckpointing(20)
    const odd = outputTag<number>('odd')
    let failed = false
    class Total implements ProcessFunction<number, string> {
      private sum = 0
      private saved!: ListState<number>
      initializeState({ operatorStateStore }: FunctionInitializationContext): void {
        this.saved = operatorStateStore.getListState(new ListStateDescriptor<number>('sum'))
        for (const sum of this.saved.get()) this.sum += sum
      }
      snapshotState(): void {
        this.saved.update([this.sum])
      }
      processElement(n: number, context: Parameters<ProcessFunction<number, string>['processElement']>[1]): void {
        if (n === 1_500 && !failed) {
          failed = true
          throw new Error('once')
        }
        this.sum += n
        if (n % 2 === 1) context.output(odd, n)
        if (n === 3_000) totals.push(this.sum)
      }
      close(): void {}
    }
    const totals: number[] = []
    const odds = new Set<number>()
    const numbers = Array.from({ length: 3_000 }, (_, i) => i + 1)
    const processed = env.fromCollection(numbers).process(new Total()).setParallelism(1)
    processed.getSideOutput(odd).addSink((n) => void odds.add(n))
    const result = await env.execute('totals')
    assert.equal(result.state, 'finished')
    assert.ok(failed)
    assert.deepEqual(totals, [(3_000 * 3_001) / 2])
    assert.equal(odds.size, 1_500)
  })
})

describe('rich functions in jobs', () => {
  test('accumulators and metrics over all subtasks; keyed state on a keyed stream', async () => {
    class Enrich extends RichMapFunction<Visit, string> {
      private longest = 0
      override open(context: RuntimeContext): void {
        context.metricGroup.gauge('longest_page', () => this.longest)
        assert.equal(context.numberOfParallelSubtasks, 2)
        assert.equal(context.attemptNumber, 0)
      }
      map(visit: Visit): string {
        this.longest = Math.max(this.longest, visit.page.length)
        this.getRuntimeContext().metricGroup.counter('visits').inc()
        this.getRuntimeContext().getIntCounter('visits').add(1)
        this.getRuntimeContext()
          .getHistogram('hours')
          .add(Math.floor(visit.at / 1_000))
        return `${visit.user} ${visit.page}`
      }
    }
    class Distinct extends RichFilterFunction<string> {
      private seen!: ValueState<boolean>
      override open(context: RuntimeContext): void {
        this.seen = context.getState(new ValueStateDescriptor<boolean>('seen'))
      }
      filter(): boolean {
        if (this.seen.value() === true) return false
        this.seen.update(true)
        return true
      }
    }
    const env = environment()
    const distinct: string[] = []
    env
      .fromCollection(visits)
      .rebalance()
      .map(new Enrich())
      .keyBy((line) => line)
      .filter(new Distinct())
      .addSink((line) => void distinct.push(line))
    const result = await env.execute('rich')
    assert.deepEqual(distinct.sort(), [...new Set(visits.map(({ user, page }) => `${user} ${page}`))].sort())
    assert.equal(result.getAccumulatorResult('visits'), 600)
    assert.deepEqual(
      result.getAccumulatorResult<Map<number, number>>('hours'),
      new Map([0, 1, 2, 3, 4, 5].map((second) => [second, 100])),
    )
    assert.throws(() => result.getAccumulatorResult('nope'), { code: 'ACCUMULATOR_UNKNOWN', hint: /visits/ })
  })

  test('functions of every kind know their job and its parameters, sinks and async functions too', async () => {
    const env = StreamExecutionEnvironment.createEnvironment({ city: 'Zürich' })
      .setParallelism(1)
      .setStateBackend('memory')
    const told: Pick<RuntimeContext, 'jobInfo' | 'globalJobParameters'>[] = []
    const open = (context: (typeof told)[number]): void => void told.push(context)
    const numbers = env.fromElements(1).map(perSubtask(() => ({ open, map: (n: number) => n })))
    AsyncDataStream.orderedWait(
      numbers,
      perSubtask(() => ({ open, asyncInvoke: async (n: number) => [n] })),
      0,
    ).addSink(perSubtask(() => ({ open, invoke() {} })))
    const job = await env.executeAsync('known')
    const { id, name } = job.status()
    await job.done
    assert.deepEqual(
      told.map(({ jobInfo, globalJobParameters }) => [jobInfo, globalJobParameters['city'], globalJobParameters['no']]),
      Array(3).fill([{ jobId: id, jobName: 'known' }, 'Zürich', undefined]),
    )
    assert.equal(name, 'known')
  })

  test('an object that subtasks would share is refused where it is given', () => {
    const stream = environment().fromElements(1)
    assert.throws(() => stream.map({ open: () => {}, map: (n: number) => n }), {
      code: 'PROCESS_FUNCTION_SHARED',
      hint: /RichMapFunction/,
    })
    class Early extends RichMapFunction<number, number> {
      readonly name = this.getRuntimeContext().taskName
      map(n: number): number {
        return n
      }
    }
    assert.throws(() => new Early(), { code: 'RUNTIME_CONTEXT_MISSING' })
  })
})

test('rolling aggregates of fields, with and without declared columns', async () => {
  const rows = [
    { key: 'a', n: 2, name: 'x' },
    { key: 'a', n: 1, name: 'y' },
    { key: 'a', n: 3, name: 'z' },
  ]
  const declared = () =>
    environment()
      .fromCollection(rows, { schema: schema({ key: t.string(), n: t.float64(), name: t.string() }) })
      .keyBy('key')
  const opaque = () =>
    environment()
      .fromCollection(rows)
      .keyBy((row) => row.key)
  for (const keyed of [declared, opaque]) {
    const shown = (all: readonly { n: number; name: string }[]) => all.map(({ n, name }) => `${n}${name}`).join(' ')
    assert.equal(shown(await keyed().sum('n').executeAndCollect()), '2x 3x 6x')
    assert.equal(shown(await keyed().min('n').executeAndCollect()), '2x 1x 1x')
    assert.equal(shown(await keyed().maxBy('n').executeAndCollect()), '2x 2x 3z')
  }
  assert.throws(() => declared().sum('name' as 'n'), { code: 'FIELD_NOT_SUMMABLE' })
  assert.throws(() => declared().max('nope' as 'n'), { code: 'FIELD_UNKNOWN' })
  const words = environment()
    .fromElements<[string, number]>(['a', 1], ['a', 2])
    .keyBy((word) => word[0])
    .sum(1)
  assert.deepEqual(await words.executeAndCollect(), [
    ['a', 1],
    ['a', 3],
  ])
})
