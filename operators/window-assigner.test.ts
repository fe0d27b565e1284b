/** Tests of window assigners: every time lies in its windows, negative and fractional ones too. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { cumulativeWindows, slidingWindows, tumblingWindows, type WindowAssigner } from './window-assigner.ts'

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

const times = fc.oneof(fc.integer({ min: -(2 ** 43), max: 2 ** 43 }), fc.double({ min: -1e13, max: 1e13, noNaN: true }))

/** Checks the windows of `time` against those [start, end) that it ought to have. */
function sameWindows(assigner: WindowAssigner, time: number, expected: readonly (readonly [number, number])[]): void {
  const into = new Float64Array(assigner.windowsMax)
  const assigned = [...into.subarray(0, assigner.assign(time, into))]
  assert.deepEqual(
    assigned.map((window) => [assigner.startOf(window), assigner.endOf(window)]),
    expected,
  )
  assert.deepEqual(
    assigned.toSorted((a, b) => assigner.endOf(a) - assigner.endOf(b)),
    assigned.toSorted((a, b) => a - b),
  )
}

test('sliding windows are all those, aligned to the slide, that hold the time', () => {
  const lengths = fc.integer({ min: 1, max: 40 })
  fc.assert(
    fc.property(lengths, lengths, fc.integer({ min: -50, max: 50 }), times, (size, slide, offset, time) => {
      const expected: [number, number][] = []
      const around = Math.floor((time - offset) / slide)
      for (let n = around - size - 1; n <= around + 1; n++) {
        const start = offset + n * slide
        if (start <= time && time < start + size) expected.push([start, start + size])
      }
      sameWindows(slidingWindows(size, slide, offset), time, expected)
    }),
  )
})

test('cumulative windows are those of the period that end after the time', () => {
  const small = fc.integer({ min: 1, max: 12 })
  fc.assert(
    fc.property(small, small, fc.integer({ min: -50, max: 50 }), times, (step, steps, offset, time) => {
      let period = offset + Math.floor((time - offset) / (step * steps)) * step * steps
      if (period > time) period -= step * steps
      const expected = Array.from({ length: steps }, (_, n): [number, number] => [period, period + (n + 1) * step])
      sameWindows(
        cumulativeWindows(step * steps, step, offset),
        time,
        expected.filter(([, end]) => end > time),
      )
    }),
  )
  assert.throws(() => cumulativeWindows(10, 3), { code: 'WINDOW_INVALID', message: /cannot grow by 3 ms/ })
})

test('refuses sizes that are no length of time', () => {
  for (const size of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
    assert.throws(() => tumblingWindows(size), { code: 'WINDOW_INVALID' })
    assert.throws(() => slidingWindows(10, size), { code: 'WINDOW_INVALID' })
    assert.throws(() => cumulativeWindows(size, 1), { code: 'WINDOW_INVALID' })
  }
})
