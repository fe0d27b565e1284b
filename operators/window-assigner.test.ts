/** Tests of tumbling windows: every time lies in its window, negative and fractional ones too. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { tumblingWindows } from './window-assigner.ts'

test('a time lies in the window it is assigned to, and windows are aligned', () => {
  const into = new Float64Array(1)
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 86_400_000 }),
      fc.integer({ min: -100_000, max: 100_000 }),
      fc.oneof(fc.integer({ min: -(2 ** 43), max: 2 ** 43 }), fc.double({ min: -1e13, max: 1e13, noNaN: true })),
      (size, offset, time) => {
        const windows = tumblingWindows(size, offset)
        assert.equal(windows.assign(time, into), 1)
        const start = windows.startOf(into[0])
        assert.ok(start <= time && time < windows.endOf(into[0]), `${time} in [${start}, ${windows.endOf(into[0])})`)
        assert.equal(Math.abs((start - offset) % size), 0)
      },
    ),
  )
})

test('refuses sizes that are no length of time', () => {
  for (const size of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
    assert.throws(() => tumblingWindows(size), { code: 'WINDOW_INVALID' })
  }
})
