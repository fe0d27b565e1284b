/**
 * Chains and output routers with as little room as there can be: order, bounded memory, watermarks behind
 * the rows before them, resuming in mid-batch, processing-time calls, and copies of what had to wait. Longer than other
 * files: all of it shares one rig of channels and operators.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { AsyncOperator, Operator, Output } from '../contract/operator.ts'
import { BATCH_ROWS_MAX, type Batch, sliceBatch } from '../core/batch.ts'
import { fieldKeyExtractor, keyGroupOf, subtaskOfKeyGroup } from '../core/keys.ts'
import { BatchBuilder, batchOfRows } from '../core/rows.ts'
import { schema, t } from '../core/schema.ts'
import { SeededRandom } from '../testing/sim/seeded-random.ts'
import { Chain } from './chain.ts'
import type { Message } from './channel.ts'
import { LocalChannel } from './channel.ts'
import { type EdgeOutputOptions, OutputRouter } from './output-router.ts'

const ROW = schema({ n: t.float64() })
const batchOf = (numbers: readonly number[]): Batch =>
  batchOfRows(
    ROW,
    numbers.map((n) => ({ n })),
  )
const numbersOf = (batch: Batch): number[] => [
  ...(batch.columns[0] as { values: Float64Array }).values.subarray(0, batch.length),
]

const nothing = (): void => {}

function edge(channels: readonly LocalChannel[], change: Partial<EdgeOutputOptions> = {}): EdgeOutputOptions {
  return {
    partitioning: 'forward',
    keys: null,
    sideTag: null,
    writers: channels,
    keyGroups: 128,
    subtask: 0,
    ...change,
  }
}

/** A chain into one channel of capacity 1. */
function rig(operators: readonly Operator[]) {
  const channel = new LocalChannel(1, nothing, nothing)
  const router = new OutputRouter([edge([channel])])
  const chain = new Chain(
    operators.map((operator) => ({ operator, keys: null })),
    router,
  )
  return { chain, router, channel }
}

/** Takes what is there; rows as numbers, the rest as text. */
function take(channel: LocalChannel, into: unknown[]): boolean {
  const message = channel.peek()
  if (message === null) return false
  into.push(...shown(message))
  channel.pop()
  return true
}

function shown(message: Message): unknown[] {
  if (message.kind === 'batch') return numbersOf(message.batch)
  return [message.kind === 'watermark' ? `watermark ${message.value}` : message.kind]
}

/** Runs until drained, taking one message at a time. */
function drain(chain: Chain, channel: LocalChannel, into: unknown[], nowMs = 0): void {
  for (let rounds = 0; ; rounds++) {
    const progress = chain.advance(nowMs)
    const took = take(channel, into)
    if (progress === 'drained' && !took) return
    assert.ok(progress !== 'blocked' || took, 'a blocked chain waits for room that will come')
    assert.ok(rounds < 1_000_000)
  }
}

/** Each row n becomes `count` rows, in mid-row resumable, in small batches. */
class FanOut implements Operator {
  emitted = 0
  private readonly count: number
  private readonly rowsPerBatch: number
  private done = 0

  constructor(count: number, rowsPerBatch = 64) {
    this.count = count
    this.rowsPerBatch = rowsPerBatch
  }
  open(): void {}
  process(batch: Batch, from: number, output: Output): number {
    const values = numbersOf(batch)
    for (let row = from; row < batch.length; row++) {
      while (this.done < this.count) {
        if (output.blocked) return row
        const builder = new BatchBuilder(ROW)
        for (let k = 0; k < this.rowsPerBatch && this.done < this.count; k++) {
          builder.append({ n: values[row]! * this.count + this.done++ }, 0)
        }
        this.emitted += builder.length
        output.emit(builder.build())
      }
      this.done = 0
    }
    return batch.length
  }
  advanceWatermark(): boolean {
    return true
  }
}

/** Passes on `rowsPerCall` rows a call; records what it sees. */
class Slow implements Operator {
  readonly seen: unknown[] = []
  private readonly rowsPerCall: number

  constructor(rowsPerCall: number) {
    this.rowsPerCall = rowsPerCall
  }
  open(): void {}
  process(batch: Batch, from: number, output: Output): number {
    const to = Math.min(batch.length, from + this.rowsPerCall)
    if (output.blocked) return from
    this.seen.push(...numbersOf(batch).slice(from, to))
    output.emit(sliceBatch(batch, from, to))
    return to
  }
  advanceWatermark(watermark: number, output: Output): boolean {
    if (output.blocked) return false
    this.seen.push(`watermark ${watermark}`)
    return true
  }
}

