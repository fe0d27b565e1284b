/**
 * Tests of the page's pure modules: formatting, rates, graph layout and the event parser.
 */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { groupExceptions } from './exceptions.js'
import { createEventParser, jobPath } from './feed.js'
import {
  formatBytes,
  formatClock,
  formatCount,
  formatDuration,
  formatPercent,
  formatRate,
  formatTime,
  truncate,
  unknown,
} from './format.js'
import { type LayoutEdge, layoutGraph } from './layout.js'
import { History, historyMs, RateTracker } from './rates.js'

const plain = (text: string): string => text.replaceAll('\u00a0', ' ')

describe('exceptions', () => {
  test('newest first; the same from any subtask of a task is one entry', () => {
    const of = (atMs: number, where: string, message = '503') => ({ atMs, where, message })
    const groups = groupExceptions([of(1, 'a #0'), of(2, 'a #1'), of(3, 'b #0'), of(4, 'a #0'), of(5, 'a #0', '500')])
    assert.deepEqual(
      groups.map(({ exception, count, firstAtMs }) => [exception.atMs, count, firstAtMs]),
      [
        [5, 1, 5],
        [4, 1, 4],
        [3, 1, 3],
        [2, 2, 1],
      ],
    )
    assert.deepEqual(groupExceptions([]), [])
  })
})

describe('format', () => {
  test('numbers, sizes, durations and times', () => {
    assert.equal(formatCount(9999), '9,999')
    assert.equal(plain(formatCount(10_000)), '10 k')
    assert.equal(plain(formatCount(999_600)), '1 M')
    assert.equal(plain(formatCount(1_234_567)), '1.23 M')
    assert.equal(formatRate(0.25), '0.3')
    assert.equal(plain(formatRate(182_400)), '182 k')
    assert.equal(plain(formatBytes(512)), '512 B')
    assert.equal(plain(formatBytes(1_500)), '1.46 KiB')
    assert.equal(plain(formatBytes(3 * 2 ** 29)), '1.5 GiB')
    assert.equal(plain(formatPercent(0.345)), '35 %')
    assert.equal(plain(formatDuration(34.4)), '34 ms')
    assert.equal(plain(formatDuration(999.7)), '1 s')
    assert.equal(plain(formatDuration(184_000)), '3 min 4 s')
    assert.equal(plain(formatDuration(7_500_000)), '2 h 5 min')
    assert.equal(plain(formatDuration(-2000)), '-2 s')
    assert.equal(plain(formatDuration(24.9 * 365.25 * 86_400_000)), '24.9 y')
    assert.equal(formatTime(Date.UTC(2025, 0, 31, 12, 34, 56)), '2025-01-31 12:34:56')
    assert.equal(formatClock(Date.UTC(2025, 0, 31, 12, 34, 56, 789)), '12:34:56')
    assert.equal(truncate('abcdef', 4), 'abc…')
  })

  test('what is not known is a dash', () => {
    const formatters = [formatCount, formatRate, formatBytes, formatPercent, formatDuration, formatTime, formatClock]
    for (const format of formatters) {
      for (const value of [null, Number.NaN, Number.POSITIVE_INFINITY]) assert.equal(format(value), unknown)
    }
    assert.equal(formatTime(1e300), unknown)
  })
})

describe('rates', () => {
  test('per second over the window, and anew after a counter went down', () => {
    const rates = new RateTracker()
    const observe = (atMs: number, count: number) => rates.observe(atMs, new Map([['a', count]]))
    observe(0, 100)
    assert.equal(rates.rate('a'), null)
    observe(500, 150)
    assert.equal(rates.rate('a'), 100)
    for (let atMs = 1000; atMs <= 10_000; atMs += 500) observe(atMs, 150)
    assert.equal(rates.rate('a'), 0)
    observe(10_500, 20)
    assert.equal(rates.rate('a'), null)
    observe(11_000, 30)
    assert.equal(rates.rate('a'), 20)
    rates.observe(11_500, new Map())
    assert.equal(rates.rate('a'), null)
  })

  test('history is bounded to two minutes', () => {
    const history = new History()
    for (let atMs = 0; atMs < 10 * historyMs; atMs += 500) history.add(atMs, [1])
    assert.equal(history.points.length, historyMs / 500 + 1)
  })
})

describe('layout', () => {
  const size = { boxWidth: 100, boxHeight: 50, gapX: 40, gapY: 20, margin: 5 }
  const vertices = (count: number) => Array.from({ length: count }, (_, id) => ({ id }))

  test('edges go to the right, and nothing to draw is no error', () => {
    const { boxes, lines } = layoutGraph(
      vertices(4),
      [
        { from: 0, to: 1 },
        { from: 1, to: 2 },
        { from: 0, to: 2 },
        { from: 3, to: 2 },
      ],
      size,
    )
    const x = new Map(boxes.map((box) => [box.vertex.id, box.x]))
    assert.deepEqual([x.get(0), x.get(1), x.get(2), x.get(3)], [5, 145, 285, 5])
    assert.equal(lines.length, 4)
    assert.equal(lines[2]?.points.length, 4, 'a long edge passes the layer between')
    assert.deepEqual(layoutGraph([], [], size), { width: 0, height: 0, boxes: [], lines: [] })
  })

  test('any graph: each vertex once, inside the picture, no two boxes overlap', () => {
    const id = fc.nat(11)
    const edges = fc.array(fc.record({ from: id, to: id }), { maxLength: 25 })
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 10 }), edges, (count: number, all: LayoutEdge[]) => {
        const { boxes, width, height } = layoutGraph(vertices(count), all, size)
        assert.deepEqual(
          boxes.map((box) => box.vertex.id).sort((a, b) => a - b),
          vertices(count).map((v) => v.id),
        )
        for (const box of boxes) {
          assert.ok(box.x >= 5 && box.x + size.boxWidth <= width && box.y >= 5 && box.y + size.boxHeight <= height)
          for (const other of boxes) {
            if (other !== box && other.x === box.x) assert.ok(Math.abs(other.y - box.y) >= size.boxHeight)
          }
        }
      }),
      { numRuns: 300 },
    )
  })
})

test('the event parser gives the same events however the text is cut', () => {
  const text =
    ': hello\nretry: 2000\n\nevent: status\ndata: {"a":\ndata: 1}\n\ndata:x\n\nevent: gone\r\ndata: {}\r\n\r\n'
  const expected = [
    ['status', '{"a":\n1}'],
    ['message', 'x'],
    ['gone', '{}'],
  ]
  for (const chunkLength of [1, 2, 7, 1000]) {
    const events: string[][] = []
    const parse = createEventParser((name, data) => events.push([name, data]))
    for (let at = 0; at < text.length; at += chunkLength) parse(text.slice(at, at + chunkLength))
    assert.deepEqual(events, expected, `chunks of ${chunkLength}`)
  }
  assert.equal(jobPath('a/b c'), '/api/jobs/a%2Fb%20c')
})

test('the page loads nothing from elsewhere and has no inline code', () => {
  const directory = new URL('./', import.meta.url)
  for (const name of readdirSync(directory)) {
    if (!/\.(html|css|js)$/.test(name)) continue
    const text = readFileSync(new URL(name, directory), 'utf8').replaceAll('http://www.w3.org/2000/svg', '')
    assert.doesNotMatch(text, /https?:\/\/|@import|innerHTML/, name)
    if (name.endsWith('.html')) assert.doesNotMatch(text, /<style|style=|<script(?![^>]*src=)|\son\w+=/, name)
  }
})
