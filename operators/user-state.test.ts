/**
 * Every kind of keyed state against plain JavaScript values, through small batches, evictions, restores at other
 * parallelisms, and times to live. Longer than other files: one model and one driver of all kinds serve all of it.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type {
  KeyedProcessFunction,
  ListState,
  MapState,
  ProcessContext,
  ReducingState,
  RuntimeContext,
  StateTtl,
  ValueState,
} from '../engine/contract/functions.ts'
import type { Key } from '../engine/core/keys.ts'
import { OPAQUE_SCHEMA } from '../engine/core/schema.ts'
import { WriteBatchBuilder } from '../state/keyed-layout.ts'
import { stateCodec } from '../state/schema-codec.ts'
import { readState } from '../state/state-reader.ts'
import { OperatorRig, type RigOptions } from './operator.testkit.ts'
import { keyedProcessOperator } from './process.ts'

type Act =
  | 'value'
  | 'update'
  | 'clear'
  | 'add'
  | 'list'
  | 'keepEven'
  | 'clearList'
  | 'put'
  | 'get'
  | 'remove'
  | 'entries'
  | 'prune'
  | 'clearMap'
  | 'reduce'
  | 'isEmpty'

interface Row {
  readonly key: string
  readonly act: Act
  readonly n: number
}

/** Keeps a list of texts of 600 characters, each of which begins with a number. */
class Texts implements KeyedProcessFunction<string, Row, unknown> {
  private texts!: ListState<string>

  open(context: RuntimeContext): void {
    this.texts = context.getListState({ kind: 'list', name: 'texts', version: 1 })
  }

  processElement({ act, n }: Row, context: ProcessContext<string>, collect: (result: unknown) => void): void {
    if (act === 'add') this.texts.add(`${n} `.padEnd(600, 'x'))
    else
      collect({
        key: context.currentKey,
        result: [...this.texts.get()].map((text) => Number.parseInt(text, 10)).join(),
      })
  }
}

/** Map keys of every kind, some alike in their text. */
const mapKey = (n: number): Key => [n, String(n), [n, 'x'], n % 2 === 0, null][n % 5]!

class Keeper implements KeyedProcessFunction<string, Row, unknown> {
  private value!: ValueState<{ n: number }>
  private list!: ListState<number>
  private map!: MapState<Key, { n: number }>
  private sum!: ReducingState<number>
  private readonly ttl: StateTtl | undefined

  constructor(ttl?: StateTtl) {
    this.ttl = ttl
  }

  open(context: RuntimeContext): void {
    const { ttl } = this
    this.value = context.getState({ kind: 'value', name: 'value', version: 1, template: () => ({ n: 0 }), ttl })
    this.list = context.getListState({ kind: 'list', name: 'list', version: 1, ttl })
    this.map = context.getMapState({ kind: 'map', name: 'map', version: 1, ttl })
    this.sum = context.getReducingState({ kind: 'reducing', name: 'sum', version: 1, reduce: (a, b) => a + b, ttl })
  }

  processElement(row: Row, context: ProcessContext<string>, collect: (result: unknown) => void): void {
    const { act, n } = row
    collect({ key: context.currentKey, act, result: this.act(act, n) ?? null })
  }

  private act(act: Act, n: number): unknown {
    switch (act) {
      case 'value':
        return this.value.value()?.n
      case 'update':
        return this.value.update({ n })
      case 'clear':
        return this.value.clear()
      case 'add':
        for (let i = 0; i <= n * 3; i++) this.list.add(i)
        return undefined
      case 'list':
        return [...this.list.get()].join()
      case 'keepEven':
        return this.list.update(filtered(this.list.get()))
      case 'clearList':
        return this.list.clear()
      case 'put':
        return this.map.put(mapKey(n), { n })
      case 'get':
        return this.map.get(mapKey(n))?.n
      case 'remove':
        return this.map.remove(mapKey(n))
      case 'entries':
        return textOf(this.map.entries())
      case 'prune':
        return this.prune(n)
      case 'clearMap':
        return this.map.clear()
      case 'reduce':
        this.sum.add(n)
        return this.sum.get()
      case 'isEmpty':
        return this.map.isEmpty()
    }
  }

