/**
 * Where rows of small jobs come from and go to: sequences, generators, and results as an iterator.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { sequenceSource } from '../../connectors/datagen/sequence-source.ts'
import { StreamExecutionEnvironment } from './index.ts'

const environment = (parallelism = 2) =>
  StreamExecutionEnvironment.createEnvironment().setParallelism(parallelism).setStateBackend('memory')
const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i)

describe('sequences and generators', () => {
  test('a sequence holds both ends, in order at one subtask, once each at several', async () => {
    assert.deepEqual(await environment(1).fromSequence(-3, 5_000).executeAndCollect(), range(-3, 5_000))
    const rows = await environment(3).fromSequence(1, 5_000).executeAndCollect()
    assert.deepEqual(
      rows.sort((a, b) => a - b),
      range(1, 5_000),
    )
    assert.deepEqual(await environment().fromSequence(4, 4).executeAndCollect(), [4])
    assert.deepEqual(await environment().fromSequence(4, 3).executeAndCollect(), [])
    assert.throws(() => environment().fromSequence(0, 0.5), { code: 'OPTION_INVALID' })
    assert.throws(() => environment().fromCollection(5 as never), { code: 'OPTION_INVALID' })
  })

  test('splits of a sequence cover it without gaps', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: -1e9, max: 1e9 }), fc.integer({ min: 0, max: 1e12 }), async (from, length) => {
        const splits = await sequenceSource(from, from + length - 1).splits({ worker: null as never })
        let next = from
        for (const { position } of splits) {
          const run = position as { next: number; end: number }
          assert.equal(run.next, next)
          assert.ok(run.end > run.next)
          next = run.end
        }
        assert.equal(next, from + length)
      }),
    )
  })

  test('a generator makes rows from their index, as many and as fast as it is told', async () => {
    const make = (index: number) => ({ n: index * 2 })
    const rows = await environment().fromDataGenerator(make, { count: 100, splits: 4 }).executeAndCollect()
    assert.deepEqual(
      rows.map((row) => row.n).sort((a, b) => a - b),
      range(0, 99).map((n) => n * 2),
    )
    const startedMs = performance.now()
    await environment().fromDataGenerator(make, { count: 50, ratePerSecond: 500 }).executeAndCollect()
    assert.ok(performance.now() - startedMs > 80)
  })
})

describe('collecting', () => {
  test('an iterator gives rows as they come, and holds the job back while nobody asks', async () => {
    let made = 0
    const iterator = environment(1)
      .fromDataGenerator((index) => {
        made++
        return index
      })
      .executeAndCollectAsync()
    const first: number[] = []
    for (let i = 0; i < 10; i++) first.push((await iterator.next()).value!)
    assert.deepEqual(first, range(0, 9))
    // The job has its turns on this thread too: once it uses none of many, it stands still.
    let before = -1
    for (let unused = 0; unused < 20; unused = made === before ? unused + 1 : 0) {
      before = made
      await new Promise((resolve) => setTimeout(resolve, 2))
      assert.ok(made < 60_000, `the unbounded source does not stand still, ${made} rows are on their way`)
    }
    for (let n = 10; n < 20_000; n++) assert.equal((await iterator.next()).value, n)
    assert.ok(made > before)
    await iterator.close()
    const after = made
    await new Promise((resolve) => setTimeout(resolve, 30))
    assert.equal(made, after, 'and has ended after close')
    assert.deepEqual(await iterator.next(), { done: true, value: undefined })
  })

  test('a loop over it ends with the input, or ends the job', async () => {
    const rows: number[] = []
    for await (const n of environment().fromSequence(1, 3_000).executeAndCollectAsync()) rows.push(n)
    assert.deepEqual(
      rows.sort((a, b) => a - b),
      range(1, 3_000),
    )
    for await (const n of environment(1)
      .fromDataGenerator((index) => index)
      .executeAndCollectAsync())
      if (n === 5) break
  })

  test('a limit ends an unbounded job; fewer rows are all there are', async () => {
    const endless = environment(1).fromDataGenerator((index) => index)
    assert.deepEqual(await endless.executeAndCollect(5), range(0, 4))
    assert.deepEqual(await environment(1).fromSequence(1, 3).executeAndCollect(9), [1, 2, 3])
    await assert.rejects(environment(1).fromSequence(1, 3).executeAndCollect(0), { code: 'LIMIT_INVALID' })
  })

  test('iterators over several streams of one job, beside its sinks', async () => {
    const env = environment(1)
    const numbers = env.fromSequence(1, 5_000)
    const printed: number[] = []
    const [even, odd] = [
      numbers.filter((n) => n % 2 === 0).collectAsync(),
      numbers.filter((n) => n % 2 === 1).collectAsync(),
    ]
    numbers.addSink((n) => {
      printed.push(n)
    })
    const result = env.execute('beside')
    const all = async (rows: AsyncIterable<number>) => {
      const read: number[] = []
      for await (const n of rows) read.push(n)
      return read
    }
    const [evens, odds] = await Promise.all([all(even), all(odd)])
    assert.deepEqual([evens.length, odds.length, evens[1], odds[1]], [2_500, 2_500, 4, 3])
    assert.equal((await result).state, 'finished')
    assert.deepEqual(printed, range(1, 5_000))
  })

  test('an iterator holds its job back, and cancels it when it is closed', async () => {
    const env = environment(1)
    const rows = env.fromDataGenerator((index) => index).collectAsync()
    const early = env.fromDataGenerator((index) => -index).collectAsync()
    await early.close()
    const job = await env.executeAsync('endless')
    assert.deepEqual((await rows.next()).value, 0)
    await rows.close()
    assert.equal((await job.done).state, 'cancelled')
    assert.equal((await rows.next()).done, true)
    const threads = environment(1)
    threads.fromElements(1).collectAsync()
    await assert.rejects(threads.execute('threads', { module: import.meta.url }), { code: 'COLLECT_ON_THREADS' })
  })

  test('a failure comes after the rows before it', async () => {
    const iterator = environment(1)
      .fromSequence(1, 10_000)
      .map((n) => {
        if (n === 5_000) throw new Error('planned')
        return n
      })
      .executeAndCollectAsync()
    let seen = 0
    await assert.rejects(
      async () => {
        for await (const n of iterator) seen = n
      },
      { code: 'USER_FUNCTION_FAILED' },
    )
    assert.ok(seen >= 2_048 && seen < 5_000)
    await iterator.close()
  })
})
