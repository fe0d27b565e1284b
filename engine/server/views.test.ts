/**
 * Tests of what is derived from a status: totals, watermarks and the split that holds time back.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fixtureStatus } from './server-fixture.ts'
import { heldBackBy, jobTotals, jobWatermarkMs } from './views.ts'

const split = (name: string, watermarkMs: number | null, idle = false, subtask = 0) => ({
  vertex: 0,
  subtask,
  split: name,
  watermarkMs,
  idle,
})

test('a split without a watermark holds everything back, unless it is idle or at its end', () => {
  const of = (...splitWatermarks: ReturnType<typeof split>[]) => heldBackBy(fixtureStatus({ splitWatermarks }))
  assert.equal(of(split('a', 5), split('b', null), split('c', 3))?.split, 'b')
  assert.equal(of(split('a', 5), split('b', null), split('c', 3))?.behindMs, null)
  assert.equal(of(split('a', 5), split('b', null, true), split('c', 3))?.split, 'c')
  assert.equal(of(split('a', 5), split('b', Number.POSITIVE_INFINITY))?.split, 'a')
  assert.equal(of(split('a', 5))?.behindMs, 0)
  assert.equal(of(split('a', 5, true)), null)
  assert.equal(of(), null)
  const status = fixtureStatus({ splitWatermarks: [split('a', 1), split('b', 2, false, 1)] })
  const subtasks = status.subtasks.map((subtask) => ({ ...subtask, ended: subtask.subtask === 0 }))
  assert.equal(heldBackBy({ ...status, subtasks })?.split, 'b', 'a subtask at its end does not count')
})

test('the watermark of the job is that of its last tasks', () => {
  const status = fixtureStatus()
  const last = status.subtasks.find((subtask) => subtask.vertex === 2)!
  const withLast = (over: Partial<typeof last>) => ({
    ...status,
    subtasks: [...status.subtasks.slice(0, 4), { ...last, ...over }],
  })
  assert.equal(jobWatermarkMs(status), last.watermarkMs)
  assert.equal(jobWatermarkMs(withLast({ watermarkMs: null })), null)
  assert.equal(jobWatermarkMs(withLast({ ended: true })), null)
  assert.equal(jobWatermarkMs(withLast({ watermarkMs: Number.POSITIVE_INFINITY })), null)
  assert.equal(jobWatermarkMs(fixtureStatus({ vertices: [], edges: [], subtasks: [] })), null)
})

test('without sink tasks the last tasks count as output', () => {
  const status = fixtureStatus()
  const vertices = status.vertices.map((vertex) => ({
    ...vertex,
    role: vertex.id === 0 ? vertex.role : ('operator' as const),
  }))
  assert.equal(jobTotals({ ...status, vertices }).recordsOut, 148)
  assert.equal(jobTotals({ ...status, vertices: [], edges: [] }).recordsIn, 0)
})
