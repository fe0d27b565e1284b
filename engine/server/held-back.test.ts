/** Which split holds time back, and each reason that there can be. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { JobStatus, SplitWatermark } from '../runtime/status.ts'
import { heldBackBy } from './held-back.ts'
import { fixtureStatus } from './server-fixture.ts'

const split = (name: string, watermarkMs: number | null, over: Partial<SplitWatermark> = {}): SplitWatermark => ({
  vertex: 0,
  subtask: 0,
  split: name,
  watermarkMs,
  idle: false,
  paused: false,
  records: 10,
  silentMs: 0,
  idleAfterMs: null,
  ...over,
})

/** A job whose source subtask 0 has these shares of time. */
function statusOf(splitWatermarks: readonly SplitWatermark[], source: { busy?: number; backPressured?: number } = {}) {
  const status = fixtureStatus({ splitWatermarks })
  const subtasks = status.subtasks.map((one) => (one.vertex === 0 && one.subtask === 0 ? { ...one, ...source } : one))
  return { ...status, subtasks } satisfies JobStatus
}

const ahead = split('ahead', 9_000)

test('a split without a watermark holds everything back, unless it is idle or at its end', () => {
  const of = (...splits: SplitWatermark[]) => heldBackBy(statusOf(splits))
  assert.equal(of(split('a', 5), split('b', null), split('c', 3))?.split, 'b')
  assert.equal(of(split('a', 5), split('b', null), split('c', 3))?.behindMs, null)
  assert.equal(of(split('a', 5), split('b', null, { idle: true }), split('c', 3))?.split, 'c')
  assert.equal(of(split('a', 5), split('b', Number.POSITIVE_INFINITY))?.split, 'a')
  assert.equal(of(split('a', 5))?.behindMs, 0)
  assert.equal(of(split('a', 5, { idle: true })), null)
  assert.equal(of(), null)
  const status = statusOf([split('a', 1), split('b', 2, { subtask: 1 })])
  const subtasks = status.subtasks.map((subtask) => ({ ...subtask, ended: subtask.subtask === 0 }))
  assert.equal(heldBackBy({ ...status, subtasks })?.split, 'b', 'a subtask at its end does not count')
})

test('says by how much and why', () => {
  const reasonOf = (over: Partial<SplitWatermark>, source?: { busy?: number; backPressured?: number }) => {
    const held = heldBackBy(statusOf([ahead, split('slow', 1_000, over)], source))!
    assert.equal(held.split, 'slow')
    return `${held.reason}, ${held.behindMs}: ${held.why}`
  }
  assert.match(reasonOf({}), /^behind, 8000: Records come/)
  assert.match(reasonOf({ silentMs: 12_000 }), /^silent, 8000: No record came for 12 s. Idleness is off/)
  assert.match(reasonOf({ silentMs: 12_000, idleAfterMs: 60_000 }), /It counts as idle in 48 s\.$/)
  assert.match(reasonOf({ silentMs: 12_000, idleAfterMs: 12_000 }), /It is about to count as idle\.$/)
  assert.match(reasonOf({}, { backPressured: 0.7 }), /^back-pressured, 8000: /)
  assert.match(reasonOf({}, { busy: 0.97 }), /^busy, 8000: /)
  assert.match(reasonOf({ paused: true }), /^paused, 8000: Alignment in group "events"/)
  assert.match(reasonOf({ watermarkMs: null, records: 0, silentMs: 300_000 }), /^no-record, null: No record was read/)
  assert.equal(heldBackBy(statusOf([split('a', 5), split('b', 5)]))?.reason, 'level')
})