describe('a chain', () => {
  test('fans one row out to a million in bounded memory, in order', () => {
    const inner = new FanOut(1_000, 500)
    const outer = new FanOut(1_000, 500)
    const { chain, channel } = rig([outer, inner])
    chain.push(batchOf([0]), 0)
    let next = 0
    let innerMax = 0
    let outerMax = 0
    for (;;) {
      const progress = chain.advance(0)
      innerMax = Math.max(innerMax, inner.emitted - next)
      outerMax = Math.max(outerMax, outer.emitted - Math.floor(next / 1_000))
      const message = channel.peek()
      if (message?.kind === 'batch') {
        for (const n of numbersOf(message.batch)) if (n !== next++) assert.fail(`${n} at ${next - 1}`)
        channel.pop()
      } else if (progress === 'drained') break
    }
    assert.equal(next, 1_000_000)
    assert.ok(innerMax <= BATCH_ROWS_MAX, `${innerMax} rows waited at the end of the chain`)
    assert.ok(outerMax <= BATCH_ROWS_MAX, `${outerMax} rows waited between the operators`)
  })

  test('keeps order with operators that take some rows a call, for any batches and watermarks', () => {
    const input = fc.array(fc.oneof(fc.array(fc.nat(1_000), { maxLength: 30 }), fc.constant('watermark' as const)), {
      maxLength: 20,
    })
    fc.assert(
      fc.property(input, fc.array(fc.integer({ min: 1, max: 7 }), { maxLength: 4 }), (steps, speeds) => {
        const operators = speeds.map((speed) => new Slow(speed))
        const { chain, channel } = rig(operators)
        const out: unknown[] = []
        const expected: unknown[] = []
        let watermark = 0
        for (const step of steps) {
          if (step === 'watermark') {
            chain.pushWatermark(++watermark)
            expected.push(`watermark ${watermark}`)
          } else {
            const batch = batchOf(step)
            chain.push(batch, 0)
            expected.push(...step)
            drain(chain, channel, out)
            numbersOf(batch)
            ;(batch.columns[0] as { values: Float64Array }).values.fill(-1)
          }
          drain(chain, channel, out)
        }
        assert.deepEqual(out, expected)
        for (const operator of operators) assert.deepEqual(operator.seen, expected, 'each link saw the same order')
      }),
    )
  })

  test('a watermark passes a link only after the rows that an earlier link emitted for it', () => {
    const flushing: Operator = {
      open: nothing,
      process: (batch) => batch.length,
      advanceWatermark(watermark, output) {
        output.emit(batchOf([watermark, watermark + 0.5]))
        return true
      },
    }
    const last = new Slow(1)
    const { chain, channel } = rig([flushing, last])
    const out: unknown[] = []
    for (const watermark of [1, 2]) {
      chain.pushWatermark(watermark)
      drain(chain, channel, out)
    }
    assert.deepEqual(out, [1, 1.5, 'watermark 1', 2, 2.5, 'watermark 2'])
    assert.deepEqual(last.seen, out)
  })

  test('a watermark is repeated until the operator is done with it, before anything else', () => {
    const calls: number[] = []
    let left = 3
    const incremental: Operator = {
      open: nothing,
      process: (batch) => batch.length,
      advanceWatermark(watermark, output) {
        calls.push(watermark)
        output.emit(batchOf([left]))
        return --left === 0
      },
    }
    const { chain, channel } = rig([incremental])
    const out: unknown[] = []
    chain.pushWatermark(5)
    drain(chain, channel, out)
    assert.deepEqual(calls, [5, 5, 5])
    assert.deepEqual(out, [3, 2, 1, 'watermark 5'])
  })

  test('answers that come while an operator behind fires wait until it has: rows follow their watermark', () => {
    const calls: unknown[] = []
    let left = 3
    const firing: Operator = {
      open: nothing,
      process(batch, _from, output) {
        calls.push(...numbersOf(batch))
        output.emit(batch)
        return batch.length
      },
      advanceWatermark(watermark) {
        calls.push(`watermark ${watermark}`)
        return --left === 0
      },
      onProcessingTime() {
        calls.push('time')
        return --left === 0
      },
    }
    let own = Number.NEGATIVE_INFINITY
    let answer = 0
    const asking: AsyncOperator = {
      open: nothing,
      isFull: false,
      isPending: false,
      process: (batch) => batch.length,
      advanceWatermark: () => true,
      currentWatermark: () => own,
      resume(output) {
        output.emit(batchOf([++answer]))
        return true
      },
    }
    const { chain, channel } = rig([asking, firing])
    const out: unknown[] = []
    const turn = () => {
      chain.wake(0)
      chain.advance(100)
      while (take(channel, out));
    }
    own = 5
    chain.wake(0)
    turn()
    turn()
    assert.deepEqual(calls, [1, 'watermark 5', 'watermark 5'], 'the rows before the watermark, and nothing in between')
    drain(chain, channel, out)
    assert.deepEqual(calls, [1, 'watermark 5', 'watermark 5', 'watermark 5', 2])
    assert.deepEqual(out, [1, 'watermark 5', 2])
    left = 2
    chain.schedule(1, 50)
    turn()
    turn()
    drain(chain, channel, out, 100)
    assert.deepEqual(calls.slice(5), [3, 'time', 'time', 4], 'nor while timers of the clock ring')
  })

  test('an operator with watermarks of its own ends those from upstream, except the last, which comes once', () => {
    let own = Number.NEGATIVE_INFINITY
    const marking: Operator & { currentWatermark(): number } = {
      open: nothing,
      process(batch, from, output) {
        if (output.blocked) return from
        own = Math.max(own, ...numbersOf(batch))
        output.emit(sliceBatch(batch, from, batch.length))
        return batch.length
      },
      advanceWatermark(watermark) {
        if (watermark === Number.POSITIVE_INFINITY) own = watermark
        return true
      },
      currentWatermark: () => own,
    }
    const last = new Slow(5)
    const { chain, channel } = rig([new Slow(2), marking, last])
    const out: unknown[] = []
    chain.pushWatermark(1_000)
    drain(chain, channel, out)
    assert.deepEqual(out, [])
    chain.push(batchOf([3, 4]), 0)
    drain(chain, channel, out)
    chain.pushWatermark(Number.POSITIVE_INFINITY)
    drain(chain, channel, out)
    // As an operator whose generator moves with the clock.
    own = 7
    drain(chain, channel, out)
    assert.deepEqual(out, [3, 4, 'watermark 4', 'watermark Infinity'])
    assert.deepEqual(last.seen, out)
  })

  test('processing-time calls come when their millisecond has passed, once, and may take several turns', () => {
    const calls: number[] = []
    let left = 2
    const timed: Operator = {
      open: nothing,
      process: (batch) => batch.length,
      advanceWatermark: () => true,
      onProcessingTime(passedMs, output) {
        calls.push(passedMs)
        output.emit(batchOf([passedMs]))
        return --left === 0
      },
    }
    const { chain, channel } = rig([new Slow(1), timed, new Slow(1)])
    chain.schedule(1, 50)
    chain.schedule(1, 30)
    assert.equal(chain.dueAtMs, 30)
    const out: unknown[] = []
    // A row that still comes at 30 belongs before the call.
    drain(chain, channel, out, 30)
    assert.deepEqual(calls, [])
    drain(chain, channel, out, 31)
    drain(chain, channel, out, 60)
    assert.deepEqual(calls, [30, 30])
    assert.deepEqual(out, [30, 30])
    assert.equal(chain.dueAtMs, Number.POSITIVE_INFINITY)
  })

  test('a side output of an earlier link is not mistaken for that of the last', () => {
    const late = (n: number): Operator => ({
      open: nothing,
      process(batch, from, output) {
        output.emitSide('late', batchOf([n]))
        output.emit(sliceBatch(batch, from, batch.length))
        return batch.length
      },
      advanceWatermark: () => true,
    })
    const main = new LocalChannel(9, nothing, nothing)
    const side = new LocalChannel(9, nothing, nothing)
    const router = new OutputRouter([edge([main]), edge([side], { sideTag: 'late' })])
    const chain = new Chain(
      [late(1), late(2)].map((operator) => ({ operator, keys: null })),
      router,
    )
    chain.push(batchOf([7]), 0)
    chain.advance(0)
    const out: unknown[] = []
    while (take(side, out));
    assert.deepEqual(out, [2])
    while (take(main, out));
    assert.deepEqual(out, [2, 7])
  })

  test('an operator that has done its share of work goes on at once, one that waits does not', () => {
    let calls = 0
    const operator = {
      isWaiting: false,
      open() {},
      process: (_batch: Batch, from: number) => (++calls < 3 ? from : from + 1),
      advanceWatermark: () => true,
    }
    const { chain } = rig([operator])
    chain.push(batchOf([7]), 0)
    assert.equal(chain.advance(0), 'yield')
    operator.isWaiting = true
    calls = 0
    assert.equal(chain.advance(0), 'blocked')
    assert.equal(chain.advance(0), 'blocked')
    assert.equal(chain.advance(0), 'drained')
  })

  test('what waits does not change when the operator before reuses its memory', () => {
    const reusing: Operator = {
      open() {},
      process(batch, _from, output) {
        const values = Float64Array.from(numbersOf(batch))
        output.emit({ ...batch, columns: [{ kind: 'float64', values, nulls: null }] })
        values.fill(-1)
        return batch.length
      },
      advanceWatermark: () => true,
    }
    const { chain, channel } = rig([reusing, new Slow(1), new Slow(3)])
    chain.push(batchOf([1, 2, 3, 4, 5]), 0)
    const out: unknown[] = []
    drain(chain, channel, out)
    assert.deepEqual(out, [1, 2, 3, 4, 5])
  })
})

