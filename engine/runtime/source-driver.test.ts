/** A source's splits: silence makes them idle, waiting for others does not; and which may not be read on. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { SourceNode } from '../contract/job-graph.ts'
import type { SourcePoll, SourceReaderContext } from '../contract/source.ts'
import { batchOfRows } from '../core/rows.ts'
import { schema, t } from '../core/schema.ts'
import { type AssignedSplit, SourceDriver } from './source-driver.ts'

const ROW = schema({ n: t.float64() })
const IDLE_AFTER_MS = 1_000

async function rig({ alignment = null as { group: string } | null, restoredA = Number.NEGATIVE_INFINITY } = {}) {
  const paused: string[][] = []
  let nowMs = 50_000
  const polls: SourcePoll[] = []
  const node = {
    name: 'numbers',
    watermarks: {
      createGenerator() {
        let watermark = Number.NEGATIVE_INFINITY
        return {
          onBatch: (times: Float64Array, count: number) => {
            for (let i = 0; i < count; i++) watermark = Math.max(watermark, times[i]!)
          },
          current: () => watermark,
          restore(restored: number) {
            watermark = restored
          },
        }
      },
      createAssigner: null,
      idleAfterMs: IDLE_AFTER_MS,
      alignment,
    },
    source: {
      createReader: () => ({
        open: async () => {},
        poll: () => polls.shift() ?? { kind: 'pending' },
        snapshot: () => [],
        pauseSplits: (splits: ReadonlySet<string>) => paused.push([...splits]),
        close: async () => {},
      }),
    },
  }
  const context = { worker: { io: { clock: { monotonicMs: () => nowMs } } }, deadLetter() {} }
  const driver = new SourceDriver(node as unknown as SourceNode, context as unknown as SourceReaderContext)
  const split = (id: string, watermark: number): AssignedSplit => ({ id, position: null, watermark, idle: false })
  await driver.open([split('a', restoredA), split('b', Number.NEGATIVE_INFINITY)])
  return {
    driver,
    /** What the reader was told, in order. */
    paused,
    wait: (ms: number) => {
      nowMs += ms
    },
    give: (id: string, timeMs: number) => {
      const batch = { ...batchOfRows(ROW, [{ n: 1 }]), eventTime: Float64Array.of(timeMs) }
      polls.push({ kind: 'batch', split: id, batch })
      assert.equal(driver.poll(10).kind, 'batch')
    },
    /** Finds nothing; tells which splits are idle then. */
    pending: () => {
      assert.equal(driver.poll(10).kind, 'pending')
      driver.updateIdleness()
      return driver.splitWatermarks(0, 0).flatMap(({ split: id, idle }) => (idle ? [id] : []))
    },
  }
}

describe('a split', () => {
  test('is idle after silence, until its next record', async () => {
    const { driver, give, wait, pending } = await rig()
    give('a', 100)
    give('b', 50)
    assert.deepEqual(pending(), [])
    wait(IDLE_AFTER_MS - 1)
    give('a', 200)
    assert.equal(driver.currentWatermark(), 50)
    wait(1)
    assert.deepEqual(pending(), ['b'])
    assert.equal(driver.currentWatermark(), 200)
    give('b', 250)
    assert.deepEqual(pending(), [])
  })

  test('is not idle because the subtask was blocked, or stalled', async () => {
    const { driver, give, wait, pending } = await rig()
    give('a', 100)
    give('b', 50)
    driver.blocked()
    wait(90_000)
    driver.blocked()
    wait(90_000)
    give('a', 200)
    assert.deepEqual(pending(), [], 'no room for three minutes')
    give('b', 60)
    wait(90_000)
    give('a', 300)
    wait(90_000)
    give('b', 70)
    assert.deepEqual(pending(), [], 'a stall counts for next to nothing')
    const other = await rig()
    for (const id of ['a', 'b']) other.give(id, 1)
    other.pending()
    other.wait(IDLE_AFTER_MS / 2)
    other.pending()
    other.wait(IDLE_AFTER_MS / 2 - 1)
    assert.deepEqual(other.pending(), [])
    other.driver.blocked()
    other.wait(5_000)
    assert.deepEqual(other.pending(), [])
    other.wait(1)
    assert.deepEqual(other.pending(), ['a', 'b'])
  })

  test('that was not begun is not idle while others are read', async () => {
    const { give, wait, pending } = await rig()
    for (let i = 0; i < 50; i++) {
      wait(500)
      give('a', i)
    }
    assert.deepEqual(pending(), [], 'its turn has not come')
    wait(IDLE_AFTER_MS)
    assert.deepEqual(pending(), ['a', 'b'], 'there was nothing to read at all')
  })
})

test('a restored split waits until it is known how far its group may read', async () => {
  const { driver, paused } = await rig({ alignment: { group: 'all' }, restoredA: 500 })
  assert.deepEqual(paused, [['a']])
  driver.limitTo('all', 499)
  driver.limitTo('all', 500)
  assert.deepEqual(paused, [['a'], []])
})
