/**
 * Batch execution: only final results, as Flink's batch mode gives them, against naive models.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { environment } from './batch.testkit.ts'
import {
  count,
  days,
  type KeyedProcessFunction,
  milliseconds,
  RuntimeExecutionMode,
  schema,
  sum,
  TumblingEventTimeWindows,
  TumblingProcessingTimeWindows,
  t,
  WatermarkStrategy,
} from './index.ts'

const EVENT = schema({ key: t.string(), at: t.timestamp(), n: t.float64() })
const byAt = WatermarkStrategy.forMonotonousTimestamps().withTimestampAssigner('at')

interface Event {
  readonly key: string
  readonly at: number
  readonly n: number
}

const anyEvents = fc.array(
  fc.record(
    { key: fc.constantFrom('a', 'b', 'c', 'd'), at: fc.nat(5_000), n: fc.integer({ min: -9, max: 9 }) },
    { noNullPrototype: true },
  ),
  { maxLength: 60 },
)

/** What a naive program computes of each key's events. */
function byKey<R>(events: readonly Event[], of: (own: readonly Event[]) => R): Record<string, R> {
  const groups = Map.groupBy(events, ({ key }) => key)
  return Object.fromEntries([...groups.keys()].sort().map((key) => [key, of(groups.get(key)!)]))
}

