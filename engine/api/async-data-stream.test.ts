/**
 * Asynchronous requests in whole jobs: results, capacity over subtasks, checkpoints while requests take long,
 * restarts, stops, and time-outs on a busy thread.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setTimeout as wait } from 'node:timers/promises'
import { MessageChannel } from 'node:worker_threads'
import { collectSink } from '../../connectors/collect/collect-sink.ts'
import { withDirectory } from '../runtime/job.testkit.ts'
import {
  AsyncDataStream,
  type AsyncFunction,
  AsyncRetryStrategies,
  count,
  RestartStrategies,
  RetryPredicates,
  StreamExecutionEnvironment,
  schema,
  seconds,
  TumblingEventTimeWindows,
  t,
  WatermarkStrategy,
} from './index.ts'

const environment = () => StreamExecutionEnvironment.createEnvironment().setParallelism(2)
const pause = (ms: number): Promise<void> => wait(ms)
const numbers = (count: number) => Array.from({ length: count }, (_, n) => n)

describe('async streams', () => {
  test('ordered keeps the order of each subtask, with chained operators before and behind', async () => {
    const stream = environment()
      .fromCollection(numbers(3_000))
      .map((n) => n * 2)
      // Two would each have an order of their own.
      .setParallelism(1)
    const looked = AsyncDataStream.orderedWait(
      stream,
      async (n) => {
        if (n % 100 === 0) await pause(n % 7)
        return n % 6 === 0 ? [n, -n] : [n]
      },
      seconds(10),
      50,
    ).setParallelism(1)
    const rows = await looked
      .map((n) => n)
      .setParallelism(1)
      .executeAndCollect()
    const expected = numbers(3_000).flatMap((n) => (n % 3 === 0 ? [n * 2, -n * 2] : [n * 2]))
    assert.deepEqual(rows, expected)
  })

  test('unordered, as a class with open and close, with retries and a schema', async () => {
    const NAMED = schema({ n: t.float64(), by: t.string() })
    const log: string[] = []
    class Lookup implements AsyncFunction<number, { n: number; by: string }> {
      private client = ''
      async open(context: { readonly indexOfThisSubtask: number }) {
        await pause(1)
        this.client = `client ${context.indexOfThisSubtask}`
      }
      async asyncInvoke(n: number, { attempt }: { readonly attempt: number }) {
        await pause(n % 3)
        // Whatever is asked at the same time, a number is refused up to four times.
        if (attempt <= n % 5) throw new Error('busy')
        return [{ n, by: this.client }]
      }
      async close() {
        log.push(this.client)
      }
    }
    const retry = AsyncRetryStrategies.exponentialBackoff(20, 1, 8, 2).ifException(
      (error) => (error as Error).message === 'busy',
    )
    const rows = await AsyncDataStream.unorderedWaitWithRetry(
      environment().fromCollection(numbers(200)).rebalance(),
      new Lookup(),
      seconds(10),
      20,
      retry,
      { schema: NAMED },
    ).executeAndCollect()
    assert.deepEqual(
      rows.map((row) => row.n).sort((a, b) => a - b),
      numbers(200),
    )
    assert.deepEqual(new Set(rows.map((row) => row.by)), new Set(['client 0', 'client 1']))
    assert.deepEqual(log.sort(), ['client 0', 'client 1'])
  })

  test('windows behind requests get every row in time', async () => {
    const EVENT = schema({ at: t.timestamp(), key: t.string() })
    const rows = numbers(4_000).map((n) => ({ at: n, key: `k${n % 3}` }))
    const asked = AsyncDataStream.unorderedWait(
      environment()
        .fromCollection(rows, { schema: EVENT })
        .assignTimestampsAndWatermarks(WatermarkStrategy.forMonotonousTimestamps().withTimestampAssigner('at')),
      async (row) => {
        await pause(row.at % 5)
        return [row]
      },
      seconds(10),
      500,
      { schema: EVENT },
    )
    const counts = await asked
      .keyBy('key')
      .window(TumblingEventTimeWindows.of(seconds(1)))
      .aggregate({ n: count() })
      .executeAndCollect()
    assert.equal(counts.length, 12)
    assert.equal(
      counts.reduce((sum, row) => sum + Number(row.n), 0),
      4_000,
    )
  })

  // Decision 9: requests that last longer than any checkpoint interval. Those of the first run never end.
  test('checkpoints complete while requests take long, and a restart asks again for what was under way', async () => {
    const env = environment().enableCheckpointing(10).setRestartStrategy(RestartStrategies.fixedDelayRestart(1, 0))
    let opened = 0
    let failFirstRun = (): void => {}
    const asked = new Map<number, number>()
    class Slow implements AsyncFunction<number, number> {
      private isFirstRun = false
      open() {
        this.isFirstRun = ++opened <= 2
      }
      async asyncInvoke(n: number) {
        asked.set(n, (asked.get(n) ?? 0) + 1)
        if (!this.isFirstRun) return [n]
        return new Promise<number[]>((_, reject) => {
          if (n === 3) failFirstRun = () => reject(new Error('planned'))
        })
      }
    }
    const sink = collectSink<number>({ exactlyOnce: true })
    AsyncDataStream.unorderedWait(env.fromCollection(numbers(20)).rebalance(), new Slow(), seconds(60)).sinkTo(sink)
    let checkpoints = 0
    const job = await env.executeAsync('slow requests', {
      onEvent: (event) => {
        // None of them waited for an answer.
        if (event.type === 'checkpoint' && asked.size === 20 && ++checkpoints === 5) failFirstRun()
      },
    })
    await job.done
    assert.equal(job.status().restarts, 1)
    assert.deepEqual(
      sink.rows().sort((a, b) => a - b),
      numbers(20),
    )
    assert.ok([...asked.values()].every((times) => times === 2))
  })

  test('a stop does not wait for requests; the next process asks again', () =>
    withDirectory(async (directory) => {
      const results: number[] = []
      const build = (answers: boolean) => {
        const env = environment().enableCheckpointing(50)
        env.getCheckpointConfig().setCheckpointStorage(directory)
        AsyncDataStream.orderedWait(
          env.fromCollection(numbers(10)).uid('numbers'),
          // Those of the first process are never answered: who waits for one waits for ever.
          (n) => (answers ? Promise.resolve([n]) : new Promise<number[]>(() => {})),
          0,
        )
          .uid('asks')
          .addSink((n) => {
            results.push(n)
          })
          .uid('results')
        return env
      }
      const job = await build(false).executeAsync('stopped')
      while (job.status().state !== 'running') await pause(1)
      await job.stop()
      assert.deepEqual(results, [])
      const next = await build(true).executeAsync('stopped', { args: ['--restore', 'latest'] })
      await next.done
      assert.deepEqual(
        results.sort((a, b) => a - b),
        numbers(10),
      )
    }))

  test('a busy thread makes no false time-outs', async () => {
    let timeouts = 0
    const asked = AsyncDataStream.unorderedWait(
      environment().fromCollection(numbers(6)),
      {
        async asyncInvoke(n: number) {
          // As real input it arrives in the poll phase, after the timers that are due by then; no other thread has a part in it.
          const { port1, port2 } = new MessageChannel()
          const answer = new Promise((resolve) => port1.once('message', resolve))
          port2.postMessage(n)
          const until = performance.now() + 40
          while (performance.now() < until);
          await answer
          port1.close()
          return [n]
        },
        timeout: () => {
          timeouts++
          return []
        },
      },
      25,
      3,
    ).setParallelism(1)
    const rows = await asked.executeAndCollect()
    assert.deepEqual([rows.length, timeouts], [6, 0])
  })

  test('what cannot be is refused where it is declared', () => {
    const stream = environment().fromElements(1)
    const ask = async (n: number) => [n]
    assert.throws(() => AsyncDataStream.orderedWait(stream, ask, -1), { code: 'DURATION_INVALID' })
    assert.throws(() => AsyncDataStream.orderedWait(stream, ask, 1, 0), { code: 'CAPACITY_INVALID' })
    assert.throws(() => AsyncRetryStrategies.fixedDelay(0, 1), { code: 'RETRY_INVALID' })
    assert.throws(() => AsyncRetryStrategies.exponentialBackoff(1, 1, 1, 0.5), { code: 'RETRY_INVALID' })
  })

  test('retry strategies know their delays and what they retry', () => {
    const growing = AsyncRetryStrategies.exponentialBackoff(9, 10, 100, 3)
    assert.deepEqual([1, 2, 3, 4].map(growing.backoffMs), [10, 30, 90, 100])
    assert.deepEqual([growing.shouldRetryException(1), growing.shouldRetryResult([])], [true, false])
    const ifEmpty = AsyncRetryStrategies.fixedDelay(3, 5).ifResult(RetryPredicates.EMPTY_RESULT_PREDICATE)
    assert.deepEqual([ifEmpty.shouldRetryException(1), ifEmpty.shouldRetryResult([])], [false, true])
    const both = ifEmpty.ifException(RetryPredicates.HAS_EXCEPTION_PREDICATE)
    assert.deepEqual([both.shouldRetryException(1), both.shouldRetryResult([1])], [true, false])
  })
})
