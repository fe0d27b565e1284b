/** What a worker says of the output that it holds, and when there is so much in the job that sources wait. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { OutboxMeter } from './outbox-meter.ts'
import { PendingOutput } from './pending-output.ts'

test('each step is told once, until the attempt that cut it or a later one completes', () => {
  const told: number[] = []
  const meter = new OutboxMeter(2, 800, (bytes) => told.push(bytes))
  const heard = (act: () => void): number[] => {
    act()
    return told.splice(0)
  }
  assert.deepEqual(
    heard(() => meter.add(99)),
    [],
    'a quarter of what may wait, for two workers',
  )
  assert.deepEqual(
    heard(() => meter.add(1)),
    [100],
  )
  assert.deepEqual(
    heard(() => meter.add(99)),
    [],
  )
  assert.deepEqual(
    heard(() => meter.add(251)),
    [400],
    '450 in all',
  )
  meter.cut(1)
  meter.add(20)
  meter.cut(1)
  assert.deepEqual(
    heard(() => meter.add(30)),
    [500],
    'attempt 1 is given up: its output is still there',
  )
  meter.cut(2)
  meter.add(110)
  assert.deepEqual(told.splice(0), [600])
  assert.deepEqual(
    heard(() => meter.completed(2)),
    [100],
    '110 came after the cut of attempt 2',
  )
  meter.cut(3)
  assert.deepEqual(
    heard(() => meter.completed(3)),
    [0],
  )
  assert.deepEqual(
    heard(() => meter.completed(4)),
    [],
    'nothing to say',
  )
})

test('sources wait while workers and epochs together hold too much, and a checkpoint is due only for workers', () => {
  const output = new PendingOutput(1_000)
  const segment = (bytes: number) => ({ file: 'outbox/g1-a.seg', records: 1, bytes, crc32: 0 })
  const epoch = [segment(300), segment(400), { file: 'elsewhere', bytes: 1e9 }]
  const look = (): boolean[] => [output.isFull, output.isCheckpointDue]
  output.report(0, 250)
  output.report(1, 250)
  assert.deepEqual(look(), [false, true])
  output.named(epoch)
  assert.deepEqual(look(), [true, true])
  output.report(0, 0)
  output.report(1, 0)
  assert.deepEqual(look(), [false, false])
  output.named([segment(300)])
  assert.deepEqual(look(), [true, false], 'epochs alone: only their sinks can make room')
  output.applied(epoch)
  assert.deepEqual(look(), [false, false])
})
