/** A pair on a tiny input, so that the comparisons cannot rot. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { comparePairs, median } from './paired.ts'

test('two workers against one', async () => {
  const lines: string[] = []
  const options = { pipeline: 'sliding', events: 20_000, pairs: 1 } as const
  const result = await comparePairs('scaling', options, (line) => lines.push(line))
  assert.deepEqual([result.pairs[0]!.a.parallelism, result.pairs[0]!.b.parallelism], [1, 2])
  assert.equal(result.ratioMedian, result.pairs[0]!.b.eventsPerSecond / result.pairs[0]!.a.eventsPerSecond)
  assert.equal(lines.length, 1)
})

test('medians', () => {
  assert.equal(median([3, 1, 2]), 2)
  assert.equal(median([4, 1, 2, 3]), 2.5)
})
