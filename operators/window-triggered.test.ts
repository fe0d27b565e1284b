/**
 * Windows of every assigner, trigger and evictor against the model of window-semantics.testkit.ts: random rows,
 * watermarks, clock and lateness, batch sizes 1 to 7, blocked output, restores at other parallelisms, tiny memory
 * budgets. `WINDOW_RUNS=2000` runs more of it. Longer than other files: one driver, its triggers and its model serve all of it.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import {
  ContinuousEventTimeTrigger,
  ContinuousProcessingTimeTrigger,
  CountEvictor,
  CountTrigger,
  CumulativeEventTimeWindows,
  DeltaEvictor,
  DeltaTrigger,
  EventTimeSessionWindows,
  EventTimeTrigger,
  GlobalWindows,
  ListStateDescriptor,
  MapStateDescriptor,
  ProcessingTimeSessionWindows,
  PurgingTrigger,
  ReducingStateDescriptor,
  SlidingEventTimeWindows,
  SlidingProcessingTimeWindows,
  TimeEvictor,
  TumblingEventTimeWindows,
  TumblingProcessingTimeWindows,
} from '../engine/api/index.ts'
import type {
  AggregateFunction,
  ProcessWindowFunction,
  ReduceFunction,
  StatefulProcessWindowContext,
} from '../engine/contract/functions.ts'
import {
  type Evictor,
  TimeWindow,
  Trigger,
  type TriggerContext,
  TriggerResult,
  WindowAssigner,
} from '../engine/contract/windows.ts'
import { OPAQUE_SCHEMA, schema, t } from '../engine/core/schema.ts'
import type { KeyedBackend } from '../state/keyed-backend.ts'
import { WriteBatchBuilder } from '../state/keyed-layout.ts'
import { stateCodec } from '../state/schema-codec.ts'
import { objectCodec } from '../state/value-codec.ts'
import { OperatorRig } from './operator.testkit.ts'
import {
  aggregateContents,
  evictableContents,
  listContents,
  reduceContents,
  timestampedCodec,
} from './window-contents.ts'
import type { KeptContents } from './window-keepers.ts'
import {
  continuousModel,
  countModel,
  cumulativeModel,
  deltaModel,
  eventTimeModel,
  type Fired,
  globalModel,
  type ModelAssigner,
  type ModelEvictor,
  type ModelRow,
  type ModelTrigger,
  type Placed,
  processingTimeModel,
  purgingModel,
  sessionModel,
  slidingModel,
  tumblingModel,
  WindowModel,
} from './window-semantics.testkit.ts'
import { type TriggeredWindowOptions, triggeredWindowOperator } from './window-triggered.ts'

const ROWS = schema({ key: t.string(), id: t.int32(), gap: t.float64() })
const RUNS = Number(process.env.WINDOW_RUNS ?? 30)

interface AssignerCase {
  readonly name: string
  readonly create: () => WindowAssigner
  readonly model: ModelAssigner
}

const ASSIGNERS: readonly AssignerCase[] = [
  { name: 'tumbling', create: () => TumblingEventTimeWindows.of(10, 3), model: tumblingModel(true, 10, 3) },
  { name: 'sliding', create: () => SlidingEventTimeWindows.of(10, 3, 1), model: slidingModel(true, 10, 3, 1) },
  { name: 'apart', create: () => SlidingEventTimeWindows.of(3, 7), model: slidingModel(true, 3, 7, 0) },
  { name: 'cumulative', create: () => CumulativeEventTimeWindows.of(12, 4), model: cumulativeModel(12, 4) },
  { name: 'sessions', create: () => EventTimeSessionWindows.withGap(6), model: sessionModel(true, 6) },
  {
    name: 'dynamic sessions',
    create: () => EventTimeSessionWindows.withDynamicGap((row: ModelRow) => row.gap),
    model: sessionModel(true, null),
  },
  { name: 'clock', create: () => TumblingProcessingTimeWindows.of(10), model: tumblingModel(false, 10, 0) },
  { name: 'sliding clock', create: () => SlidingProcessingTimeWindows.of(9, 4), model: slidingModel(false, 9, 4, 0) },
  { name: 'clock sessions', create: () => ProcessingTimeSessionWindows.withGap(6), model: sessionModel(false, 6) },
  { name: 'global', create: () => GlobalWindows.create(), model: globalModel },
]

interface TriggerCase {
  readonly name: string
  /** Null for the assigner's own. */
  readonly create: (() => Trigger) | null
  readonly model: ModelTrigger | null
}

