/**
 * Flink's window semantics as a naive model, row by row and window by window, and random scenarios that compare a
 * window operator with it: lateness, batch sizes, blocked output, subtasks further than others, restores at other
 * parallelisms, and budgets so small that state is evicted all the time.
 *
 * Used by the tests of the window operators in this room.
 */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import type { Operator } from '../engine/contract/operator.ts'
import { schema, t } from '../engine/core/schema.ts'
import { type Emitted, OperatorRig } from './operator.testkit.ts'
import type { WindowKernel } from './window-aggregate.ts'
import type { WindowAssigner } from './window-assigner.ts'
import { columnarKernel } from './window-columnar.ts'

export interface Row {
  readonly key: string
  readonly id: number
  readonly delay: number | null
}

export const ROWS = schema({ key: t.string(), id: t.int32(), delay: t.nullable(t.float64()) })

/** A kind of aggregation, and what it has to give. */
export interface WindowCase {
  readonly kernel: () => WindowKernel
  /** The result that a fired window must have. */
  readonly expected: (key: string, rows: readonly Row[], start: number, end: number) => unknown
  readonly keyOfResult: (result: never) => string
}

/** Every built-in aggregate, over a column with and one without NULLs. */
export const COLUMNAR_CASE: WindowCase = {
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
}

/** Windows of a scenario, and the name they have in a failure's report. */
export interface ScenarioWindows {
  readonly name: string
  readonly assigner: WindowAssigner
}

const KEYS = ['a', 'b', 'Zürich', 'd', 'e', '']

/** Random rows, watermarks and restores over windows of `windows`. */
export const scenarioOf = <W extends ScenarioWindows>(windows: fc.Arbitrary<W>) =>
  fc.record({
    windows,
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
              key: fc.constantFrom(...KEYS),
              time: fc.integer({ min: -40, max: 40 }),
              delay: fc.option(fc.integer({ min: -5, max: 5 })),
            }),
            { minLength: 1, maxLength: 25 },
          ),
        },
        { weight: 3, arbitrary: fc.integer({ min: 1, max: 15 }) },
        { weight: 1, arbitrary: fc.record({ restore: fc.constantFrom(1, 2, 3) }) },
        { weight: 1, arbitrary: fc.record({ subtask: fc.nat(2), aheadMs: fc.integer({ min: 1, max: 30 }) }) },
      ),
      { maxLength: 20, size: 'max' },
    ),
  })

export type Scenario<W extends ScenarioWindows> = typeof scenarioOf<W> extends (w: never) => fc.Arbitrary<infer S>
  ? S
  : never

/** Of one key: what it goes by is the watermark of the subtask that has the key. */
class FlinkModel {
  readonly results = new Map<string, Emitted[]>()
  readonly late: number[] = []
  /** Rows by key, by window. */
  private readonly windows = new Map<number, Map<string, Row[]>>()
  private watermark = Number.NEGATIVE_INFINITY
  private readonly assigner: WindowAssigner
  private readonly lateness: number
  private readonly expected: WindowCase['expected']

  constructor(assigner: WindowAssigner, lateness: number, expected: WindowCase['expected']) {
    this.assigner = assigner
    this.lateness = lateness
    this.expected = expected
  }

  private fire(window: number, key: string): void {
    const rows = this.windows.get(window)!.get(key)!
    const results = this.results.get(key) ?? []
    this.results.set(key, results)
    const end = this.assigner.endOf(window)
    results.push({ row: this.expected(key, rows, this.assigner.startOf(window), end), time: end - 1 })
  }

  row(row: Row, time: number): void {
    const assigned = new Float64Array(this.assigner.windowsMax)
    const count = this.assigner.assign(time, assigned)
    let isLate = count > 0 || time + this.lateness <= this.watermark
    for (const window of assigned.subarray(0, count)) {
      const max = this.assigner.endOf(window) - 1
      if (max + this.lateness <= this.watermark) continue
      isLate = false
      const keys = this.windows.get(window) ?? new Map<string, Row[]>()
      this.windows.set(window, keys)
      keys.set(row.key, [...(keys.get(row.key) ?? []), row])
      if (max <= this.watermark) this.fire(window, row.key)
    }
    if (isLate) this.late.push(row.id)
  }

  advance(watermark: number): void {
    if (watermark <= this.watermark) return
    const before = this.watermark
    this.watermark = watermark
    for (const window of [...this.windows.keys()].sort((a, b) => a - b)) {
      const max = this.assigner.endOf(window) - 1
      if (max > before && max <= watermark) for (const key of this.windows.get(window)!.keys()) this.fire(window, key)
      if (max + this.lateness <= watermark) this.windows.delete(window)
    }
  }
}

/** Counts what scenarios reached, so that a test can tell that they were not trivial. */
export interface Seen {
  late: number
  restored: number
}

/** Plays a scenario on the operator that `create` makes, and compares all that comes out with the model. */
export function play<W extends ScenarioWindows>(
  s: Scenario<W>,
  one: WindowCase,
  create: (windows: W) => Operator,
  seen: Seen,
): void {
  const models = new Map(KEYS.map((key) => [key, new FlinkModel(s.windows.assigner, s.lateness, one.expected)]))
  const rig = new OperatorRig({
    create: () => create(s.windows),
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
        models.get(row.key)!.row(row, times[i])
      })
      rig.push(rows, times)
    } else if (typeof step === 'number') {
      watermark += step
      for (const model of models.values()) model.advance(watermark)
      rig.watermark(watermark)
    } else if ('aheadMs' in step) {
      const { subtask, aheadMs } = step
      for (const [key, model] of models) {
        if (rig.subtaskWith({ key, id: 0, delay: null }) === subtask) model.advance(watermark + aheadMs)
      }
      rig.watermark(watermark + aheadMs, subtask)
    } else {
      rig.restore(step.restore)
      seen.restored++
    }
  }
  for (const model of models.values()) model.advance(Number.POSITIVE_INFINITY)
  rig.watermark(Number.POSITIVE_INFINITY)
  const late = [...models.values()].flatMap((model) => model.late)
  compare(rig, new Map([...models.values()].flatMap((model) => [...model.results])), late, one)
  seen.late += late.length
  rig.close()
}

function compare(
  rig: OperatorRig,
  expected: ReadonlyMap<string, readonly Emitted[]>,
  lateExpected: readonly number[],
  one: WindowCase,
): void {
  const results = new Map<string, Emitted[]>()
  for (const emitted of rig.output.main) {
    const key = one.keyOfResult(emitted.row as never)
    results.set(key, [...(results.get(key) ?? []), plain(emitted)])
  }
  for (const [key, own] of expected) assert.deepEqual(results.get(key), own.map(plain))
  assert.equal(rig.output.main.length, [...expected.values()].flat().length)
  const late = (rig.output.sides.get('late') ?? []).map((emitted) => (emitted.row as Row).id)
  assert.deepEqual(
    late.sort((a, b) => a - b),
    [...lateExpected].sort((a, b) => a - b),
  )
}

const plain = (emitted: Emitted): Emitted => structuredClone(emitted)
