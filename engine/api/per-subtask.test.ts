/**
 * Whose function a subtask calls: shared, copied, or made for it. Jobs of three subtasks on the calling thread.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  AsyncDataStream,
  type DataStream,
  MapStateDescriptor,
  milliseconds,
  perSubtask,
  RichCoGroupFunction,
  RichFlatJoinFunction,
  RichJoinFunction,
  RichReduceFunction,
  type RuntimeContext,
  StreamExecutionEnvironment,
  seconds,
  TumblingEventTimeWindows,
  type ValueState,
  ValueStateDescriptor,
  WatermarkStrategy,
} from './index.ts'

const PARALLELISM = 3
const byItself = WatermarkStrategy.forMonotonousTimestamps<number>().withTimestampAssigner((n) => n)
const numbers = (): DataStream<number> =>
  StreamExecutionEnvironment.createEnvironment()
    .setParallelism(PARALLELISM)
    .setStateBackend('memory')
    .fromCollection(Array.from({ length: 60 }, (_, i) => i))
    .assignTimestampsAndWatermarks(byItself)
    .rebalance()

/** Counts a call and gives what it is given. */
type Called = <R>(result: R) => R
type Step = (stream: DataStream<number>, instance: () => Called) => { executeAndCollect(): Promise<unknown[]> }

/** Runs a step over functions of its making; returns how often each instance was called. */
async function callsOf(step: Step): Promise<number[]> {
  const calls: number[] = []
  const instance = (): Called => {
    const index = calls.push(0) - 1
    return (result) => {
      calls[index]!++
      return result
    }
  }
  await step(numbers(), instance).executeAndCollect()
  return calls.filter((n) => n > 0)
}

const identity = (n: number) => n
const windows = (stream: DataStream<number>) => stream.keyBy(identity).window(TumblingEventTimeWindows.of(seconds(10)))

/** Elements with the same number, in windows. */
const inWindow = <Joined>(pair: {
  where(selector: (n: number) => number): {
    equalTo(selector: (n: number) => number): { window(assigner: TumblingEventTimeWindows): Joined }
  }
}): Joined =>
  pair
    .where(identity)
    .equalTo(identity)
    .window(TumblingEventTimeWindows.of(seconds(10)))

/** Each step counts elements of its subtask alone: `create` runs once for each. */
const STEPS: Readonly<Record<string, Step>> = {
  map: (stream, instance) =>
    stream.map(
      perSubtask(() => {
        const called = instance()
        return (n: number) => called(n)
      }),
    ),
  'map with a life': (stream, instance) =>
    stream.map(
      perSubtask(() => {
        let called: Called
        return {
          open() {
            called = instance()
          },
          map: (n: number) => called(n),
        }
      }),
    ),
  flatMap: (stream, instance) =>
    stream.flatMap(
      perSubtask(() => {
        const called = instance()
        return (n: number) => called([n])
      }),
    ),
  filter: (stream, instance) =>
    stream.filter(
      perSubtask(() => {
        const called = instance()
        return () => called(true)
      }),
    ),
  process: (stream, instance) =>
    stream.process(
      perSubtask(() => {
        const called = instance()
        return { processElement: (n: number) => void called(n) }
      }),
    ),
  'key selector': (stream, instance) =>
    stream
      .map(identity)
      .keyBy(
        perSubtask(() => {
          const called = instance()
          return (n: number) => called(n)
        }),
      )
      .map(identity),
  reduce: (stream, instance) =>
    stream
      .keyBy((n) => n % 7)
      .reduce(
        perSubtask(() => {
          const called = instance()
          return (a: number, b: number) => called(a + b)
        }),
      ),
  'aggregate of windows': (stream, instance) =>
    windows(stream).aggregate(
      perSubtask(() => {
        const called = instance()
        return {
          createAccumulator: () => 0,
          add: (n: number, sum: number) => called(n + sum),
          getResult: identity,
          merge: (a: number, b: number) => a + b,
        }
      }),
    ),
  'apply of windows': (stream, instance) =>
    windows(stream).apply(
      perSubtask(() => {
        const called = instance()
        return () => void called(0)
      }),
    ),
  'async request': (stream, instance) =>
    AsyncDataStream.orderedWait(
      stream,
      perSubtask(() => {
        const called = instance()
        return async (n: number) => called([n])
      }),
      seconds(10),
    ),
  'window join': (stream, instance) =>
    inWindow(stream.join(stream)).apply(
      perSubtask(() => {
        const called = instance()
        return (a: number) => called(a)
      }),
    ),
  'window join of any number': (stream, instance) =>
    inWindow(stream.join(stream)).apply(
      perSubtask(() => {
        const called = instance()
        return { join: (a: number, _b: number, collect: (n: number) => void) => collect(called(a)) }
      }),
    ),
  coGroup: (stream, instance) =>
    inWindow(stream.coGroup(stream)).apply(
      perSubtask(() => {
        const called = instance()
        return (a: Iterable<number>, _b: Iterable<number>, collect: (n: number) => void) =>
          collect(called([...a].length))
      }),
    ),
  'coGroup with a life': (stream, instance) =>
    inWindow(stream.coGroup(stream)).apply(
      perSubtask(() => {
        let called: Called
        return {
          open() {
            called = instance()
          },
          coGroup: (a: Iterable<number>, _b: Iterable<number>, collect: (n: number) => void) =>
            collect(called([...a].length)),
        }
      }),
    ),
  'interval join': (stream, instance) =>
    stream
      .keyBy(identity)
      .intervalJoin(stream.keyBy(identity))
      .between(0, 0)
      .process(
        perSubtask(() => {
          const called = instance()
          return {
            processElement: (a: number, _b: number, _context, collect: (n: number) => void) => collect(called(a)),
          }
        }),
      ),
  'map of connected streams': (stream, instance) =>
    stream.connect(stream).map(
      perSubtask(() => {
        const called = instance()
        return { map1: (n: number) => called(n), map2: identity }
      }),
    ),
  'flatMap of connected streams': (stream, instance) =>
    stream.connect(stream).flatMap(
      perSubtask(() => {
        const called = instance()
        return { flatMap1: (n: number) => called([n]), flatMap2: () => [] }
      }),
    ),
  'process of connected streams': (stream, instance) =>
    stream.connect(stream).process(
      perSubtask(() => {
        const called = instance()
        return { processElement1: (n: number) => void called(n), processElement2() {} }
      }),
    ),
  'process beside broadcast': (stream, instance) =>
    stream.connect(stream.broadcast(new MapStateDescriptor<string, number>('seen'))).process(
      perSubtask(() => {
        const called = instance()
        return { processElement: (n: number) => void called(n), processBroadcastElement() {} }
      }),
    ),
  partitioner: (stream, instance) =>
    stream
      .map(identity)
      .partitionCustom(
        perSubtask(() => {
          const called = instance()
          return (key: number, partitions: number) => called(key % partitions)
        }),
        perSubtask(() => identity),
      )
      .map(identity),
}

