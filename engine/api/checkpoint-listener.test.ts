/**
 * What functions are told of checkpoints: ids at the cut, and how each ended, through checkpoints that are given up and
 * a restart, in every place where a function with a life may stand.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { MemoryOutboxes } from '../../connectors/memory-outbox.ts'
import { type QueueSource, queueSource } from '../../connectors/queue/queue-source.ts'
import { checkpointListenerOf } from '../../operators/checkpoint-listener.ts'
import { OPAQUE_SCHEMA } from '../core/schema.ts'
import { until } from '../runtime/job.testkit.ts'
import type { RunningJob } from '../runtime/launcher-types.ts'
import { functionSink } from './function-sink.ts'
import {
  type CheckpointListener,
  type FunctionSnapshotContext,
  MapStateDescriptor,
  perSubtask,
  RestartStrategies,
  RichMapFunction,
  RichReduceFunction,
  StreamExecutionEnvironment,
  TumblingProcessingTimeWindows,
  WatermarkStrategy,
} from './index.ts'

/** What one instance of a function was told, in order. */
interface Told {
  readonly fn: string
  readonly subtask: string
  readonly cut: number[]
  readonly complete: number[]
  readonly aborted: number[]
}

class World {
  readonly told: Told[] = []
  failAt = Number.NaN
  /** What the sink waits for before it is done with an element. */
  gate: Promise<void> = Promise.resolve()
  private made = 0

  /** Methods of a function that keeps what it is told. */
  listener(fn: string) {
    const own: Told = { fn, subtask: `${fn} ${this.made++}`, cut: [], complete: [], aborted: [] }
    this.told.push(own)
    return {
      snapshotState: ({ checkpointId }: FunctionSnapshotContext) => void own.cut.push(checkpointId),
      notifyCheckpointComplete: (checkpointId: number) => void own.complete.push(checkpointId),
      notifyCheckpointAborted: (checkpointId: number) => void own.aborted.push(checkpointId),
    }
  }
}

function environment(): StreamExecutionEnvironment {
  const env = StreamExecutionEnvironment.createEnvironment().setParallelism(2).setStateBackend('memory')
  return env.enableCheckpointing(5)
}

const pass = (n: number, _context: unknown, collect: (n: number) => void) => collect(n)

/** Functions of every kind behind one another. */
function declare(env: StreamExecutionEnvironment, queue: QueueSource<number>, world: World): void {
  const control = env.fromElements(1)
  const rules = new MapStateDescriptor<string, number>('rules')
  const keyOf = (n: number) => n % 4
  const numbers = env
    .fromSource(queue, WatermarkStrategy.noWatermarks(), 'numbers')
    .rebalance()
    .map(
      perSubtask(() => ({
        ...world.listener('map'),
        map(n: number) {
          if (n !== world.failAt) return n
          world.failAt = Number.NaN
          throw new Error('once')
        },
      })),
    )
    .process(() => ({ ...world.listener('process'), processElement: pass }))
    .keyBy(keyOf)
    .process(() => ({ ...world.listener('keyed'), processElement: pass }))
  numbers
    .connect(control)
    .process(() => ({
      ...world.listener('co-process'),
      processElement1: pass,
      processElement2() {},
    }))
    .connect(control.broadcast(rules))
    .process(() => ({
      ...world.listener('broadcast'),
      processElement: pass,
      processBroadcastElement() {},
    }))
    .keyBy(keyOf)
    .reduce(perSubtask(() => ({ ...world.listener('reduce'), reduce: (_sum: number, n: number) => n })))
    .keyBy(keyOf)
    .window(TumblingProcessingTimeWindows.of(1))
    .process(
      perSubtask(() => ({
        ...world.listener('window'),
        process(_context: unknown, all: Iterable<number>, collect: (n: number) => void) {
          for (const n of all) collect(n)
        },
      })),
    )
    .addSink(perSubtask(() => ({ ...world.listener('sink'), invoke: () => world.gate })))
}

const KINDS = ['map', 'process', 'keyed', 'co-process', 'broadcast', 'reduce', 'window', 'sink']

/** Waits, and learns of every checkpoint meanwhile. */
class Watch {
  /** By id. */
  readonly checkpoints = new Map<number, string>()
  private readonly job: RunningJob

  constructor(job: RunningJob) {
    this.job = job
  }

  look(): void {
    for (const { id, status } of this.job.status().checkpoints) this.checkpoints.set(id, status)
  }

  until(condition: () => boolean): Promise<void> {
    return until(() => {
      this.look()
      return condition()
    }, String(condition))
  }

  async complete(more: number): Promise<void> {
    const wanted = this.job.status().checkpointsCompleted + more
    await this.until(() => this.job.status().checkpointsCompleted >= wanted)
  }

