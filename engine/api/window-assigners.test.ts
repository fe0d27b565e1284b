/**
 * Window assigners: what they refuse, how sessions merge, and local time. The windows themselves are compared with
 * a model in operators/window-triggered.test.ts.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { TimeWindow } from '../contract/windows.ts'
import { days, hours, minutes } from '../core/time.ts'
import { TimeEvictor } from './evictors.ts'
import {
  CumulativeEventTimeWindows,
  EventTimeSessionWindows,
  GlobalWindows,
  ProcessingTimeSessionWindows,
  SlidingEventTimeWindows,
  SlidingProcessingTimeWindows,
  TumblingEventTimeWindows,
  TumblingProcessingTimeWindows,
} from './window-assigners.ts'

const HOUR = 3_600_000
const context = { currentProcessingTime: 7 }

const windowsOf = (
  assigner: TumblingEventTimeWindows | SlidingEventTimeWindows | CumulativeEventTimeWindows,
  at: number,
) => assigner.assignWindows(null, at, context)

/** `2024-03-31 03:00` on a clock there. */
function clock(timeZone: string, instant: number): string {
  return new Date(instant).toLocaleString('sv-SE', { timeZone }).slice(0, 16)
}

const hoursLong = ({ start, end }: TimeWindow): number => (end - start) / HOUR

describe('windows in local time', () => {
  const berlin = TumblingEventTimeWindows.of(days(1), { timeZone: 'Europe/Berlin' })

  test('days begin at midnight and have 23 or 25 hours when clocks change', () => {
    for (const [day, length] of [
      ['2024-03-30', 24],
      ['2024-03-31', 23],
      ['2024-10-27', 25],
      ['2024-10-28', 24],
    ] as const) {
      const [window] = windowsOf(berlin, Date.parse(`${day}T12:00Z`))
      assert.equal(clock('Europe/Berlin', window!.start), `${day} 00:00`)
      assert.equal(hoursLong(window!), length, day)
    }
  })

  test('a day whose midnight a clock skips begins an hour later, one that shows it twice at the first', () => {
    const saoPaulo = TumblingEventTimeWindows.of(days(1), { timeZone: 'America/Sao_Paulo' })
    const [skipped] = windowsOf(saoPaulo, Date.parse('2018-11-04T15:00Z'))
    assert.equal(clock('America/Sao_Paulo', skipped!.start), '2018-11-04 01:00')
    assert.equal(hoursLong(skipped!), 23)
    const havana = TumblingEventTimeWindows.of(days(1), { timeZone: 'America/Havana' })
    const [twice] = windowsOf(havana, Date.parse('2024-11-03T15:00Z'))
    assert.equal(clock('America/Havana', twice!.start), '2024-11-03 00:00')
    assert.equal(hoursLong(twice!), 25)
  })

  test('an hour shown twice is two windows; longer windows over the change are longer', () => {
    const hourly = TumblingEventTimeWindows.of(hours(1), { timeZone: 'Europe/Berlin' })
    const both = ['2024-10-27T00:30Z', '2024-10-27T01:30Z'].map((at) => windowsOf(hourly, Date.parse(at))[0]!)
    assert.deepEqual(
      both.map((window) => clock('Europe/Berlin', window.start)),
      ['2024-10-27 02:00', '2024-10-27 02:00'],
    )
    assert.deepEqual(both.map(hoursLong), [1, 1])
    const [long] = windowsOf(
      TumblingEventTimeWindows.of(hours(4), { timeZone: 'Europe/Berlin' }),
      Date.parse('2024-10-27T01:30Z'),
    )
    assert.equal(clock('Europe/Berlin', long!.start), '2024-10-27 00:00')
    assert.equal(hoursLong(long!), 5)
  })

  test('offsets shift local days; half-hour zones are aligned to their own hours', () => {
    const fromSix = TumblingEventTimeWindows.of(days(1), { offset: hours(6), timeZone: 'Europe/Berlin' })
    const [window] = windowsOf(fromSix, Date.parse('2024-03-31T02:00Z'))
    assert.equal(clock('Europe/Berlin', window!.start), '2024-03-30 06:00')
    assert.equal(hoursLong(window!), 23)
    const kolkata = TumblingEventTimeWindows.of(hours(1), { timeZone: 'Asia/Kolkata' })
    assert.equal(windowsOf(kolkata, Date.parse('2024-01-01T00:10Z'))[0]!.start, Date.parse('2023-12-31T23:30Z'))
  })

  test('a cumulative day grows by the hour of the clock', () => {
    const soFar = CumulativeEventTimeWindows.of(days(1), hours(1), { timeZone: 'Europe/Berlin' })
    const spring = windowsOf(soFar, Date.parse('2024-03-30T23:30Z'))
    assert.equal(new Set(spring.map((window) => window.end)).size, spring.length, 'a skipped hour is no window')
    assert.equal(spring.length, 23)
    assert.equal(hoursLong(spring.at(-1)!), 23)
  })

  test('any window holds its element, windows abut, and begin when a clock shows an aligned time', () => {
    const zones = ['Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kathmandu', 'America/Sao_Paulo']
    const anyTime = fc.integer({ min: Date.UTC(1975, 0), max: Date.UTC(2030, 0) })
    // Near where clocks change in most of these zones.
    const springOrAutumn = fc
      .tuple(
        fc.integer({ min: 1995, max: 2024 }),
        fc.constantFrom(2, 3, 9, 10),
        fc.integer({ min: 1, max: 31 * 24 * 4 }),
      )
      .map(([year, month, quarter]) => Date.UTC(year, month, 1) + quarter * 15 * 60_000)
    fc.assert(
      fc.property(
        fc.constantFrom(...zones),
        fc.constantFrom(minutes(30), hours(1), hours(3), days(1), days(7)),
        fc.oneof(anyTime, springOrAutumn),
        (timeZone, size, at) => {
          const assigner = TumblingEventTimeWindows.of(size, { timeZone })
          const [window] = windowsOf(assigner, at)
          assert.ok(window!.start <= at && at < window!.end)
          assert.deepEqual(windowsOf(assigner, window!.end)[0]!.start, window!.end, 'the next one begins at its end')
          assert.deepEqual(windowsOf(assigner, window!.start - 1)[0]!.end, window!.start)
          const length = window!.end - window!.start
          assert.ok(Math.abs(length - size.ms) <= HOUR, `${length}`)
          const fresh = TumblingEventTimeWindows.of(size, { timeZone })
          assert.deepEqual(windowsOf(fresh, at), [window], 'what was asked before does not matter')
          const shownAt = (instant: number) => Date.parse(`${clock(timeZone, instant).replace(' ', 'T')}Z`)
          const jumpsThere = shownAt(window!.start) - shownAt(window!.start - 60_000) !== 60_000
          assert.ok(shownAt(window!.start) % size.ms === 0 || jumpsThere, clock(timeZone, window!.start))
        },
      ),
      { numRuns: 150 },
    )
  })

  test('sliding windows are those of each slide that hold the element', () => {
    const windows = windowsOf(
      SlidingEventTimeWindows.of(days(1), hours(6), { timeZone: 'Europe/Berlin' }),
      Date.parse('2024-10-27T12:00Z'),
    )
    assert.deepEqual(
      windows.map((window) => [clock('Europe/Berlin', window.start), hoursLong(window)]),
      [
        ['2024-10-27 12:00', 24],
        ['2024-10-27 06:00', 24],
        ['2024-10-27 00:00', 25],
        ['2024-10-26 18:00', 25],
      ],
    )
  })

  test('an unknown zone is refused', () => {
    assert.throws(() => TumblingEventTimeWindows.of(days(1), { timeZone: 'Mars/Olympus' }), { code: 'WINDOW_INVALID' })
  })
})