describe('a function that is made for each subtask', () => {
  for (const [name, step] of Object.entries(STEPS)) {
    test(name, async () => {
      const calls = await callsOf(step)
      assert.equal(calls.length, PARALLELISM)
      assert.ok(calls.reduce((sum, n) => sum + n, 0) <= 60)
    })
  }

  test('is an error where none can be', () => {
    const misplaced = perSubtask(() => (n: number) => n)
    assert.throws(() => misplaced(1), { code: 'PER_SUBTASK_MISPLACED' })
  })
})

describe('joins with a life', () => {
  test('open in each subtask, with accumulators, and state of the key over its windows', async () => {
    class Nth extends RichJoinFunction<number, number, string> {
      private pairs!: ValueState<number>
      override open(context: RuntimeContext): void {
        this.pairs = context.getState(new ValueStateDescriptor<number>('pairs'))
        context.getIntCounter('opened').add(1)
      }
      join(a: number, b: number): string {
        this.pairs.update((this.pairs.value() ?? 0) + 1)
        return `${a}-${b} is number ${this.pairs.value()}`
      }
    }
    const stream = numbers().filter((n) => n < 30)
    const rows = await stream
      .join(stream)
      .where((n) => n % 10)
      .equalTo((n) => n % 10)
      .window(TumblingEventTimeWindows.of(milliseconds(10)))
      .apply(new Nth())
      .executeAndCollect()
    const expected = Array.from({ length: 30 }, (_, n) => `${n}-${n} is number ${Math.floor(n / 10) + 1}`)
    assert.deepEqual(rows.sort(), expected.sort())
  })

  test('of any number of results, and of groups', async () => {
    class Both extends RichFlatJoinFunction<number, number, number> {
      join(a: number, b: number, collect: (n: number) => void): void {
        assert.equal(this.getRuntimeContext().numberOfParallelSubtasks, PARALLELISM)
        collect(a)
        collect(b)
      }
    }
    class Sizes extends RichCoGroupFunction<number, number, number> {
      coGroup(first: Iterable<number>, second: Iterable<number>, collect: (n: number) => void): void {
        assert.equal(this.getRuntimeContext().numberOfParallelSubtasks, PARALLELISM)
        collect([...first].length + [...second].length)
      }
    }
    const joined = numbers()
    assert.equal((await inWindow(joined.join(joined)).apply(new Both()).executeAndCollect()).length, 120)
    const stream = numbers()
    const groups = await inWindow(stream.coGroup(stream.filter(() => false)))
      .apply(new Sizes())
      .executeAndCollect()
    assert.deepEqual(groups, new Array(60).fill(1))
  })
})

describe('reduce with a life', () => {
  class Longest extends RichReduceFunction<number> {
    private steps!: ValueState<number>
    override open(context: RuntimeContext): void {
      this.steps = context.getState(new ValueStateDescriptor<number>('steps'))
    }
    reduce(a: number, b: number): number {
      this.steps.update((this.steps.value() ?? 0) + 1)
      this.getRuntimeContext().getIntCounter('steps').add(1)
      return a + b + this.steps.value()! / 1_000
    }
  }

  test('may use keyed state beside its own, and accumulators', async () => {
    const rows = await numbers()
      .keyBy((n) => n % 2)
      .reduce(new Longest())
      .executeAndCollect()
    // 30 numbers a key; 1 + 2 + ... + 29 steps.
    assert.ok(Math.abs(Math.max(...rows) - (900 + 0.435)) < 1e-6, `${Math.max(...rows)}`)
  })

  test('is refused by windows, as an aggregate with one is', () => {
    const windowed = windows(numbers())
    assert.throws(() => windowed.reduce(new Longest() as never), {
      code: 'RICH_FUNCTION_NOT_ALLOWED',
      hint: /ProcessWindowFunction/,
    })
    const aggregate = { createAccumulator: () => 0, add: identity, getResult: identity, merge: identity, open() {} }
    assert.throws(() => windowed.aggregate(aggregate), { code: 'RICH_FUNCTION_NOT_ALLOWED' })
  })
})
