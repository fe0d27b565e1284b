/** Generated sources: determinism over splits and restarts, counts, rates, and the byte pool. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { schema, t } from '../../engine/core/schema.ts'
import { HandTime, readRows, TestReaderContext } from '../testing-context.ts'
import { dataGenSource, jsonBytesSource } from './index.ts'
import { RateLimit } from './rate-limit.ts'

const ROW = schema({ id: t.int32(), name: t.string() })
const rowOf = (id: number) => ({ id, name: `n${id % 5}` })
const sorted = (rows: readonly unknown[]) => [...(rows as { id: number }[])].sort((a, b) => a.id - b.id)

describe('datagen', () => {
  test('any number of splits gives indices 0..count once, also after a restart', () =>
    fc.assert(
      fc.asyncProperty(
        fc.nat(200),
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 50 }),
        fc.nat(200),
        async (count, splits, rowsMax, stop) => {
          const source = dataGenSource({ schema: ROW, generator: rowOf, count, splits })
          const first = await readRows(source, { rowsMax, rowsWanted: Math.min(stop, count) })
          const rest = await readRows(source, { rowsMax, splits: first.positions })
          assert.deepEqual(
            sorted([...first.rows, ...rest.rows]),
            Array.from({ length: count }, (_, i) => rowOf(i)),
          )
        },
      ),
      { numRuns: 60 },
    ))

  test('without a generator or without a schema', async () => {
    const all = schema({
      a: t.string(),
      b: t.boolean(),
      c: t.int32(),
      d: t.int64(),
      e: t.float64(),
      f: t.timestamp(),
      g: t.json(),
    })
    const made = await readRows(dataGenSource({ schema: all, count: 2 }))
    assert.deepEqual(made.rows[1], { a: 'a-1', b: false, c: 1, d: 1n, e: 0.125, f: 1_735_689_600_001, g: { index: 1 } })
    assert.deepEqual((await readRows(dataGenSource({ generator: (i) => i * 2, count: 3 }))).rows, [0, 2, 4])
    assert.throws(() => dataGenSource({ count: 1 }), { code: 'OPTION_INVALID' })
    const generator = (i: number) => i
    for (const wrong of [{ count: -1 }, { count: 1.5 }, { count: Number.NaN }, { ratePerSecond: -1 }, { splits: 0 }]) {
      assert.throws(() => dataGenSource({ generator, ...wrong }), { code: 'OPTION_INVALID' }, JSON.stringify(wrong))
    }
  })

  test('keeps a rate, to the millisecond', async () => {
    const time = new HandTime()
    const startedMs = time.nowMs()
    const source = dataGenSource({ generator: (i) => i, ratePerSecond: 400, splits: 2 })
    const read = await readRows(source, { rowsWanted: 200, time })
    assert.equal(read.rows.length, 200)
    // The first is due at once, then one each 2.5 ms.
    assert.equal(time.nowMs() - startedMs, Math.ceil(199 * 2.5))
  })

  test('a pause is not caught up', () => {
    const limit = new RateLimit(1_000, 0)
    assert.equal(limit.available(0), 1)
    limit.take(1)
    assert.equal(limit.available(50), 50)
    limit.take(50)
    assert.equal(limit.available(60_000), 100)
    const slow = new RateLimit(0.5, 0)
    slow.take(slow.available(0))
    assert.equal(slow.delayMs(), 2_000)
    assert.equal(slow.available(1_999), 0)
    assert.equal(slow.available(2_000), 1)
  })

  test('a reader without splits ends, or waits when the source has no end', async () => {
    for (const [count, kind] of [
      [5, 'end'],
      [undefined, 'pending'],
    ] as const) {
      const reader = dataGenSource({ generator: (i) => i, ...(count === undefined ? {} : { count }) }).createReader(
        new TestReaderContext(),
      )
      await reader.open([])
      assert.equal(reader.poll(10).kind, kind)
    }
  })
})

describe('JSON bytes', () => {
  test('serves the pool in a cycle, from any position', async () => {
    const source = jsonBytesSource({
      schema: ROW,
      record: (i) => JSON.stringify(rowOf(i)),
      poolRecords: 7,
      count: 40,
      splits: 2,
    })
    const whole = await readRows(source, { rowsMax: 3 })
    assert.equal(whole.rows.length, 40)
    for (let k = 0; k <= 40; k++) {
      const first = await readRows(source, { rowsMax: 3, rowsWanted: k })
      const rest = await readRows(source, { rowsMax: 5, splits: first.positions })
      assert.deepEqual(sorted([...first.rows, ...rest.rows]), sorted(whole.rows))
    }
  })

  test('counts and dead-letters records that are no JSON, even when all are', async () => {
    const source = jsonBytesSource({
      schema: ROW,
      record: (i) => (i === 1 ? 'oops' : JSON.stringify(rowOf(i))),
      poolRecords: 3,
      count: 6,
    })
    const read = await readRows(source)
    assert.deepEqual(read.rows, [rowOf(0), rowOf(2), rowOf(0), rowOf(2)])
    assert.equal(read.letters.length, 2)
    const bad = await readRows(jsonBytesSource({ schema: ROW, record: () => 'x', poolRecords: 3, count: 6 }))
    assert.equal(bad.letters.length, 6)
  })
})
