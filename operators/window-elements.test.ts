/**
 * Windows that keep their elements: what a checkpoint writes of them, in less memory than they take, and what evictors may
 * do to them. That they fire what came, in order, through restores, is in the tests of each window operator.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { EventTimeSessionWindows, TumblingEventTimeWindows } from '../engine/api/index.ts'
import type { ProcessWindowFunction } from '../engine/contract/functions.ts'
import type { Operator } from '../engine/contract/operator.ts'
import type { Evictor, TimestampedValue } from '../engine/contract/windows.ts'
import { schema, t } from '../engine/core/schema.ts'
import { schemaCodec, stateCodec } from '../state/schema-codec.ts'
import { type CoGroup, coGroupContents, taggedCodec, taggedInputs } from './co-group.ts'
import { OperatorRig, type RigOptions } from './operator.testkit.ts'
import { windowOperator } from './window-aggregate.ts'
import { slidingWindows, tumblingWindows } from './window-assigner.ts'
import { evictableContents, listContents, timestampedCodec } from './window-contents.ts'
import type { KeptContents } from './window-keepers.ts'
import { processKernel } from './window-kernels.ts'
import { triggeredWindowOperator } from './window-triggered.ts'

const ROWS = schema({ key: t.string(), id: t.int32() })
interface Row {
  readonly key: string
  readonly id: number
}
const HOUR = 3_600_000
const PIECE_ELEMENTS = 64

const codec = () => schemaCodec(ROWS)
const idsOf = (rows: Iterable<unknown>): number[] => Array.from(rows, (row) => (row as Row).id)
const show: ProcessWindowFunction<unknown, unknown, string> = {
  process: ({ key }, elements, collect) => collect([key, ...idsOf(elements)]),
}

const listed = (): KeptContents => ({ kind: 'elements', contents: listContents(), codec: codec() })
const evictable = (): KeptContents => {
  return { kind: 'elements', contents: evictableContents(listContents()), codec: timestampedCodec(codec()) }
}

function triggered(kept: KeptContents, evictor: Evictor | null, isSession: boolean): Operator {
  const assigner = isSession ? EventTimeSessionWindows.withGap(HOUR) : TumblingEventTimeWindows.of(HOUR)
  return triggeredWindowOperator({
    assigner,
    trigger: assigner.getDefaultTrigger(),
    evictor,
    kept,
    elementCodec: codec(),
    createFunction: () => ({ ...show }),
    codecOf: stateCodec,
  })
}

const keepAll: Evictor = { evictBefore() {}, evictAfter() {} }

const aligned = (slideMs = HOUR) =>
  windowOperator({
    assigner: slideMs === HOUR ? tumblingWindows(HOUR) : slidingWindows(HOUR, slideMs),
    kernel: processKernel<Row, unknown, string>(show.process as never, { codec: codec() }),
  })

/** Windows of an hour, and how many of them a row is in. */
const KINDS: Readonly<Record<string, { create: () => Operator; windows?: number }>> = {
  aligned: { create: () => aligned() },
  sliding: { create: () => aligned(HOUR / 2), windows: 2 },
  sessions: { create: () => triggered(listed(), null, true) },
  'with an evictor': { create: () => triggered(evictable(), keepAll, false) },
  'of two inputs': {
    create: () =>
      taggedInputs(
        windowOperator({
          assigner: tumblingWindows(HOUR),
          kernel: processKernel<CoGroup, unknown, string>(
            ({ key }, [group], collect) => collect([key, ...idsOf(group!.one), ...idsOf(group!.two)]),
            { codec: taggedCodec(codec(), codec()), contents: coGroupContents() },
          ),
        }),
      ),
  },
}

function rigOf(create: () => Operator, more: Partial<RigOptions> = {}): OperatorRig {
  const input = { schema: ROWS, keyOf: (row: unknown) => (row as Row).key }
  return new OperatorRig({ create, ...input, moreInputs: [input], ...more })
}

/** Rows [from, to), of `keys` keys in turn. */
const rowsOf = (from: number, to: number, keys = 1): Row[] =>
  Array.from({ length: to - from }, (_, i) => ({ key: `k${(from + i) % keys}`, id: from + i }))

const timesOf = (rows: readonly Row[]): number[] => rows.map(({ id }) => HOUR / 2 + id)

