/** The decoder of lines by itself; files of them are in connectors/files/text.test.ts. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LineDecoder, TEXT_LINE } from './line-decoder.ts'

test('values are views of the bytes given, and each row knows where its line starts, over rejected ones and calls', () => {
  const bytes = Buffer.from('-one\ntwo\r\n\xff\n\ntoo long\nthree\nlast\n-', 'latin1')
  const decoder = new LineDecoder(TEXT_LINE, 6)
  const rejected: [string, number, number][] = []
  const decode = (from: number, rowsMax: number) => {
    const batch = decoder.decodeLines(bytes, from, bytes.length - 1, rowsMax, (reason, start, end) =>
      rejected.push([reason.slice(0, 22), start, end]),
    )
    const column = batch.columns[0]!
    assert.ok(column.kind === 'string' && column.bytes === bytes, 'no copy')
    const views = Array.from(column.starts, (start, i) => bytes.toString('latin1', start, column.ends[i]))
    return { views, starts: [...decoder.recordStarts.subarray(0, batch.length)], next: decoder.next }
  }
  assert.deepEqual(decode(1, 6), { views: ['one', 'two', '', 'three'], starts: [1, 5, 12, 22], next: 28 })
  assert.deepEqual(rejected, [
    ['The line is no valid U', 10, 11],
    ['The record has 8 bytes', 13, 21],
  ])
  assert.deepEqual(decode(28, 6), { views: ['last'], starts: [28], next: 33 })
  assert.deepEqual(decode(5, 1), { views: ['two'], starts: [5], next: 10 })
})