/** Timers of both domains, a state, all four results: fires 3 after each element, forgets all at every third. */
class Custom extends Trigger<ModelRow> {
  private readonly seen = { kind: 'value', name: 'seen', version: 1 } as const
  onElement(_row: ModelRow, timestamp: number, window: TimeWindow, context: TriggerContext) {
    const seen = context.getPartitionedState<number>(this.seen)
    const count = (seen.value() ?? 0) + 1
    seen.update(count)
    if (window.maxTimestamp > context.currentWatermark) context.registerEventTimeTimer(timestamp + 3)
    if (count % 2 === 0) context.registerProcessingTimeTimer(context.currentProcessingTime + 2)
    else context.deleteProcessingTimeTimer(context.currentProcessingTime + 2)
    return count % 3 === 0 ? TriggerResult.PURGE : TriggerResult.CONTINUE
  }
  onEventTime() {
    return TriggerResult.FIRE
  }
  onProcessingTime() {
    return TriggerResult.FIRE_AND_PURGE
  }
  clear(_window: TimeWindow, context: TriggerContext) {
    context.getPartitionedState<number>(this.seen).clear()
  }
}

const customModel: ModelTrigger = {
  onElement(window, { time }, { watermark, nowMs }) {
    window.count++
    if (window.end - 1 > watermark) window.timers.EVENT_TIME.add(time + 3)
    if (window.count % 2 === 0) window.timers.PROCESSING_TIME.add(nowMs + 2)
    else window.timers.PROCESSING_TIME.delete(nowMs + 2)
    return window.count % 3 === 0 ? 'PURGE' : 'CONTINUE'
  },
  onTime: (_window, _time, domain) => (domain === 'EVENT_TIME' ? 'FIRE' : 'FIRE_AND_PURGE'),
  merge: null,
}

const TRIGGERS: readonly TriggerCase[] = [
  { name: 'own', create: null, model: null },
  { name: 'count', create: () => CountTrigger.of(2), model: countModel(2) },
  { name: 'purging count', create: () => PurgingTrigger.of(CountTrigger.of(3)), model: purgingModel(countModel(3)) },
  {
    name: 'purging event time',
    create: () => PurgingTrigger.of(EventTimeTrigger.create()),
    model: purgingModel(eventTimeModel),
  },
  {
    name: 'continuous',
    create: () => ContinuousEventTimeTrigger.of(4),
    model: continuousModel('EVENT_TIME', 4),
  },
  {
    name: 'continuous clock',
    create: () => ContinuousProcessingTimeTrigger.of(4),
    model: continuousModel('PROCESSING_TIME', 4),
  },
  {
    name: 'delta',
    create: () => DeltaTrigger.of<ModelRow>(2, (a, b) => b.id - a.id),
    model: deltaModel(2),
  },
  { name: 'custom', create: () => new Custom(), model: customModel },
]

interface EvictorCase {
  readonly name: string
  readonly create: () => Evictor
  readonly model: ModelEvictor
}

const keep = (elements: readonly Placed[]): Placed[] => [...elements]
const within = (elements: readonly Placed[], span: number): Placed[] => {
  const newest = Math.max(...elements.map(({ time }) => time))
  return elements.filter(({ time }) => time > newest - span)
}
const near = (elements: readonly Placed[]): Placed[] =>
  elements.filter(({ row }) => Math.abs(elements.at(-1)!.row.id - row.id) < 4)

const EVICTORS: readonly EvictorCase[] = [
  { name: 'count', create: () => CountEvictor.of(2), model: { before: (all) => all.slice(-2), after: keep } },
  {
    name: 'count after',
    create: () => CountEvictor.of(1, true),
    model: { before: keep, after: (all) => all.slice(-1) },
  },
  { name: 'none left', create: () => CountEvictor.of(0, true), model: { before: keep, after: () => [] } },
  { name: 'time', create: () => TimeEvictor.of(5), model: { before: (all) => within(all, 5), after: keep } },
  {
    name: 'delta',
    create: () => DeltaEvictor.of<ModelRow>(4, (a, b) => Math.abs(b.id - a.id)),
    model: { before: near, after: keep },
  },
]

