/**
 * Windows against a naive model of Flink's semantics: random rows and watermarks, lateness, batch sizes,
 * blocked output, restores at other parallelisms, and budgets so small that state is evicted all the time.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { AggregateFunction } from '../engine/contract/functions.ts'
import { objectCodec } from '../state/value-codec.ts'
import { OperatorRig } from './operator.testkit.ts'
import { windowOperator } from './window-aggregate.ts'
import { tumblingWindows } from './window-assigner.ts'
import { columnarKernel } from './window-columnar.ts'
import { aggregateKernel, processKernel, reduceKernel } from './window-kernels.ts'
import { COLUMNAR_CASE, play, ROWS, type Row, scenarioOf, type WindowCase } from './window-model.testkit.ts'

/** Keeps arrival order, so that a lost, doubled or reordered row shows. */
class Ids {
  key = ''
  ids = ''
  add(row: Row): this {
    this.key = row.key
    this.ids += `${row.id},`
    return this
  }
}

const idsOf: AggregateFunction<Row, Ids, { key: string; ids: string }> = {
  createAccumulator: () => new Ids(),
  add: (row, ids) => ids.add(row),
  getResult: (ids) => ids,
  merge: () => assert.fail('never merged'),
}

const ids = (rows: readonly Row[]) => rows.map((row) => `${row.id},`).join('')

const CASES: Record<string, WindowCase> = {
  aggregate: {
    kernel: () => aggregateKernel(idsOf, { codec: objectCodec(() => new Ids()) }),
    expected: (key, rows) => ({ key, ids: ids(rows) }),
    keyOfResult: (result: { key: string }) => result.key,
  },
  reduce: {
    kernel: () =>
      reduceKernel<Row & { ids?: string }>((a, b) => ({ ...a, ids: `${a.ids ?? `${a.id},`}${b.id},` }), {
        codec: objectCodec(),
      }),
    expected: (_key, rows) => (rows.length === 1 ? { ...rows[0] } : { ...rows[0], ids: ids(rows) }),
    keyOfResult: (result: Row) => result.key,
  },
  'reduce in place': {
    kernel: () =>
      reduceKernel<Row & { ids?: string }>(
        (a, b) => {
          a.ids = `${a.ids ?? `${a.id},`}${b.id},`
          return a
        },
        { codec: objectCodec() },
      ),
    expected: (_key, rows) => (rows.length === 1 ? { ...rows[0] } : { ...rows[0], ids: ids(rows) }),
    keyOfResult: (result: Row) => result.key,
  },
  process: {
    kernel: () =>
      processKernel<Row, unknown, string>(
        ({ key, window }, elements, collect) =>
          collect({ key, ids: ids([...elements]), start: window.start, max: window.maxTimestamp }),
        { codec: objectCodec(), pieceElements: 2 },
      ),
    expected: (key, rows, start, end) => ({ key, ids: ids(rows), start, max: end - 1 }),
    keyOfResult: (result: { key: string }) => result.key,
  },
  'aggregate and process': {
    kernel: () =>
      aggregateKernel<Row, Ids, { key: string; ids: string }, unknown, string>(
        idsOf,
        { codec: objectCodec(() => new Ids()) },
        ({ key, window }, [result], collect) => collect({ key, ids: result.ids, end: window.end }),
      ),
    expected: (key, rows, _start, end) => ({ key, ids: ids(rows), end }),
    keyOfResult: (result: { key: string }) => result.key,
  },
  columnar: COLUMNAR_CASE,
}

const scenario = scenarioOf(
  fc.record({ size: fc.constantFrom(1, 7, 10), offset: fc.constantFrom(0, 3) }).map(({ size, offset }) => ({
    name: `tumbling(${size},${offset})`,
    assigner: tumblingWindows(size, offset),
  })),
)

describe('tumbling windows against the model', () => {
  for (const [name, one] of Object.entries(CASES)) {
    test(name, () => {
      const seen = { late: 0, restored: 0 }
      fc.assert(
        fc.property(scenario, (s) =>
          play(
            s,
            one,
            ({ assigner }) =>
              windowOperator({ assigner, kernel: one.kernel(), allowedLatenessMs: s.lateness, lateTag: 'late' }),
            seen,
          ),
        ),
        { numRuns: 50 },
      )
      assert.ok(seen.late > 10 && seen.restored > 10, JSON.stringify(seen))
    })
  }
})

