/**
 * Sliced windows, and windows that overlap without slices, against the same model of per-window state.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { AggregateFunction } from '../engine/contract/functions.ts'
import { objectCodec } from '../state/value-codec.ts'
import { OperatorRig } from './operator.testkit.ts'
import { windowOperator } from './window-aggregate.ts'
import { cumulativeWindows, slidingWindows } from './window-assigner.ts'
import { aggregateKernel } from './window-kernels.ts'
import {
  COLUMNAR_CASE,
  play,
  ROWS,
  type Row,
  type ScenarioWindows,
  scenarioOf,
  type WindowCase,
} from './window-model.testkit.ts'
import { cumulativeSlices, type SliceScheme, slidingSlices } from './window-slices.ts'
import { isMerging, slicedWindowOperator } from './window-slices-operator.ts'

interface SlicedWindows extends ScenarioWindows {
  readonly slices: SliceScheme
}

function sliding(size: number, slide: number, offset: number): SlicedWindows {
  const slices = slidingSlices(size, slide, offset)
  assert.ok(slices !== null)
  return { name: `sliding(${size},${slide},${offset})`, assigner: slidingWindows(size, slide, offset), slices }
}

function cumulative(size: number, step: number, offset: number): SlicedWindows {
  const slices = cumulativeSlices(size, step, offset)
  assert.ok(slices !== null)
  return { name: `cumulative(${size},${step},${offset})`, assigner: cumulativeWindows(size, step, offset), slices }
}

const WINDOWS = [
  sliding(10, 2, 0),
  sliding(10, 3, 1),
  sliding(9, 6, 2),
  sliding(3, 1, 0),
  cumulative(12, 4, 0),
  cumulative(20, 2, 3),
]

/** Collects ids in whatever order; its functions change and keep what they are given, as far as they may. */
class Bag {
  key = ''
  ids: number[] = []
}

const bagOf: AggregateFunction<Row, Bag, Bag> = {
  createAccumulator: () => new Bag(),
  add(row, bag) {
    bag.key = row.key
    bag.ids.push(row.id)
    return bag
  },
  merge(a, b) {
    if (a.ids.length === 0) return b
    a.ids.push(...b.ids)
    b.ids = a.ids
    return a
  },
  getResult(bag) {
    bag.ids.sort((a, b) => a - b)
    return bag
  },
  mergesInAnyOrder: true,
}

const sortedIds = (rows: readonly Row[]) => rows.map((row) => row.id).sort((a, b) => a - b)

const CASES: Record<string, WindowCase> = {
  columnar: COLUMNAR_CASE,
  aggregate: {
    kernel: () => aggregateKernel(bagOf, { codec: objectCodec(() => new Bag()) }),
    expected: (key, rows) => ({ key, ids: sortedIds(rows) }),
    keyOfResult: (result: Bag) => result.key,
  },
  'aggregate and process': {
    kernel: () =>
      aggregateKernel<Row, Bag, Bag, unknown, string>(
        bagOf,
        { codec: objectCodec(() => new Bag()) },
        ({ key, window }, [bag], collect) => collect({ key, ids: bag!.ids, start: window.start, end: window.end }),
      ),
    expected: (key, rows, start, end) => ({ key, ids: sortedIds(rows), start, end }),
    keyOfResult: (result: Bag) => result.key,
  },
}

function sliced(slices: SliceScheme, one: WindowCase, allowedLatenessMs: number, lateTag: string | null = 'late') {
  const kernel = one.kernel()
  assert.ok(isMerging(kernel))
  return slicedWindowOperator({ slices, kernel, allowedLatenessMs, lateTag })
}

