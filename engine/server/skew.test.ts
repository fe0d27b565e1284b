/** Skew of records and state over subtasks, and what operators do in all. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fixtureStatus } from './server-fixture.ts'
import { operatorTotals, skewOf } from './skew.ts'

/** The windows of the fixture with these records and bytes by subtask. */
function windowsWith(loads: readonly (readonly [records: number, bytes: number])[]) {
  const status = fixtureStatus()
  const windows = status.subtasks.find((subtask) => subtask.vertex === 1)!
  const subtasks = loads.map(([recordsIn, stateBytes], subtask) => ({
    ...windows,
    ...{ subtask, recordsIn, stateBytes, keyGroups: { from: subtask * 32, to: subtask * 32 + 32 } },
  }))
  return skewOf({ ...status, subtasks }).find((skew) => skew.vertex === 1)
}

test('names the hottest subtask, its key groups, and how far it is above the mean', () => {
  const skew = windowsWith([
    [1_000, 100],
    [1_000, 4_000_000],
    [5_000, 100],
    [1_000, 100],
  ])!
  assert.deepEqual(skew.records, { subtask: 2, max: 5_000, mean: 2_000, ratio: 2.5 })
  assert.equal(skew.state?.subtask, 1)
  assert.ok(Math.abs(skew.state!.ratio - 4) < 0.001)
  assert.deepEqual(skew.keyGroups, { from: 64, to: 96 })
  assert.ok(skew.isSkewed)
})

test('even loads, few records and single subtasks are not skewed', () => {
  const even = Array.from({ length: 4 }, () => [9_000, 9_000_000] as const)
  assert.equal(windowsWith(even)?.records?.ratio, 1)
  assert.equal(windowsWith(even)?.isSkewed, false)
  assert.equal(
    windowsWith([
      [9, 10],
      [0, 0],
    ])?.isSkewed,
    false,
    'nine records say nothing',
  )
  assert.equal(
    windowsWith([
      [0, 0],
      [0, 0],
    ])?.records,
    null,
  )
  assert.equal(windowsWith([[9_000, 0]]), undefined)
  assert.equal(
    windowsWith([
      [9_000, 0],
      [100, 0],
    ])?.state,
    null,
  )
})

test('operators of all subtasks together: shares as means, the rest as sums', () => {
  const [windows, ...others] = operatorTotals(fixtureStatus(), 1)
  assert.deepEqual(others, [])
  assert.equal(windows!.recordsIn, 1_490)
  assert.equal(windows!.busy, 0.25)
  assert.equal(windows!.stateBytes, 3_072)
  assert.deepEqual(windows!.tables, [
    { name: 'windows', memoryBytes: 3_072, entries: 80, storedBytes: 3_200, checkpointBytes: 1_600 },
  ])
  const status = fixtureStatus()
  const unknown = status.subtasks.map((subtask) => ({
    ...subtask,
    operators: subtask.operators.map((operator) => ({
      ...operator,
      tables: operator.tables.map((table) => (subtask.subtask === 0 ? { ...table, entries: null } : table)),
    })),
  }))
  assert.equal(operatorTotals({ ...status, subtasks: unknown }, 1)[0]!.tables[0]!.entries, null)
  assert.deepEqual(operatorTotals({ ...status, subtasks: [] }, 1), [])
})