/** How contents are kept; each result shows the ids that a window held. */
const WORK = {
  process: (): KeptContents => ({ kind: 'elements', contents: listContents(), codec: objectCodec(), pieceElements: 2 }),
  'concatenating reduce': (): KeptContents => {
    return { kind: 'accumulated', contents: reduceContents(concatenated), codec: objectCodec() }
  },
  'aggregate with merge': (): KeptContents => {
    return {
      kind: 'accumulated',
      contents: aggregateContents(idList),
      codec: objectCodec(() => ({ key: '', ids: [] })),
    }
  },
} as const

/** Elements for an evictor. */
function evictable(finish: KeptContents): KeptContents {
  const contents = evictableContents(finish.contents)
  return { kind: 'elements', contents, codec: timestampedCodec(objectCodec()), pieceElements: 2 }
}

type Work = keyof typeof WORK

/** Not commutative, and in place: what two windows share would show. */
const concatenated: ReduceFunction<ModelRow & { ids?: string }> = (a, b) => {
  a.ids = `${a.ids ?? a.id},${b.ids ?? b.id}`
  return a
}
interface IdList {
  ids: number[]
}
const idList: AggregateFunction<ModelRow, IdList, IdList> = {
  createAccumulator: () => ({ ids: [] }),
  add(row, list) {
    list.ids.push(row.id)
    return list
  },
  merge: (a, b) => ({ ids: [...a.ids, ...b.ids] }),
  getResult: (list) => list,
}

function idsOf(element: unknown): number[] {
  const { id, ids } = element as { id?: number; ids?: string | number[] }
  if (Array.isArray(ids)) return ids
  return ids === undefined ? [id!] : ids.split(',').map(Number)
}

/** Changes what it is given, and keeps it: neither may reach state. */
const show: ProcessWindowFunction<unknown, Fired, string> = {
  process({ key, window }, elements, collect) {
    const given = [...elements]
    collect({ key, start: window.start, end: window.end, ids: given.flatMap(idsOf) })
    for (const element of given) Object.assign(element as object, { id: -1, ids: [-1] })
  },
}

function operatorOf(
  assigner: AssignerCase,
  trigger: TriggerCase,
  evictor: EvictorCase | null,
  work: Work,
  lateness: number,
) {
  const made = assigner.create()
  const kept = WORK[work]()
  const elementCodec = objectCodec()
  const options: TriggeredWindowOptions = {
    assigner: made,
    trigger: trigger.create === null ? made.getDefaultTrigger() : trigger.create(),
    evictor: evictor === null ? null : evictor.create(),
    kept: evictor === null ? kept : evictable(kept),
    elementCodec,
    createFunction: () => ({ ...show }),
    codecOf: stateCodec,
    allowedLatenessMs: lateness,
    lateTag: 'late',
  }
  return triggeredWindowOperator(options)
}

const KEYS = ['a', 'b', 'Zürich', 'd']

const scenario = fc.record({
  assigner: fc.constantFrom(...ASSIGNERS),
  work: fc.constantFrom<Work>('process', 'concatenating reduce', 'aggregate with merge'),
  lateness: fc.constantFrom(0, 6, 25),
  opaque: fc.boolean(),
  batchRows: fc.integer({ min: 1, max: 7 }),
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
            time: fc.integer({ min: -20, max: 40 }),
            gap: fc.integer({ min: 1, max: 9 }),
          }),
          { minLength: 1, maxLength: 15 },
        ),
      },
      { weight: 3, arbitrary: fc.record({ watermark: fc.integer({ min: 1, max: 15 }) }) },
      { weight: 2, arbitrary: fc.record({ clock: fc.integer({ min: 1, max: 15 }) }) },
      { weight: 1, arbitrary: fc.record({ restore: fc.constantFrom(1, 2, 3) }) },
      { weight: 1, arbitrary: fc.record({ subtask: fc.nat(2), aheadMs: fc.integer({ min: 1, max: 30 }) }) },
    ),
    { maxLength: 20, size: 'max' },
  ),
})
type Scenario = typeof scenario extends fc.Arbitrary<infer S> ? S : never