describe('what windows cannot be', () => {
  const refused: Record<string, () => unknown> = {
    'a slide of nothing': () => SlidingEventTimeWindows.of(10, 0),
    'half a millisecond': () => TumblingProcessingTimeWindows.of(0.5),
    'an offset longer than the slide': () => SlidingProcessingTimeWindows.of(10, 2, 3),
    'a cumulative size that is no multiple of the step': () => CumulativeEventTimeWindows.of(10, 3),
    'a session gap of nothing': () => EventTimeSessionWindows.withGap(0),
    'an evictor without a length of time': () => TimeEvictor.of(Number.NaN),
    'a dynamic gap below nothing': () =>
      ProcessingTimeSessionWindows.withDynamicGap(() => -1).assignWindows('x', Number.NaN, context),
  }
  for (const [name, make] of Object.entries(refused)) {
    test(name, () => assert.throws(make, { code: 'WINDOW_INVALID' }))
  }
})

describe('windows that do not depend on event time', () => {
  test('follow the clock, or nothing', () => {
    const [tumbling] = TumblingProcessingTimeWindows.of(5).assignWindows(null, Number.NaN, context)
    assert.deepEqual(tumbling, new TimeWindow(5, 10))
    const [global] = GlobalWindows.create().assignWindows()
    assert.equal(global!.maxTimestamp, Number.POSITIVE_INFINITY)
  })

  test('sessions that touch are one', () => {
    const merges: unknown[] = []
    const windows = [new TimeWindow(20, 30), new TimeWindow(0, 10), new TimeWindow(10, 12), new TimeWindow(40, 41)]
    EventTimeSessionWindows.withGap(10).mergeWindows(windows, (merged, result) => merges.push([merged, result]))
    assert.deepEqual(merges, [[[windows[1], windows[2]], new TimeWindow(0, 12)]])
  })
})
