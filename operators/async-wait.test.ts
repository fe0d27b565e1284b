/**
 * Asynchronous requests under a clock moved by hand: order, watermarks, capacity, time-outs, retries, and rows
 * that were under way at a snapshot. A little longer than other files: all of it shares one rig and its clock.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { AsyncFunction, AsyncRetryStrategy } from '../engine/contract/functions.ts'
import type { AsyncOperator } from '../engine/contract/operator.ts'
import { AccumulatorRegistry } from '../engine/core/accumulators.ts'
import type { Io } from '../engine/core/io.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { batchOfRows } from '../engine/core/rows.ts'
import { OPAQUE_SCHEMA } from '../engine/core/schema.ts'
import { WATERMARK_MAX } from '../engine/core/time.ts'
import { MetricRegistry } from '../engine/core/user-metrics.ts'
import { objectCodec } from '../state/value-codec.ts'
import { OrderedQueue, type RequestQueue, UnorderedQueue } from './async-queue.ts'
import { type AsyncWaitOptions, asyncWaitOperator } from './async-wait.ts'
import { CollectingOutput, testWorker } from './operator.testkit.ts'

/** Resolves when no promise reaction is left. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** Time and timers by hand. */
class HandClock {
  nowMs = 0
  private timers: { atMs: number; task: () => void }[] = []

  readonly schedule = (delayMs: number, task: () => void): (() => void) => {
    const timer = { atMs: this.nowMs + delayMs, task }
    this.timers.push(timer)
    return () => {
      this.timers = this.timers.filter((other) => other !== timer)
    }
  }

  /** Fires what is due up to `nowMs` in order, promise reactions after each. */
  async moveTo(nowMs: number): Promise<void> {
    await settled()
    for (;;) {
      const next = this.timers.filter(({ atMs }) => atMs <= nowMs).sort((a, b) => a.atMs - b.atMs)[0]
      if (next === undefined) break
      this.nowMs = Math.max(this.nowMs, next.atMs)
      this.timers = this.timers.filter((other) => other !== next)
      next.task()
      await settled()
    }
    this.nowMs = nowMs
    await settled()
  }

  get pending(): number {
    return this.timers.length
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.schedule(ms, resolve)
    })
  }
}

/** One subtask, driven as a chain does. */
class AsyncRig {
  readonly clock: HandClock
  readonly output = new CollectingOutput(false)
  readonly operator: AsyncOperator
  isWoken = false
  /** Rows and watermarks in the order in which they leave. */
  readonly log: (number | string)[] = []
  private watermark = Number.NEGATIVE_INFINITY

  constructor(
    fn: AsyncFunction<number, number>,
    options: Partial<AsyncWaitOptions> = {},
    from: { clock?: HandClock; restored?: JsonValue[]; subtask?: number; parallelism?: number } = {},
  ) {
    this.clock = from.clock ?? new HandClock()
    const { clock } = this
    const worker = {
      ...testWorker(),
      io: { clock: { nowMs: () => clock.nowMs, monotonicMs: () => clock.nowMs }, timers: clock } as unknown as Io,
    }
    this.operator = asyncWaitOperator(() => fn, {
      isOrdered: true,
      capacity: 100,
      timeoutMs: 0,
      retry: null,
      codec: objectCodec(),
      ...options,
    })
    this.operator.open({
      name: 'lookup',
      uid: 'lookup',
      subtask: from.subtask ?? 0,
      parallelism: from.parallelism ?? 1,
      worker,
      attempt: 0,
      counters: { lateDropped: 0, filtered: 0, coldReads: 0 },
      metrics: new MetricRegistry(() => clock.nowMs),
      accumulators: new AccumulatorRegistry(),
      get keyed(): never {
        throw new Error('not keyed')
      },
      restored: from.restored ?? [],
      scheduleProcessingTime() {},
      wake: () => {
        this.isWoken = true
      },
    })
  }

  push(rows: readonly number[]): void {
    const batch = batchOfRows(OPAQUE_SCHEMA, rows, rows)
    assert.equal(this.operator.process(batch, 0, this.output, 0), batch.length, 'a batch is taken whole')
    this.turn()
  }

  advance(watermark: number): void {
    assert.ok(this.operator.advanceWatermark(watermark, this.output))
    this.turn()
  }

  /** What the engine does on a turn. */
  turn(): void {
    for (let i = 0; this.isWoken; i++) {
      assert.ok(i < 1_000)
      this.isWoken = false
      if (!this.operator.resume(this.output)) this.isWoken = true
      this.note()
    }
    this.note()
  }