describe('batch mode', () => {
  test('running aggregates emit one result a key: the last', async () => {
    await fc.assert(
      fc.asyncProperty(anyEvents, fc.integer({ min: 1, max: 3 }), fc.boolean(), async (events, parallelism, typed) => {
        const env = environment(parallelism)
        const stream = typed ? env.fromCollection<Event>(events, { schema: EVENT }) : env.fromCollection<Event>(events)
        const reduced = await stream
          .rebalance()
          .keyBy((event) => event.key)
          .reduce((a, b) => ({ ...b, n: a.n + b.n, at: 0 }))
          .executeAndCollect()
        const totals = byKey(events, (own) => own.reduce((total, { n }) => total + n, 0))
        assert.deepEqual(Object.fromEntries(reduced.map(({ key, n }) => [key, n])), totals)
        assert.equal(reduced.length, Object.keys(totals).length)
        const largest = await environment(parallelism)
          .fromCollection<Event>(events)
          .keyBy((event) => event.key)
          .max('n')
          .executeAndCollect()
        assert.deepEqual(
          largest.map(({ key, n }) => [key, n]).sort(),
          Object.entries(byKey(events, (own) => Math.max(...own.map(({ n }) => n)))),
        )
      }),
      { numRuns: 5 },
    )
  })

  test('more keys than a batch has rows', async () => {
    const rows = await environment()
      .fromSequence(1, 9_000)
      .keyBy((n) => n % 4_500)
      .reduce((a, b) => a + b)
      .executeAndCollect()
    assert.deepEqual(
      rows.sort((a, b) => a - b),
      Array.from({ length: 4_500 }, (_, i) => 2 * (i + 1) + 4_500),
    )
  })

  test('windows fire at the end, and nothing is late', async () => {
    await fc.assert(
      fc.asyncProperty(anyEvents, async (events) => {
        // In order of nothing: as a stream, most of these would be late.
        const rows = await environment()
          .fromCollection<Event>(events, { schema: EVENT })
          .assignTimestampsAndWatermarks(byAt)
          .keyBy('key')
          .window(TumblingEventTimeWindows.of(milliseconds(1_000)))
          .aggregate({ events: count(), total: sum('n') })
          .executeAndCollect()
        const expected = Object.values(
          byKey(events, (own) => [...Map.groupBy(own, ({ at }) => Math.floor(at / 1_000)).values()]),
        )
          .flat()
          .map((own) => `${own.length} ${own.reduce((total, { n }) => total + n, 0)}`)
        assert.deepEqual(rows.map((row) => `${row.events} ${row.total ?? 0}`).sort(), expected.sort())
      }),
      { numRuns: 5 },
    )
  })

  test('windows of processing time fire at the end too', async () => {
    const rows = await environment()
      .fromCollection([1, 2, 3, 4, 5])
      .keyBy((n) => n % 2)
      .window(TumblingProcessingTimeWindows.of(days(400)))
      .reduce((a, b) => a + b)
      .executeAndCollect()
    assert.deepEqual(rows.sort(), [6, 9])
  })

  test('timers of both kinds fire at the end, event time first; what fires sets no more', async () => {
    class Timed implements KeyedProcessFunction<string, Event, string> {
      processElement(
        event: Event,
        context: Parameters<KeyedProcessFunction<string, Event, string>['processElement']>[1],
        collect: (result: string) => void,
      ) {
        const { timerService } = context
        collect(`${event.key} element, watermark ${timerService.currentWatermark()}`)
        timerService.registerEventTimeTimer(event.at + 10)
        timerService.registerProcessingTimeTimer(timerService.currentProcessingTime() + 3_600_000)
      }
      onTimer(
        timeMs: number,
        context: Parameters<NonNullable<KeyedProcessFunction<string, Event, string>['onTimer']>>[1],
        collect: (result: string) => void,
      ) {
        const { timerService } = context
        const isEventTime = context.timeDomain === 'EVENT_TIME'
        collect(isEventTime ? `${context.currentKey} event time ${timeMs}` : `${context.currentKey} processing time`)
        timerService.registerEventTimeTimer(timeMs + 1_000)
        timerService.registerProcessingTimeTimer(timeMs + 1_000)
      }
    }
    const events = [
      { key: 'a', at: 100, n: 1 },
      { key: 'a', at: 50, n: 1 },
    ]
    const rows = await environment()
      .fromCollection(events, { schema: EVENT })
      .assignTimestampsAndWatermarks(byAt)
      .keyBy('key')
      .process(() => new Timed())
      .executeAndCollect()
    const [first, second, ...timers] = rows
    assert.equal(first, 'a element, watermark -Infinity')
    assert.equal(second, first)
    assert.deepEqual(timers.slice(0, 2), ['a event time 60', 'a event time 110'])
    // Both elements may have asked for the same millisecond.
    assert.ok(timers.length === 3 || timers.length === 4)
    assert.ok(timers.slice(2).every((row) => row === 'a processing time'))
  })

  test('there are no checkpoints but the last; a restart begins again', async () => {
    const checkpoints: unknown[] = []
    let failures = 0
    const env = environment(1)
      .enableCheckpointing(5)
      .setRestartStrategy({ kind: 'fixed-delay', attempts: 1, delayMs: 0 })
    const results: number[] = []
    env
      .fromSequence(1, 20_000)
      .map((n) => {
        if (n === 15_000 && failures++ === 0) throw new Error('planned')
        return n
      })
      .keyBy(() => 0)
      .reduce((a, b) => a + b)
      .addSink((n) => {
        results.push(n)
      })
    const job = await env.executeAsync('batch', {
      onEvent: (event) => {
        if (event.type === 'checkpoint') checkpoints.push(event)
      },
    })
    await job.done
    assert.deepEqual([checkpoints.length, job.status().restarts], [1, 1])
    assert.deepEqual(results, [(20_000 * 20_001) / 2])
  })

  test('there is no savepoint of it, and to stop it is to give it up', async () => {
    const env = environment(1)
    env
      .fromSequence(1, 50_000_000)
      .keyBy((n) => n % 10)
      .reduce((a, b) => a + b)
      .addSink(() => assert.fail('it never ends'))
    const job = await env.executeAsync('batch')
    assert.throws(() => job.savepoint(), { code: 'BATCH_SAVEPOINT' })
    await assert.rejects(job.rescale(2), { code: 'BATCH_SAVEPOINT' })
    await job.stop()
    assert.equal(job.status().state, 'cancelled')
  })

  test('wants bounded sources; automatic decides by them', async () => {
    const endless = (mode: RuntimeExecutionMode) => {
      const env = environment(1).setRuntimeMode(mode)
      const stream = env.fromDataGenerator((index) => index % 2)
      return stream.keyBy((n) => n).reduce((a, b) => a + b)
    }
    await assert.rejects(endless(RuntimeExecutionMode.BATCH).executeAndCollect(3), { code: 'BATCH_UNBOUNDED' })
    const streamed = await endless(RuntimeExecutionMode.AUTOMATIC).executeAndCollect(4)
    assert.deepEqual(streamed, [0, 1, 0, 2])
    const bounded = environment().setRuntimeMode(RuntimeExecutionMode.AUTOMATIC).fromElements(1, 2)
    const reduced = bounded.keyBy(() => 0).reduce((a, b) => a + b)
    assert.deepEqual(await reduced.executeAndCollect(), [3])
    assert.throws(() => environment().setRuntimeMode('never' as never), { code: 'RUNTIME_MODE_UNKNOWN' })
  })
})
