/**
 * Broadcast functions against models: every subtask sees every broadcast element, a restore at any parallelism gives
 * every subtask the whole state, and keyed state can be gone over.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { MapStateDescriptor, RuntimeContext } from '../engine/contract/functions.ts'
import type {
  BroadcastContext,
  KeyedBroadcastContext,
  KeyedBroadcastProcessFunction,
  KeyedBroadcastReadOnlyContext,
} from '../engine/contract/joint-functions.ts'
import type { Key } from '../engine/core/keys.ts'
import { OPAQUE_SCHEMA } from '../engine/core/schema.ts'
import { stateCodec } from '../state/schema-codec.ts'
import { broadcastProcessOperator } from './broadcast-process.ts'
import { OperatorRig, type RigOptions } from './operator.testkit.ts'

class Rule {
  factor = 1
  names: string[] = []
  apply(n: number): number {
    return n * this.factor
  }
}

const RULES: MapStateDescriptor<Key, Rule> = { kind: 'map', name: 'rules', version: 1, template: () => new Rule() }
const SEEN = { kind: 'value', name: 'seen', version: 1 } as const
const BY_N = { kind: 'map', name: 'by n', version: 1 } as const
const ALL = { kind: 'list', name: 'all', version: 1 } as const

interface Row {
  readonly key: string
  readonly n: number
}
type Change =
  | { readonly put: Key; readonly factor: number }
  | { readonly remove: Key }
  | { readonly clear: true }
  | { readonly sums: number }

/** Multiplies by the rule of the row's key, keeps what it saw, and can be asked for the sums over all keys. */
class Rules implements KeyedBroadcastProcessFunction<string, Row, Change, unknown> {
  private context!: RuntimeContext
  private seen!: ReturnType<typeof this.context.getState<number>>
  private byN!: ReturnType<typeof this.context.getMapState<number, number>>
  private all!: ReturnType<typeof this.context.getListState<number>>

  open(context: RuntimeContext): void {
    this.seen = context.getState<number>(SEEN)
    this.byN = context.getMapState<number, number>(BY_N)
    this.all = context.getListState<number>(ALL)
  }

  processElement(
    { key, n }: Row,
    context: KeyedBroadcastReadOnlyContext<string>,
    collect: (row: unknown) => void,
  ): void {
    const rules = context.getBroadcastState(RULES)
    const rule = rules.get(key)
    assert.equal(rules.contains(key), rule !== undefined)
    collect({
      key,
      result: rule?.apply(n) ?? null,
      by: context.currentKey,
      composite: rules.get([key, 1])?.factor ?? null,
    })
    this.seen.update((this.seen.value() ?? 0) + n)
    this.byN.put(n, (this.byN.get(n) ?? 0) + 1)
    this.all.add(n)
  }

  processBroadcastElement(
    change: Change,
    context: KeyedBroadcastContext<string>,
    collect: (row: unknown) => void,
  ): void {
    const rules = context.getBroadcastState(RULES)
    if ('put' in change) {
      const rule = new Rule()
      rule.factor = change.factor
      rules.put(change.put, rule)
    } else if ('remove' in change) rules.remove(change.remove)
    else if ('clear' in change) rules.clear()
    else this.sumUp(change.sums, context, collect)
  }

  private sumUp(id: number, context: KeyedBroadcastContext<string>, collect: (row: unknown) => void): void {
    context.applyToKeyedState(SEEN, (key, seen) => {
      collect({ sums: id, key, seen: seen.value() })
      // Changes and removals must not disturb the pass.
      if (id % 2 === 0) seen.clear()
      else seen.update((seen.value() as number) + 1_000)
    })
    context.applyToKeyedState(BY_N, (key, byN) => {
      collect({ sums: id, key, counts: [...byN.entries()].sort() })
    })
    context.applyToKeyedState(ALL, (key, all) => {
      collect({ sums: id, key, all: [...all.get()] })
      if (id % 2 === 0) all.clear()
    })
  }
}

