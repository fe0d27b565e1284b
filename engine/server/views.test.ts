/**
 * Tests of what is derived from a status: totals and watermarks.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fixtureStatus } from './server-fixture.ts'
import { jobTotals, jobWatermarkMs } from './views.ts'

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
  // An idle task beside it holds nothing back, and without another there is no time.
  const idle = { ...last, subtask: last.subtask + 1, watermarkMs: null, timeIdle: true }
  assert.equal(jobWatermarkMs({ ...status, subtasks: [...status.subtasks, idle] }), last.watermarkMs)
  assert.equal(jobWatermarkMs(withLast({ timeIdle: true })), null)
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
