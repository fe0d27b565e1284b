/** Whoever starts a job learns whose function failed, and gets what it threw. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { fromAsyncIterable } from '../../connectors/queue/index.ts'
import type { DataStream } from './data-stream.ts'
import { StreamExecutionEnvironment } from './environment.ts'
import { WatermarkStrategy } from './watermark-strategy.ts'

class Refused extends Error {}
const refused = new Refused('not like this')
const refuse = (): never => {
  throw refused
}

type Env = StreamExecutionEnvironment
const numbers = (env: Env): DataStream<number> => env.fromElements(1, 2)
const timed = (env: Env, strategy: WatermarkStrategy): DataStream<number> =>
  numbers(env).assignTimestampsAndWatermarks(strategy)

const FUNCTIONS: Readonly<Record<string, (env: Env) => Promise<unknown>>> = {
  'The function of operator "Map"': (env) => numbers(env).map(refuse).executeAndCollect(),
  'The function of operator "Sink: function"': (env) => {
    numbers(env).addSink(refuse)
    return env.execute()
  },
  'The function of operator "audit"': (env) => {
    numbers(env)
      .addSink(async () => refuse())
      .name('audit')
    return env.execute()
  },
  'A key selector': (env) => numbers(env).keyBy(refuse).reduce(Math.max).executeAndCollect(),
  'A partitioner': (env) =>
    numbers(env)
      .partitionCustom(refuse, (value) => value)
      .map(String)
      .executeAndCollect(),
  'A timestamp assigner': (env) => timed(env, WatermarkStrategy.forMonotonousTimestamps(refuse)).executeAndCollect(),
  'A watermark generator': (env) => {
    const generator = { onEvent: refuse, onPeriodicEmit: () => {} }
    return timed(
      env,
      WatermarkStrategy.forGenerator(() => generator),
    ).executeAndCollect()
  },
  'What makes watermark generators': (env) => timed(env, WatermarkStrategy.forGenerator(refuse)).executeAndCollect(),
  'The generator of row 0': (env) => env.fromDataGenerator(refuse, { count: 2 }).executeAndCollect(),
  'The iterable of a source': (env) => {
    const iterable = { [Symbol.asyncIterator]: () => ({ next: async () => refuse() }) }
    return env.fromSource(fromAsyncIterable<number>(iterable)).executeAndCollect()
  },
}

describe('an error of a function', () => {
  for (const [whose, run] of Object.entries(FUNCTIONS)) {
    test(`${whose} failed`, async () => {
      const job = run(StreamExecutionEnvironment.createEnvironment().setParallelism(2))
      await assert.rejects(job, (error: Error & { code?: string }) => {
        assert.equal(error.code, 'USER_FUNCTION_FAILED')
        assert.ok(error.message.includes(`: ${whose} failed: not like this (at `), error.message)
        assert.equal(error.cause, refused)
        return true
      })
    })
  }
})