  /** Changes the map while it is read: entry by entry, another one, and one that is looked up. */
  private prune(n: number): string {
    const seen: [Key, { n: number }][] = []
    for (const [key, value] of this.map.entries()) {
      seen.push([key, { n: value.n }])
      this.map.get(mapKey(n + 1))
      if (value.n % 2 === 0) this.map.remove(key)
      else this.map.put(key, { n: value.n + 1 })
    }
    assert.equal([...this.map.keys()].length, [...this.map.values()].length)
    return textOf(seen)
  }
}

function* filtered(values: Iterable<number>): Generator<number> {
  for (const value of values) if (value % 2 === 0) yield value
}

const textOf = (entries: Iterable<[Key, { n: number }]>) =>
  [...entries]
    .map(([key, { n }]) => `${JSON.stringify(key)}=${n}`)
    .sort()
    .join()

interface Kept<V> {
  value: V
  atMs: number
}

/** One key's state. Reading and writing stamp what they touch; `nowMs` and `ttl` decide what is still there. */
class Model {
  private readonly ttl: StateTtl | undefined
  private value: Kept<number> | undefined
  private list: Kept<number>[] = []
  private map = new Map<string, { key: Key } & Kept<number>>()
  private sum: Kept<number> | undefined

  constructor(ttl?: StateTtl) {
    this.ttl = ttl
  }

  private read<V>(kept: Kept<V> | undefined, nowMs: number): V | undefined {
    if (kept === undefined || !this.isAlive(kept, nowMs)) return undefined
    if (this.ttl?.updateType === 'OnReadAndWrite') kept.atMs = nowMs
    return kept.value
  }

  private isAlive(kept: Kept<unknown>, nowMs: number): boolean {
    return this.ttl === undefined || kept.atMs + this.ttl.timeToLiveMs > nowMs
  }

  private entries(nowMs: number): [Key, { n: number }][] {
    return [...this.map.values()].flatMap((kept): [Key, { n: number }][] => {
      const n = this.read(kept, nowMs)
      return n === undefined ? [] : [[kept.key, { n }]]
    })
  }

  private readList(nowMs: number): number[] {
    return this.list.flatMap((kept) => this.read(kept, nowMs) ?? [])
  }

  act(act: Act, n: number, nowMs: number): unknown {
    const keep = (value: number): Kept<number> => ({ value, atMs: nowMs })
    const put = (key: Key, value: number) => this.map.set(JSON.stringify(key), { key, ...keep(value) })
    switch (act) {
      case 'value':
        return this.read(this.value, nowMs)
      case 'update':
        this.value = keep(n)
        return undefined
      case 'clear':
        this.value = undefined
        return undefined
      case 'add':
        for (let i = 0; i <= n * 3; i++) this.list.push(keep(i))
        return undefined
      case 'list':
        return this.readList(nowMs).join()
      case 'keepEven':
        this.list = this.readList(nowMs)
          .filter((v) => v % 2 === 0)
          .map(keep)
        return undefined
      case 'clearList':
        this.list = []
        return undefined
      case 'put':
        put(mapKey(n), n)
        return undefined
      case 'get':
        return this.read(this.map.get(JSON.stringify(mapKey(n))), nowMs)
      case 'remove':
        this.map.delete(JSON.stringify(mapKey(n)))
        return undefined
      case 'entries':
        return textOf(this.entries(nowMs))
      case 'isEmpty':
        return this.entries(nowMs).length === 0
      case 'prune': {
        const seen = this.entries(nowMs)
        for (const [key, value] of seen) {
          if (value.n % 2 === 0) this.map.delete(JSON.stringify(key))
          else put(key, value.n + 1)
        }
        return textOf(seen)
      }
      case 'clearMap':
        this.map.clear()
        return undefined
      case 'reduce': {
        const before = this.read(this.sum, nowMs)
        this.sum = keep(before === undefined ? n : before + n)
        return this.sum.value
      }
    }
  }
}

const acts: readonly Act[] = [
  ...(['value', 'update', 'clear', 'add', 'add', 'list', 'keepEven', 'clearList', 'reduce'] as const),
  ...(['put', 'put', 'put', 'put', 'get', 'remove', 'entries', 'prune', 'clearMap'] as const),
]

const rowsOf = (allowed: readonly Act[]) =>
  fc.array(
    fc.record({
      key: fc.constantFrom('a', 'b', 'c'),
      act: fc.constantFrom(...allowed),
      n: fc.integer({ min: 0, max: 60 }),
    }),
    { minLength: 1, maxLength: 25 },
  )

