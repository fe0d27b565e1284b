/** Functions as sinks: what every at-least-once sink promises, for calls that end at once, later, and by a failure. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { MemoryOutboxes } from '../../connectors/memory-outbox.ts'
import { sinkChecks } from '../../connectors/sink-conformance.ts'
import type { Sink } from '../contract/sink.ts'
import { batchOfRows } from '../core/rows.ts'
import { OPAQUE_SCHEMA } from '../core/schema.ts'
import { functionSink, type SinkFunction, type SinkObject } from './function-sink.ts'
import {
  type JobExecutionResult,
  perSubtask,
  RestartStrategies,
  RichSinkFunction,
  type RuntimeContext,
  StreamExecutionEnvironment,
} from './index.ts'

const FUNCTIONS: Readonly<Record<string, (rows: unknown[]) => Sink>> = {
  'a function': (rows) => functionSink((row) => void rows.push(row)),
  'an object that answers later': (rows) =>
    functionSink({
      async invoke(row) {
        await new Promise(setImmediate)
        rows.push(row)
      },
    }),
}

for (const [kind, sinkOf] of Object.entries(FUNCTIONS)) {
  describe(`conformance of ${kind}`, () => {
    const checks = sinkChecks({
      rowOf: (id) => ({ id }),
      guarantee: 'at-least-once',
      create() {
        const rows: unknown[] = []
        return { sink: () => sinkOf(rows), visible: () => rows }
      },
    })
    for (const { name, run } of checks) test(name, run)
  })
}

test('a call that fails later fails the barrier, and the job', async () => {
  const outboxes = new MemoryOutboxes()
  const sink = functionSink(async (row) => {
    await new Promise(setImmediate)
    if (row === 2) throw new Error('no more room')
  })
  const writer = sink.createWriter(outboxes.writerContext(OPAQUE_SCHEMA))
  await writer.open()
  assert.equal(writer.write(batchOfRows(OPAQUE_SCHEMA, [1, 2, 3]), 0), 3)
  await assert.rejects(writer.prepareCommit(), /no more room/)
  assert.equal(outboxes.failures.length, 1)
  await writer.close()
})

/** A sink function that opens, calls and closes later, and says in `diary` what it did in which subtask. */
class Diary extends RichSinkFunction<number> {
  private sum = 0
  private readonly diary: string[]

  constructor(diary: string[]) {
    super()
    this.diary = diary
  }

  override async open(context: RuntimeContext): Promise<void> {
    assert.equal(context, this.getRuntimeContext())
    await new Promise(setImmediate)
    context.metricGroup.counter('written').inc()
    this.diary.push(`open ${context.indexOfThisSubtask} of ${context.numberOfParallelSubtasks}: ${context.taskName}`)
  }

  async invoke(n: number): Promise<void> {
    await new Promise(setImmediate)
    this.sum += n
    this.getRuntimeContext().getLongCounter('calls').add(1)
  }

  override async close(): Promise<void> {
    await new Promise(setImmediate)
    this.diary.push(`close ${this.getRuntimeContext().indexOfThisSubtask}, sum ${this.sum}`)
  }
}

/** Runs a job of the numbers below `count` into a sink, in two subtasks. */
async function runInto(sink: SinkFunction<number>, count: number): Promise<JobExecutionResult> {
  const env = StreamExecutionEnvironment.createEnvironment().setParallelism(2).setStateBackend('memory')
  const numbers = Array.from({ length: count }, (_, i) => i)
  env.fromCollection(numbers).rebalance().addSink(sink).name('diary')
  return (await env.executeAsync('diary')).done
}