function modelTrigger(trigger: TriggerCase, { model }: AssignerCase): ModelTrigger {
  if (trigger.model !== null) return trigger.model
  if (model === globalModel) return { onElement: () => 'CONTINUE', onTime: () => 'CONTINUE', merge: null }
  return model.isEventTime ? eventTimeModel : processingTimeModel
}

interface Seen {
  fired: number
  late: number
  restored: number
}

function play(s: Scenario, trigger: TriggerCase, evictor: EvictorCase | null, seen: Seen): void {
  const modelOf = () =>
    new WindowModel(s.assigner.model, modelTrigger(trigger, s.assigner), evictor?.model ?? null, s.lateness)
  // One a key: what a key goes by is the watermark of the subtask that has it.
  const byKey = new Map(KEYS.map((key) => [key, modelOf()]))
  const models = [...byKey.values()]
  const rig = new OperatorRig({
    create: () => operatorOf(s.assigner, trigger, evictor, s.work, s.lateness),
    schema: s.opaque ? OPAQUE_SCHEMA : ROWS,
    keyOf: (row) => (row as ModelRow).key,
    parallelism: s.parallelism,
    capacityOne: s.capacityOne,
    memoryBudgetBytes: s.budget,
    batchRows: s.batchRows,
  })
  let id = 0
  let watermark = -25
  let nowMs = 1_000
  for (const step of s.steps) {
    if (Array.isArray(step)) {
      const rows = step.map(({ key, gap }): ModelRow => ({ key, id: id++, gap }))
      rows.forEach((row, i) => {
        byKey.get(row.key)!.row(row, step[i].time)
      })
      rig.push(
        rows,
        step.map((row) => row.time),
      )
    } else if ('watermark' in step) {
      watermark += step.watermark
      for (const model of models) model.advance(watermark)
      rig.watermark(watermark)
    } else if ('aheadMs' in step) {
      const { subtask, aheadMs } = step
      for (const [key, model] of byKey) {
        if (rig.subtaskWith(row(key)) === subtask) model.advance(watermark + aheadMs)
      }
      rig.watermark(watermark + aheadMs, subtask)
    } else if ('clock' in step) {
      nowMs += step.clock
      for (const model of models) model.processingTime(nowMs)
      rig.processingTime(nowMs)
    } else {
      rig.restore(step.restore)
      seen.restored++
    }
  }
  for (const model of models) model.advance(Number.POSITIVE_INFINITY)
  rig.watermark(Number.POSITIVE_INFINITY)
  const all = { fired: models.flatMap(({ fired }) => fired), late: models.flatMap(({ late }) => late) }
  compare(rig, all)
  seen.fired += all.fired.length
  seen.late += all.late.length
  rig.close()
}

function compare(rig: OperatorRig, model: Pick<WindowModel, 'fired' | 'late'>): void {
  const byKey = (all: readonly Fired[]): Record<string, Fired[]> =>
    Object.fromEntries(
      [...new Set(all.map((one) => one.key))].sort().map((key) => [key, all.filter((o) => o.key === key)]),
    )
  for (const { row, time } of rig.output.main) assert.equal(time, (row as Fired).end - 1)
  assert.deepEqual(byKey(rig.output.main.map(({ row }) => row as Fired)), byKey(model.fired))
  const late = (rig.output.sides.get('late') ?? []).map(({ row }) => (row as ModelRow).id)
  assert.deepEqual(
    late.sort((a, b) => a - b),
    [...model.late].sort((a, b) => a - b),
  )
}

const isPossible = (trigger: TriggerCase, { model }: AssignerCase): boolean =>
  !model.merges || trigger.model === null || trigger.model.merge !== null

/** A few runs may draw no late row or restore at all; many runs must have met everything. */
function assertCovered(seen: { readonly fired: number; readonly late: number; readonly restored: number }): void {
  const isCovered = seen.fired > 0 && (RUNS < 500 || (seen.late > 0 && seen.restored > 0))
  assert.ok(isCovered, JSON.stringify(seen))
}

