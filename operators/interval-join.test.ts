/**
 * The interval join against a model of all pairs, through blocked output, evictions, late rows and restores at
 * other parallelisms; and a row that meets very many others.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { ProcessJoinFunction } from '../engine/contract/joint-functions.ts'
import { OPAQUE_SCHEMA, schema, t } from '../engine/core/schema.ts'
import { schemaCodec, stateCodec } from '../state/schema-codec.ts'
import { objectCodec } from '../state/value-codec.ts'
import { type IntervalJoinOptions, intervalJoinOperator } from './interval-join.ts'
import { OperatorRig, type RigOptions } from './operator.testkit.ts'

const LEFT = schema({ key: t.string(), id: t.int32() })

interface Row {
  readonly key: string
  readonly id: number
}

interface Pair {
  readonly left: number
  readonly right: number
  readonly time: number
}

type Bounds = Pick<IntervalJoinOptions, 'lowerMs' | 'upperMs' | 'lowerExclusive' | 'upperExclusive'>

const pairs: ProcessJoinFunction<Row, Row, unknown> = {
  processElement(left, right, context, collect) {
    assert.equal(context.timestamp, Math.max(context.leftTimestamp, context.rightTimestamp))
    assert.equal(left.key, right.key)
    collect({ left: left.id, right: right.id })
  },
}

/** Left rows have a schema, right ones are opaque. */
const rigOf = (
  bounds: Bounds,
  more: Partial<RigOptions> = {},
  create = () => pairs,
  tags: Partial<IntervalJoinOptions> = {},
) =>
  new OperatorRig({
    create: () =>
      intervalJoinOperator(create, {
        ...bounds,
        ...tags,
        leftCodec: schemaCodec(LEFT),
        rightCodec: objectCodec(),
        codecOf: stateCodec,
      }),
    schema: LEFT,
    keyOf: (row) => (row as Row).key,
    moreInputs: [{ schema: OPAQUE_SCHEMA, keyOf: (row) => (row as Row).key }],
    ...more,
  })

interface Timed extends Row {
  readonly time: number
}

/** Remembers everything that was not late. */
class Model {
  readonly pairs: Pair[] = []
  readonly late: [number[], number[]] = [[], []]
  private readonly sides: [Timed[], Timed[]] = [[], []]
  private readonly bounds: Bounds
  watermark = Number.NEGATIVE_INFINITY

  constructor(bounds: Bounds) {
    this.bounds = bounds
  }

  add(input: 0 | 1, row: Timed): void {
    if (row.time < this.watermark) {
      this.late[input].push(row.id)
      return
    }
    this.sides[input].push(row)
    for (const other of this.sides[1 - input]!) {
      const [left, right] = input === 0 ? [row, other] : [other, row]
      if (left.key === right.key && this.fits(right.time - left.time)) {
        this.pairs.push({ left: left.id, right: right.id, time: Math.max(left.time, right.time) })
      }
    }
  }

  private fits(distance: number): boolean {
    const { lowerMs, upperMs, lowerExclusive, upperExclusive } = this.bounds
    if (distance < lowerMs || distance > upperMs) return false
    return !(lowerExclusive && distance === lowerMs) && !(upperExclusive && distance === upperMs)
  }
}

const sorted = (found: readonly Pair[]) => [...found].sort((a, b) => a.left - b.left || a.right - b.right)

const scenario = fc.record({
  bounds: fc.tuple(fc.integer({ min: -12, max: 12 }), fc.integer({ min: 0, max: 16 }), fc.boolean(), fc.boolean()).map(
    ([lower, span, lowerExclusive, upperExclusive]): Bounds => ({
      lowerMs: lower * 100,
      upperMs: (lower + span) * 100,
      lowerExclusive,
      upperExclusive,
    }),
  ),
  batchRows: fc.constantFrom(1, 2, 3, 7, 2_048),
  capacityOne: fc.boolean(),
  memoryBudgetBytes: fc.constantFrom(500, 1 << 24),
  steps: fc.array(
    fc.oneof(
      {
        weight: 5,
        arbitrary: fc.record({
          input: fc.constantFrom<0 | 1>(0, 1),
          rows: fc.array(fc.record({ key: fc.constantFrom('a', 'b', 'c'), back: fc.integer({ min: -10, max: 30 }) }), {
            minLength: 1,
            maxLength: 12,
          }),
        }),
      },
      { weight: 2, arbitrary: fc.record({ watermark: fc.integer({ min: 1, max: 15 }) }) },
      { weight: 1, arbitrary: fc.record({ restore: fc.constantFrom(1, 2, 3) }) },
    ),
    { maxLength: 24, size: 'max' },
  ),
})

