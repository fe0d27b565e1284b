/** Sources wait while a sink stands still and enough of the job's output waits for it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { StreamExecutionEnvironment } from '../api/index.ts'
import { CHECKPOINT_POLICY_DEFAULT } from '../checkpoint/checkpoint-policy.ts'
import type { OutboxSegment, Sink } from '../contract/sink.ts'
import type { Source } from '../contract/source.ts'
import type { Float64Column } from '../core/batch.ts'
import { batchOfRows } from '../core/rows.ts'
import { schema, t } from '../core/schema.ts'
import { optionsOf } from './job.testkit.ts'
import { launchJob } from './launcher.ts'
import type { RunningJob } from './launcher-types.ts'

const ROWS = schema({ id: t.float64() })
const RECORD_BYTES = 1_000
const PENDING_BYTES_MAX = 400_000

/** Ids of two splits, as fast as they are taken, until `world.isEnough`. */
function endless(world: { isEnough: boolean }): Source {
  return {
    kind: 'endless',
    schema: ROWS,
    boundedness: 'bounded',
    splits: async () => ['0', '1'].map((id) => ({ id, position: 0 })),
    createReader() {
      const next = new Map<string, number>()
      return {
        async open(splits) {
          for (const { id, position } of splits) next.set(id, position as number)
        },
        poll() {
          const [split, from] = [...next].sort((a, b) => a[1] - b[1])[0] ?? ['', 0]
          if (split === '' || world.isEnough) return { kind: 'end' }
          next.set(split, from + 10)
          const rows = Array.from({ length: 10 }, (_, i) => ({ id: Number(split) + 2 * (from + i) }))
          return { kind: 'batch', split, batch: batchOfRows(ROWS, rows) }
        },
        snapshot: () => [...next].map(([id, position]) => ({ id, position })),
        async close() {},
      }
    },
  }
}

/** Each commit waits for `opened`. */
function standingSink(opened: Promise<void>, delivered: number[]): Sink {
  let marker = 0
  return {
    kind: 'standing',
    guarantee: 'exactly-once',
    createWriter(context) {
      const outbox = context.createOutbox()
      return {
        async open() {},
        write(batch, from) {
          const ids = (batch.columns[0] as Float64Column).values
          for (let i = from; i < batch.length; i++) outbox.append(Buffer.from(String(ids[i]).padStart(RECORD_BYTES)))
          return batch.length
        },
        prepareCommit: async () => (await outbox.seal()) as never,
        close: () => outbox.close(),
      }
    },
    createCommitter: (context) => ({
      async open() {},
      readMarker: async () => marker,
      async commit(epoch, committables) {
        await opened
        for (const segment of committables as unknown as readonly OutboxSegment[]) {
          for await (const record of context.readOutbox(segment)) delivered.push(Number(Buffer.from(record).toString()))
        }
        marker = epoch
      },
      async close() {},
    }),
  }
}

async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await new Promise((resolve) => setTimeout(resolve, 1))
}

function sourceOf(job: RunningJob): { recordsIn: number; isHeld: boolean } {
  const sources = job.status().subtasks.filter(({ vertex }) => vertex === 0)
  return {
    recordsIn: sources.reduce((sum, { recordsIn }) => sum + recordsIn, 0),
    isHeld: sources.length > 0 && sources.every(({ backPressured }) => backPressured > 0.99),
  }
}

test('checkpoints go on until two epochs wait, then sources do; afterwards every row is there once', async () => {
  const world = { isEnough: false }
  const delivered: number[] = []
  const { promise: opened, resolve: open } = Promise.withResolvers<void>()
  const env = StreamExecutionEnvironment.createEnvironment()
  env.fromSource(endless(world)).rebalance().sinkTo(standingSink(opened, delivered))
  const job = await launchJob(
    env.getGraph(),
    optionsOf({
      parallelism: 2,
      // Only output makes checkpoints due.
      checkpointIntervalMs: null,
      checkpointPolicy: { ...CHECKPOINT_POLICY_DEFAULT, pendingOutputBytesMax: PENDING_BYTES_MAX },
    }),
  )
  await until(() => sourceOf(job).isHeld && job.status().checkpointsCompleted === 2)
  const { recordsIn } = sourceOf(job)
  await new Promise((resolve) => setTimeout(resolve, 300))
  assert.equal(job.status().checkpointsCompleted, 2)
  assert.equal(sourceOf(job).recordsIn, recordsIn, 'nothing more is taken')
  assert.ok(recordsIn * RECORD_BYTES > PENDING_BYTES_MAX * 0.7, `only ${recordsIn} rows came in`)
  open()
  await until(() => sourceOf(job).recordsIn > 2 * recordsIn)
  world.isEnough = true
  const result = await job.done
  assert.equal(result.recordsIn, delivered.length)
  assert.deepEqual(new Set(delivered).size, delivered.length)
  for (const parity of [0, 1]) {
    const ids = delivered.filter((id) => id % 2 === parity)
    assert.equal(Math.max(...ids), 2 * (ids.length - 1) + parity, 'no id is left out')
  }
})