describe('an operator that reads its store', () => {
  /** Counts a read a row while its keys are cold, and notes how many rows each call gives it. */
  function reading() {
    const counters = { lateDropped: 0, filtered: 0, coldReads: 0 }
    const calls: number[] = []
    const seen: number[] = []
    const state = { isCold: true }
    const operator: Operator = {
      open() {},
      process(batch, from, output) {
        if (output.blocked) return from
        const rows = numbersOf(batch).slice(from)
        calls.push(rows.length)
        seen.push(...rows)
        if (state.isCold) counters.coldReads += rows.length
        output.emit(sliceBatch(batch, from, batch.length))
        return batch.length
      },
      advanceWatermark: () => true,
    }
    const router = new OutputRouter([edge([new LocalChannel(1_000, nothing, nothing)])])
    return { chain: new Chain([{ operator, keys: null, counters }], router), calls, seen, state }
  }

  test('gets as many rows a call as mean a bounded number of reads, and others run between its calls', () => {
    const { chain, calls, seen, state } = reading()
    const rows = Array.from({ length: 2_000 }, (_, i) => i)
    const pushed = (): number => {
      chain.push(batchOf(rows), 0)
      let turns = 1
      while (chain.advance(0) === 'yield') turns++
      return turns
    }
    pushed()
    assert.deepEqual(calls.splice(0), [2_000], 'what the first one means nobody knows before')
    assert.ok(pushed() >= 7, 'each piece leaves room for a turn of others')
    const cold = calls.splice(0)
    assert.ok(cold.length >= 8 && Math.max(...cold) <= 256, `${cold}`)
    state.isCold = false
    pushed()
    assert.ok(calls.length <= 4, `${calls} when nothing has to be read`)
    assert.deepEqual(seen, [...rows, ...rows, ...rows])
  })
})

