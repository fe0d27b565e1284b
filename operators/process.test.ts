/**
 * Keyed process functions against a model: values, aggregates and timers a key, through blocked output,
 * evictions and restores at other parallelisms.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type {
  AggregatingState,
  FilterObject,
  FunctionInitializationContext,
  KeyedProcessFunction,
  ListState,
  OutputTag,
  ProcessContext,
  ProcessFunction,
  RuntimeContext,
  TimerService,
  ValueState,
} from '../engine/contract/functions.ts'
import { AverageAccumulator } from '../engine/core/accumulators.ts'
import { OPAQUE_SCHEMA } from '../engine/core/schema.ts'
import { stateCodec } from '../state/schema-codec.ts'
import { type Emitted, OperatorRig, type RigOptions } from './operator.testkit.ts'
import { keyedProcessOperator, processOperator, type RichObject, richOperator } from './process.ts'

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

describe('process without keys', () => {
  const plainRig = (create: () => ProcessFunction<never, unknown>, more: Partial<RigOptions> = {}) =>
    new OperatorRig({
      create: () => processOperator(create, { codecOf: stateCodec }),
      schema: OPAQUE_SCHEMA,
      keyOf: null,
      ...more,
    })

  test('many results and side outputs, through blocked output, with time and without timers', () => {
    for (const batchRows of [1, 2, 3, 5, 7]) {
      const rig = plainRig(
        () => ({
          processElement(n: number, context, collect) {
            for (let i = 0; i < n; i++) collect([n, i, context.timestamp, context.timerService.currentWatermark()])
            if (n % 2 === 0) context.output(FIRED, n)
          },
        }),
        { batchRows, capacityOne: true },
      )
      rig.watermark(5)
      const rows = [3, 0, 2_500, 4]
      rig.push(rows, [10, 11, 12, 13])
      assert.deepEqual(
        rig.output.main,
        rows.flatMap((n, k) => Array.from({ length: n }, (_, i) => ({ row: [n, i, 10 + k, 5], time: 10 + k }))),
      )
      assert.deepEqual(
        rig.output.sides.get('fired')!.map(({ row }) => row),
        [0, 2_500, 4],
      )
      rig.close()
    }
  })

  test('keyed state and timers are refused with advice', () => {
    const stateful = () =>
      plainRig(() => ({
        open: (context) => void context.getState({ kind: 'value', name: 'x', version: 1 }),
        processElement() {},
      }))
    assert.throws(stateful, { code: 'STATE_NOT_KEYED' })
    const timed = plainRig(() => ({
      processElement: (_: never, context) => (context.timerService as TimerService).registerEventTimeTimer(1),
    }))
    assert.throws(() => timed.push([1], [1]), { code: 'TIMERS_NOT_KEYED' })
    timed.close()
  })

  test('lists of a subtask are dealt out anew, union lists go to all', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.oneof(fc.array(fc.integer(), { maxLength: 9 }), fc.record({ restore: fc.integer({ min: 1, max: 4 }) })),
        ),
        (steps) => {
          const buffers: { list: number[]; union: number[]; isRestored: boolean }[] = []
          const rig = plainRig(() => new Buffering(buffers))
          let all: number[] = []
          let restored = false
          for (const step of steps) {
            if (Array.isArray(step)) {
              all.push(...step)
              rig.push(
                step,
                step.map(() => 0),
              )
            } else {
              const before = buffers.map(({ list }) => list)
              buffers.length = 0
              rig.restore(step.restore)
              restored = true
              assert.equal(buffers.length, step.restore)
              if (before.length === step.restore)
                assert.deepEqual(
                  buffers.map(({ list }) => list),
                  before,
                )
              for (const { union } of buffers) assert.deepEqual(sorted(union), sorted(all))
            }
            assert.deepEqual(sorted(buffers.flatMap(({ list }) => list)), sorted(all))
            assert.ok(buffers.every(({ isRestored }) => isRestored === restored))
          }
          all = []
          rig.close()
        },
      ),
      { numRuns: 50 },
    )
  })
})

const sorted = (numbers: readonly number[]) => numbers.toSorted((a, b) => a - b)

/** Keeps rows in a list of its own, which it puts into operator state when a cut comes. */
class Buffering implements ProcessFunction<number, unknown> {
  private readonly buffer: { list: number[]; union: number[]; isRestored: boolean }
  private list!: ListState<number>
  private union!: ListState<number>