test('what can be waited for is, as a query that runs only then', async () => {
  const env = StreamExecutionEnvironment.createEnvironment().setParallelism(1).setStateBackend('memory')
  const ran: number[] = []
  const query = (n: number) => ({
    // biome-ignore lint/suspicious/noThenProperty: as builders of queries have it
    then: (resolve: () => void) => {
      ran.push(n)
      resolve()
    },
  })
  env.fromElements(1, 2).addSink((n) => query(n) as unknown as Promise<void>)
  await (await env.executeAsync('queries')).done
  assert.deepEqual(ran, [1, 2])
})

test('a rich sink function is opened, called and closed in each subtask, with accumulators and metrics', async () => {
  const diary: string[] = []
  const result = await runInto(new Diary(diary), 10)
  assert.deepEqual(diary.slice(0, 2).sort(), ['open 0 of 2: diary', 'open 1 of 2: diary'])
  const closed = diary.slice(2).sort()
  assert.deepEqual(
    closed.map((line) => line.replace(/\d+$/, '')),
    ['close 0, sum ', 'close 1, sum '],
  )
  const sums = closed.map((line) => Number(/\d+$/.exec(line)![0]))
  assert.equal(sums[0]! + sums[1]!, 45)
  assert.ok(
    sums.every((sum) => sum < 45),
    'each subtask has an instance of its own',
  )
  assert.equal(result.getAccumulatorResult('calls'), 10)
})

test('perSubtask makes a sink function for each subtask', async () => {
  const calls: number[] = []
  const create = perSubtask(() => {
    const nth = calls.push(0) - 1
    return (_n: number) => void calls[nth]!++
  })
  await runInto(create, 6)
  assert.deepEqual(calls, [3, 3])
})

test('an `open` that fails later fails the writer’s', async () => {
  class Fails extends RichSinkFunction<number> {
    override open = async () => {
      await new Promise(setImmediate)
      throw new Error('no route')
    }
    invoke(): void {}
  }
  const sink = functionSink(perSubtask(() => new Fails()))
  const writer = sink.createWriter(new MemoryOutboxes().writerContext(OPAQUE_SCHEMA))
  await assert.rejects(writer.open(), /no route/)
})

test('a sink function cannot share what it opens, nor keep state by key', async () => {
  const shared: SinkObject<number> = { open() {}, invoke() {} }
  const hint = /RichSinkFunction/
  assert.throws(
    () => functionSink(shared),
    (error: { code: string; hint: string }) => error.code === 'PROCESS_FUNCTION_SHARED' && hint.test(error.hint),
  )
  const stateful = { invoke() {}, initializeState() {}, snapshotState() {} }
  assert.throws(() => functionSink(stateful), { code: 'PROCESS_FUNCTION_SHARED' })
  class Asks extends RichSinkFunction<number> {
    override open(context: RuntimeContext): void {
      context.getState({ name: 'sum' } as never)
    }
    invoke(): void {}
  }
  const writer = functionSink(new Asks()).createWriter(new MemoryOutboxes().writerContext(OPAQUE_SCHEMA))
  await assert.rejects(writer.open(), { code: 'STATE_NOT_KEYED' })
})

test('a call that never ends keeps no job from ending, nor from failing for want of checkpoints', async () => {
  const stuck = async (tolerable: number) => {
    const env = StreamExecutionEnvironment.createEnvironment().enableCheckpointing(10)
    env.setRestartStrategy(RestartStrategies.noRestart())
    env.getCheckpointConfig().setCheckpointTimeout(20).setTolerableCheckpointFailureNumber(tolerable)
    const called = Promise.withResolvers<void>()
    env
      .fromDataGenerator((index) => index)
      .addSink(() => {
        called.resolve()
        return new Promise<void>(() => {})
      })
    const job = await env.executeAsync('stuck')
    await called.promise
    return job
  }
  const [cancelled, failing] = await Promise.all([stuck(1_000_000), stuck(3)])
  await Promise.all([
    cancelled.cancel().then(async () => assert.equal((await cancelled.done).state, 'cancelled')),
    assert.rejects(failing.done, { code: 'CHECKPOINTS_FAILED' }),
  ])
})