describe('overlapping windows against the model', () => {
  for (const [name, one] of Object.entries(CASES)) {
    test(`${name}, sliced`, () => {
      const seen = { late: 0, restored: 0 }
      fc.assert(
        fc.property(scenarioOf(fc.constantFrom(...WINDOWS)), (s) =>
          play(s, one, ({ slices }) => sliced(slices, one, s.lateness), seen),
        ),
        { numRuns: Number(process.env.SLICES_RUNS ?? 40) },
      )
      assert.ok(seen.late > 10 && seen.restored > 10, JSON.stringify(seen))
    })
  }

  test('without slices, and with gaps between windows', () => {
    const seen = { late: 0, restored: 0 }
    const apart = { name: 'sliding(3,7,1)', assigner: slidingWindows(3, 7, 1) }
    fc.assert(
      fc.property(scenarioOf(fc.constantFrom<ScenarioWindows>(...WINDOWS, apart)), (s) =>
        play(
          s,
          COLUMNAR_CASE,
          ({ assigner }) => {
            const kernel = COLUMNAR_CASE.kernel()
            return windowOperator({ assigner, kernel, allowedLatenessMs: s.lateness, lateTag: 'late' })
          },
          seen,
        ),
      ),
      { numRuns: 30 },
    )
    assert.ok(seen.late > 10 && seen.restored > 10, JSON.stringify(seen))
  })
})

describe('sliced windows', () => {
  const row = (key: string): Row => ({ key, id: 1, delay: null })
  const rigOf = (windows: SlicedWindows, lateness = 0) =>
    new OperatorRig({
      create: () => sliced(windows.slices, COLUMNAR_CASE, lateness, null),
      schema: ROWS,
      keyOf: (r) => (r as Row).key,
    })
  const counts = (rig: OperatorRig) =>
    rig.output.main.map((emitted) => {
      const { windowStart, windowEnd, rows } = emitted.row as { windowStart: number; windowEnd: number; rows: number }
      return [windowStart, windowEnd, rows]
    })

  test('a row that is late for some windows counts in the others', () => {
    const rig = rigOf(sliding(10, 2, 0))
    rig.push([row('a')], [9])
    rig.watermark(13)
    rig.push([row('a'), row('a')], [9, 1])
    assert.equal(rig.counters.lateDropped, 1)
    rig.watermark(Number.POSITIVE_INFINITY)
    assert.deepEqual(counts(rig), [
      [0, 10, 1],
      [2, 12, 1],
      [4, 14, 1],
      [6, 16, 2],
      [8, 18, 2],
    ])
    rig.close()
  })

  test('cumulative windows fire at each step, new rows or not, and free what they held', () => {
    const rig = rigOf(cumulative(12, 4, 0))
    const emptyBytes = rig.subtasks[0]!.backend!.memoryBytes()
    rig.push([row('a')], [1])
    for (const watermark of [3, 7]) rig.watermark(watermark)
    rig.push([row('a')], [2])
    rig.watermark(11)
    assert.deepEqual(counts(rig), [
      [0, 4, 1],
      [0, 8, 1],
      [0, 12, 2],
    ])
    assert.equal(rig.subtasks[0]!.backend!.memoryBytes(), emptyBytes)
    rig.close()
  })

  test('many keys are merged and fired in steps', () => {
    const rig = rigOf(sliding(10, 5, 0))
    const keys = 6_000
    for (let from = 0; from < keys; from += 2_000) {
      const rows = Array.from({ length: 2_000 }, (_, i) => row(`key-${from + i}`))
      for (const time of [1, 6]) rig.push(rows, new Array<number>(rows.length).fill(time))
    }
    rig.watermark(4)
    assert.equal(rig.output.main.length, keys)
    const { operator } = rig.subtasks[0]!
    let calls = 1
    let before = keys
    for (; !operator.advanceWatermark(9, rig.output); calls++) {
      assert.ok(rig.output.main.length - before <= 2_000)
      before = rig.output.main.length
    }
    assert.ok(calls >= 9, `merging 12,000 entries and firing 6,000 took ${calls} calls`)
    assert.equal(rig.output.main.length, 2 * keys)
    assert.ok(rig.output.main.slice(keys).every((emitted) => (emitted.row as { rows: number }).rows === 2))
    rig.close()
  })

  test('aggregates that do not say how they merge are not sliced', () => {
    const { mergesInAnyOrder, ...silent } = bagOf
    assert.equal(mergesInAnyOrder, true)
    assert.equal(isMerging(aggregateKernel(silent, { codec: objectCodec(() => new Bag()) })), false)
    assert.equal(slidingSlices(10, 10), null)
    assert.equal(slidingSlices(100_000, 99_999), null, 'too many slices')
  })
})
