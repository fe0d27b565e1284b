/** When a worker asks for a checkpoint because of its output. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { OutboxMeter } from './outbox-meter.ts'

test("asks once a worker's share of the cap, again for each further one, and afresh after a cut", () => {
  let asked = 0
  const meter = new OutboxMeter(2, () => asked++, 200)
  const add = (bytes: number): number => {
    meter.add(bytes)
    return asked
  }
  assert.equal(add(99), 0)
  assert.equal(add(1), 1)
  assert.equal(add(99), 1)
  assert.equal(add(1), 2, 'the first attempt may have failed')
  meter.cut()
  assert.equal(add(99), 2)
  assert.equal(add(500), 3)
})
