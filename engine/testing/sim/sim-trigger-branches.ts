/**
 * Parts of simulated jobs whose windows keep their rows and fire by triggers of a user's own: with evictors, with state
 * of a window and of a key, in windows that merge, and in global windows by counts.
 *
 * In which order rows of several splits come is no part of the input. So functions number their firings in state, and
 * the models follow these numbers: which rows were new in a firing, which had to be there still, and whether it was due.
 */
import {
  ContinuousEventTimeTrigger,
  CountEvictor,
  EventTimeSessionWindows,
  type Evictor,
  ListStateDescriptor,
  MapStateDescriptor,
  type OnMergeContext,
  outputTag,
  type ProcessWindowFunction,
  ReducingStateDescriptor,
  type StatefulProcessWindowContext,
  type TimestampedValue,
  type TimeWindow,
  Trigger,
  type TriggerContext,
  TriggerResult,
  ValueStateDescriptor,
} from '../../api/index.ts'
import type { Branch } from './sim-branch.ts'
import { type InputRow, isOnTime, type SimShape, windowsOf } from './sim-input.ts'
import type { BranchResults } from './sim-results.ts'
import { assignerOf } from './sim-window-branches.ts'

const idsOf = (rows: Iterable<InputRow>): number[] => Array.from(rows, (row) => row.id)
const idsIn = (text: unknown): number[] => (text === '' ? [] : String(text).split(' ').map(Number))
const byNumber = (a: { readonly number: number }, b: { readonly number: number }): number => a.number - b.number
const windowText = (window: TimeWindow): string => `${window.start}-${window.end}`

const LATE = outputTag<InputRow>('late')
const COUNT = new ValueStateDescriptor<number>('count')
const ADDED = new ReducingStateDescriptor<number>('added', (a, b) => a + b)
const IDS = new ListStateDescriptor<number>('ids')
const BY_ID = new MapStateDescriptor<number, number>('by-id')

/** What a trigger counted in several states, which must agree. */
function agreed(...counts: readonly number[]): number {
  if (counts.every((count) => count === counts[0])) return counts[0]!
  throw new Error(`states of a trigger count ${counts.join(', ')} elements`)
}

/** Fires at each so many elements, at the window's end, and for each element that comes later. */
class EveryFew extends Trigger<InputRow> {
  private readonly every: number

  constructor(every: number) {
    super()
    this.every = every
  }

  onElement({ id }: InputRow, _: number, window: TimeWindow, context: TriggerContext): TriggerResult {
    const [count, added] = [context.getPartitionedState(COUNT), context.getPartitionedState(ADDED)]
    const [ids, byId] = [context.getPartitionedState(IDS), context.getPartitionedState(BY_ID)]
    count.update((count.value() ?? 0) + 1)
    added.add(1)
    ids.add(id)
    byId.put(id, id)
    const n = agreed(count.value()!, added.get()!, [...ids.get()].length, [...byId.keys()].length)
    if (window.maxTimestamp <= context.currentWatermark) return TriggerResult.FIRE
    context.registerEventTimeTimer(window.maxTimestamp)
    return n % this.every === 0 ? TriggerResult.FIRE : TriggerResult.CONTINUE
  }

  onEventTime(timeMs: number, window: TimeWindow): TriggerResult {
    return timeMs === window.maxTimestamp ? TriggerResult.FIRE : TriggerResult.CONTINUE
  }

  onProcessingTime(): TriggerResult {
    return TriggerResult.CONTINUE
  }

  clear(window: TimeWindow, context: TriggerContext): void {
    context.deleteEventTimeTimer(window.maxTimestamp)
    context.getPartitionedState(COUNT).clear()
    context.getPartitionedState(ADDED).clear()
    context.getPartitionedState(IDS).clear()
    context.getPartitionedState(BY_ID).clear()
  }
}

const leaves = (id: number): boolean => id % 2 === 0

/** Rows with an even id go once they were shown. */
const EVEN_ONCE: Evictor<InputRow> = {
  evictBefore() {},
  evictAfter(elements: TimestampedValue<InputRow>[]) {
    const left = elements.filter(({ value }) => !leaves(value.id))
    elements.splice(0, elements.length, ...left)
  },
}

