/**
 * Parts of simulated jobs that bring two sources together.
 */
import { type KeyedProcessFunction, type ListState, ListStateDescriptor, outputTag } from '../../api/index.ts'
import type { Branch } from './sim-branch.ts'
import type { InputRow } from './sim-input.ts'

type Tagged = InputRow & { readonly side: 'left' | 'right' }

/** Keeps the rows of both sides of a key, and pairs each new one with all of the other side. */
function pairing(): KeyedProcessFunction<string, Tagged, { key: string; left: number; right: number }> {
  let left: ListState<number>
  let right: ListState<number>
  return {
    open(context) {
      left = context.getListState(new ListStateDescriptor<number>('left'))
      right = context.getListState(new ListStateDescriptor<number>('right'))
    },
    processElement({ id, side }, { currentKey: key }, collect) {
      const isLeft = side === 'left'
      for (const other of isLeft ? right.get() : left.get()) {
        collect({ key, left: isLeft ? id : other, right: isLeft ? other : id })
      }
      ;(isLeft ? left : right).add(id)
    },
  }
}

const joinKey = (row: InputRow): string => `${row.key} ${row.id % 5}`

/** Every pair of rows of two sources with the same key, once. */
export const joined: Branch = {
  sources: 2,
  mayRepeat: true,
  build({ streams, sink }) {
    const left = streams[0]!.map((row): Tagged => ({ ...row, side: 'left' }))
    const right = streams[1]!.map((row): Tagged => ({ ...row, side: 'right' }))
    const pairs = left.union(right).keyBy(joinKey).process(pairing).uid('joined-pairs')
    sink(pairs, 'joined')
  },
  check(results) {
    const byKey = Map.groupBy(results.rows(1), joinKey)
    const expected = results
      .rows(0)
      .flatMap((left) => (byKey.get(joinKey(left)) ?? []).map((right) => `${left.id} ${right.id}`))
    results.same('pairs', expected, results.texts('joined', ['left', 'right']))
  },
}

const LATE_LEFT = outputTag<InputRow>('late-left')
const LATE_RIGHT = outputTag<InputRow>('late-right')

/** Rows of two sources that are near each other in time; those behind the watermark come out aside. */
export const intervals: Branch = {
  sources: 2,
  build({ shape, streams, sink }) {
    const pairs = streams[0]!
      .keyBy('key')
      .intervalJoin(streams[1]!.keyBy('key'))
      .between(-shape.windowStepMs, shape.windowMs)
      .sideOutputLeftLateData(LATE_LEFT)
      .sideOutputRightLateData(LATE_RIGHT)
      .process(() => ({
        processElement(left: InputRow, right: InputRow, _, collect: (pair: { left: number; right: number }) => void) {
          collect({ left: left.id, right: right.id })
        },
      }))
      .uid('intervals-by-key')
    sink(pairs, 'intervals')
    sink(pairs.getSideOutput(LATE_LEFT), 'late-left')
    sink(pairs.getSideOutput(LATE_RIGHT), 'late-right')
  },
  check(results) {
    const { windowMs, windowStepMs } = results.shape
    const late = [...results.texts('late-left', ['id']), ...results.texts('late-right', ['id'])]
    results.once('late rows', late)
    results.lateIsAllowed(late.length)
    const isLate = new Set(late.map(Number))
    const [left, right] = [0, 1].map((source) => results.rows(source).filter((row) => !isLate.has(row.id)))
    const isNear = (a: InputRow, b: InputRow): boolean =>
      a.key === b.key && b.time >= a.time - windowStepMs && b.time <= a.time + windowMs
    const expected = left!.flatMap((a) => right!.filter((b) => isNear(a, b)).map((b) => `${a.id} ${b.id}`))
    results.same('pairs', expected, results.texts('intervals', ['left', 'right']))
  },
}
