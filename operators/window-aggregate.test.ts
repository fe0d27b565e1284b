/**
 * Windows against a naive model of Flink's semantics: random rows and watermarks, lateness, batch sizes,
 * blocked output, restores at other parallelisms, and budgets so small that state is evicted all the time.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { AggregateFunction } from '../engine/contract/functions.ts'
import { schema, t } from '../engine/core/schema.ts'
import { objectCodec } from '../state/value-codec.ts'
import { type Emitted, OperatorRig } from './operator.testkit.ts'
import { type WindowKernel, windowOperator } from './window-aggregate.ts'
import { tumblingWindows } from './window-assigner.ts'
import { columnarKernel } from './window-columnar.ts'
import { aggregateKernel, processKernel, reduceKernel } from './window-kernels.ts'

interface Row {
  readonly key: string
  readonly id: number
  readonly delay: number | null
}

const ROWS = schema({ key: t.string(), id: t.int32(), delay: t.nullable(t.float64()) })

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

interface Case {
  readonly kernel: () => WindowKernel
  /** The result that a fired window must have. */
  readonly expected: (key: string, rows: readonly Row[], start: number, end: number) => unknown
  readonly keyOfResult: (result: never) => string
}

const CASES: Record<string, Case> = {
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
        { codec: objectCodec() },
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
  columnar: {
    kernel: () =>
      columnarKernel({
        inputSchema: ROWS,
        keyKind: 'string',
        aggregates: {
          rows: { kind: 'count' },
          idSum: { kind: 'sum', field: 'id' },
          idMean: { kind: 'avg', field: 'id' },
          least: { kind: 'min', field: 'delay' },
          most: { kind: 'max', field: 'delay' },
          mean: { kind: 'avg', field: 'delay' },
          total: { kind: 'sum', field: 'delay' },
        },
      }),
    expected(key, rows, start, end) {
      const delays = rows.map((row) => row.delay).filter((delay) => delay !== null)
      const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0)
      const orNull = (value: number) => (delays.length === 0 ? null : value)
      return {
        key,
        windowStart: start,
        windowEnd: end,
        rows: rows.length,
        idSum: sum(rows.map((row) => row.id)),
        idMean: sum(rows.map((row) => row.id)) / rows.length,
        least: orNull(Math.min(...delays)),
        most: orNull(Math.max(...delays)),
        mean: orNull(sum(delays) / delays.length),
        total: orNull(sum(delays)),
      }
    },
    keyOfResult: (result: { key: string }) => result.key,
  },
}

interface Model {
  readonly results: Map<string, Emitted[]>
  readonly late: number[]
}

/** Row by row, window by window: slow and plain. */
class FlinkModel {
  readonly results = new Map<string, Emitted[]>()
  readonly late: number[] = []
  private readonly windows = new Map<number, Map<string, Row[]>>()
  private watermark = Number.NEGATIVE_INFINITY
  private readonly size: number
  private readonly offset: number
  private readonly lateness: number
  private readonly expected: Case['expected']

  constructor(size: number, offset: number, lateness: number, expected: Case['expected']) {
    this.size = size
    this.offset = offset
    this.lateness = lateness
    this.expected = expected
  }

  private fire(start: number, key: string): void {
    const rows = this.windows.get(start)!.get(key)!
    const results = this.results.get(key) ?? []
    this.results.set(key, results)
    results.push({ row: this.expected(key, rows, start, start + this.size), time: start + this.size - 1 })
  }

  row(row: Row, time: number): void {
    let start = this.offset
    while (start + this.size <= time) start += this.size
    while (start > time) start -= this.size
    const max = start + this.size - 1
    if (max + this.lateness <= this.watermark) {
      this.late.push(row.id)
      return
    }
    const window = this.windows.get(start) ?? new Map<string, Row[]>()
    this.windows.set(start, window)
    window.set(row.key, [...(window.get(row.key) ?? []), row])
    if (max <= this.watermark) this.fire(start, row.key)
  }