  private note(): void {
    for (const { row, time } of this.output.main.splice(0)) {
      assert.equal(Math.floor(row as number), time, 'results have the time of their row')
      this.log.push(row as number)
    }
    const watermark = this.operator.currentWatermark()
    assert.ok(watermark >= this.watermark)
    if (watermark > this.watermark) this.log.push(`watermark ${watermark}`)
    this.watermark = watermark
  }

  async moveTo(nowMs: number): Promise<void> {
    await this.clock.moveTo(nowMs)
    this.turn()
  }

  get rows(): number[] {
    return this.log.filter((entry) => typeof entry === 'number')
  }
}

const FOREVER = 1e9
/** Answers row n with n after `latencyOf(n)` ms. */
const after = (clock: HandClock, latencyOf: (n: number) => number): AsyncFunction<number, number> => ({
  asyncInvoke: async (n) => {
    await clock.sleep(latencyOf(n))
    return [n]
  },
})

describe('async requests', () => {
  const steps = fc.array(
    fc.oneof(
      { weight: 4, arbitrary: fc.record({ do: fc.constant('rows' as const), count: fc.integer({ min: 1, max: 8 }) }) },
      { weight: 2, arbitrary: fc.record({ do: fc.constant('watermark' as const), count: fc.constant(0) }) },
      { weight: 3, arbitrary: fc.record({ do: fc.constant('time' as const), count: fc.integer({ min: 1, max: 30 }) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('restore' as const), count: fc.constant(0) }) },
    ),
    { minLength: 1, maxLength: 25 },
  )

  test('lose and double nothing, keep order, and hold watermarks back, also over restores', async () => {
    await fc.assert(
      fc.asyncProperty(
        steps,
        fc.boolean(),
        fc.integer({ min: 1, max: 6 }),
        fc.integer({ min: 0, max: 99 }),
        async (given, isOrdered, capacity, salt) => {
          const clock = new HandClock()
          let underWay = 0
          const fn: AsyncFunction<number, number> = {
            async asyncInvoke(n) {
              underWay++
              assert.ok(underWay <= capacity, 'no more at once than the capacity')
              await clock.sleep((n * 37 + salt) % 40)
              underWay--
              return n % 5 === 0 ? [] : n % 7 === 0 ? [n, n + 0.5] : [n]
            },
          }
          const expectedOf = (n: number): number[] => (n % 5 === 0 ? [] : n % 7 === 0 ? [n, n + 0.5] : [n])
          let rig = new AsyncRig(fn, { isOrdered, capacity }, { clock })
          const log: (number | string)[] = []
          /** What went in: rows and watermarks in order. */
          const input: (number | string)[] = []
          let next = 1
          for (const step of given) {
            if (step.do === 'rows') {
              const rows = Array.from({ length: step.count }, () => next++)
              input.push(...rows)
              rig.push(rows)
            } else if (step.do === 'watermark') {
              input.push(`watermark ${next - 1}`)
              rig.advance(next - 1)
            } else if (step.do === 'time') await rig.moveTo(clock.nowMs + step.count)
            else {
              const snapshot = JSON.parse(JSON.stringify(rig.operator.snapshot!({ checkpointId: 1 }))) as JsonValue
              log.push(...rig.log)
              rig.operator.close?.()
              underWay = 0
              // Old requests go on in the background; their answers must mean nothing.
              rig = new AsyncRig(
                {
                  asyncInvoke: async (n) => {
                    await clock.sleep((n * 37 + salt) % 40)
                    return expectedOf(n)
                  },
                },
                { isOrdered, capacity },
                { clock, restored: [snapshot] },
              )
              // The source sends its watermark again.
              rig.advance(next - 1)
            }
          }
          rig.advance(WATERMARK_MAX)
          for (let i = 0; rig.operator.isPending; i++) {
            assert.ok(i < 1_000, 'ends')
            await rig.moveTo(clock.nowMs + 40)
          }
          log.push(...rig.log)
          const rows = log.filter((entry) => typeof entry === 'number')
          const expected = input.filter((entry) => typeof entry === 'number').flatMap(expectedOf)
          assert.deepEqual(
            [...rows].sort((a, b) => a - b),
            expected,
            'each result once',
          )
          if (isOrdered) assert.deepEqual(rows, expected)
          // Before a watermark w all rows up to w have left.
          const seen = new Set<number>()
          for (const entry of log) {
            if (typeof entry === 'number') seen.add(entry)
            else {
              const upTo = Math.min(next - 1, Number(entry.slice('watermark '.length)))
              for (const n of expected) if (Math.floor(n) <= upTo) assert.ok(seen.has(n), `${n} before ${entry}`)
            }
          }
          assert.equal(log.at(-1), 'watermark Infinity')
        },
      ),
      { numRuns: 60 },
    )
  })

  test('unordered results overtake each other, but no watermark', async () => {
    const clock = new HandClock()
    const rig = new AsyncRig(
      after(clock, (n) => 100 - n * 10),
      { isOrdered: false },
      { clock },
    )
    rig.push([1, 2, 3])
    rig.advance(3)
    rig.push([5, 4])
    await rig.moveTo(200)
    assert.deepEqual(rig.log, [3, 2, 1, 'watermark 3', 5, 4])
  })

  test('with the capacity used up no more input is wanted, and the rest of a batch waits', async () => {
    const clock = new HandClock()
    const called: number[] = []
    const fn = {
      asyncInvoke: (n: number) => {
        called.push(n)
        return clock.sleep(10).then(() => [n])
      },
    }
    const rig = new AsyncRig(fn, { capacity: 2 }, { clock })
    rig.push([1, 2, 3, 4, 5])
    assert.deepEqual([called, rig.operator.isFull], [[1, 2], true])
    const { requests } = rig.operator.snapshot!({ checkpointId: 1 }) as { requests: unknown[] }
    assert.equal(requests.length, 5, 'those that wait are in the snapshot too')
    await rig.moveTo(10)
    assert.deepEqual(
      [called, rig.rows],
      [
        [1, 2, 3, 4],
        [1, 2],
      ],
    )
    await rig.moveTo(20)
    assert.equal(rig.operator.isFull, false, 'one under way leaves room')
    await rig.moveTo(30)
    assert.deepEqual([rig.rows, rig.operator.isPending], [[1, 2, 3, 4, 5], false])
  })

  test('rows of a snapshot are dealt out at another parallelism, each to one subtask', async () => {
    const clock = new HandClock()
    const old = [0, 1].map(
      (subtask) =>
        new AsyncRig(
          after(clock, () => FOREVER),
          {},
          { clock, subtask, parallelism: 2 },
        ),
    )
    old[0].push([1, 2, 3])
    old[1].push([4, 5])
    const restored = old.map(({ operator }) => operator.snapshot!({ checkpointId: 1 }))
    for (const parallelism of [1, 2, 3]) {
      const rigs = Array.from(
        { length: parallelism },
        (_, subtask) =>
          new AsyncRig(
            after(clock, () => 1),
            {},
            { clock, restored, subtask, parallelism },
          ),
      )
      await clock.moveTo(clock.nowMs + 5)
      for (const rig of rigs) rig.turn()
      assert.deepEqual(rigs.flatMap((rig) => rig.rows).sort(), [1, 2, 3, 4, 5])
      if (parallelism === 2) assert.deepEqual(rigs[1].rows, [4, 5])
    }
  })
})

