/**
 * Two inputs in windows against a model, through blocked output, evictions, late rows and restores at other
 * parallelisms; each input with a schema of its own.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { OPAQUE_SCHEMA, schema, t } from '../engine/core/schema.ts'
import { schemaCodec } from '../state/schema-codec.ts'
import { objectCodec } from '../state/value-codec.ts'
import { type CoGroup, coGroupContents, innerJoin, taggedCodec, taggedInputs } from './co-group.ts'
import { OperatorRig, type RigOptions } from './operator.testkit.ts'
import { windowOperator } from './window-aggregate.ts'
import { slidingWindows, tumblingWindows } from './window-assigner.ts'
import { processKernel } from './window-kernels.ts'

const LEFT = schema({ key: t.string(), id: t.int32() })
interface Row {
  readonly key: string
  readonly id: number
}
interface Fired {
  readonly key: string
  readonly end: number
  readonly ids: readonly [readonly number[], readonly number[]]
}

const idsOf = (rows: readonly unknown[]) => rows.map((row) => (row as Row).id)

const rigOf = (slideMs: number, allowedLatenessMs: number, more: Partial<RigOptions> = {}) =>
  new OperatorRig({
    create: () =>
      taggedInputs(
        windowOperator({
          assigner: slideMs === 100 ? tumblingWindows(100) : slidingWindows(100, slideMs),
          kernel: processKernel<CoGroup, Fired, string>(
            ({ key, window }, [group], collect) =>
              collect({ key, end: window.end, ids: [idsOf(group!.one), idsOf(group!.two)] }),
            { codec: taggedCodec(schemaCodec(LEFT), objectCodec()), contents: coGroupContents(), pieceElements: 3 },
          ),
          allowedLatenessMs,
        }),
      ),
    schema: LEFT,
    keyOf: (row) => (row as Row).key,
    moreInputs: [{ schema: OPAQUE_SCHEMA, keyOf: (row) => (row as Row).key }],
    ...more,
  })

class Model {
  readonly fired: Fired[] = []
  late = 0
  private readonly windows = new Map<string, { key: string; end: number; ids: [number[], number[]] }>()
  private watermark = Number.NEGATIVE_INFINITY
  private readonly slideMs: number
  private readonly latenessMs: number

  constructor(slideMs: number, latenessMs: number) {
    this.slideMs = slideMs
    this.latenessMs = latenessMs
  }

  add(input: number, { key, id }: Row, time: number): void {
    let isLate = true
    for (let end = (Math.floor(time / this.slideMs) + 1) * this.slideMs; end <= time + 100; end += this.slideMs) {
      if (end - 1 + this.latenessMs <= this.watermark) continue
      isLate = false
      const window = this.windows.get(`${key} ${end}`) ?? { key, end, ids: [[], []] }
      this.windows.set(`${key} ${end}`, window)
      window.ids[input]!.push(id)
      if (end - 1 <= this.watermark) this.fire(window)
    }
    if (isLate) this.late++
  }

  private fire({ key, end, ids }: Fired): void {
    this.fired.push({ key, end, ids: [[...ids[0]], [...ids[1]]] })
  }

  advance(watermark: number): void {
    for (const window of this.windows.values()) {
      if (window.end - 1 > this.watermark && window.end - 1 <= watermark) this.fire(window)
    }
    this.watermark = watermark
  }
}

const scenario = fc.record({
  slideMs: fc.constantFrom(100, 50, 20),
  latenessMs: fc.constantFrom(0, 60),
  batchRows: fc.constantFrom(1, 2, 3, 7, 2_048),
  capacityOne: fc.boolean(),
  memoryBudgetBytes: fc.constantFrom(500, 1 << 24),
  steps: fc.array(
    fc.oneof(
      {
        weight: 5,
        arbitrary: fc.record({
          input: fc.constantFrom(0, 1),
          rows: fc.array(
            fc.record({ key: fc.constantFrom('a', 'b', 'c'), ahead: fc.integer({ min: -150, max: 150 }) }),
            {
              minLength: 1,
              maxLength: 8,
            },
          ),
        }),
      },
      { weight: 2, arbitrary: fc.integer({ min: 1, max: 120 }) },
      { weight: 1, arbitrary: fc.record({ restore: fc.constantFrom(1, 2, 3) }) },
    ),
    { maxLength: 16, size: 'max' },
  ),
})

const sorted = (fired: readonly Fired[]) => fired.map((one) => JSON.stringify(one)).sort()

describe('two inputs in windows', () => {
  test('each window has the rows of the model, in the order in which they came', () => {
    let both = 0
    fc.assert(
      fc.property(scenario, ({ slideMs, latenessMs, steps, ...options }) => {
        const model = new Model(slideMs, latenessMs)
        const rig = rigOf(slideMs, latenessMs, options)
        let now = 0
        let id = 0
        for (const step of steps) {
          if (typeof step === 'number') {
            now += step
            model.advance(now)
            rig.watermark(now)
          } else if ('restore' in step) rig.restore(step.restore)
          else {
            const rows = step.rows.map(({ key }) => ({ key, id: id++ }))
            const times = step.rows.map(({ ahead }) => now + ahead)
            for (const [i, row] of rows.entries()) model.add(step.input, row, times[i]!)
            rig.push(rows, times, step.input)
          }
        }
        model.advance(100_000)
        rig.watermark(100_000)
        const fired = rig.output.main.map(({ row }) => row as Fired)
        assert.deepEqual(sorted(fired), sorted(model.fired))
        assert.equal(rig.counters.lateDropped, model.late)
        assert.ok(rig.output.main.every(({ row, time }) => time === (row as Fired).end - 1))
        both += fired.filter(({ ids }) => ids[0].length > 0 && ids[1].length > 0).length
        rig.close()
      }),
      { numRuns: 40 },
    )
    assert.ok(both > 100, `${both} windows with rows of both`)
  })

  test('an inner join is every pair, and hands a promise back', async () => {
    const joined: string[] = []
    innerJoin<number, string, string>((n, s, collect) => collect(`${n}${s}`))([1, 2], ['a', 'b'], (row) => {
      joined.push(row)
    })
    assert.deepEqual(joined, ['1a', '1b', '2a', '2b'])
    const returned: unknown = innerJoin(async () => {})([1], [2], () => {})
    assert.ok(returned instanceof Promise)
    await returned
  })

  test('codecs keep the two inputs apart', () => {
    const tagged = taggedCodec(schemaCodec(LEFT), objectCodec())
    for (const element of [
      { isOne: true, one: { key: 'a', id: 1 } },
      { isOne: false, two: { key: 'a', id: 1, more: [1, 2] } },
    ]) {
      const bytes = tagged.encode(element)
      assert.deepEqual(tagged.decode(bytes, 0, bytes.length), element)
    }
  })
})