interface Firing {
  readonly key: string
  readonly window: string
  /** Of the window's firings, from 1 on; and of the key's. */
  readonly number: number
  readonly ofKey: number
  readonly ids: string
  /** Rows of the window that were shown so far, this time included. */
  readonly shown: number
  /** The window had not ended. */
  readonly isEarly: boolean
}

const FIRINGS = new ValueStateDescriptor<number>('firings')
const SHOWN = new MapStateDescriptor<number, boolean>('shown')

/** Numbers the firings of a window in its own state, and those of its key in the key's. */
class Firings implements ProcessWindowFunction<InputRow, Firing, string> {
  process(
    context: StatefulProcessWindowContext<string>,
    rows: Iterable<InputRow>,
    collect: (firing: Firing) => void,
  ): void {
    const [ofWindow, ofKey] = [context.windowState(), context.globalState()].map((states) => {
      const firings = states.getState(FIRINGS)
      firings.update((firings.value() ?? 0) + 1)
      return firings.value()!
    })
    const shown = context.windowState().getMapState(SHOWN)
    const ids = idsOf(rows)
    for (const id of ids) shown.put(id, true)
    collect({
      key: context.key,
      window: windowText(context.window),
      number: ofWindow!,
      ofKey: ofKey!,
      ids: ids.join(' '),
      shown: [...shown.keys()].length,
      isEarly: context.currentWatermark < context.window.maxTimestamp,
    })
  }

  clear(context: StatefulProcessWindowContext<string>): void {
    context.windowState().getState(FIRINGS).clear()
    context.windowState().getMapState(SHOWN).clear()
  }
}

const firesByCount = (shape: SimShape): boolean => shape.windowWork !== 'columns'

/** Windows that fire early, again and late, while an evictor takes half of what was shown. */
export const fired: Branch = {
  sources: 1,
  build({ shape, streams, sink }) {
    const trigger = firesByCount(shape)
      ? new EveryFew(shape.countSize + 1)
      : ContinuousEventTimeTrigger.of(Math.max(1, Math.floor(shape.windowStepMs / 3)))
    const firings = streams[0]!
      .keyBy('key')
      .window(assignerOf(shape))
      .trigger(trigger)
      .evictor(EVEN_ONCE)
      .allowedLateness(shape.latenessMs)
      .sideOutputLateData(LATE)
      .process(new Firings())
      .uid('fired-by-key')
    sink(firings, 'fired')
    sink(firings.getSideOutput(LATE), 'late-fired')
  },
  check(results) {
    const firings = results.sink('fired') as unknown as readonly Firing[]
    for (const [key, of] of Map.groupBy(firings, ({ key }) => key)) {
      const numbers = of.map(({ ofKey }) => ofKey).sort((a, b) => a - b)
      const gap = numbers.findIndex((number, i) => number !== i + 1)
      if (gap >= 0) results.fail('I5', `${key} has firing ${numbers[gap]} where ${gap + 1} is due`)
    }
    const shown: string[] = []
    for (const [window, of] of Map.groupBy(firings, ({ key, window }) => `${key} ${window}`)) {
      for (const id of checkFirings(results, window, of)) shown.push(`${window} ${id}`)
    }
    results.once('late-fired', results.texts('late-fired', ['id']))
    const late = new Set(results.sink('late-fired').map((row) => row['id'] as number))
    results.lateIsAllowed(late.size)
    const { shape } = results
    const textsOf = (rows: readonly InputRow[]): string[] =>
      rows.flatMap(({ key, id, time }) => windowsOf(shape, time).map((window) => `${key} ${window} ${id}`))
    const kept = results.rows(0).filter((row) => !late.has(row.id))
    const least = shape.windowKind === 'tumbling' ? kept : kept.filter((row) => isOnTime(shape, row))
    results.between('rows', textsOf(least), textsOf(kept), shown)
  },
}

