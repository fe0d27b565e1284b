/** The queue against a naive model, and whole jobs that a program feeds. */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { collectSink } from 'millrace/connectors/collect'
import { milliseconds, RestartStrategies, StreamExecutionEnvironment, schema, t } from '../../engine/api/index.ts'
import { TestReaderContext } from '../testing-context.ts'
import { fromAsyncIterable, queueSource } from './index.ts'
import { RecordQueue } from './record-queue.ts'

const reading = schema({ id: t.int32(), name: t.string() })
const nextTurn = () => new Promise((resolve) => setImmediate(resolve))

describe('the record queue', () => {
  test('gives every record once in order and goes back only to what is not forgotten', () => {
    const step = fc.oneof(
      fc.record({ do: fc.constant('offer' as const), count: fc.integer({ min: 1, max: 9 }) }),
      fc.record({ do: fc.constant('take' as const), count: fc.integer({ min: 1, max: 9 }) }),
      fc.record({ do: fc.constant('cut' as const), count: fc.constant(0) }),
      fc.record({ do: fc.constant('complete' as const), count: fc.constant(0) }),
      fc.record({ do: fc.constant('restart' as const), count: fc.constant(0) }),
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const queue = new RecordQueue<number>({ capacity: 8, retainedMax: 20 })
        const handle = { wake() {}, fail() {} }
        queue.attach(0, handle)
        let offered = 0
        let expected = 0
        let cut: number | null = null
        let completed = 0
        for (const { do: what, count } of steps) {
          if (what === 'offer') for (let i = 0; i < count; i++) if (queue.offer(offered)) offered++
          if (what === 'take') {
            queue.take(count, (record, sequence) => {
              assert.equal(record, expected)
              assert.equal(sequence, expected++)
            })
          }
          if (what === 'cut') cut = queue.position
          if (what === 'complete' && cut !== null) {
            completed = cut
            queue.forget(completed)
          }
          if (what === 'restart') {
            queue.detach()
            queue.attach(completed, handle)
            expected = completed
            cut = null
          }
          assert.ok(queue.size <= offered)
          assert.ok(offered - completed <= 20, 'bounded in all')
        }
        queue.take(1_000, (record) => assert.equal(record, expected++))
        assert.equal(expected, offered, 'nothing is lost')
      }),
      { numRuns: 300 },
    )
  })

  test('a position that it does not hold, a second reader and a record after the end are refused', () => {
    const queue = new RecordQueue<number>({ capacity: 8, retainedMax: 8 })
    queue.attach(5, { wake() {}, fail() {} })
    assert.equal(queue.offer(1), true)
    assert.throws(() => queue.attach(5, { wake() {}, fail() {} }), { code: 'QUEUE_IN_USE' })
    queue.take(1, (_, sequence) => assert.equal(sequence, 5))
    queue.forget(6)
    queue.detach()
    assert.throws(() => queue.attach(5, { wake() {}, fail() {} }), { code: 'POSITION_INVALID' })
    queue.end()
    assert.throws(() => queue.offer(2), { code: 'QUEUE_ENDED' })
  })
})

