/**
 * Alignment of sources: limits from reports, against a naive model; and that a group never waits for itself.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { ExecutionPlan } from './planner.ts'
import { AlignmentBoard } from './watermark-alignment.ts'

/** A plan with sources of these groups and parallelisms. */
const planOf = (sources: readonly (readonly [group: string | null, parallelism: number, driftMs: number])[]) =>
  ({
    vertices: sources.map(([group, parallelism, maxDriftMs], id) => ({
      id,
      parallelism,
      nodes: [
        {
          role: 'source',
          watermarks: { alignment: group === null ? null : { group, maxDriftMs, updateIntervalMs: 1 } },
        },
      ],
    })),
  }) as unknown as ExecutionPlan

test('a group is limited once all its subtasks have reported, to the slowest plus the drift', () => {
  const board = new AlignmentBoard(
    planOf([
      ['g', 2, 10],
      ['g', 1, 10],
      ['other', 1, 5],
      [null, 3, 0],
    ]),
  )
  assert.deepEqual(board.report([{ group: 'g', subtask: '0 0', watermark: 100 }]), [])
  assert.deepEqual(board.report([{ group: 'other', subtask: '2 0', watermark: 7 }]), [
    { group: 'other', watermark: 12 },
  ])
  assert.deepEqual(board.report([{ group: 'g', subtask: '1 0', watermark: Number.POSITIVE_INFINITY }]), [])
  const last = { group: 'g', subtask: '0 1', watermark: 30 }
  assert.deepEqual(board.report([last]), [{ group: 'g', watermark: 40 }])
  assert.deepEqual(board.report([last]), [], 'only what changed')
  const ended = ['0 0', '0 1'].map((subtask) => ({ group: 'g', subtask, watermark: Number.POSITIVE_INFINITY }))
  assert.deepEqual(board.report(ended), [{ group: 'g', watermark: Number.POSITIVE_INFINITY }])
})

test('says who waits, for whom, and how far each is ahead', () => {
  const board = new AlignmentBoard(
    planOf([
      ['g', 2, 10],
      [null, 1, 0],
      ['g', 2, 10],
    ]),
  )
  const tell = (subtask: string, watermark: number) => board.report([{ group: 'g', subtask, watermark }])
  tell('0 0', 100)
  const of = () => board.status()[0]!.subtasks.map(({ state, driftMs }) => `${state} ${driftMs}`)
  assert.equal(board.status()[0]!.limitMs, null, 'not all have reported')
  assert.deepEqual(of(), ['reading 0', 'unknown null', 'unknown null', 'unknown null'])
  tell('0 1', 111)
  tell('2 0', 110)
  tell('2 1', Number.POSITIVE_INFINITY)
  assert.deepEqual(of(), ['reading 0', 'paused 11', 'reading 10', 'free null'])
  const [group] = board.status()
  assert.deepEqual([group!.group, group!.maxDriftMs, group!.limitMs], ['g', 10, 110])
  assert.deepEqual(
    group!.subtasks.map(({ vertex, subtask }) => `${vertex} ${subtask}`),
    ['0 0', '0 1', '2 0', '2 1'],
  )
})

test('however reports come, somebody of a group may always go on', () => {
  const reports = fc.array(fc.record({ subtask: fc.nat(3), by: fc.nat(50), ends: fc.boolean() }), { maxLength: 60 })
  fc.assert(
    fc.property(reports, fc.nat(20), (steps, driftMs) => {
      const board = new AlignmentBoard(planOf([['g', 4, driftMs]]))
      const watermarks = [0, 0, 0, 0]
      let limit = Number.POSITIVE_INFINITY
      const tell = (index: number): void => {
        const changed = board.report([{ group: 'g', subtask: `0 ${index}`, watermark: watermarks[index]! }])
        if (changed.length > 0) limit = changed[0]!.watermark
      }
      for (let i = 0; i < 4; i++) tell(i)
      for (const { subtask, by, ends } of steps) {
        // One that is ahead does not read, so it does not move.
        if (watermarks[subtask]! > limit) continue
        watermarks[subtask] = ends && by > 40 ? Number.POSITIVE_INFINITY : watermarks[subtask]! + by
        tell(subtask)
        assert.equal(limit, Math.min(...watermarks) + driftMs)
        assert.ok(watermarks.some((watermark) => watermark <= limit))
      }
    }),
  )
})