/** The rows that the firings of one window showed: each firing has the rows that stay, and then new ones. */
function checkFirings(results: BranchResults, window: string, firings: readonly Firing[]): ReadonlySet<number> {
  const every = results.shape.countSize + 1
  const shown = new Set<number>()
  let staying: number[] = []
  for (const [i, firing] of [...firings].sort(byNumber).entries()) {
    const ids = idsIn(firing.ids)
    const added = ids.slice(staying.length)
    const wrong = (what: string): void =>
      results.fail('I5', `${window}: firing ${firing.number} shows ${firing.ids}: ${what}`)
    if (firing.number !== i + 1) wrong(`${i + 1} is due`)
    if (staying.some((id, k) => id !== ids[k])) wrong(`${staying.join(' ')} had to stay`)
    if (added.some((id) => shown.has(id))) wrong('some had been there before')
    for (const id of added) shown.add(id)
    if (firing.shown !== shown.size) wrong(`${firing.shown} rows are in the state of the window, not ${shown.size}`)
    if (firesByCount(results.shape)) {
      if (firing.isEarly && shown.size % every !== 0) wrong(`that makes ${shown.size}, and every ${every} are due`)
      if (added.length > every) wrong('it had to fire earlier')
    }
    staying = ids.filter((id) => !leaves(id))
  }
  return shown
}

/** Fires and purges once a session has so many elements, counted in states that merge; and at its end. */
class Gathering extends Trigger<InputRow> {
  private readonly many: number

  constructor(many: number) {
    super()
    this.many = many
  }

  onElement({ id }: InputRow, _: number, window: TimeWindow, context: TriggerContext): TriggerResult {
    const [added, ids] = [context.getPartitionedState(ADDED), context.getPartitionedState(IDS)]
    added.add(1)
    ids.add(id)
    const n = agreed(added.get()!, [...ids.get()].length)
    const isOver = window.maxTimestamp <= context.currentWatermark
    if (!isOver) context.registerEventTimeTimer(window.maxTimestamp)
    return isOver || n >= this.many ? this.fire(context) : TriggerResult.CONTINUE
  }

  private fire(context: TriggerContext): TriggerResult {
    context.getPartitionedState(ADDED).clear()
    context.getPartitionedState(IDS).clear()
    return TriggerResult.FIRE_AND_PURGE
  }

  onEventTime(timeMs: number, window: TimeWindow, context: TriggerContext): TriggerResult {
    return timeMs === window.maxTimestamp ? this.fire(context) : TriggerResult.CONTINUE
  }

  onProcessingTime(): TriggerResult {
    return TriggerResult.CONTINUE
  }

  override canMerge(): boolean {
    return true
  }

  override onMerge(window: TimeWindow, context: OnMergeContext): void {
    context.mergePartitionedState(ADDED)
    context.mergePartitionedState(IDS)
    if (window.maxTimestamp > context.currentWatermark) context.registerEventTimeTimer(window.maxTimestamp)
  }

  clear(window: TimeWindow, context: TriggerContext): void {
    context.deleteEventTimeTimer(window.maxTimestamp)
    context.getPartitionedState(ADDED).clear()
    context.getPartitionedState(IDS).clear()
  }
}

interface Gathered {
  readonly key: string
  readonly start: number
  readonly end: number
  readonly ids: string
  readonly isEarly: boolean
}

const gatheredMany = ({ countSize }: SimShape): number => countSize + 2

/** Sessions that give away what they gathered, in windows that grow and merge meanwhile. */
export const gathered: Branch = {
  sources: 1,
  build({ shape, streams, sink }) {
    const sessions = streams[0]!
      .keyBy('key')
      .window(EventTimeSessionWindows.withGap(shape.windowStepMs))
      .trigger(new Gathering(gatheredMany(shape)))
      .allowedLateness(shape.latenessMs)
      .sideOutputLateData(LATE)
    // One that takes nothing keeps the rows in another way.
    if (shape.windowWork === 'columns') sessions.evictor(CountEvictor.of(Number.MAX_SAFE_INTEGER) as Evictor<InputRow>)
    const gatherings = sessions
      .process(({ key, window, currentWatermark }, rows, collect: (gathered: Gathered) => void) => {
        const { start, end, maxTimestamp } = window
        collect({ key, start, end, ids: idsOf(rows).join(' '), isEarly: currentWatermark < maxTimestamp })
      })
      .uid('gathered-by-key')
    sink(gatherings, 'gathered')
    sink(gatherings.getSideOutput(LATE), 'late-gathered')
  },
  check(results) {
    const gatherings = results.sink('gathered') as unknown as readonly Gathered[]
    const late = results.texts('late-gathered', ['id'])
    results.lateIsAllowed(late.length)
    const shown = gatherings.flatMap(({ key, ids }) => idsIn(ids).map((id) => `${key} ${id}`))
    const isLate = new Set(late)
    const kept = results.rows(0).filter(({ id }) => !isLate.has(String(id)))
    results.once('late-gathered', late)
    results.same(
      'rows',
      kept.map(({ key, id }) => `${key} ${id}`),
      shown,
    )
    const timeOf = new Map(results.rows(0).map(({ id, time }) => [id, time]))
    const many = gatheredMany(results.shape)
    for (const { key, start, end, ids, isEarly } of gatherings) {
      const wrong = (what: string): void => results.fail('I5', `${key} ${start}-${end} gathered ${ids}: ${what}`)
      const members = idsIn(ids)
      if (isEarly && members.length < many) wrong(`it had to wait for ${many}`)
      if (!isEarly && members.length >= many && results.shape.latenessMs === 0) wrong(`it had to fire at ${many}`)
      const isWithin = (time: number | undefined): boolean =>
        time !== undefined && time >= start && time <= end - results.shape.windowStepMs
      if (!results.isPartial && !members.every((id) => isWithin(timeOf.get(id)))) wrong('some are of another session')
    }
  },
}

