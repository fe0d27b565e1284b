/**
 * What sink functions know of an element besides its value, and what they keep: Flink's buffering sink, through a failure
 * and rescales.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { MemoryOutboxes } from '../../connectors/memory-outbox.ts'
import { queueSource } from '../../connectors/queue/queue-source.ts'
import { batchOfRows } from '../core/rows.ts'
import { OPAQUE_SCHEMA } from '../core/schema.ts'
import { until } from '../runtime/job.testkit.ts'
import { functionSink } from './function-sink.ts'
import {
  type CheckpointedFunction,
  type FunctionInitializationContext,
  type ListState,
  ListStateDescriptor,
  perSubtask,
  RestartStrategies,
  RichSinkFunction,
  type SinkContext,
  StreamExecutionEnvironment,
  WatermarkStrategy,
} from './index.ts'

test('a sink function learns time and watermark of each element, as an object or a function, also after it has waited', async () => {
  const seen: [number, SinkContext][] = []
  const writers = [
    functionSink<number>((value, context) => void seen.push([value, context])),
    functionSink<number>({
      async invoke(value, context) {
        await new Promise(setImmediate)
        seen.push([value, context])
      },
    }),
  ].map((sink) =>
    sink.createWriter(new MemoryOutboxes().writerContext(OPAQUE_SCHEMA, { currentWatermark: () => seen.length * 100 })),
  )
  for (const writer of writers) {
    await writer.open()
    const beforeMs = Date.now()
    writer.write(batchOfRows(OPAQUE_SCHEMA, [1, 2], [10, 20]), 0)
    writer.write(batchOfRows(OPAQUE_SCHEMA, [3]), 0)
    await writer.prepareCommit()
    const rows = seen.splice(0)
    assert.deepEqual(
      rows.map(([value, { timestamp }]) => [value, timestamp]),
      [
        [1, 10],
        [2, 20],
        [3, Number.NaN],
      ],
    )
    for (const [, { currentProcessingTime }] of rows) {
      assert.ok(currentProcessingTime >= beforeMs && currentProcessingTime <= Date.now())
    }
    assert.equal(rows[0]![1].currentWatermark, 0)
    await writer.close()
  }
})

test('in a job the watermark is the one before the element', async () => {
  const seen: SinkContext[] = []
  const env = StreamExecutionEnvironment.createEnvironment().setParallelism(1).setStateBackend('memory')
  const strategy = WatermarkStrategy.forGenerator<number>(() => ({
    onEvent: (_event, timestamp, output) => output.emitWatermark(timestamp),
    onPeriodicEmit() {},
  })).withTimestampAssigner((n) => n)
  env
    .fromElements(1, 5, 7)
    .map((n) => n)
    .assignTimestampsAndWatermarks(strategy)
    .addSink((_n, context) => void seen.push(context))
  await (await env.executeAsync('contexts')).done
  assert.deepEqual(
    seen.map(({ timestamp, currentWatermark }) => [timestamp, currentWatermark]),
    [
      [1, Number.NEGATIVE_INFINITY],
      [5, 1],
      [7, 5],
    ],
  )
})

const BUFFERED = new ListStateDescriptor<number>('buffered')

/** Writes elements in groups; those of a group that is not full are in every checkpoint. */
class BufferingSink extends RichSinkFunction<number> implements CheckpointedFunction {
  private readonly world: { readonly written: number[]; readonly restored: number[]; failAt: number }
  private buffered: number[] = []
  private state!: ListState<number>

  constructor(world: BufferingSink['world']) {
    super()
    this.world = world
  }

  initializeState({ isRestored, operatorStateStore }: FunctionInitializationContext): void {
    this.state = operatorStateStore.getListState(BUFFERED)
    this.buffered = [...this.state.get()]
    assert.ok(isRestored || this.buffered.length === 0)
    this.world.restored.push(...this.buffered)
  }

  async invoke(n: number): Promise<void> {
    if (n === this.world.failAt) {
      this.world.failAt = Number.NaN
      throw new Error('once')
    }
    this.buffered.push(n)
    if (this.buffered.length >= 10) await this.flush()
  }

  snapshotState(): void {
    this.state.update(this.buffered)
  }

  override finish(): Promise<void> {
    return this.flush()
  }

  private async flush(): Promise<void> {
    const group = this.buffered
    this.buffered = []
    await new Promise(setImmediate)
    this.world.written.push(...group)
  }
}

test('what a sink function buffers is in its operator state: nothing is lost in a failure and in rescales', async () => {
  const world = { written: [] as number[], restored: [] as number[], failAt: 65 }
  const queue = queueSource<number>()
  const env = StreamExecutionEnvironment.createEnvironment().setParallelism(2).setStateBackend('memory')
  env.enableCheckpointing(5).setRestartStrategy(RestartStrategies.fixedDelayRestart(3, 1))
  env
    .fromSource(queue, WatermarkStrategy.noWatermarks(), 'numbers')
    .rebalance()
    .addSink(perSubtask(() => new BufferingSink(world)))
  const job = await env.executeAsync('buffering')
  const offer = (from: number, to: number) => {
    for (let n = from; n < to; n++) queue.offer(n)
  }
  /** How many of `numbers` are there. */
  const countOf = (numbers: readonly number[], from: number, to: number) =>
    new Set(numbers.filter((n) => n >= from && n < to)).size

  try {
    offer(0, 35)
    // All are on their way then, and a barrier comes after them; five at the least make no whole group.
    await until(() => queue.size === 0 && countOf(world.written, 0, 35) >= 20)
    await job.rescale(3)
    // What is not written is in the state.
    await until(() => countOf([...world.restored, ...world.written], 0, 35) === 35)
    assert.ok(world.restored.length > 0)
    offer(35, 70)
    await until(() => job.status().restarts > 0 && job.status().state === 'running' && queue.size === 0)
    await job.rescale(1)
    offer(70, 75)
    queue.end()
    const { state } = await job.done
    assert.equal(state, 'finished')
    assert.equal(countOf(world.written, 0, 75), 75, 'the last group is written at the end')
  } finally {
    job.cancel()
  }
})

test('snapshotState must put everything into the state at once', async () => {
  class Later extends BufferingSink {
    override async snapshotState(): Promise<void> {
      await new Promise(setImmediate)
    }
  }
  const sink = functionSink(new Later({ written: [], restored: [], failAt: Number.NaN }))
  const writer = sink.createWriter(new MemoryOutboxes().writerContext(OPAQUE_SCHEMA))
  await writer.open()
  assert.throws(() => writer.snapshotState!({ checkpointId: 1 }), { code: 'ASYNC_FUNCTION' })
})