describe('an interval join', () => {
  test('meets the pairs of the model, each once', () => {
    let found = 0
    let late = 0
    fc.assert(
      fc.property(scenario, fc.boolean(), ({ bounds, steps, ...options }, lateToSide) => {
        const model = new Model(bounds)
        const tags = lateToSide ? { leftLateTag: 'left', rightLateTag: 'right' } : {}
        const rig = rigOf(bounds, options, () => pairs, tags)
        let ids = 0
        let now = 0
        for (const step of steps) {
          if ('rows' in step) {
            const rows = step.rows.map(({ key, back }) => ({ key, id: ids++, time: now + back * 100 }))
            for (const row of rows) model.add(step.input, row)
            rig.push(
              rows.map(({ key, id }) => ({ key, id })),
              rows.map((row) => row.time),
              step.input,
            )
          } else if ('watermark' in step) {
            now += step.watermark * 100
            model.watermark = now
            rig.watermark(now)
          } else rig.restore(step.restore)
        }
        const emitted = rig.output.main.map(({ row, time }) => ({ ...(row as Omit<Pair, 'time'>), time }))
        assert.deepEqual(sorted(emitted), sorted(model.pairs))
        const idsOf = (tag: string) => (rig.output.sides.get(tag) ?? []).map(({ row }) => (row as Row).id)
        if (lateToSide) assert.deepEqual([idsOf('left').sort(byNumber), idsOf('right').sort(byNumber)], model.late)
        else assert.equal(rig.counters.lateDropped, model.late[0].length + model.late[1].length)
        found += emitted.length
        late += model.late[0].length + model.late[1].length
        rig.close()
      }),
      { numRuns: 60 },
    )
    assert.ok(found > 100 && late > 10, `${found} pairs, ${late} late`)
  })

  test('forgets what the watermark has passed', () => {
    const rig = rigOf({ lowerMs: -1_000, upperMs: 2_000 })
    const times = Array.from({ length: 500 }, (_, i) => i * 20)
    const rows = times.map((_, i) => ({ key: `k${i % 7}`, id: i }))
    rig.push(rows, times, 0)
    rig.push(rows, times, 1)
    rig.restore(1)
    assert.ok(rig.storedEntries() > 0)
    rig.watermark(20_000)
    rig.restore(2)
    assert.equal(rig.storedEntries(), 0)
    rig.close()
  })

  test('a watermark that begins lower after a restore brings nothing back', () => {
    const rig = rigOf({ lowerMs: 0, upperMs: 0 }, {}, () => pairs, { leftLateTag: 'left', rightLateTag: 'right' })
    rig.watermark(20_000)
    rig.restore(1)
    rig.watermark(5_000)
    rig.push([{ key: 'a', id: 1 }], [6_000])
    rig.push([{ key: 'a', id: 2 }], [6_000], 1)
    assert.equal(rig.output.main.length, 0)
    assert.deepEqual([rig.output.sides.get('left')?.length, rig.output.sides.get('right')?.length], [1, 1])
    rig.close()
  })

  test('the bounds may change over a restore', () => {
    let bounds: Bounds = { lowerMs: -100, upperMs: 100 }
    const rig = new OperatorRig({
      create: () =>
        intervalJoinOperator(() => pairs, {
          ...bounds,
          leftCodec: schemaCodec(LEFT),
          rightCodec: objectCodec(),
          codecOf: stateCodec,
        }),
      schema: LEFT,
      keyOf: (row) => (row as Row).key,
      moreInputs: [{ schema: OPAQUE_SCHEMA, keyOf: (row) => (row as Row).key }],
    })
    rig.push([{ key: 'a', id: 1 }], [10_000])
    bounds = { lowerMs: -50_000, upperMs: 5_000 }
    rig.restore(1)
    rig.push([{ key: 'a', id: 2 }], [14_000], 1)
    assert.deepEqual(rig.output.main, [{ row: { left: 1, right: 2 }, time: 14_000 }])
    rig.close()
  })

  test('one row meets very many others in pieces: bounded output a call, nothing twice, also after an eviction', () => {
    const rig = rigOf({ lowerMs: -1_000, upperMs: 1_000 }, { capacityOne: true, memoryBudgetBytes: 50_000 })
    const count = 60_000
    const rows = Array.from({ length: count }, (_, id) => ({ key: 'hot', id }))
    const times = rows.map((_, i) => i % 1_000)
    rig.push(rows, times, 1)
    rig.push([{ key: 'hot', id: -1 }], [500], 0)
    assert.equal(rig.output.main.length, count)
    assert.ok(rig.output.batches.every((batch) => batch.length <= 2_048))
    assert.equal(new Set(rig.output.main.map(({ row }) => (row as { right: number }).right)).size, count)
    rig.close()
  })

  test('a call that finds no pair ends after its share of work', () => {
    const rig = rigOf({ lowerMs: 0, upperMs: 0 })
    const count = 50_000
    rig.push(
      Array.from({ length: count }, (_, id) => ({ key: 'hot', id })),
      Array.from({ length: count }, () => 7),
      1,
    )
    const { operator } = rig.subtasks[0]
    let calls = 0
    const { process } = operator
    operator.process = (...args) => {
      calls++
      return process.apply(operator, args)
    }
    rig.push([{ key: 'hot', id: -1 }], [8], 0)
    assert.ok(calls > 2, `${calls} calls`)
    assert.equal(rig.output.main.length, 0)
    rig.close()
  })

  test('rows need event times', () => {
    const rig = rigOf({ lowerMs: 0, upperMs: 0 })
    assert.throws(() => rig.push([{ key: 'a', id: 1 }], [Number.NaN]), { code: 'TIMESTAMP_MISSING' })
    rig.close()
  })

  test('side outputs, and failures of the function with its name', () => {
    const rig = rigOf({ lowerMs: 0, upperMs: 0 }, {}, () => ({
      processElement(left, right, context) {
        if (left.id === 9) throw new Error('nine')
        context.output({ id: 'both' }, [left.id, right.id])
      },
    }))
    rig.push([{ key: 'a', id: 1 }], [5])
    rig.push([{ key: 'a', id: 2 }], [5], 1)
    assert.deepEqual(rig.output.sides.get('both'), [{ row: [1, 2], time: 5 }])
    rig.push([{ key: 'b', id: 9 }], [5])
    assert.throws(() => rig.push([{ key: 'b', id: 2 }], [5], 1), {
      code: 'USER_FUNCTION_FAILED',
      message: /tested.*nine/,
    })
    rig.close()
  })
})

function byNumber(a: number, b: number): number {
  return a - b
}