const rigOf = (more: Partial<RigOptions> = {}) =>
  new OperatorRig({
    create: () =>
      broadcastProcessOperator(() => new Rules(), { codecOf: stateCodec, isKeyed: true, descriptors: [RULES] }),
    schema: OPAQUE_SCHEMA,
    keyOf: (row) => (row as Row).key,
    moreInputs: [{ schema: OPAQUE_SCHEMA, isBroadcast: true }],
    ...more,
  })

class Model {
  readonly results: unknown[] = []
  private readonly rules = new Map<string, number>()
  private readonly seen = new Map<string, number>()
  private readonly byN = new Map<string, Map<number, number>>()
  private readonly all = new Map<string, number[]>()

  row({ key, n }: Row): void {
    const factor = this.rules.get(JSON.stringify(key))
    const composite = this.rules.get(JSON.stringify([key, 1])) ?? null
    this.results.push({ key, result: factor === undefined ? null : n * factor, by: key, composite })
    this.seen.set(key, (this.seen.get(key) ?? 0) + n)
    const counts = this.byN.get(key) ?? new Map<number, number>()
    this.byN.set(key, counts.set(n, (counts.get(n) ?? 0) + 1))
    this.all.set(key, [...(this.all.get(key) ?? []), n])
  }

  change(change: Change): void {
    if ('put' in change) this.rules.set(JSON.stringify(change.put), change.factor)
    else if ('remove' in change) this.rules.delete(JSON.stringify(change.remove))
    else if ('clear' in change) this.rules.clear()
    else this.sumUp(change.sums)
  }

  private sumUp(id: number): void {
    for (const [key, seen] of this.seen) {
      this.results.push({ sums: id, key, seen })
      if (id % 2 === 1) this.seen.set(key, seen + 1_000)
    }
    for (const [key, counts] of this.byN) this.results.push({ sums: id, key, counts: [...counts].sort() })
    for (const [key, all] of this.all) this.results.push({ sums: id, key, all })
    if (id % 2 === 1) return
    this.seen.clear()
    this.all.clear()
  }
}

const KEYS = ['a', 'b', 'c', 'd', 'e']
const ruleKey = fc.oneof(fc.constantFrom<Key>(...KEYS), fc.constantFrom<Key>(...KEYS.map((key) => [key, 1])))
const change: fc.Arbitrary<Change> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ put: ruleKey, factor: fc.integer({ min: 2, max: 9 }) }) },
  { weight: 2, arbitrary: fc.record({ remove: ruleKey }) },
  { weight: 1, arbitrary: fc.constant({ clear: true as const }) },
  { weight: 2, arbitrary: fc.record({ sums: fc.nat(100) }) },
)

const scenario = fc.record({
  batchRows: fc.constantFrom(1, 3, 7, 2_048),
  capacityOne: fc.boolean(),
  memoryBudgetBytes: fc.constantFrom(500, 1 << 24),
  parallelism: fc.constantFrom(1, 2, 3),
  steps: fc.array(
    fc.oneof(
      {
        weight: 3,
        arbitrary: fc.record({
          rows: fc.array(fc.record({ key: fc.constantFrom(...KEYS), n: fc.integer({ min: 1, max: 5 }) }), {
            minLength: 1,
            maxLength: 8,
          }),
        }),
      },
      { weight: 3, arbitrary: fc.record({ changes: fc.array(change, { minLength: 1, maxLength: 4 }) }) },
      { weight: 1, arbitrary: fc.record({ restore: fc.constantFrom(1, 2, 3, 4) }) },
    ),
    { maxLength: 16, size: 'max' },
  ),
})

const sorted = (rows: readonly unknown[]) => rows.map((row) => JSON.stringify(row)).sort()