describe('a checkpoint of windows that keep their elements', () => {
  for (const [name, { create, windows = 1 }] of Object.entries(KINDS)) {
    test(`${name}: costs what came since the last one, however full the window`, () => {
      const rig = rigOf(create)
      const push = (from: number, to: number): void => rig.push(rowsOf(from, to), timesOf(rowsOf(from, to)))
      /** What a checkpoint writes after `added` further rows. */
      let rows = 0
      const after = (added: number): { entries: number; bytes: number } => {
        push(rows, rows + added)
        rows += added
        return rig.checkpoint()
      }
      const all = after(4_000)
      const bytesARow = all.bytes / 4_000
      for (let checkpoint = 0; checkpoint < 20; checkpoint++) {
        const { entries, bytes } = after(10)
        // The window's own entry with less than a piece, at most one new piece, and a timer.
        assert.ok(entries <= windows * 2 + 1, `${entries} entries`)
        assert.ok(bytes < bytesARow * (2 * PIECE_ELEMENTS + 10), `${bytes} bytes, ${bytesARow} a row`)
      }
      assert.deepEqual(rig.checkpoint(), { entries: 0, bytes: 0 })
      rig.watermark(3 * HOUR)
      const expected = ['k0', ...rowsOf(0, rows).map(({ id }) => id)]
      assert.deepEqual(
        rig.output.main.map(({ row }) => row),
        Array(windows).fill(expected),
      )
      rig.checkpoint()
      assert.equal(rig.storedEntries(), 0, 'nothing is left of a window that is over')
      rig.close()
    })
  }
})

test('windows of ten times the memory fire what they got', () => {
  for (const [name, { create, windows = 1 }] of Object.entries(KINDS)) {
    const rig = rigOf(create, { memoryBudgetBytes: 6_000, batchRows: 100 })
    for (let from = 0; from < 4_000; from += 2_000) {
      const rows = rowsOf(from, from + 2_000, 10)
      rig.push(rows, timesOf(rows))
      rig.checkpoint()
    }
    rig.watermark(3 * HOUR)
    assert.ok(rig.counters.coldReads > 0, `${name} read from the store`)
    const fired = rig.output.main.map(({ row }) => row as [string, ...number[]])
    assert.equal(fired.length, 10 * windows, name)
    for (const [key, ...ids] of fired) {
      const own = rowsOf(0, 4_000, 10).filter((row) => row.key === key)
      assert.deepEqual(
        ids,
        own.map(({ id }) => id),
        `${name} ${key}`,
      )
    }
    rig.close()
  }
})

test('an evictor may take out, put in and reorder', () => {
  let work = (_elements: TimestampedValue<Row>[]): void => {}
  const evictor = { evictBefore() {}, evictAfter: (elements: TimestampedValue<Row>[]) => work(elements) }
  const create = () =>
    triggeredWindowOperator({
      assigner: TumblingEventTimeWindows.of(HOUR),
      trigger: TumblingEventTimeWindows.of(HOUR).getDefaultTrigger(),
      evictor: evictor as unknown as Evictor,
      kept: { ...evictable(), pieceElements: 3 } as KeptContents,
      elementCodec: codec(),
      createFunction: () => ({ ...show }),
      codecOf: stateCodec,
      allowedLatenessMs: HOUR,
    })
  const rig = rigOf(create)
  const expected: number[] = []
  const push = (rows: readonly Row[], after: typeof work): void => {
    // Late rows: each fires the window, and so does the last of them.
    work = () => {}
    rig.push(rows.slice(0, -1), timesOf(rows.slice(0, -1)))
    work = after
    rig.push(rows.slice(-1), timesOf(rows.slice(-1)))
    expected.push(...idsOf(rows))
    const [, ...ids] = rig.output.main.at(-1)!.row as [string, ...number[]]
    assert.deepEqual(ids, expected)
  }
  rig.push(rowsOf(0, 10), timesOf(rowsOf(0, 10)))
  rig.watermark(HOUR)
  expected.push(...idsOf(rowsOf(0, 10)))
  push(rowsOf(10, 12), (elements) => elements.splice(2, 6))
  expected.splice(2, 6)
  rig.restore(1)
  push(rowsOf(12, 20), (elements) => elements.reverse())
  expected.reverse()
  rig.restore(1)
  push(rowsOf(20, 22), (elements) => elements.splice(4, 1, { value: { key: 'k0', id: 99 }, timestamp: 5 }))
  expected.splice(4, 1, 99)
  push(rowsOf(22, 30), (elements) => elements.splice(0, elements.length - 1))
  expected.splice(0, expected.length - 1)
  push(rowsOf(30, 31), (elements) => elements.splice(0))
  rig.watermark(3 * HOUR)
  rig.checkpoint()
  assert.equal(rig.storedEntries(), 0)
  rig.close()
})
