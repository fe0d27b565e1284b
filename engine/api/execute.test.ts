/**
 * Programs from source to sink on the calling thread, as in services and tests.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { dataGenSource } from '../../connectors/datagen/datagen-source.ts'
import {
  CumulativeEventTimeWindows,
  count,
  type DataStream,
  type KeyedProcessFunction,
  MillraceError,
  outputTag,
  type ProcessContext,
  type RuntimeContext,
  SlidingEventTimeWindows,
  StreamExecutionEnvironment,
  schema,
  seconds,
  sum,
  TumblingEventTimeWindows,
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
      const env = StreamExecutionEnvironment.createEnvironment().setParallelism(1).enableCheckpointing(30)
      // Both go from 0 to 4,000 ms of event time: one at once, a batch for 205 ms, the other within 400 ms.
      const make = (isFast: boolean, count: number, ratePerSecond: number) =>
        env.fromSource(
          dataGenSource({
            schema: EVENT,
            count,
            ratePerSecond,
            generator: (index) => ({ at: (index * 4_000) / count, isFast }),
          }),
          aligned,
        )
      const latest = { fast: 0, slow: 0 }
      let lead = 0
      let rows = 0
      make(true, 40_000, 0)
        .union(make(false, 400, 1_000))
        .addSink((row) => {
          rows++
          if (row.isFast) latest.fast = row.at
          else latest.slow = row.at
          lead = Math.max(lead, latest.fast - latest.slow)
        })
      const job = await env.executeAsync('aligned')
      await job.done
      assert.equal(rows, 40_400)
      assert.ok(job.status().checkpointsCompleted >= 3)
      // The drift, and two batches: one read within the limit, one whose watermark is still on its way.
      if (driftMs === null) assert.ok(lead > 3_000, `${lead} ms`)
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