describe('broadcast functions', () => {
  test('every subtask has the state of the model, before and after restores', () => {
    let applied = 0
    fc.assert(
      fc.property(scenario, ({ steps, ...options }) => {
        const model = new Model()
        const rig = rigOf(options)
        let time = 0
        for (const step of steps) {
          if ('restore' in step) rig.restore(step.restore)
          else if ('rows' in step) {
            for (const row of step.rows) model.row(row)
            rig.push(
              step.rows,
              step.rows.map(() => time++),
            )
          } else {
            for (const one of step.changes) model.change(one)
            rig.push(
              step.changes,
              step.changes.map(() => time++),
              1,
            )
          }
        }
        assert.deepEqual(sorted(rig.output.main.map(({ row }) => row)), sorted(model.results))
        applied += rig.output.main.filter(({ row }) => (row as { result?: unknown }).result != null).length
        rig.close()
      }),
      { numRuns: 40 },
    )
    assert.ok(applied > 40, `${applied} rules applied`)
  })

  test('keyed state, timers and unknown states are refused in broadcast elements', () => {
    const failing = (
      processBroadcastElement: (row: unknown, context: KeyedBroadcastContext<string>) => void,
      code: string,
    ): void => {
      const rig = new OperatorRig({
        create: () =>
          broadcastProcessOperator(() => ({ processElement() {}, processBroadcastElement }), {
            codecOf: stateCodec,
            isKeyed: true,
            descriptors: [RULES],
          }),
        schema: OPAQUE_SCHEMA,
        keyOf: () => 1,
        moreInputs: [{ schema: OPAQUE_SCHEMA, isBroadcast: true }],
      })
      assert.throws(() => rig.push([1], [1], 1), { code })
      rig.close()
    }
    failing((_, context) => void context.getBroadcastState({ ...RULES, name: 'other' }), 'BROADCAST_STATE_UNKNOWN')
    failing((_, context) => context.applyToKeyedState(SEEN, () => {}), 'STATE_UNKNOWN')
    failing(
      (_, context) =>
        (context as unknown as KeyedBroadcastReadOnlyContext<string>).timerService.registerEventTimeTimer(1),
      'STATE_WITHOUT_KEY',
    )
    failing((_, context) => void (context as unknown as { currentKey: unknown }).currentKey, 'STATE_WITHOUT_KEY')
    failing((_, context) => context.getBroadcastState(RULES).put(Number.NaN, new Rule()), 'KEY_INVALID')
  })

  test('a restore refuses values of another shape', () => {
    let descriptor = RULES as MapStateDescriptor<Key, unknown>
    const rig = new OperatorRig({
      create: () =>
        broadcastProcessOperator(
          () => ({
            processElement() {},
            processBroadcastElement: (_row: unknown, context: BroadcastContext) =>
              context.getBroadcastState(descriptor).put('a', new Rule()),
          }),
          { codecOf: stateCodec, isKeyed: false, descriptors: [descriptor] },
        ),
      schema: OPAQUE_SCHEMA,
      moreInputs: [{ schema: OPAQUE_SCHEMA, isBroadcast: true }],
    })
    rig.push([1], [1], 1)
    descriptor = { ...RULES, version: 2 }
    assert.throws(() => rig.restore(1), { code: 'STATE_INCOMPATIBLE', message: /rules.*version 1.*version 2/ })
  })

  test('megabytes of state: one copy in the snapshot, all of it after a restore', () => {
    const rig = rigOf({ parallelism: 3 })
    const count = 15_000
    const changes = Array.from({ length: count }, (_, i): Change => ({ put: `rule ${i}`, factor: i }))
    rig.push(
      changes,
      changes.map(() => 0),
      1,
    )
    const sizes = rig.subtasks.map(({ operator }) => JSON.stringify(operator.snapshot!({ checkpointId: 1 })).length)
    assert.ok(sizes[0]! > 500_000 && sizes[1]! < 1_000 && sizes[2]! < 1_000, String(sizes))
    const [first] = rig.subtasks
    assert.equal(
      (first!.operator.snapshot!({ checkpointId: 1 }) as { broadcast: object }).broadcast['rules' as never],
      (first!.operator.snapshot!({ checkpointId: 1 }) as { broadcast: object }).broadcast['rules' as never],
      'encoded again only when it changed',
    )
    rig.push([{ put: 'rule 1', factor: 5 }], [0], 1)
    rig.restore(4)
    rig.push([{ key: 'rule 14999', n: 2 }], [1])
    rig.push([{ key: 'rule 1', n: 2 }], [1])
    assert.equal((rig.output.main[1]!.row as { result: number }).result, 10)
    assert.equal((rig.output.main[0]!.row as { result: number }).result, 14_999 * 2)
    rig.close()
  })
})
