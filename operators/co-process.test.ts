/**
 * Functions of two inputs against models: state and timers that both inputs share by key, through blocked output,
 * evictions and restores at other parallelisms; each input with a schema of its own.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { OnTimerContext, ProcessContext, RuntimeContext, ValueState } from '../engine/contract/functions.ts'
import type { KeyedCoProcessFunction } from '../engine/contract/joint-functions.ts'
import { OPAQUE_SCHEMA, schema, t } from '../engine/core/schema.ts'
import { stateCodec } from '../state/schema-codec.ts'
import { coFlatMapOperator, coMapOperator, coProcessOperator } from './co-process.ts'
import { type Emitted, OperatorRig, type RigOptions } from './operator.testkit.ts'

/** Orders have columns, payments are opaque. */
const ORDERS = schema({ key: t.string(), total: t.float64() })
interface Order {
  readonly key: string
  readonly total: number
}
interface Payment {
  readonly key: string
  readonly paid: number
}

/** Adds up what is owed; a payment asks for a reminder 100 ms later if something is still owed then. */
class Ledger implements KeyedCoProcessFunction<string, Order, Payment, unknown> {
  private owed!: ValueState<number>

  open(context: RuntimeContext): void {
    this.owed = context.getState({ kind: 'value', name: 'owed', version: 1 })
  }

  processElement1({ key, total }: Order, context: ProcessContext<string>, collect: (row: unknown) => void): void {
    assert.equal(context.currentKey, key)
    this.owed.update((this.owed.value() ?? 0) + total)
    collect({ key, owed: this.owed.value() })
  }

  processElement2({ key, paid }: Payment, context: ProcessContext<string>): void {
    const left = (this.owed.value() ?? 0) - paid
    if (left === 0) this.owed.clear()
    else this.owed.update(left)
    context.output({ id: 'paid' }, { key, left })
    context.timerService.registerEventTimeTimer(context.timestamp + 100)
  }

  onTimer(timeMs: number, context: OnTimerContext<string>, collect: (row: unknown) => void): void {
    const left = this.owed.value()
    if (left !== undefined) collect({ key: context.currentKey, reminder: left, timeMs })
  }
}

const rigOf = (more: Partial<RigOptions> = {}) =>
  new OperatorRig({
    create: () => coProcessOperator(() => new Ledger(), { codecOf: stateCodec, isKeyed: true }),
    schema: ORDERS,
    keyOf: (row) => (row as Order).key,
    moreInputs: [{ schema: OPAQUE_SCHEMA, keyOf: (row) => (row as Payment).key }],
    ...more,
  })

class Model {
  readonly results: Emitted[] = []
  readonly paid: Emitted[] = []
  private readonly owed = new Map<string, number>()
  private timers: { key: string; timeMs: number }[] = []

  order({ key, total }: Order, time: number): void {
    this.owed.set(key, (this.owed.get(key) ?? 0) + total)
    this.results.push({ row: { key, owed: this.owed.get(key) }, time })
  }

  payment({ key, paid }: Payment, time: number): void {
    const left = (this.owed.get(key) ?? 0) - paid
    if (left === 0) this.owed.delete(key)
    else this.owed.set(key, left)
    this.paid.push({ row: { key, left }, time })
    if (this.timers.some((timer) => timer.key === key && timer.timeMs === time + 100)) return
    this.timers.push({ key, timeMs: time + 100 })
  }

  advance(watermark: number): void {
    const due = this.timers.filter(({ timeMs }) => timeMs <= watermark).sort((a, b) => a.timeMs - b.timeMs)
    this.timers = this.timers.filter(({ timeMs }) => timeMs > watermark)
    for (const { key, timeMs } of due) {
      const left = this.owed.get(key)
      if (left !== undefined) this.results.push({ row: { key, reminder: left, timeMs }, time: timeMs })
    }
  }
}

const KEYS = ['a', 'b', 'c', 'd']

const scenario = fc.record({
  batchRows: fc.constantFrom(1, 2, 7, 2_048),
  capacityOne: fc.boolean(),
  memoryBudgetBytes: fc.constantFrom(500, 1 << 24),
  steps: fc.array(
    fc.oneof(
      {
        weight: 4,
        arbitrary: fc.record({
          input: fc.constantFrom(0, 1),
          rows: fc.array(fc.record({ key: fc.constantFrom(...KEYS), n: fc.integer({ min: 1, max: 3 }) }), {
            minLength: 1,
            maxLength: 10,
          }),
        }),
      },
      { weight: 2, arbitrary: fc.integer({ min: 1, max: 150 }) },
      { weight: 1, arbitrary: fc.record({ restore: fc.constantFrom(1, 2, 3) }) },
    ),
    { maxLength: 20, size: 'max' },
  ),
})