describe('an output router', () => {
  test('keeps order through its overflow and copies what waits', () => {
    const channel = new LocalChannel(1, nothing, nothing)
    const router = new OutputRouter([edge([channel])])
    const scratch = Float64Array.of(0, 0)
    const scribbled: Batch = { ...batchOf([0, 0]), columns: [{ kind: 'float64', values: scratch, nulls: null }] }
    for (let i = 0; i < 5; i++) {
      scratch.set([i, i + 0.5])
      router.emit(scribbled)
      router.control({ kind: 'watermark', value: i })
    }
    scratch.fill(-1)
    assert.ok(router.blocked)
    const out: unknown[] = []
    for (let rounds = 0; rounds < 50; rounds++) {
      take(channel, out)
      router.flush()
    }
    assert.ok(!router.blocked)
    const expected = [0, 1, 2, 3, 4].flatMap((i) => [i, i + 0.5, `watermark ${i}`])
    assert.deepEqual(out, expected)
    assert.equal(router.recordsOut, 10)
  })

  test('sends each key to the owner of its group, once, in order', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 5 }),
        fc.array(fc.array(fc.nat(50), { maxLength: 20 })),
        (targets, batches) => {
          const channels = Array.from({ length: targets }, () => new LocalChannel(1, nothing, nothing))
          const keys = fieldKeyExtractor(ROW, 0)
          const router = new OutputRouter([edge(channels, { partitioning: 'hash', keys })])
          const out: unknown[][] = channels.map(() => [])
          for (const numbers of batches) {
            router.emit(batchOf(numbers))
            for (const [c, channel] of channels.entries()) take(channel, out[c]!)
            router.flush()
          }
          for (let i = 0; i < 200; i++) {
            for (const [c, channel] of channels.entries()) take(channel, out[c]!)
            router.flush()
          }
          const expected: unknown[][] = channels.map(() => [])
          for (const n of batches.flat()) {
            const { hashes } = fieldKeyExtractor(ROW, 0)(batchOf([n]))
            expected[subtaskOfKeyGroup(keyGroupOf(hashes[0]!, 128), targets, 128)]!.push(n)
          }
          assert.deepEqual(out, expected)
        },
      ),
      { numRuns: 60 },
    )
  })

  test('deals rows out evenly, at random, or as a partitioner says; each once, in order, to one target', () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 12 })
    const kinds = fc.constantFrom('rebalance' as const, 'rescale' as const, 'shuffle' as const, 'custom' as const)
    fc.assert(
      fc.property(
        sizes,
        fc.integer({ min: 1, max: 5 }),
        kinds,
        fc.integer(),
        (lengths, targets, partitioning, seed) => {
          const random = new SeededRandom(seed)
          const channels = Array.from({ length: targets }, () => new LocalChannel(99, nothing, nothing))
          const custom = (batch: Batch, count: number) => numbersOf(batch).map((n) => (n * 7) % count)
          const router = new OutputRouter([
            edge(channels, { partitioning, subtask: 1, random: () => random.next(), targets: custom }),
          ])
          let next = 0
          for (const length of lengths) router.emit(batchOf(Array.from({ length }, () => next++)))
          const out = channels.map((channel) => {
            const rows: unknown[] = []
            while (take(channel, rows));
            return rows as number[]
          })
          assert.deepEqual(
            out.flat().sort((a, b) => a - b),
            Array.from({ length: next }, (_, n) => n),
          )
          for (const [target, rows] of out.entries()) {
            assert.deepEqual(
              rows,
              [...rows].sort((a, b) => a - b),
              'order of a target is the order of the stream',
            )
            if (partitioning === 'custom') assert.ok(rows.every((n) => (n * 7) % targets === target))
          }
          const counts = out.map((rows) => rows.length)
          if (partitioning !== 'rebalance' && partitioning !== 'rescale') return
          assert.ok(Math.max(...counts) - Math.min(...counts) <= 1, 'even, whatever the sizes of batches')
        },
      ),
      { numRuns: 100 },
    )
  })

  test('shuffles uniformly', () => {
    const random = new SeededRandom(7)
    const channels = [0, 1, 2, 3].map(() => new LocalChannel(99, nothing, nothing))
    const router = new OutputRouter([edge(channels, { partitioning: 'shuffle', random: () => random.next() })])
    for (let i = 0; i < 10; i++) router.emit(batchOf(Array.from({ length: 400 }, (_, n) => n)))
    for (const channel of channels) {
      const rows: unknown[] = []
      while (take(channel, rows));
      // 1,000 expected, standard deviation 27.
      assert.ok(Math.abs(rows.length - 1_000) < 140, `${rows.length} of 4,000`)
    }
  })

  test('refuses a partition that does not exist', () => {
    for (const target of [-1, 2, 0.5, Number.NaN]) {
      const channels = [0, 1].map(() => new LocalChannel(9, nothing, nothing))
      const router = new OutputRouter([edge(channels, { partitioning: 'custom', targets: () => [target] })])
      assert.throws(() => router.emit(batchOf([1])), { code: 'PARTITION_INVALID' })
    }
  })

  test('broadcasts to all, rebalances in turn, sends global rows to the first; control goes everywhere', () => {
    const sent = (partitioning: 'broadcast' | 'rebalance' | 'global', subtask = 0) => {
      const channels = [0, 1, 2].map(() => new LocalChannel(9, nothing, nothing))
      const router = new OutputRouter([edge(channels, { partitioning, subtask })])
      for (const n of [1, 2, 3, 4]) router.emit(batchOf([n]))
      router.control({ kind: 'barrier', attempt: 1 })
      return channels.map((channel) => {
        const out: unknown[] = []
        while (take(channel, out));
        return out
      })
    }
    const all = [1, 2, 3, 4, 'barrier']
    assert.deepEqual(sent('broadcast'), [all, all, all])
    assert.deepEqual(sent('rebalance', 1), [
      [3, 'barrier'],
      [1, 4, 'barrier'],
      [2, 'barrier'],
    ])
    assert.deepEqual(sent('global', 2), [all, ['barrier'], ['barrier']])
  })
})
