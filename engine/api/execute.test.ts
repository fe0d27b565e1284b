/**
 * Programs from source to sink on the calling thread, as in services and tests. Longer than other files: a short program
 * for each thing that is promised of them, over the same few readings.
 */
import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import { describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { dataGenSource } from '../../connectors/datagen/datagen-source.ts'
import { queueSource } from '../../connectors/queue/index.ts'
import { until } from '../runtime/job.testkit.ts'
import {
  CountTrigger,
  CumulativeEventTimeWindows,
  count,
  type DataStream,
  days,
  EventTimeSessionWindows,
  GlobalWindows,
  type JobExecutionResult,
  type KeyedProcessFunction,
  MillraceError,
  max,
  outputTag,
  type ProcessContext,
  PurgingTrigger,
  ReducingStateDescriptor,
  RestartStrategies,
  type RuntimeContext,
  SlidingEventTimeWindows,
  type StatefulProcessWindowContext,
  StreamExecutionEnvironment,
  schema,
  seconds,
  sum,
  TumblingEventTimeWindows,
  TumblingProcessingTimeWindows,
  t,
  type ValueState,
  WatermarkStrategy,
} from './index.ts'

const READING = schema({ id: t.string(), at: t.timestamp(), n: t.float64() })
const readings = [
  { id: 'a', at: 100, n: 1 },
  { id: 'b', at: 200, n: 2 },
  { id: 'a', at: 900, n: 3 },
  // More rows than a batch holds: after them the watermark is past the first window.
  ...Array.from({ length: 3_000 }, () => ({ id: 'c', at: 5_000, n: 1 })),
  { id: 'b', at: 300, n: 5 },
]
const environment = () => StreamExecutionEnvironment.getExecutionEnvironment().setParallelism(2)
const byAt = WatermarkStrategy.forMonotonousTimestamps().withTimestampAssigner('at')

describe('execute on the calling thread', () => {
  test('lambdas over elements', async () => {
    const rows = await environment()
      .fromElements(1, 2, 3, 4)
      .filter((n) => n % 2 === 0)
      .flatMap((n) => [n, n * 10])
      .map((n) => ({ n }))
      .executeAndCollect()
    assert.deepEqual(
      rows.map((row) => row.n).sort((a, b) => a - b),
      [2, 4, 20, 40],
    )
  })

  test('every partitioning brings each element where it belongs, between any parallelisms', async () => {
    const ways: Record<string, (stream: DataStream<number>) => DataStream<number>> = {
      rebalance: (stream) => stream.rebalance(),
      rescale: (stream) => stream.rescale(),
      shuffle: (stream) => stream.shuffle(),
      global: (stream) => stream.global(),
      broadcast: (stream) => stream.broadcast(),
      custom: (stream) => stream.partitionCustom({ partition: (n: number, partitions) => n % partitions }, (n) => n),
    }
    const input = Array.from({ length: 500 }, (_, n) => n)
    for (const [name, way] of Object.entries(ways)) {
      for (const [before, after] of [
        [2, 3],
        [3, 2],
      ] as const) {
        const spread = environment()
          .fromCollection(input)
          .map((n) => n)
          .setParallelism(before)
        const rows = await way(spread)
          .map((n) => n)
          .setParallelism(after)
          .executeAndCollect()
        const copies = name === 'broadcast' ? after : 1
        assert.deepEqual(
          rows.sort((a, b) => a - b),
          input.flatMap((n) => new Array<number>(copies).fill(n)),
          `${name} ${before} to ${after}`,
        )
      }
    }
    const forward = environment()
      .fromElements(1)
      .forward()
      .map((n) => n)
    await assert.rejects(forward.executeAndCollect(), { code: 'FORWARD_PARALLELISM' })
  })

  test('an aligned source waits for a slower one; checkpoints and the end pass it', async () => {
    const EVENT = schema({ at: t.float64(), isFast: t.boolean() })
    const strategy = WatermarkStrategy.forMonotonousTimestamps().withTimestampAssigner('at')
    for (const driftMs of [200, null]) {
      const aligned = driftMs === null ? strategy : strategy.withWatermarkAlignment('both', driftMs, 20)
      const env = StreamExecutionEnvironment.createEnvironment().setParallelism(1).enableCheckpointing(5)
      // From 0 to 4,000 ms of event time at once, a batch for 205 ms.
      const generator = (index: number) => ({ at: index / 10, isFast: true })
      const fast = env.fromSource(dataGenSource({ schema: EVENT, count: 40_000, generator }), aligned)
      const slow = queueSource({ schema: EVENT })
      const latest = { fast: 0, slow: 0 }
      let lead = 0
      let rows = 0
      fast.union(env.fromSource(slow, aligned)).addSink((row) => {
        rows++
        if (row.isFast) latest.fast = row.at
        else latest.slow = row.at
        lead = Math.max(lead, latest.fast - latest.slow)
      })
      const job = await env.executeAsync('aligned')
      for (let at = 0; at < 3_800; at += 100) {
        await slow.put({ at, isFast: false })
        await until(() => latest.fast >= (driftMs === null ? 3_999 : at + driftMs))
        if (at === 0) await until(() => job.status().checkpointsCompleted >= 3)
      }
      slow.end()
      await job.done
      assert.equal(rows, 40_038)
      // The drift, and two batches: one read within the limit, one whose watermark is still on its way.
      if (driftMs === null) assert.ok(lead > 1_500, `${lead} ms`)
      else assert.ok(lead < driftMs + 3 * 205, `${lead} ms ahead`)
    }
  })

  test('windows of columns, with late rows on the side', async () => {
    const env = environment()
    const late = outputTag<(typeof readings)[number]>('late')
    const windows = env
      .fromCollection(readings, { schema: READING })
      .assignTimestampsAndWatermarks(byAt)
      .keyBy('id')
      .window(TumblingEventTimeWindows.of(seconds(1)))
      .sideOutputLateData(late)
      .aggregate({ n: count(), total: sum('n') })
    const results: unknown[] = []
    const tooLate: unknown[] = []
    windows.addSink((row) => void results.push(`${row.key} ${row.windowStart} ${row.n} ${row.total}`))
    windows
      .getSideOutput(late)
      .map((row) => row.n)
      .addSink({ invoke: (n) => void tooLate.push(n) })
    const result = await env.execute('windows')
    assert.equal(result.state, 'finished')
    assert.equal(result.recordsIn, 3_004)
    assert.deepEqual(results.sort(), ['a 0 2 4', 'b 0 1 2', 'c 5000 3000 3000'])
    assert.deepEqual(tooLate, [5])
    assert.equal(result.late, 0)
  })

  test('a keyed process function as a class: every subtask has its own copy', async () => {
    class CountPerKey implements KeyedProcessFunction<string, string, string> {
      private count: ValueState<number> | undefined

      open(context: RuntimeContext): void {
        this.count = context.getState({ kind: 'value', name: 'count', version: 1 })
      }

      processElement(_: string, context: ProcessContext<string>, collect: (result: string) => void): void {
        const next = (this.count!.value() ?? 0) + 1
        this.count!.update(next)
        collect(`${context.currentKey}${next}`)
      }
    }
    const words = Array.from({ length: 60 }, (_, i) => `k${i % 20}-`)
    const rows = await environment()
      .fromCollection(words)
      .keyBy((word) => word)
      .process(new CountPerKey())
      .executeAndCollect()
    const expected = Array.from({ length: 20 }, (_, k) => [1, 2, 3].map((n) => `k${k}-${n}`)).flat()
    assert.deepEqual(rows.sort(), expected.sort())
  })

  test('sliding and cumulative windows', async () => {
    const few = readings.slice(0, 3)
    const keyed = () =>
      environment().fromCollection(few, { schema: READING }).assignTimestampsAndWatermarks(byAt).keyBy('id')
    const of = (rows: readonly { key: string; windowStart: number; windowEnd: number; n: number }[]) =>
      rows.map((row) => `${row.key} ${row.windowStart}-${row.windowEnd} ${row.n}`).sort()
    const sliding = keyed().window(SlidingEventTimeWindows.of(1_000, 500)).aggregate({ n: count() })
    assert.deepEqual(of(await sliding.executeAndCollect()), [
      'a -500-500 1',
      'a 0-1000 2',
      'a 500-1500 1',
      'b -500-500 1',
      'b 0-1000 1',
    ])
    const cumulative = keyed().window(CumulativeEventTimeWindows.of(1_000, 500)).aggregate({ n: count() })
    assert.deepEqual(of(await cumulative.executeAndCollect()), ['a 0-1000 2', 'a 0-500 1', 'b 0-1000 1', 'b 0-500 1'])
  })

  test('union, broadcast and global', async () => {
    const env = environment()
    const both = env.fromElements(1, 2).union(env.fromElements(3))
    const broadcast = await both
      .broadcast()
      .map((n) => n)
      .executeAndCollect()
    assert.deepEqual(broadcast.sort(), [1, 1, 2, 2, 3, 3])
    const one = environment().fromElements(1, 2)
    assert.deepEqual((await one.union(one).executeAndCollect()).sort(), [1, 1, 2, 2])
    const env2 = environment()
    const global = await env2
      .fromElements(1, 2, 3)
      .global()
      .map((n) => n)
      .executeAndCollect()
    assert.deepEqual(global.sort(), [1, 2, 3])
  })

  test('an environment runs one job after another', async () => {
    const env = environment()
    assert.deepEqual(await env.fromElements('x').executeAndCollect(), ['x'])
    assert.deepEqual(await env.fromElements('y').executeAndCollect(), ['y'])
  })

  test('executeAsync gives control of the running job', async () => {
    const env = environment()
    const seen: number[] = []
    env.fromElements(1).addSink(async (n) => {
      await null
      seen.push(n)
    })
    const events: string[] = []
    const running = await env.executeAsync('async', { onEvent: (event) => events.push(event.type) })
    assert.equal(running.status().name, 'async')
    const result = await running.done
    assert.equal(result.recordsIn, 1)
    assert.deepEqual(seen, [1])
    assert.equal(events[0], 'started')
    assert.equal(events.at(-1), 'finished')
  })

  test('a signal cancels the job, before it starts or while it runs', async () => {
    const controller = new AbortController()
    const unbounded = () => {
      const env = StreamExecutionEnvironment.createEnvironment().setStateBackend('memory')
      env.fromDataGenerator((index) => index).addSink(() => {})
      return env
    }
    const job = await unbounded().executeAsync('cancelled', { signal: controller.signal })
    controller.abort()
    assert.equal((await job.done).state, 'cancelled')
    assert.equal((await unbounded().execute('at once', { signal: controller.signal })).state, 'cancelled')
    const { signal } = new AbortController()
    const env = StreamExecutionEnvironment.createEnvironment().setStateBackend('memory')
    env.fromElements(1).addSink(() => {})
    assert.equal((await env.execute('in time', { signal })).state, 'finished')
    assert.deepEqual(getEventListeners(signal, 'abort'), [])
  })

  test('await using cancels a job and closes an iterator', async () => {
    let ended: Promise<JobExecutionResult>
    {
      const env = StreamExecutionEnvironment.createEnvironment().setStateBackend('memory')
      env.fromDataGenerator((index) => index).addSink(() => {})
      await using job = await env.executeAsync('for a while')
      ended = job.done
      const numbers = StreamExecutionEnvironment.createEnvironment().fromDataGenerator((index) => index)
      await using iterator = numbers.executeAndCollectAsync()
      assert.deepEqual(await iterator.next(), { done: false, value: 0 })
    }
    assert.equal((await ended).state, 'cancelled')
  })

  test('an accumulator that `add` changes in place is saved as it was at the cut', async () => {
    const numbers = queueSource<number>()
    const env = environment().enableCheckpointing(5).setRestartStrategy(RestartStrategies.fixedDelayRestart(3, 1))
    let checkpoints = 0
    let mayFail = false
    const sums: string[] = []
    env
      .fromSource(numbers)
      .map((n) => {
        if (!mayFail) return n
        mayFail = false
        throw new Error('Not yet.')
      })
      .keyBy((n) => n % 3)
      .window(GlobalWindows.createWithEndOfStreamTrigger())
      .aggregate({
        createAccumulator: () => ({ numbers: 0, sum: 0 }),
        add(n: number, acc) {
          acc.numbers++
          acc.sum += n
          return acc
        },
        getResult: ({ numbers, sum }) => `${numbers} of ${sum}`,
        merge: (a, b) => ({ numbers: a.numbers + b.numbers, sum: a.sum + b.sum }),
      })
      .addSink((result) => void sums.push(result))
    const onEvent = ({ type }: { readonly type: string }) => void (type === 'checkpoint' && checkpoints++)
    const job = await env.executeAsync('in place', { onEvent })
    const untilCheckpoint = async () => {
      for (const before = checkpoints; checkpoints < before + 2; ) await sleep(1)
    }
    let next = 0
    const put = async () => {
      for (const to = next + 100; next < to; next++) await numbers.put(next)
    }
    for (let failure = 1; failure <= 3; failure++) {
      await put()
      await untilCheckpoint()
      // These are taken back by the failure, and come again.
      await put()
      mayFail = true
      await numbers.put(next++)
      while (job.status().restarts < failure) await sleep(1)
    }
    numbers.end()
    await job.done
    const expected = [0, 1, 2].map((key) => {
      const ofKey = Array.from({ length: next }, (_, n) => n).filter((n) => n % 3 === key)
      return `${ofKey.length} of ${ofKey.reduce((a, b) => a + b, 0)}`
    })
    assert.deepEqual(sums.sort(), expected.sort())
  })

  test('two jobs of the same program run beside each other in one thread', async () => {
    const run = async (factor: number): Promise<number[]> => {
      const totals = environment()
        .fromSource(dataGenSource({ generator: (i) => i, count: 2_000, ratePerSecond: 10_000 }))
        .map((n) => ({ key: n % 5, total: factor * n }))
        .keyBy('key')
        .sum('total')
        .map(({ total }) => total)
        .executeAndCollect()
      return (await totals).sort((a, b) => a - b).slice(-5)
    }
    const lasts = (factor: number) => [0, 1, 2, 3, 4].map((key) => factor * (400 * key + (5 * 400 * 399) / 2))
    assert.deepEqual(await Promise.all([run(1), run(1_000)]), [lasts(1), lasts(1_000)])
  })

  test('a window of a thousand aggregates', async () => {
    const fields = Array.from({ length: 500 }, (_, i) => `f${i}`)
    const wide = schema({ at: t.timestamp(), ...Object.fromEntries(fields.map((name) => [name, t.float64()])) })
    const rows = [1, 2, 3].map((n) => ({ at: n, ...Object.fromEntries(fields.map((name, i) => [name, n * i])) }))
    const aggregates = Object.fromEntries(
      fields.flatMap((name, i) => [
        [`sum${i}`, sum(name as never)],
        [`max${i}`, max(name as never)],
      ]),
    )
    const [row, ...more] = await environment()
      .fromCollection(rows, { schema: wide as never })
      .assignTimestampsAndWatermarks(byAt as never)
      .windowAll(TumblingEventTimeWindows.of(seconds(1)))
      .aggregate(aggregates)
      .executeAndCollect()
    const expected = fields.flatMap((_, i) => [
      [`sum${i}`, 6 * i],
      [`max${i}`, 3 * i],
    ])
    assert.deepEqual(row, { windowStart: 0, windowEnd: 1_000, ...Object.fromEntries(expected) })
    assert.deepEqual(more, [])
  })

  test('a failing function rejects with its cause', async () => {
    const failing = environment()
      .fromElements(1)
      .map((n) => {
        if (n === 1) throw new RangeError('one is too many')
        return n
      })
      .executeAndCollect()
    await assert.rejects(failing, (error) => error instanceof MillraceError && /one is too many/.test(error.message))
  })

  test('a failing sink call fails the job, also a promise', async () => {
    const env = environment()
    env.fromElements(1).addSink(async () => {
      await null
      throw new Error('the store is closed')
    })
    await assert.rejects(env.execute('sink'), /the store is closed/)
  })
})

describe('windows of every kind, end to end', () => {
  const clicks = [
    { id: 'a', at: 0, n: 1 },
    { id: 'a', at: 400, n: 2 },
    { id: 'b', at: 500, n: 10 },
    { id: 'a', at: 2_000, n: 3 },
    { id: 'b', at: 2_100, n: 20 },
    { id: 'b', at: 2_200, n: 30 },
  ]
  const clickStream = () =>
    environment().fromCollection(clicks, { schema: READING }).assignTimestampsAndWatermarks(byAt)
  const sorted = <R>(rows: readonly R[]): R[] =>
    [...rows].sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1))

  test('sessions of built-in aggregates, merged and apart', async () => {
    const rows = await clickStream()
      .keyBy('id')
      .window(EventTimeSessionWindows.withGap(seconds(1)))
      .aggregate({ clicks: count(), total: sum('n') })
      .executeAndCollect()
    assert.deepEqual(sorted(rows), [
      { key: 'a', windowStart: 0, windowEnd: 1_400, clicks: 2, total: 3 },
      { key: 'a', windowStart: 2_000, windowEnd: 3_000, clicks: 1, total: 3 },
      { key: 'b', windowStart: 2_100, windowEnd: 3_200, clicks: 2, total: 50 },
      { key: 'b', windowStart: 500, windowEnd: 1_500, clicks: 1, total: 10 },
    ])
  })

  test('a count trigger on sliding windows: each window counts for itself', async () => {
    const rows = await clickStream()
      .keyBy('id')
      .window(SlidingEventTimeWindows.of(seconds(3), seconds(1)))
      .trigger(CountTrigger.of(2))
      .aggregate({ total: sum('n') })
      .executeAndCollect()
    const shown = rows.map((row) => `${row.key} ${row.windowStart} ${row.total}`)
    assert.deepEqual(shown.sort(), ['a -1000 3', 'a -2000 3', 'a 0 3', 'b 0 30', 'b 1000 50', 'b 2000 50'])
  })

  test('a reduce that is not commutative, on sliding windows', async () => {
    const rows = await clickStream()
      .map(({ id, n }) => ({ id, text: `${n}` }))
      .keyBy((row) => row.id)
      .window(SlidingEventTimeWindows.of(seconds(4), seconds(2)))
      .reduce((a, b) => {
        a.text += `,${b.text}`
        return a
      })
      .executeAndCollect()
    assert.deepEqual(sorted(rows.map((row) => `${row.id} ${row.text}`)), [
      'a 1,2',
      'a 1,2,3',
      'a 3',
      'b 10',
      'b 10,20,30',
      'b 20,30',
    ])
  })

  test('count windows, in full and sliding, and aggregations of a field', async () => {
    const pairs = await clickStream().keyBy('id').countWindow(2).maxBy('n').executeAndCollect()
    assert.deepEqual(
      sorted(pairs).map((row) => [row.id, row.n]),
      [
        ['a', 2],
        ['b', 20],
      ],
    )
    const lastTwo = await clickStream()
      .countWindowAll(2, 3)
      .apply<number[]>((_key, _window, elements, collect) => collect([...elements].map((row) => row.n)))
      .executeAndCollect()
    assert.deepEqual(lastTwo, [
      [2, 10],
      [20, 30],
    ])
    const sums = await clickStream().keyBy('id').countWindow(3).sum('n').executeAndCollect()
    assert.deepEqual(sorted(sums), [
      { id: 'a', at: 0, n: 6 },
      { id: 'b', at: 500, n: 60 },
    ])
  })

  test('one window over all keys, in local days, with a function that has a life', async () => {
    class Days {
      private opened = 0
      open() {
        this.opened++
      }
      process(
        { window, globalState }: StatefulProcessWindowContext<null>,
        elements: Iterable<(typeof clicks)[number]>,
        collect: (text: string) => void,
      ) {
        const windows = globalState().getReducingState(new ReducingStateDescriptor<number>('windows', (a, b) => a + b))
        windows.add(1)
        const day = new Date(window.start).toISOString()
        collect(`${day} ${[...elements].length} ${this.opened} ${windows.get()}`)
      }
    }
    const rows = await clickStream()
      .windowAll(TumblingEventTimeWindows.of(days(1), { timeZone: 'Europe/Berlin' }))
      .process(new Days())
      .executeAndCollect()
    assert.deepEqual(rows, ['1969-12-31T23:00:00.000Z 6 1 1'])
  })

  test('built-in aggregates over all keys have no key, in either kind of window', async () => {
    const columns = await clickStream()
      .windowAll(TumblingEventTimeWindows.of(days(1)))
      .aggregate({ n: count(), sum: sum('n') })
      .executeAndCollect()
    assert.deepEqual(columns, [{ windowStart: 0, windowEnd: 86_400_000, n: 6, sum: 66 }])
    const counted = await clickStream()
      .countWindowAll(4)
      .aggregate({ last: max('n') })
      .executeAndCollect()
    assert.deepEqual(counted.map(Object.keys), [['windowStart', 'windowEnd', 'last']])
  })

  test('windows by the clock under another trigger', async () => {
    const rows = await environment()
      .fromElements(1, 2, 3)
      .keyBy(() => 'all')
      .window(TumblingProcessingTimeWindows.of(days(10_000)))
      .trigger(PurgingTrigger.of(CountTrigger.of(3)))
      .reduce((a, b) => a + b)
      .executeAndCollect()
    assert.deepEqual(rows, [6])
  })
})
