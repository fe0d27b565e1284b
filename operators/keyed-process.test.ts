/**
 * Keyed process functions against a model: values, aggregates and timers a key, through blocked output,
 * evictions and restores at other parallelisms.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type {
  AggregatingState,
  KeyedProcessFunction,
  OutputTag,
  ProcessContext,
  RuntimeContext,
  ValueState,
} from '../engine/contract/functions.ts'
import { OPAQUE_SCHEMA } from '../engine/core/schema.ts'
import { stateCodec } from '../state/schema-codec.ts'
import { keyedProcessOperator } from './keyed-process.ts'
import { type Emitted, OperatorRig, type RigOptions } from './operator.testkit.ts'

interface Row {
  readonly key: string | number
  readonly act: 'add' | 'timer' | 'delete' | 'clear'
  readonly n: number
}

class Total {
  value = 0
  plus(n: number): this {
    this.value += n
    return this
  }
}

const FIRED: OutputTag<unknown> = { id: 'fired' }

class Bookkeeper implements KeyedProcessFunction<string | number, Row, unknown> {
  private last!: ValueState<{ n: number }>
  private total!: AggregatingState<number, number>

  open(context: RuntimeContext): void {
    this.last = context.getState({ kind: 'value', name: 'last', version: 1 })
    this.total = context.getAggregatingState({
      kind: 'aggregating',
      name: 'total',
      version: 1,
      aggregate: {
        createAccumulator: () => new Total(),
        add: (n: number, total) => total.plus(n),
        getResult: (total) => total.value,
        merge: (a) => a,
      },
    })
  }

  processElement(row: Row, context: ProcessContext<string | number>, collect: (result: unknown) => void): void {
    switch (row.act) {
      case 'add':
        collect({
          key: context.currentKey,
          now: context.timerService.currentWatermark(),
          last: this.last.value()?.n ?? null,
          total: this.total.get() ?? null,
        })
        this.last.update({ n: row.n })
        this.total.add(row.n)
        return
      case 'timer':
        context.timerService.registerEventTimeTimer(row.n)
        return
      case 'delete':
        context.timerService.deleteEventTimeTimer(row.n)
        return
      case 'clear':
        this.last.clear()
        this.total.clear()
    }
  }

  onTimer(timeMs: number, context: ProcessContext<string | number>): void {
    context.output(FIRED, { key: context.currentKey, timeMs, total: this.total.get() ?? null, at: context.timestamp })
    const { timerService } = context
    // Some timers set another, due at once or later, or delete one that may be due.
    if (timeMs % 7 === 0) timerService.registerEventTimeTimer(timeMs + 1_001)
    if (timeMs % 700 === 0) {
      timerService.registerEventTimeTimer(timeMs + 2)
      timerService.deleteEventTimeTimer(timeMs + 350)
    }
    this.total.add(1)
  }
}

const rigOf = (create: () => KeyedProcessFunction<never, never, unknown>, more: Partial<RigOptions> = {}) =>
  new OperatorRig({
    create: () => keyedProcessOperator(create, { codecOf: stateCodec }),
    schema: OPAQUE_SCHEMA,
    keyOf: (row) => (row as Row).key,
    ...more,
  })

class Model {
  readonly results = new Map<unknown, Emitted[]>()
  readonly fired = new Map<unknown, Emitted[]>()
  private readonly last = new Map<unknown, number>()
  private readonly total = new Map<unknown, number>()
  private timers: { key: unknown; timeMs: number }[] = []
  private watermark = Number.NEGATIVE_INFINITY

  row(row: Row, time: number): void {
    const { key, act, n } = row
    if (act === 'add') {
      this.push(this.results, key, {
        row: { key, now: this.watermark, last: this.last.get(key) ?? null, total: this.total.get(key) ?? null },
        time,
      })
      this.last.set(key, n)
      this.total.set(key, (this.total.get(key) ?? 0) + n)
    } else if (act === 'timer') {
      this.set(key, n)
    } else if (act === 'delete') {
      this.unset(key, n)
    } else {
      this.last.delete(key)
      this.total.delete(key)
    }
  }

  private set(key: unknown, timeMs: number): void {
    this.unset(key, timeMs)
    this.timers.push({ key, timeMs })
  }

  private unset(key: unknown, timeMs: number): void {
    this.timers = this.timers.filter((timer) => timer.key !== key || timer.timeMs !== timeMs)
  }

  private push(into: Map<unknown, Emitted[]>, key: unknown, emitted: Emitted): void {
    into.set(key, [...(into.get(key) ?? []), emitted])
  }

  advance(watermark: number): void {
    this.watermark = watermark
    for (;;) {
      const due = this.timers.filter((timer) => timer.timeMs <= watermark).sort((a, b) => a.timeMs - b.timeMs)[0]
      if (due === undefined) return
      const { key, timeMs } = due
      this.timers.splice(this.timers.indexOf(due), 1)
      this.push(this.fired, key, { row: { key, timeMs, total: this.total.get(key) ?? null, at: timeMs }, time: timeMs })
      if (timeMs % 7 === 0) this.set(key, timeMs + 1_001)
      if (timeMs % 700 === 0) {
        this.set(key, timeMs + 2)
        this.unset(key, timeMs + 350)
      }
      this.total.set(key, (this.total.get(key) ?? 0) + 1)
    }
  }
}

const scenario = fc.record({
  batchRows: fc.constantFrom(1, 4, 2_048),
  capacityOne: fc.boolean(),
  memoryBudgetBytes: fc.constantFrom(500, 1 << 24),
  steps: fc.array(
    fc.oneof(
      {
        weight: 4,
        arbitrary: fc.array(
          fc.record({
            key: fc.constantFrom<string | number>('a', 'b', 3, '3'),
            act: fc.constantFrom<Row['act']>('add', 'timer', 'timer', 'delete', 'clear'),
            n: fc.integer({ min: -3_000, max: 5_000 }).map((n) => Math.round(n / 350) * 350 + 0),
          }),
          { minLength: 1, maxLength: 15 },
        ),
      },
      { weight: 3, arbitrary: fc.integer({ min: 1, max: 1_500 }) },
      { weight: 1, arbitrary: fc.record({ restore: fc.constantFrom(1, 2, 3) }) },
    ),
    { maxLength: 16, size: 'max' },
  ),
})

function grouped(emitted: readonly Emitted[]): Map<unknown, Emitted[]> {
  const groups = new Map<unknown, Emitted[]>()
  for (const one of emitted) {
    const { key } = one.row as { key: unknown }
    groups.set(key, [...(groups.get(key) ?? []), structuredClone(one)])
  }
  return groups
}

const byKey = (groups: Map<unknown, Emitted[]>) =>
  [...groups].sort(([a], [b]) => (`${typeof a}${a}` < `${typeof b}${b}` ? -1 : 1))

describe('keyed process', () => {
  test('behaves as the model: state, aggregates, timers in order, side output', () => {
    let fired = 0
    fc.assert(
      fc.property(scenario, ({ steps, ...options }) => {
        const model = new Model()
        const rig = rigOf(() => new Bookkeeper(), options)
        let time = 0
        let watermark = -4_000
        for (const step of steps) {
          if (Array.isArray(step)) {
            const times = step.map(() => time++)
            step.forEach((row, i) => {
              model.row(row, times[i])
            })
            rig.push(step, times)
          } else if (typeof step === 'number') {
            watermark += step
            model.advance(watermark)
            rig.watermark(watermark)
          } else rig.restore(step.restore)
        }
        model.advance(9_000)
        rig.watermark(9_000)
        assert.deepEqual(byKey(grouped(rig.output.main)), byKey(model.results))
        assert.deepEqual(byKey(grouped(rig.output.sides.get('fired') ?? [])), byKey(model.fired))
        fired += rig.output.sides.get('fired')?.length ?? 0
        rig.close()
      }),
      { numRuns: 80 },
    )
    assert.ok(fired > 200)
  })

  test('many due timers fire in steps, in order of time over all keys', () => {
    const rig = rigOf(() => ({
      processElement(row: Row, context) {
        context.timerService.registerEventTimeTimer(row.n)
      },
      onTimer: (timeMs, _context, collect) => collect(timeMs),
    }))
    const rows = Array.from({ length: 5_000 }, (_, i): Row => ({ key: i % 900, act: 'timer', n: (i * 7_919) % 60_000 }))
    rig.push(
      rows,
      rows.map(() => 0),
    )
    const { operator } = rig.subtasks[0]
    let before = 0
    for (let done = false; !done; ) {
      done = operator.advanceWatermark(59_999, rig.output)
      assert.ok(rig.output.main.length - before <= 2_000)
      before = rig.output.main.length
    }
    const times = rig.output.main.map(({ row }) => row as number)
    assert.deepEqual(
      times,
      rows.map((row) => row.n).sort((a, b) => a - b),
    )
    rig.close()
  })

  test('state is declared in open and used with a key', () => {
    const late = rigOf(() => {
      let runtime: RuntimeContext
      return {
        open: (context) => {
          runtime = context
        },
        processElement: () => void runtime.getState({ kind: 'value', name: 'x', version: 1 }),
      }
    })
    assert.throws(() => late.push([{ key: 1 }], [0]), { code: 'STATE_DECLARED_LATE' })
    late.close()
    const keyless = () =>
      rigOf(() => ({
        open: (context) => void context.getState({ kind: 'value', name: 'x', version: 1 }).value(),
        processElement() {},
      }))
    assert.throws(keyless, { code: 'STATE_WITHOUT_KEY' })
  })

  test('private fields in a template are refused at the start', () => {
    class Secret {
      #n = 1
      get n(): number {
        return this.#n
      }
    }
    const create = () =>
      rigOf(() => ({
        open: (context) =>
          void context.getState({ kind: 'value', name: 's', version: 1, template: () => new Secret() }),
        processElement() {},
      }))
    assert.throws(create, { code: 'STATE_PRIVATE_FIELDS', message: /State "s"/ })
  })
})