const scenarioOf = (allowed: readonly Act[]) =>
  fc.record({
    batchRows: fc.integer({ min: 1, max: 7 }),
    capacityOne: fc.boolean(),
    memoryBudgetBytes: fc.constantFrom(500, 20_000, 1 << 24),
    steps: fc.array(
      fc.oneof(
        { weight: 5, arbitrary: rowsOf(allowed) },
        { weight: 2, arbitrary: fc.record({ pass: fc.integer({ min: 1, max: 600 }) }) },
        { weight: 2, arbitrary: fc.record({ restore: fc.constantFrom(1, 2, 3) }) },
      ),
      { maxLength: 14, size: 'max' },
    ),
  })

const rigOf = (create: () => KeyedProcessFunction<never, never, unknown>, more: Partial<RigOptions> = {}) =>
  new OperatorRig({
    create: () => keyedProcessOperator(create, { codecOf: stateCodec }),
    schema: OPAQUE_SCHEMA,
    keyOf: (row) => (row as Row).key,
    ...more,
  })

function checkAgainstModel(allowed: readonly Act[], ttl: StateTtl | undefined, numRuns: number): void {
  let results = 0
  let coldReads = 0
  fc.assert(
    fc.property(scenarioOf(allowed), ({ steps, ...options }) => {
      const models = new Map<string, Model>()
      const expected = new Map<string, unknown[]>()
      const rig = rigOf(() => new Keeper(ttl), options)
      for (const step of steps) {
        if (Array.isArray(step)) {
          for (const { key, act, n } of step) {
            const model = models.get(key) ?? new Model(ttl)
            models.set(key, model)
            const result = model.act(act, n, rig.nowMs) ?? null
            expected.set(key, [...(expected.get(key) ?? []), { key, act, result }])
          }
          rig.push(
            step,
            step.map(() => 0),
          )
        } else if ('pass' in step) rig.nowMs += step.pass
        else rig.restore(step.restore)
      }
      for (const [key, rows] of expected) {
        const actual = rig.output.main.map(({ row }) => row as { key: string }).filter((row) => row.key === key)
        assert.deepEqual(actual, rows)
        results += rows.length
      }
      coldReads += rig.counters.coldReads
      rig.close()
    }),
    { numRuns },
  )
  assert.ok(results > numRuns * 10)
  assert.ok(coldReads > numRuns)
}

/** Fills a map, changes it at random while reading it, and holds what it sees against a Map beside it. */
class Churner implements KeyedProcessFunction<string, { seed: number }, unknown> {
  private readonly shadows: Map<string, Map<number, number>>
  private map!: MapState<number, number>

  constructor(shadows: Map<string, Map<number, number>>) {
    this.shadows = shadows
  }

  open(context: RuntimeContext): void {
    this.map = context.getMapState({ kind: 'map', name: 'map', version: 1 })
  }

  processElement({ seed }: { seed: number }, context: ProcessContext<string>): void {
    const shadow = this.shadows.get(context.currentKey) ?? new Map<number, number>()
    this.shadows.set(context.currentKey, shadow)
    let random = seed
    const next = (below: number): number => {
      random = (Math.imul(random, 1_103_515_245) + 12_345) & 0x7fff_ffff
      return (random >>> 8) % below
    }
    const put = (key: number): void => {
      const value = next(1_000)
      this.map.put(key, value)
      shadow.set(key, value)
    }
    const remove = (key: number): void => {
      this.map.remove(key)
      shadow.delete(key)
    }
    for (let i = next(60); i > 0; i--) put(next(150))
    const untouched = new Set(shadow.keys())
    const seen = new Set<number>()
    for (const [key, value] of this.map.entries()) {
      assert.ok(!seen.has(key), 'once')
      seen.add(key)
      assert.equal(value, shadow.get(key), 'as it is now')
      untouched.delete(key)
      for (let i = next(3); i > 0; i--) {
        const other = next(4) === 0 ? key : next(150)
        const act = next(4)
        if (act === 0) put(other)
        else if (act === 1) assert.equal(this.map.get(other), shadow.get(other))
        else {
          remove(other)
          untouched.delete(other)
        }
      }
    }
    assert.deepEqual([...untouched], [], 'every entry that stayed was seen')
    const sorted = (entries: Iterable<[number, number]>) => [...entries].sort(([a], [b]) => a - b)
    assert.deepEqual(sorted(this.map.entries()), sorted(shadow))
  }
}