describe('time-outs', () => {
  test('fail the job, or emit what the time-out handler says; late answers mean nothing', async () => {
    const clock = new HandClock()
    const slow = new AsyncRig(
      after(clock, () => 50),
      { timeoutMs: 20 },
      { clock },
    )
    slow.push([1])
    await clock.moveTo(20)
    assert.throws(() => slow.turn(), { code: 'ASYNC_TIMEOUT' })

    let aborted = 0
    const handled = new AsyncRig(
      {
        asyncInvoke: async (n, { signal }) => {
          signal.addEventListener('abort', () => aborted++)
          await clock.sleep(n === 1 ? 50 : 5)
          return [n]
        },
        timeout: async (n) => [n + 0.25],
      },
      { timeoutMs: 20 },
      { clock },
    )
    handled.push([1, 2])
    await handled.moveTo(clock.nowMs + 20)
    await settled()
    handled.turn()
    assert.deepEqual([handled.rows, aborted], [[1.25, 2], 1])
    await handled.moveTo(clock.nowMs + 100)
    assert.deepEqual(handled.rows, [1.25, 2])
    handled.operator.close?.()
    assert.equal(clock.pending, 0)
  })

  test('are not decided before answers that came while a long turn kept the event loop busy', async () => {
    const clock = new HandClock()
    const rig = new AsyncRig(
      after(clock, () => 30),
      { timeoutMs: 20 },
      { clock },
    )
    rig.push([1, 2, 3])
    // The loop stood still for 60 ms: the timer of the time-out fires first, then the answers come, then the turn.
    await clock.moveTo(60)
    rig.turn()
    assert.deepEqual(rig.rows, [1, 2, 3])
  })

  test('cover retries', async () => {
    const clock = new HandClock()
    const retry = retries({ maxAttempts: 100, backoff: () => 10 })
    const rig = new AsyncRig(
      { asyncInvoke: () => Promise.reject(new Error('busy')) },
      { timeoutMs: 35, retry },
      { clock },
    )
    rig.push([1])
    await rig.moveTo(30)
    await clock.moveTo(36)
    assert.throws(() => rig.turn(), { code: 'ASYNC_TIMEOUT' })
  })
})