describe('windows of any assigner against the model', () => {
  for (const trigger of TRIGGERS) {
    test(`trigger: ${trigger.name}`, () => {
      const seen = { fired: 0, late: 0, restored: 0 }
      const possible = scenario.filter((s) => isPossible(trigger, s.assigner))
      fc.assert(
        fc.property(possible, (s) => play(s, trigger, null, seen)),
        { numRuns: RUNS },
      )
      assertCovered(seen)
    })
  }

  for (const evictor of EVICTORS) {
    test(`evictor: ${evictor.name}`, () => {
      const seen = { fired: 0, late: 0, restored: 0 }
      fc.assert(
        fc.property(scenario, fc.constantFrom(...TRIGGERS.slice(0, 5)), (s, trigger) =>
          play({ ...s, work: 'process' }, trigger, evictor, seen),
        ),
        { numRuns: RUNS / 2 },
      )
      assertCovered({ ...seen, late: 1 })
    })
  }
})

const row = (key: string, id = 0): ModelRow => ({ key, id, gap: 5 })

interface RigParts {
  readonly assigner: WindowAssigner
  readonly trigger?: Trigger
  readonly fn?: () => ProcessWindowFunction<ModelRow, unknown, string>
  readonly lateness?: number
}

/** Windows that keep their elements, in one subtask. */
function rigOf({ assigner, trigger, fn = () => ({ ...show }) as never, lateness = 0 }: RigParts): OperatorRig {
  return new OperatorRig({
    create: () =>
      triggeredWindowOperator({
        assigner,
        trigger: trigger ?? assigner.getDefaultTrigger(),
        evictor: null,
        kept: WORK.process(),
        elementCodec: objectCodec(),
        createFunction: fn as () => ProcessWindowFunction<unknown, unknown, unknown>,
        codecOf: stateCodec,
        allowedLatenessMs: lateness,
      }),
    schema: ROWS,
    keyOf: (one) => (one as ModelRow).key,
  })
}

const firedBy = (rig: OperatorRig): unknown[] =>
  rig.output.main.map(({ row: fired }) => {
    const { start, end, ids } = fired as Fired
    return [start, end, ids]
  })

describe('sessions', () => {
  test('bridged after they fired merge and fire again; late is what is late for the merged session', () => {
    const rig = rigOf({ assigner: EventTimeSessionWindows.withGap(10), lateness: 20 })
    rig.push([row('a', 1), row('a', 2)], [0, 15])
    rig.watermark(26)
    assert.deepEqual(firedBy(rig), [
      [0, 10, [1]],
      [15, 25, [2]],
    ])
    // Within lateness of the first session, and touching the second: one session, fired at once.
    rig.push([row('a', 3)], [7])
    assert.deepEqual(firedBy(rig).slice(2), [[0, 25, [1, 2, 3]]])
    rig.watermark(40)
    // By itself [1, 11) would be late now; the session that it belongs to is not over before 44.
    rig.push([row('a', 4)], [1])
    assert.deepEqual(firedBy(rig).slice(3), [[0, 25, [1, 2, 3, 4]]])
    rig.watermark(44)
    rig.push([row('a', 5)], [1])
    assert.equal(rig.output.main.length, 4)
    assert.equal(rig.counters.lateDropped, 1)
    rig.close()
  })

  test('bridged before they are due fire once, with what their triggers counted', () => {
    const rig = rigOf({ assigner: EventTimeSessionWindows.withGap(10), trigger: CountTrigger.of(5) })
    rig.push([row('a', 1), row('a', 2), row('a', 3), row('a', 4)], [0, 1, 15, 16])
    assert.equal(rig.output.main.length, 0)
    rig.push([row('a', 5)], [8])
    assert.deepEqual(firedBy(rig), [[0, 26, [1, 2, 3, 4, 5]]])
    rig.close()
  })

  test('refuse triggers that cannot merge', () => {
    const trigger = DeltaTrigger.of<ModelRow>(1, (a, b) => b.id - a.id)
    assert.throws(() => rigOf({ assigner: EventTimeSessionWindows.withGap(10), trigger }), { code: 'WINDOW_INVALID' })
  })
})