describe('keyed state of users', () => {
  test('behaves as plain values do', () => {
    checkAgainstModel([...acts, 'isEmpty'], undefined, 40)
  })

  test('lives as long as it is written', () => {
    checkAgainstModel(
      [...acts, 'isEmpty'],
      { timeToLiveMs: 1_000, updateType: 'OnCreateAndWrite', stateVisibility: 'NeverReturnExpired' },
      25,
    )
  })

  test('lives as long as it is written or read', () => {
    // `isEmpty` reads one entry, which one is not said; `prune` looks one up before it is shown.
    const allowed = acts.filter((act) => act !== 'prune')
    checkAgainstModel(
      allowed,
      { timeToLiveMs: 1_000, updateType: 'OnReadAndWrite', stateVisibility: 'NeverReturnExpired' },
      25,
    )
  })

  test('what has expired may be seen once more', () => {
    const ttl: StateTtl = {
      timeToLiveMs: 100,
      updateType: 'OnCreateAndWrite',
      stateVisibility: 'ReturnExpiredIfNotCleanedUp',
    }
    // The sweep between batches would take it first: this state is seen within one batch.
    const rig = rigOf(() => {
      let state: ValueState<number>
      return {
        open: (context) => {
          state = context.getState({ kind: 'value', name: 'v', version: 1, ttl })
        },
        processElement(_row, _context, collect) {
          state.update(1)
          rig.nowMs += 100
          collect([state.value(), state.value()])
        },
      }
    })
    rig.push([{ key: 'a' }], [0])
    assert.deepEqual(rig.output.main[0]!.row, [1, undefined])
    rig.close()
  })

  test('is swept out of memory and store without being looked up', () => {
    const ttl: StateTtl = {
      timeToLiveMs: 5_000,
      updateType: 'OnCreateAndWrite',
      stateVisibility: 'NeverReturnExpired',
    }
    for (const memoryBudgetBytes of [500, 1 << 24]) {
      const rig = rigOf(() => new Keeper(ttl), { memoryBudgetBytes })
      const rows = Array.from({ length: 300 }, (_, i) =>
        (['update', 'add', 'put', 'reduce'] as const).map((act): Row => ({ key: `key-${i}`, act, n: i % 50 })),
      ).flat()
      rig.push(
        rows,
        rows.map(() => 0),
      )
      rig.restore(1)
      assert.ok(rig.storedEntries() > 1_200)
      rig.nowMs += 5_000
      // Rows of another key, so that turns pass.
      for (let turn = 0; turn < 4_000; turn++) rig.subtasks[0]!.backend!.maybeEvict()
      rig.restore(1)
      assert.equal(rig.storedEntries(), 0)
      rig.close()
    }
  })

  test('of an expired kind is not restored', () => {
    const ttl: StateTtl = {
      timeToLiveMs: 100,
      updateType: 'OnCreateAndWrite',
      stateVisibility: 'ReturnExpiredIfNotCleanedUp',
    }
    const rig = rigOf(() => new Keeper(ttl))
    rig.push(
      [
        { key: 'a', act: 'update', n: 7 },
        { key: 'a', act: 'put', n: 7 },
      ],
      [0, 0],
    )
    rig.restore(1)
    assert.equal(rig.storedEntries(), 2)
    rig.nowMs += 100
    rig.restore(2)
    rig.push([{ key: 'a', act: 'value', n: 0 }], [0])
    assert.deepEqual(rig.output.main.at(-1)!.row, { key: 'a', act: 'value', result: null })
    rig.restore(1)
    assert.equal(rig.storedEntries(), 0)
    rig.close()
  })

  test('a long list costs a checkpoint no more than a short one', () => {
    const rig = rigOf(() => new Keeper())
    const add = (n: number): Row => ({ key: 'a', act: 'add', n })
    rig.push([add(33_333)], [0])
    const { backend } = rig.subtasks[0]!
    const captured = (): number => {
      const batch = new WriteBatchBuilder()
      backend!.captureDirty(batch)
      rig.subtasks[0]!.store.write(batch.batch())
      backend!.checkpointSettled()
      return batch.byteLength
    }
    const whole = captured()
    assert.ok(whole > 100_000 * 4)
    rig.push([add(0)], [1])
    assert.ok(captured() < whole / 500)
    rig.push([{ key: 'a', act: 'list', n: 0 }], [2])
    const { result } = rig.output.main.at(-1)!.row as { result: string }
    assert.equal(result.split(',').length, 100_001)
    rig.close()
  })

  test('adding to lists of large values reads nothing of them, though they do not fit into memory', () => {
    const rig = rigOf(() => new Texts(), { memoryBudgetBytes: 256 << 10 })
    const keys = Array.from({ length: 60 }, (_, i) => `key-${i}`)
    const rounds = 30
    for (let n = 0; n < rounds; n++) {
      rig.push(
        keys.map((key): Row => ({ key, act: 'add', n })),
        keys.map(() => n),
      )
    }
    const { coldReads } = rig.counters
    assert.ok(
      coldReads < (rounds * keys.length) / 4,
      `${coldReads} entries were read for ${rounds * keys.length} values`,
    )
    rig.push(
      keys.map((key): Row => ({ key, act: 'list', n: 0 })),
      keys.map(() => rounds),
    )
    const inOrder = Array.from({ length: rounds }, (_, n) => n).join()
    const results = rig.output.main.map(({ row }) => row as { key: string; result: string })
    assert.deepEqual(
      results,
      keys.map((key) => ({ key, result: inOrder })),
    )
    rig.close()
  })

  test('can be read without its job', () => {
    const ttl: StateTtl = {
      timeToLiveMs: 100,
      updateType: 'OnCreateAndWrite',
      stateVisibility: 'NeverReturnExpired',
    }
    const rig = rigOf(() => new Keeper(ttl))
    rig.push(
      (['update', 'add', 'put', 'reduce'] as const).map((act): Row => ({ key: 'a', act, n: 1 })),
      [0, 0, 0, 0],
    )
    rig.restore(1)
    const { store, backend } = rig.subtasks[0]!
    const entries = [...readState([store], 1, 16, backend!.declarations())].map(({ table, key, entry, value }) => {
      assert.equal(key, 'a')
      return [table, entry ?? null, value]
    })
    assert.deepEqual(entries, [
      ['value', null, { n: 1 }],
      ['list', null, [1, 4, 1_000]],
      ['list$pieces', 0, [0, 1, 2, 3]],
      ['map', '1', { n: 1 }],
      ['sum', null, 1],
    ])
    rig.close()
  })

  test('maps may be changed in any way while they are read', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(500, 8_000, 1 << 24),
        fc.array(fc.record({ key: fc.constantFrom('a', 'b'), seed: fc.integer() }), { minLength: 4, maxLength: 14 }),
        (memoryBudgetBytes, rows) => {
          const shadows = new Map<string, Map<number, number>>()
          const rig = rigOf(() => new Churner(shadows), { memoryBudgetBytes, batchRows: 1 })
          for (const row of rows) {
            rig.push([row], [0])
            if (row.seed % 4 === 0) rig.restore(1)
          }
          rig.close()
        },
      ),
      { numRuns: 30 },
    )
  })

  test('iterates within a call only', () => {
    let kept: Iterator<unknown> | null = null
    const rig = rigOf(() => {
      let map: MapState<string, number>
      return {
        open: (context) => {
          map = context.getMapState({ kind: 'map', name: 'm', version: 1 })
        },
        processElement() {
          kept?.next()
          map.put('x', 1)
          kept = map.entries()[Symbol.iterator]()
          kept.next()
        },
      }
    })
    rig.push([{ key: 'a' }], [0])
    assert.throws(() => rig.push([{ key: 'a' }], [1]), { code: 'STATE_ITERATOR_STALE' })
    rig.close()
  })

  test('names and keys that cannot be used say so', () => {
    const declare = (name: string) =>
      rigOf(() => ({
        open: (context) => void context.getState({ kind: 'value', name, version: 1 }),
        processElement() {},
      }))
    assert.throws(() => declare('$timers'), { code: 'STATE_NAME_INVALID' })
    assert.throws(() => declare(''), { code: 'STATE_NAME_INVALID' })
    const rig = rigOf(() => {
      let map: MapState<never, number>
      return {
        open: (context) => {
          map = context.getMapState({ kind: 'map', name: 'm', version: 1 })
        },
        processElement: () => map.put({} as never, 1),
      }
    })
    assert.throws(() => rig.push([{ key: 'a' }], [1]), { code: 'KEY_INVALID' })
    rig.close()
  })
})