describe('a queue source', () => {
  test('feeds a job, with back-pressure to the caller', async () => {
    const queue = queueSource({ schema: reading, capacity: 4 })
    const env = StreamExecutionEnvironment.createEnvironment()
    const rows = env
      .fromSource(queue)
      .map((row) => `${row.name}${row.id}`)
      .executeAndCollect()
    for (let id = 0; id < 10_000; id++) await queue.put({ id, name: 'a' })
    queue.end()
    const collected = await rows
    assert.equal(collected.length, 10_000)
    assert.equal(collected[9_999], 'a9999')
  })

  test('put waits while the queue is full', async () => {
    const queue = queueSource<number>({ capacity: 2 })
    assert.equal(queue.offer(1), true)
    assert.equal(queue.offer(2), true)
    assert.equal(queue.offer(3), false)
    let isIn = false
    const putting = queue.put(3).then(() => {
      isIn = true
    })
    await nextTurn()
    assert.equal(isIn, false)
    await queue.splits({ worker: new TestReaderContext().worker })
    const reader = queue.createReader(new TestReaderContext())
    await reader.open([{ id: 'queue', position: 0 }])
    assert.equal(reader.poll(1).kind, 'batch')
    await putting
    assert.equal(isIn, true)
    await reader.close()
  })

  test('is exactly-once over restarts within the process', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'millrace-queue-'))
    try {
      const queue = queueSource<number>({ capacity: 100 })
      const sink = collectSink<number>({ exactlyOnce: true })
      const env = StreamExecutionEnvironment.createEnvironment()
      env.enableCheckpointing(milliseconds(20))
      env.getCheckpointConfig().setCheckpointStorage(directory)
      env.setRestartStrategy(RestartStrategies.fixedDelayRestart(10, milliseconds(1)))
      let failures = 0
      env
        .fromSource(queue)
        .map((value) => {
          if (value === 700 && failures++ < 3) throw new Error('once more')
          return value
        })
        .sinkTo(sink)
      const running = await env.executeAsync('queue')
      for (let value = 0; value < 1_000; value++) {
        await queue.put(value)
        if (value % 100 === 0) await new Promise((resolve) => setTimeout(resolve, 15))
      }
      queue.end()
      await running.done
      assert.equal(failures, 4)
      assert.deepEqual(
        sink.rows(),
        Array.from({ length: 1_000 }, (_, i) => i),
      )
    } finally {
      await rm(directory, { recursive: true, force: true })
    }
  })

  test('a record that does not fit the schema fails the job, naming it', async () => {
    const queue = queueSource({ schema: reading })
    queue.offer({ id: 'x', name: 'a' } as unknown as { id: number; name: string })
    const env = StreamExecutionEnvironment.createEnvironment()
    const rows = env.fromSource(queue).executeAndCollect()
    await assert.rejects(rows, /Record 0 of the queue: Field "id" must be int32/)
  })

  test('a thread on which the coordinator is not gets an error', async () => {
    const reader = queueSource().createReader(new TestReaderContext())
    await assert.rejects(reader.open([{ id: 'queue', position: 0 }]), { code: 'QUEUE_NEEDS_CALLING_THREAD' })
  })
})

describe('a source of an async iterable', () => {
  test('reads no further ahead than its capacity, and to the end', async () => {
    let made = 0
    async function* numbers() {
      for (; made < 5_000; made++) yield made
    }
    const source = fromAsyncIterable(numbers(), { capacity: 10 })
    await source.splits({ worker: new TestReaderContext().worker })
    const context = new TestReaderContext()
    const reader = source.createReader(context)
    await reader.open(await source.splits({ worker: context.worker }))
    await new Promise((resolve) => setTimeout(resolve, 20))
    assert.ok(made <= 12, `made ${made}`)
    await reader.close()

    made = 0
    const env = StreamExecutionEnvironment.createEnvironment()
    const rows = await env.fromSource(fromAsyncIterable(numbers(), { capacity: 10 })).executeAndCollect()
    assert.deepEqual(
      rows,
      Array.from({ length: 5_000 }, (_, i) => i),
    )
  })

  test('an error of the iterable fails the job', async () => {
    async function* broken() {
      yield 1
      throw new Error('the upstream service is gone')
    }
    const env = StreamExecutionEnvironment.createEnvironment()
    await assert.rejects(env.fromSource(fromAsyncIterable(broken())).executeAndCollect(), /upstream service is gone/)
  })

  test('is closed when the job ends early, and read by no second one', async () => {
    const closed = Promise.withResolvers<void>()
    async function* numbers() {
      try {
        for (let i = 0; ; i++) yield i
      } finally {
        closed.resolve()
      }
    }
    const source = fromAsyncIterable(numbers(), { capacity: 10 })
    const read = () => StreamExecutionEnvironment.createEnvironment().fromSource(source).executeAndCollect(3)
    assert.deepEqual(await read(), [0, 1, 2])
    await closed.promise
    await assert.rejects(read(), { code: 'ITERABLE_CLOSED' })
  })

  test('is closed when the job fails while nothing comes', async () => {
    let returned = 0
    const silent = {
      [Symbol.asyncIterator]: () => ({
        next: () => new Promise<IteratorResult<number>>(() => {}),
        return: async () => ({ done: true as const, value: returned++ }),
      }),
    }
    const env = StreamExecutionEnvironment.createEnvironment()
    env.fromSource(fromAsyncIterable<number>(silent)).addSink(() => {})
    env
      .fromElements(1)
      .map((): number => assert.fail('on purpose'))
      .addSink(() => {})
    await assert.rejects(env.execute(), /on purpose/)
    assert.equal(returned, 1)
  })

  test('promises of a synchronous iterable are waited for', async () => {
    const source = fromAsyncIterable([Promise.resolve(1), Promise.resolve(2)])
    const env = StreamExecutionEnvironment.createEnvironment()
    assert.deepEqual(await env.fromSource(source).executeAndCollect(), [1, 2])
  })
})
