/**
 * What a program gives to a step that cannot be called is refused where it is given, with words that say what to write.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  AsyncDataStream,
  CountTrigger,
  type DataStream,
  EventTimeSessionWindows,
  GlobalWindows,
  MapStateDescriptor,
  MillraceError,
  outputTag,
  type RestartStrategy,
  RichMapFunction,
  StreamExecutionEnvironment,
  seconds,
  WatermarkStrategy,
} from './index.ts'

/** What no type checker has seen. */
type Unchecked = never
type Step = (stream: DataStream<number>, given: Unchecked) => unknown

const numbers = () => StreamExecutionEnvironment.createEnvironment().fromElements(1)
const keyed = (stream: DataStream<number>) => stream.keyBy((n) => n)
const windows = (stream: DataStream<number>) => keyed(stream).window(GlobalWindows.create())
const RULES = new MapStateDescriptor<string, number>('rules')
class Twice {
  map(n: number): number {
    return 2 * n
  }
}

const STEPS: Readonly<Record<string, Step>> = {
  map: (stream, given) => stream.map(given),
  flatMap: (stream, given) => stream.flatMap(given),
  filter: (stream, given) => stream.filter(given),
  process: (stream, given) => stream.process(given),
  'process by key': (stream, given) => keyed(stream).process(given),
  reduce: (stream, given) => keyed(stream).reduce(given),
  partitionCustom: (stream, given) => stream.partitionCustom(given, (n) => n),
  'map of two streams': (stream, given) => stream.connect(stream).map(given),
  'flatMap of two streams': (stream, given) => stream.connect(stream).flatMap(given),
  'process of two streams': (stream, given) => stream.connect(stream).process(given),
  'process of two streams by key': (stream, given) => keyed(stream).connect(keyed(stream)).process(given),
  'process with broadcast': (stream, given) => stream.connect(stream.broadcast(RULES)).process(given),
  'interval join': (stream, given) => keyed(stream).intervalJoin(keyed(stream)).between(0, 1).process(given),
  window: (stream, given) => keyed(stream).window(given),
  trigger: (stream, given) => windows(stream).trigger(given),
  evictor: (stream, given) => windows(stream).evictor(given),
  'reduce of a window': (stream, given) => windows(stream).reduce(given),
  'aggregate of a window': (stream, given) => windows(stream).aggregate(given),
  'process of a window': (stream, given) => windows(stream).process(given),
  'apply of a window': (stream, given) => windows(stream).apply(given),
  asyncWait: (stream, given) => AsyncDataStream.orderedWait(stream, given, seconds(1)),
  sinkTo: (stream, given) => stream.sinkTo(given),
  addSink: (stream, given) => stream.addSink(given),
  fromSource: (_stream, given) => StreamExecutionEnvironment.createEnvironment().fromSource(given),
}

const refusal = (step: Step, given: unknown): string => {
  try {
    step(numbers(), given as never)
  } catch (error) {
    assert.ok(error instanceof MillraceError && error.code === 'FUNCTION_INVALID', String(error))
    return error.message
  }
  throw new Error('It was taken.')
}

describe('what cannot be called', () => {
  for (const [name, step] of Object.entries(STEPS)) {
    test(`${name} refuses what is none, and a class in place of an instance`, () => {
      for (const given of [undefined, null, 3, {}]) assert.match(refusal(step, given), /^\w+ got .*Give it /)
      assert.match(refusal(step, Twice), /got the class Twice itself/)
    })
  }

  test('messages say what came and what to write', () => {
    assert.equal(
      refusal(STEPS['process']!, Twice),
      'process got the class Twice itself. Make an instance of it: process(new Twice()).',
    )
    assert.equal(
      refusal(STEPS['trigger']!, CountTrigger),
      'trigger got the class CountTrigger itself. Give it an object with the method `onElement`, as an instance of a class is.',
    )
    assert.equal(
      refusal(STEPS['process']!, { onElement: () => {} }),
      'process got an object of onElement. Give it a function, or an object with the method `processElement`.',
    )
  })

  test('sessions need a merge', () => {
    const sum = {
      createAccumulator: () => 0,
      add: (n: number, acc: number) => acc + n,
      getResult: (acc: number) => acc,
    }
    const sessions: Step = (stream, given) => keyed(stream).window(EventTimeSessionWindows.withGap(1)).aggregate(given)
    assert.match(refusal(sessions, sum), /`merge`/)
  })

  test('a function that makes process functions is not a function of windows', async () => {
    const windows = keyed(numbers()).window(GlobalWindows.create()).trigger(CountTrigger.of(1))
    const made = windows.process((() => ({ process() {} })) as never).executeAndCollect()
    await assert.rejects(made, { code: 'FUNCTION_INVALID', message: /each time that a window fired/ })
    const counted = keyed(numbers()).window(GlobalWindows.create()).trigger(CountTrigger.of(1))
    assert.deepEqual(
      await counted.process((...[, elements, collect]) => collect([...elements].length)).executeAndCollect(),
      [1],
    )
  })

  test('a plain function in place of a process function fails with the way to write it', async () => {
    const plain = ((n: number, _context: unknown, collect: (n: number) => void) => collect?.(n)) as Unchecked
    await assert.rejects(numbers().process(plain).executeAndCollect(), (error) => {
      assert.ok(error instanceof MillraceError && error.code === 'FUNCTION_INVALID')
      assert.match(error.message, /made undefined instead of an object with the method `processElement`/)
      return true
    })
  })

  test('a restart strategy is one of RestartStrategies', () => {
    const env = StreamExecutionEnvironment.createEnvironment()
    for (const given of [undefined, {}, { kind: 'toString' }]) {
      assert.throws(
        () => env.setRestartStrategy(given as RestartStrategy),
        (error) => error instanceof MillraceError && error.code === 'RESTART_INVALID',
      )
    }
  })
})