interface Rolled {
  readonly key: string
  readonly number: number
  /** Of the elements, `row.copy`, in the order in which they came. */
  readonly elements: string
}

/** Elements that each row becomes: with many of them a window has more than one piece holds. */
const copiesOf = ({ rowsPerSplit }: SimShape): number => (rowsPerSplit % 2 === 0 ? 1 : 6)
const sizeOf = (shape: SimShape): number => (copiesOf(shape) === 1 ? 2 * shape.countSize + 1 : 150)
const slideOf = (shape: SimShape): number => shape.countSize * copiesOf(shape)

class Rolling implements ProcessWindowFunction<{ key: string; id: number; copy: number }, Rolled, string> {
  process(
    { key, globalState }: StatefulProcessWindowContext<string>,
    elements: Iterable<{ key: string; id: number; copy: number }>,
    collect: (rolled: Rolled) => void,
  ): void {
    const firings = globalState().getState(FIRINGS)
    firings.update((firings.value() ?? 0) + 1)
    const texts = Array.from(elements, ({ id, copy }) => `${id}.${copy}`)
    collect({ key, number: firings.value()!, elements: texts.join(' ') })
  }
}

/** The last so many elements of a key, whenever some more have come: one window for all time, from which old ones go. */
export const rolling: Branch = {
  sources: 1,
  build({ shape, streams, sink }) {
    const rolled = streams[0]!
      .flatMap(({ key, id }) => Array.from({ length: copiesOf(shape) }, (_, copy) => ({ key, id, copy })))
      .keyBy(({ key }) => key)
      .countWindow(sizeOf(shape), slideOf(shape))
      .process(new Rolling())
      .uid('rolling-by-key')
    sink(rolled, 'rolling')
  },
  check(results) {
    const { shape } = results
    const [size, slide] = [sizeOf(shape), slideOf(shape)]
    const rolled = Map.groupBy(results.sink('rolling') as unknown as readonly Rolled[], ({ key }) => key)
    const counts = results.countBy(results.rows(0), ({ key }) => key)
    for (const [key, rows] of rolled) {
      // All elements so far, as the firings tell.
      const all: string[] = []
      for (const [i, { number, elements }] of [...rows].sort(byNumber).entries()) {
        const texts = elements.split(' ')
        const before = all.slice(Math.max(0, all.length + slide - size))
        if (number !== i + 1 || before.some((text, k) => text !== texts[k])) {
          results.fail('I5', `${key}: firing ${number} has ${elements} where ${before.join(' ')} and ${slide} are due`)
          return
        }
        all.push(...texts.slice(before.length))
        if (all.length !== slide * number) {
          results.fail('I5', `${key}: firing ${number} brings ${all.length} elements, not ${slide * number}`)
          return
        }
      }
      results.once(`elements of ${key}`, all)
    }
    for (const [key, n] of results.isPartial ? [] : counts) {
      const due = Math.floor((n * copiesOf(shape)) / slide)
      const found = rolled.get(key)?.length ?? 0
      if (found !== due) results.fail('I5', `${key} fired ${found} times where ${due} are due`)
    }
  },
}