  constructor(all: { list: number[]; union: number[]; isRestored: boolean }[]) {
    this.buffer = { list: [], union: [], isRestored: false }
    all.push(this.buffer)
  }

  initializeState({ isRestored, operatorStateStore }: FunctionInitializationContext): void {
    this.list = operatorStateStore.getListState({ kind: 'list', name: 'list', version: 1 })
    this.union = operatorStateStore.getUnionListState({ kind: 'list', name: 'union', version: 1 })
    this.buffer.isRestored = isRestored
    this.buffer.list.push(...this.list.get())
    this.buffer.union.push(...this.union.get())
  }

  processElement(n: number): void {
    this.buffer.list.push(n)
  }

  snapshotState(): void {
    this.list.update(this.buffer.list)
    this.union.update(this.buffer.list)
  }
}

describe('functions with a life', () => {
  const richRig = (create: () => RichObject, isKeyed: boolean) =>
    new OperatorRig({
      create: () => richOperator(create, { codecOf: stateCodec, isKeyed }),
      schema: OPAQUE_SCHEMA,
      keyOf: isKeyed ? (row) => row : null,
      batchRows: 3,
      capacityOne: true,
    })
  const rowsOf = (rig: OperatorRig) => rig.output.main.map(({ row }) => row)

  test('map, flatMap and filter; opened and closed once', () => {
    const calls: string[] = []
    const life = { open: () => void calls.push('open'), close: () => void calls.push('close') }
    const rows = [1, 2, 3, 4]
    const times = [0, 1, 2, 3]
    const map = richRig(() => ({ ...life, map: (n) => (n as number) * 2 }), false)
    map.push(rows, times)
    assert.deepEqual(rowsOf(map), [2, 4, 6, 8])
    map.close()
    assert.deepEqual(calls, ['open', 'close'])
    const flatMap = richRig(
      () => ({
        flatMap(n, collect) {
          collect(n)
          return n === 2 ? undefined : [n]
        },
      }),
      false,
    )
    flatMap.push(rows, times)
    assert.deepEqual(rowsOf(flatMap), [1, 1, 2, 3, 3, 4, 4])
    flatMap.close()
    const filter = richRig(() => ({ filter: (n) => (n as number) > 2 }), false)
    filter.push(rows, times)
    assert.deepEqual(rowsOf(filter), [3, 4])
    assert.equal(filter.counters.filtered, 2)
    filter.close()
  })

  test('on a keyed stream they keep state, metrics and accumulators', () => {
    class First implements FilterObject<unknown> {
      private seen!: ValueState<boolean>
      private context!: RuntimeContext
      open(context: RuntimeContext): void {
        this.context = context
        this.seen = context.getState({ kind: 'value', name: 'seen', version: 1 })
        context.addAccumulator('mean', new AverageAccumulator())
      }
      filter(n: unknown): boolean {
        this.context.getIntCounter('all').add(1)
        this.context.getAccumulator('mean')!.add(n as number)
        const isFirst = this.seen.value() === undefined
        this.seen.update(true)
        return isFirst
      }
    }
    const rig = richRig(() => new First(), true)
    rig.push([1, 2, 1, 1, 3], [0, 1, 2, 3, 4])
    assert.deepEqual(rowsOf(rig), [1, 2, 3])
    assert.deepEqual(rig.subtasks[0]!.accumulators.snapshot(), {
      mean: { kind: 'average', sum: 8, count: 5 },
      all: { kind: 'integer', value: 5 },
    })
    rig.restore(2)
    rig.push([1, 4, 2], [0, 1, 2])
    assert.deepEqual(rowsOf(rig), [1, 2, 3, 4])
    rig.close()
  })

  test('promises and failures are named', () => {
    const asynchronous = richRig(() => ({ filter: () => Promise.resolve(true) as unknown as boolean }), false)
    assert.throws(() => asynchronous.push([1], [0]), { code: 'ASYNC_FUNCTION' })
    asynchronous.close()
    const failing = richRig(() => ({ map: () => (undefined as unknown as string).length }), false)
    assert.throws(() => failing.push([1], [0]), { code: 'USER_FUNCTION_FAILED' })
    failing.close()
  })
})