/** By key, in order; subtasks work one after the other. */
function byKey(emitted: readonly Emitted[]): Record<string, Emitted[]> {
  return Object.fromEntries(KEYS.map((key) => [key, emitted.filter(({ row }) => (row as Order).key === key)]))
}

describe('functions of two inputs', () => {
  test('share state and timers by key, as the model does', () => {
    let reminders = 0
    fc.assert(
      fc.property(scenario, ({ steps, ...options }) => {
        const model = new Model()
        const rig = rigOf(options)
        let time = 0
        let watermark = 0
        for (const step of steps) {
          if (typeof step === 'number') {
            watermark += step
            model.advance(watermark)
            rig.watermark(watermark)
          } else if ('restore' in step) rig.restore(step.restore)
          else if (step.input === 0) {
            const rows = step.rows.map(({ key, n }): Order => ({ key, total: n }))
            const times = rows.map(() => time++)
            for (const [i, row] of rows.entries()) model.order(row, times[i]!)
            rig.push(rows, times, 0)
          } else {
            const rows = step.rows.map(({ key, n }): Payment => ({ key, paid: n }))
            const times = rows.map(() => time++)
            for (const [i, row] of rows.entries()) model.payment(row, times[i]!)
            rig.push(rows, times, 1)
          }
        }
        model.advance(100_000)
        rig.watermark(100_000)
        assert.deepEqual(byKey(rig.output.main), byKey(model.results))
        assert.deepEqual(byKey(rig.output.sides.get('paid') ?? []), byKey(model.paid))
        reminders += model.results.filter(({ row }) => 'reminder' in (row as object)).length
        rig.close()
      }),
      { numRuns: 30 },
    )
    assert.ok(reminders > 30, `${reminders} reminders`)
  })

  test('map and flat map', () => {
    const options = { codecOf: stateCodec, isKeyed: false }
    const inputs = { schema: ORDERS, moreInputs: [{ schema: OPAQUE_SCHEMA }], capacityOne: true, batchRows: 2 }
    const mapped = new OperatorRig({
      ...inputs,
      create: () =>
        coMapOperator(() => ({ map1: (order: Order) => order.total, map2: (text: string) => text.length }), options),
    })
    const flat = new OperatorRig({
      ...inputs,
      create: () =>
        coFlatMapOperator<Order, string, unknown>(
          () => ({
            flatMap1: ({ total }) => Array.from({ length: total }, (_, i) => i),
            flatMap2: (text, collect) => collect(text),
          }),
          options,
        ),
    })
    for (const rig of [mapped, flat]) {
      rig.push([{ key: 'a', total: 3 }], [1], 0)
      rig.push(['four', ''], [2, 3], 1)
      rig.push([{ key: 'a', total: 0 }], [4], 0)
    }
    const rows = (rig: OperatorRig) => rig.output.main.map(({ row, time }) => [row, time])
    assert.deepEqual(rows(mapped), [
      [3, 1],
      [4, 2],
      [0, 3],
      [0, 4],
    ])
    assert.deepEqual(rows(flat), [
      [0, 1],
      [1, 1],
      [2, 1],
      ['four', 2],
      ['', 3],
    ])
    mapped.close()
    flat.close()
  })

  test('without keys there is neither state nor timers', () => {
    const unkeyed = (fn: () => Ledger) =>
      new OperatorRig({
        create: () => coProcessOperator(fn, { codecOf: stateCodec, isKeyed: false }),
        schema: ORDERS,
        moreInputs: [{ schema: OPAQUE_SCHEMA }],
      })
    assert.throws(() => unkeyed(() => new Ledger()), { code: 'STATE_NOT_KEYED' })
    const timers = unkeyed(() =>
      Object.assign(new Ledger(), {
        open() {},
        processElement2: (_row: Payment, { timerService }: ProcessContext<string>) =>
          timerService.registerEventTimeTimer(1),
      }),
    )
    assert.throws(() => timers.push([1], [1], 1), { code: 'TIMERS_NOT_KEYED' })
    timers.close()
  })

  test('what a function throws names the operator, whichever input it came from', () => {
    const rig = new OperatorRig({
      create: () =>
        coMapOperator(
          () => ({
            map1: () => 1,
            map2: () => {
              throw new Error('second')
            },
          }),
          { codecOf: stateCodec, isKeyed: false },
        ),
      schema: ORDERS,
      moreInputs: [{ schema: OPAQUE_SCHEMA }],
    })
    assert.throws(() => rig.push([1], [1], 1), { code: 'USER_FUNCTION_FAILED', message: /tested.*second/ })
    rig.close()
  })
})