  advance(watermark: number): void {
    const before = this.watermark
    this.watermark = watermark
    for (const start of [...this.windows.keys()].sort((a, b) => a - b)) {
      const max = start + this.size - 1
      if (max > before && max <= watermark) for (const key of this.windows.get(start)!.keys()) this.fire(start, key)
      if (max + this.lateness <= watermark) this.windows.delete(start)
    }
  }
}

const scenario = fc.record({
  size: fc.constantFrom(1, 7, 10),
  offset: fc.constantFrom(0, 3),
  lateness: fc.constantFrom(0, 6, 25),
  batchRows: fc.constantFrom(1, 3, 2_048),
  capacityOne: fc.boolean(),
  budget: fc.constantFrom(500, 1 << 24),
  parallelism: fc.constantFrom(1, 2),
  steps: fc.array(
    fc.oneof(
      {
        weight: 4,
        arbitrary: fc.array(
          fc.record({
            key: fc.constantFrom('a', 'b', 'Zürich', 'd', 'e', ''),
            time: fc.integer({ min: -40, max: 40 }),
            delay: fc.option(fc.integer({ min: -5, max: 5 })),
          }),
          { minLength: 1, maxLength: 25 },
        ),
      },
      { weight: 3, arbitrary: fc.integer({ min: 1, max: 15 }) },
      { weight: 1, arbitrary: fc.record({ restore: fc.constantFrom(1, 2, 3) }) },
    ),
    { maxLength: 20, size: 'max' },
  ),
})

type Scenario = typeof scenario extends fc.Arbitrary<infer S> ? S : never

function play(s: Scenario, one: Case, seen: { late: number; restored: number }): void {
  const model = new FlinkModel(s.size, s.offset, s.lateness, one.expected)
  const rig = new OperatorRig({
    create: () =>
      windowOperator({
        assigner: tumblingWindows(s.size, s.offset),
        kernel: one.kernel(),
        allowedLatenessMs: s.lateness,
        lateTag: 'late',
      }),
    schema: ROWS,
    keyOf: (row) => (row as Row).key,
    parallelism: s.parallelism,
    capacityOne: s.capacityOne,
    memoryBudgetBytes: s.budget,
    batchRows: s.batchRows,
  })
  let id = 0
  let watermark = -45
  for (const step of s.steps) {
    if (Array.isArray(step)) {
      const rows = step.map(({ key, delay }): Row => ({ key, id: id++, delay }))
      const times = step.map((row) => row.time)
      rows.forEach((row, i) => {
        model.row(row, times[i])
      })
      rig.push(rows, times)
    } else if (typeof step === 'number') {
      watermark += step
      model.advance(watermark)
      rig.watermark(watermark)
    } else {
      rig.restore(step.restore)
      seen.restored++
    }
  }
  model.advance(Number.POSITIVE_INFINITY)
  rig.watermark(Number.POSITIVE_INFINITY)
  compare(rig, model, one)
  seen.late += model.late.length
  rig.close()
}

function compare(rig: OperatorRig, model: Model, one: Case): void {
  const results = new Map<string, Emitted[]>()
  for (const emitted of rig.output.main) {
    const key = one.keyOfResult(emitted.row as never)
    results.set(key, [...(results.get(key) ?? []), plain(emitted)])
  }
  for (const key of model.results.keys()) assert.deepEqual(results.get(key), model.results.get(key)!.map(plain))
  assert.equal(rig.output.main.length, [...model.results.values()].flat().length)
  const late = (rig.output.sides.get('late') ?? []).map((emitted) => (emitted.row as Row).id)
  assert.deepEqual(
    late.sort((a, b) => a - b),
    [...model.late].sort((a, b) => a - b),
  )
}

const plain = (emitted: Emitted): Emitted => structuredClone(emitted)

describe('tumbling windows against the model', () => {
  for (const [name, one] of Object.entries(CASES)) {
    test(name, () => {
      const seen = { late: 0, restored: 0 }
      fc.assert(
        fc.property(scenario, (s) => play(s, one, seen)),
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