function retries(given: {
  maxAttempts: number
  backoff?: (attempt: number) => number
  ifResult?: (results: readonly unknown[]) => boolean
}): AsyncRetryStrategy {
  return {
    maxAttempts: given.maxAttempts,
    backoffMs: given.backoff ?? (() => 5),
    shouldRetryResult: given.ifResult ?? (() => false),
    shouldRetryException: (error) => (error as Error).message === 'busy',
  }
}

describe('retries', () => {
  test('come after their backoff, as often as allowed, for the errors and results that are meant', async () => {
    const clock = new HandClock()
    const calls: number[] = []
    const failing = (times: number, message: string): AsyncFunction<number, number> => ({
      async asyncInvoke(n, { attempt }) {
        calls.push(clock.nowMs)
        if (attempt <= times) throw new Error(message)
        return [n]
      },
    })
    const backoff = (attempt: number) => attempt * 10
    const good = new AsyncRig(failing(2, 'busy'), { retry: retries({ maxAttempts: 2, backoff }) }, { clock })
    good.push([1])
    await good.moveTo(100)
    assert.deepEqual([good.rows, calls], [[1], [0, 10, 30]])

    const often = new AsyncRig(failing(3, 'busy'), { retry: retries({ maxAttempts: 2 }) }, { clock })
    often.push([1])
    await clock.moveTo(200)
    assert.throws(() => often.turn(), { code: 'USER_FUNCTION_FAILED', message: /lookup.*busy/ })

    const other = new AsyncRig(failing(1, 'wrong'), { retry: retries({ maxAttempts: 2 }) }, { clock })
    other.push([1])
    await settled()
    assert.throws(() => other.turn(), /wrong/)

    const ifResult = (results: readonly unknown[]) => results.length === 0
    const empty = new AsyncRig(
      { asyncInvoke: async (n, { attempt }) => (attempt === 1 ? [] : [n]) },
      { retry: retries({ maxAttempts: 2, ifResult }) },
      { clock },
    )
    empty.push([1])
    await empty.moveTo(300)
    assert.deepEqual(empty.rows, [1])
  })
})

describe('the function', () => {
  test('is opened before its first call, and a rejected open fails the job', async () => {
    const clock = new HandClock()
    const order: string[] = []
    const rig = new AsyncRig(
      {
        async open() {
          await clock.sleep(10)
          order.push('open')
        },
        asyncInvoke: async (n) => {
          order.push('call')
          return [n]
        },
        close: () => void order.push('close'),
      },
      {},
      { clock },
    )
    rig.push([1])
    await rig.moveTo(20)
    rig.operator.close?.()
    assert.deepEqual([rig.rows, order], [[1], ['open', 'call', 'close']])
    const refused = new AsyncRig({ open: () => Promise.reject(new Error('no connection')), asyncInvoke: () => [] })
    await settled()
    assert.throws(() => refused.turn(), /no connection/)
  })

  test('may answer at once; what is no list of results is an error', async () => {
    const at = new AsyncRig({ asyncInvoke: (n) => [n] })
    at.push([1, 2])
    assert.deepEqual(at.rows, [1, 2])
    const text = new AsyncRig({ asyncInvoke: (() => Promise.resolve('abc')) as never })
    text.push([1])
    await settled()
    assert.throws(() => text.turn(), { code: 'ASYNC_RESULT_INVALID' })
  })
})

test('queues keep no more than their requests, whatever the watermarks', () => {
  for (const queue of [new OrderedQueue(), new UnorderedQueue()] as RequestQueue<{ isFinished: boolean }>[]) {
    const first = { isFinished: false }
    queue.add(first)
    for (let w = 0; w < 10_000; w++) queue.addWatermark(w)
    assert.equal(queue.watermark, Number.NEGATIVE_INFINITY)
    first.isFinished = true
    queue.finished(first)
    assert.equal(queue.take(), first)
    assert.equal(queue.take(), null)
    assert.ok(queue.passWatermark() && !queue.passWatermark())
    assert.deepEqual([queue.watermark, queue.isEmpty], [9_999, true])
    for (let i = 0; i < 5_000; i++) {
      const request = { isFinished: true }
      queue.add(request)
      queue.finished(request)
      assert.equal(queue.take(), request)
    }
    assert.deepEqual([...queue.requests()], [])
  }
})