describe('window operator', () => {
  const counting = (allowedLatenessMs = 0) =>
    windowOperator({
      assigner: tumblingWindows(10),
      kernel: columnarKernel({ inputSchema: ROWS, aggregates: { rows: { kind: 'count' } } }),
      allowedLatenessMs,
    })
  const rigOf = (create = () => counting()) =>
    new OperatorRig({ create, schema: ROWS, keyOf: (row) => (row as Row).key })
  const row = (key: string): Row => ({ key, id: 0, delay: null })

  test('the edges of a window, and of lateness', () => {
    const rig = rigOf(() => counting(5))
    const emptyBytes = rig.subtasks[0].backend!.memoryBytes()
    rig.push([row('a'), row('a'), row('a')], [0, 9, 9.5])
    rig.watermark(8.9)
    assert.equal(rig.output.main.length, 0)
    rig.watermark(9)
    assert.deepEqual(rig.output.main, [{ row: { key: 'a', windowStart: 0, windowEnd: 10, rows: 3 }, time: 9 }])
    rig.watermark(13.9)
    rig.push([row('a')], [3])
    assert.equal((rig.output.main[1].row as { rows: number }).rows, 4)
    rig.watermark(14)
    rig.push([row('a')], [3])
    assert.equal(rig.output.main.length, 2)
    assert.equal(rig.counters.lateDropped, 1)
    assert.equal(rig.subtasks[0].backend!.memoryBytes(), emptyBytes, 'the state of a past window is gone')
    rig.close()
  })

  test('many keys fire in steps, each of at most 2,000 keys', () => {
    const rig = rigOf()
    const keys = 12_000
    for (let from = 0; from < keys; from += 2_000) {
      const rows = Array.from({ length: 2_000 }, (_, i) => row(`key-${from + i}`))
      rig.push(
        rows,
        rows.map(() => 1),
      )
    }
    const { operator } = rig.subtasks[0]
    let calls = 0
    let before = 0
    for (let done = false; !done; calls++) {
      done = operator.advanceWatermark(50, rig.output)
      assert.ok(rig.output.main.length - before <= 2_000)
      before = rig.output.main.length
    }
    assert.equal(rig.output.main.length, keys)
    assert.ok(calls >= 6)
    assert.equal(new Set(rig.output.main.map((emitted) => (emitted.row as { key: string }).key)).size, keys)
    rig.close()
  })

  test('a row without event time says what to do', () => {
    const rig = rigOf()
    assert.throws(() => rig.push([row('a')], [Number.NaN]), { code: 'TIMESTAMP_MISSING', message: /WatermarkStrategy/ })
    rig.close()
  })

  test('restored windows must mean the same', () => {
    let create = () => counting()
    const rig = rigOf(() => create())
    rig.push([row('a')], [1])
    create = () =>
      windowOperator({
        assigner: tumblingWindows(20),
        kernel: columnarKernel({ inputSchema: ROWS, aggregates: { rows: { kind: 'count' } } }),
      })
    assert.throws(() => rig.restore(1), { code: 'STATE_INCOMPATIBLE', message: /tumbling\(10,0\)/ })
    rig.close()
  })

  test('failing and asynchronous functions are named', () => {
    const failing = (add: (row: Row) => unknown) =>
      rigOf(() =>
        windowOperator({
          assigner: tumblingWindows(10),
          kernel: aggregateKernel<Row, unknown, unknown, unknown, unknown>(
            { createAccumulator: () => 0, add, getResult: (a) => a, merge: (a) => a },
            { codec: objectCodec() },
          ),
        }),
      )
    const throwing = failing(() => {
      throw new TypeError('no such thing')
    })
    assert.throws(() => throwing.push([row('a')], [1]), {
      code: 'USER_FUNCTION_FAILED',
      message: /"tested" failed: no such thing .*window-aggregate\.test\.ts/,
    })
    const promising = failing(async () => 1)
    assert.throws(() => promising.push([row('a')], [1]), { code: 'ASYNC_FUNCTION' })
    throwing.close()
    promising.close()
  })
})