describe('the triggered window operator', () => {
  test('leaves nothing behind: state, timers, triggers and their states', () => {
    const cases: RigParts[] = [
      { assigner: SlidingEventTimeWindows.of(10, 2), lateness: 7 },
      { assigner: EventTimeSessionWindows.withGap(5), trigger: ContinuousEventTimeTrigger.of(3), lateness: 7 },
      { assigner: EventTimeSessionWindows.withGap(5), trigger: CountTrigger.of(2) },
      { assigner: GlobalWindows.create(), trigger: PurgingTrigger.of(CountTrigger.of(1)) },
      { assigner: TumblingEventTimeWindows.of(10), trigger: new Custom() },
    ]
    for (const parts of cases) {
      const rig = rigOf(parts)
      const { backend } = rig.subtasks[0]!
      for (let round = 0; round < 3; round++) {
        const times = [1, 4, 3, 9, 17, 2].map((time) => time + round * 100)
        rig.push(
          times.map((_, i) => row('ab'[i % 2]!, i)),
          times,
        )
        rig.watermark(80 + round * 100)
        rig.processingTime(2_000 + round)
        assert.equal(liveEntries(backend!), 0, String(parts.assigner))
      }
      rig.close()
    }
  })

  test('a large fire goes in steps; rows after it are judged by the new watermark, before and after a restore', () => {
    for (const restores of [false, true]) {
      const rig = rigOf({ assigner: TumblingEventTimeWindows.of(10), lateness: 5 })
      const keys = 6_000
      for (let from = 0; from < keys; from += 2_000) {
        const rows = Array.from({ length: 2_000 }, (_, i) => row(`key-${from + i}`, from + i))
        rig.push(rows, new Array<number>(rows.length).fill(1))
      }
      if (restores) rig.restore(1)
      const { operator } = rig.subtasks[0]!
      let calls = 1
      let before = 0
      for (; !operator.advanceWatermark(9, rig.output); calls++) {
        assert.ok(rig.output.main.length - before <= 2_000)
        before = rig.output.main.length
        // A cut cannot come here: the engine holds barriers and rows back until the firing ends.
      }
      assert.ok(calls >= 4, `${keys} keys took ${calls} calls`)
      assert.equal(new Set(rig.output.main.map(({ row: fired }) => (fired as Fired).key)).size, keys)
      assert.equal(rig.output.main.length, keys)
      rig.push([row('key-5', -5)], [2])
      assert.deepEqual((rig.output.main.at(-1)!.row as Fired).ids, [5, -5], 'a late row fires its window again')
      rig.watermark(14)
      rig.push([row('key-5', -6)], [2])
      assert.equal(rig.counters.lateDropped, 1)
      rig.close()
    }
  })

  test('functions keep state of a window and of a key, and clear what belongs to the window', () => {
    const cleared: unknown[] = []
    class Numbered {
      private readonly firings = new ReducingStateDescriptor<number>('firings', (a, b) => a + b)
      private readonly seen = new MapStateDescriptor<number, string>('seen')
      private readonly ends = new ListStateDescriptor<number>('ends')
      process(
        context: StatefulProcessWindowContext<string>,
        elements: Iterable<ModelRow>,
        collect: (result: unknown) => void,
      ) {
        const ofWindow = context.windowState().getReducingState(this.firings)
        const ofKey = context.globalState().getReducingState(this.firings)
        ofWindow.add(1)
        ofKey.add(1)
        const seen = context.windowState().getMapState(this.seen)
        for (const { id } of elements) seen.put(id, `row ${id}`)
        context.windowState().getListState(this.ends).add(context.window.end)
        const ids = [...seen.keys()].sort()
        collect([context.key, context.window.end, ofWindow.get(), ofKey.get(), ids, context.currentWatermark])
      }
      clear(context: StatefulProcessWindowContext<string>) {
        const firings = context.windowState().getReducingState(this.firings)
        cleared.push([context.key, context.window.end, firings.get()])
        firings.clear()
      }
    }
    const rig = rigOf({ assigner: TumblingEventTimeWindows.of(10), lateness: 5, fn: () => new Numbered() })
    rig.push([row('a', 1), row('a', 2)], [1, 11])
    rig.watermark(9)
    rig.push([row('a', 3)], [2])
    rig.restore(2)
    rig.push([row('a', 4)], [3])
    rig.watermark(30)
    assert.deepEqual(
      rig.output.main.map((emitted) => emitted.row),
      [
        ['a', 10, 1, 1, [1], 9],
        ['a', 10, 2, 2, [1, 3], 9],
        ['a', 10, 3, 3, [1, 3, 4], 9],
        ['a', 20, 1, 4, [2], 30],
      ],
    )
    assert.deepEqual(cleared, [
      ['a', 10, 3],
      ['a', 20, 1],
    ])
    rig.close()
  })

  test('windows that merge have no state of their own', () => {
    const fn = () => ({
      process(context: StatefulProcessWindowContext<string>) {
        context.windowState()
      },
    })
    const rig = rigOf({ assigner: EventTimeSessionWindows.withGap(5), fn })
    rig.push([row('a')], [1])
    assert.throws(() => rig.watermark(10), { code: 'WINDOW_STATE_MERGING' })
    rig.close()
  })

  test('assigners of users: windows that only some elements have, of any length', () => {
    class Odd extends WindowAssigner<ModelRow> {
      assignWindows({ id }: ModelRow, time: number) {
        return id % 2 === 0 ? [] : [new TimeWindow(time, time + id), new TimeWindow(time - 1, time + id)]
      }
      getDefaultTrigger() {
        return EventTimeTrigger.create()
      }
      isEventTime() {
        return true
      }
    }
    const rig = rigOf({ assigner: new Odd() })
    rig.push([row('a', 1), row('a', 2), row('a', 3), row('a', 3)], [0, 0, 0, 0])
    rig.watermark(50)
    assert.deepEqual(firedBy(rig), [
      [0, 1, [1]],
      [-1, 1, [1]],
      [0, 3, [3, 3]],
      [-1, 3, [3, 3]],
    ])
    rig.push([row('a', 2)], [60])
    assert.equal(rig.counters.lateDropped, 0, 'an element without windows is not late')
    rig.push([row('a', 2)], [50])
    assert.equal(rig.counters.lateDropped, 1, 'unless it is')
    rig.close()
  })

  test('says what is wrong', () => {
    const rig = rigOf({ assigner: EventTimeSessionWindows.withGap(5) })
    assert.throws(() => rig.push([row('a')], [Number.NaN]), { code: 'TIMESTAMP_MISSING' })
    const asynchronous = rigOf({
      assigner: GlobalWindows.create(),
      trigger: CountTrigger.of(1),
      fn: () => ({ process: async () => {} }) as never,
    })
    assert.throws(() => asynchronous.push([row('a')], [1]), { code: 'ASYNC_FUNCTION' })
    class Careless extends Trigger {
      private readonly result: unknown
      constructor(result: unknown) {
        super()
        this.result = result
      }
      onElement(): TriggerResult {
        return this.result as TriggerResult
      }
      onEventTime(): TriggerResult {
        return TriggerResult.CONTINUE
      }
      onProcessingTime(): TriggerResult {
        return TriggerResult.CONTINUE
      }
      clear(): void {}
    }
    for (const [result, code] of [
      [undefined, 'TRIGGER_RESULT_INVALID'],
      ['fire', 'TRIGGER_RESULT_INVALID'],
      [Promise.resolve('FIRE'), 'ASYNC_FUNCTION'],
    ]) {
      for (const trigger of [new Careless(result), PurgingTrigger.of(new Careless(result))]) {
        const careless = rigOf({ assigner: GlobalWindows.create(), trigger })
        assert.throws(() => careless.push([row('a')], [1]), { code })
        careless.close()
      }
    }
    let assigner: WindowAssigner = EventTimeSessionWindows.withGap(5)
    const restored = new OperatorRig({
      create: () =>
        operatorOf({ name: '', create: () => assigner, model: globalModel }, TRIGGERS[0]!, null, 'process', 0),
      schema: ROWS,
      keyOf: (one) => (one as ModelRow).key,
    })
    restored.push([row('a')], [1])
    assigner = EventTimeSessionWindows.withGap(6)
    assert.throws(() => restored.restore(1), { code: 'STATE_INCOMPATIBLE', message: /EventTimeSessionWindows\(5\)/ })
    for (const one of [rig, asynchronous, restored]) one.close()
  })
})

/** Entries that a checkpoint would write: all there are, where none was written before. */
function liveEntries(backend: KeyedBackend): number {
  const batch = new WriteBatchBuilder()
  backend.captureDirty(batch)
  backend.checkpointSettled()
  return batch.count
}
