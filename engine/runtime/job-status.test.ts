/** What the status says once no worker of a run is left. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { StatusBoard } from './job-status.ts'
import type { SubtaskStatus } from './status.ts'

test('when a run has ended nothing is busy and no checkpoint is under way', () => {
  const board = new StatusBoard()
  const busy = { busy: 0.7, backPressured: 0.2, idle: 0.1 }
  const operator = {
    uid: 'a',
    name: 'a',
    recordsIn: 5,
    recordsOut: 5,
    ...busy,
    stateBytes: 0,
    coldReads: 0,
    tables: [],
  }
  const subtask = {
    vertex: 0,
    subtask: 0,
    recordsIn: 5,
    ...busy,
    running: 0.6,
    operators: [operator],
    accumulators: [],
  }
  board.report(0, [subtask as unknown as SubtaskStatus], [])
  board.checkpointStarted(1, 'checkpoint', 10)
  board.checkpointEnded(1, { status: 'completed' })
  board.checkpointStarted(2, 'checkpoint', 20)
  board.runEnded()
  const [after] = board.subtasks
  const atRest = { busy: 0, backPressured: 0, idle: 1 }
  assert.deepEqual(after, { ...subtask, ...atRest, running: 0, operators: [{ ...operator, ...atRest }] })
  assert.deepEqual(
    board.checkpoints.map(({ id, status }) => [id, status]),
    [
      [1, 'completed'],
      [2, 'failed'],
    ],
  )
  assert.match(board.checkpoints[1]!.failure!, /restarted or ended/)
  assert.deepEqual([board.completed, board.failed], [1, 1])
})