  idsOf(wanted: string): number[] {
    return [...this.checkpoints].filter(([, status]) => status === wanted).map(([id]) => id)
  }
}

describe('functions as checkpoint listeners', () => {
  test('each is told what the status shows, in order, through an abort and a restart', async () => {
    const world = new World()
    const queue = queueSource<number>()
    const env = environment().setRestartStrategy(RestartStrategies.fixedDelayRestart(1, 1))
    env.getCheckpointConfig().setCheckpointTimeout(40)
    declare(env, queue, world)
    const job = await env.executeAsync('listening')
    const watch = new Watch(job)
    try {
      await watch.complete(2)
      let open = (): void => {}
      world.gate = new Promise((resolve) => {
        open = resolve
      })
      for (let n = 0; n < 8; n++) queue.offer(n)
      await watch.until(() => job.status().checkpointsFailed > 0)
      open()
      await watch.complete(2)
      const beforeRestart = world.told.splice(0)
      const lastBefore = watch.idsOf('completed').at(-1)!
      const failedBefore = watch.idsOf('failed')
      world.failAt = 100
      queue.offer(100)
      await watch.until(() => job.status().restarts === 1 && job.status().state === 'running')
      await watch.complete(2)
      queue.end()
      assert.equal((await job.done).state, 'finished')
      watch.look()

      const completed = watch.idsOf('completed')
      assert.deepEqual([...new Set(beforeRestart.map(({ fn }) => fn))].sort(), [...KINDS].sort())
      for (const [all, isBefore] of [
        [beforeRestart, true],
        [world.told, false],
      ] as const) {
        assert.equal(all.length, 2 * KINDS.length)
        const first = all[0]!.cut[0]!
        const expected = completed.filter((id) => id >= first)
        for (const { subtask, cut, complete, aborted } of all) {
          assert.deepEqual(complete, isBefore ? expected.slice(0, complete.length) : expected, subtask)
          assert.ok(!isBefore || complete.at(-1)! >= lastBefore, `${subtask} missed what came before the failure`)
          assert.deepEqual(
            complete,
            cut.filter((id) => complete.includes(id)),
            `${subtask} has cut them before`,
          )
          assert.ok(!aborted.some((id) => complete.includes(id)), `${subtask} hears one end of each`)
          if (isBefore) assert.deepEqual(aborted.slice(0, failedBefore.length), failedBefore, subtask)
        }
      }
      assert.ok(world.told[0]!.cut[0]! > beforeRestart[0]!.cut.at(-1)!, 'no id comes again after a restart')
    } finally {
      job.cancel()
    }
  })

  test('what one throws or promises fails the job, and says where', async () => {
    class Failing extends RichMapFunction<number, number> implements CheckpointListener {
      map(n: number): number {
        return n
      }
      notifyCheckpointComplete(checkpointId: number): void {
        throw new Error(`no ${checkpointId}`)
      }
    }
    class Waiting extends RichReduceFunction<number> implements CheckpointListener {
      reduce(_a: number, b: number): number {
        return b
      }
      async notifyCheckpointComplete(): Promise<void> {}
    }
    const failures = [
      { code: 'USER_FUNCTION_FAILED', message: /"Map" failed: no \d+ .*checkpoint-listener.test.ts/ },
      { code: 'ASYNC_FUNCTION', message: /notifyCheckpointComplete of operator "Reduce" returned a promise/ },
    ]
    for (const [k, failure] of failures.entries()) {
      const env = environment().setRestartStrategy(RestartStrategies.noRestart())
      const numbers = env.fromSource(queueSource<number>(), WatermarkStrategy.noWatermarks(), 'numbers')
      const keyed = numbers.keyBy((n) => n)
      const stream = k === 0 ? numbers.map(new Failing()) : keyed.reduce(new Waiting())
      stream.addSink(() => {})
      await assert.rejects((await env.executeAsync('failing')).done, failure)
    }
  })

  test('a sink without state is cut and told as well; a function need not listen', async () => {
    const world = new World()
    const outboxes = new MemoryOutboxes()
    for (const fn of [{ invoke() {}, ...world.listener('sink') }, { invoke() {} }, () => {}]) {
      const writer = functionSink<number>(fn).createWriter(outboxes.writerContext(OPAQUE_SCHEMA))
      await writer.open()
      assert.equal(writer.snapshotState!({ checkpointId: 7 }), null)
      writer.notifyCheckpointAborted!(7)
      writer.notifyCheckpointComplete!(8)
      await writer.close()
    }
    assert.deepEqual(world.told, [{ fn: 'sink', subtask: 'sink 0', cut: [7], complete: [8], aborted: [7] }])
    checkpointListenerOf(null, 'none').notifyCheckpointComplete(1)
  })
})