/** What is thrown by a function that nobody waits for would be an unhandled rejection, which fails a test as it ends a process. */
const rejects = (async () => {
  throw new Error('later')
}) as Unchecked

const SIDE = outputTag<unknown>('side')

const WAITING: Readonly<Record<string, (stream: DataStream<number>) => { executeAndCollect(): Promise<unknown[]> }>> = {
  map: (stream) => stream.map(rejects),
  filter: (stream) => stream.filter(rejects),
  flatMap: (stream) => stream.flatMap(rejects),
  keyBy: (stream) => stream.keyBy(rejects).reduce((a) => a),
  reduce: (stream) => stream.keyBy(() => 1).reduce(rejects),
  partitionCustom: (stream) => stream.partitionCustom(rejects, (n) => n).map((n) => n),
  process: (stream) => stream.process({ processElement: rejects }),
  'process by key': (stream) => keyed(stream).process({ processElement: rejects }),
  'process of a window': (stream) => keyed(stream).countWindow(1).process(rejects),
  'a side output': (stream) =>
    stream
      .process({ processElement: (_n, context) => context.output(SIDE, (rejects as () => unknown)()) })
      .getSideOutput(SIDE),
  'an evictor': (stream) =>
    keyed(stream)
      .countWindow(1)
      .evictor({ evictBefore: () => {}, evictAfter: rejects })
      .reduce((a) => a),
  'an assigner of windows': (stream) =>
    keyed(stream)
      .window(Object.assign(Object.create(GlobalWindows.create()), { assignWindows: rejects }))
      .reduce((a) => a),
  'a watermark generator': (stream) =>
    stream.assignTimestampsAndWatermarks(
      WatermarkStrategy.forGenerator<number>(() => ({ onEvent: rejects, onPeriodicEmit: () => {} })),
    ),
  'a timestamp assigner': (stream) =>
    stream.assignTimestampsAndWatermarks(WatermarkStrategy.forMonotonousTimestamps(rejects)),
}

describe('a function that waits where none may', () => {
  for (const [name, step] of Object.entries(WAITING)) {
    test(`${name} fails the job, and what it fails with later nobody else`, async () => {
      const env = StreamExecutionEnvironment.createEnvironment().setParallelism(2).setStateBackend('memory')
      const stream = env.fromElements(1, 2)
      await assert.rejects(step(stream).executeAndCollect(), (error) => {
        assert.ok(
          error instanceof MillraceError && /^(ASYNC_FUNCTION|PROMISE_RETURNED)$/.test(error.code),
          String(error),
        )
        return true
      })
    })
  }

  test('close may: the end of the job waits for it', async () => {
    const log: string[] = []
    class Slow extends RichMapFunction<number, number> {
      map(n: number): number {
        log.push('map')
        return n
      }
      override async close(): Promise<void> {
        await sleep(5)
        log.push('closed')
        throw new Error('after all')
      }
    }
    const env = StreamExecutionEnvironment.createEnvironment().setParallelism(1).setStateBackend('memory')
    env
      .fromElements(1)
      .map(new Slow())
      .addSink(() => {})
    const job = await env.executeAsync('slow', { onEvent: (event) => log.push(event.type) })
    const { state } = await job.done
    // Its results are complete; that it did not close as it should is said.
    assert.deepEqual([state, log.slice(1)], ['finished', ['map', 'checkpoint', 'closed', 'exception', 'finished']])
    const [exception] = job.status().exceptions
    assert.match(`${exception!.where}: ${exception!.message}`, /^close of .*Map.* #0: .*after all/)
  })
})
