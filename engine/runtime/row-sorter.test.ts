/**
 * The external sort against a naive stable sort: any rows, memory for a few of them, merges over several levels, and
 * files that leave nothing.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import fc from 'fast-check'
import { type Batch, type KeyColumn, withEventTime, withKeys } from '../core/batch.ts'
import { valueKeyExtractor } from '../core/keys.ts'
import { batchOfRows, rowReader } from '../core/rows.ts'
import { OPAQUE_SCHEMA, type Schema, schema, t } from '../core/schema.ts'
import { StringInterner } from '../core/strings.ts'
import { nodeIo } from './node-io.ts'
import type { SpillSpace } from './overflow.ts'
import { compareKeys, RowSorter } from './row-sorter.ts'
import { BatchEncoder } from './wire.ts'

const directory = mkdtempSync(join(tmpdir(), 'millrace-sort-'))
after(() => rmSync(directory, { recursive: true, force: true }))

let opened = 0
let open = 0
const space: SpillSpace = {
  open() {
    opened++
    open++
    const file = nodeIo.openSpill!(directory)
    return {
      ...file,
      append: (bytes) => file.append(bytes),
      read: (at, length) => file.read(at, length),
      close() {
        open--
        file.close()
      },
    }
  },
  encoder: new BatchEncoder(),
}

interface Row {
  readonly key: string
  readonly at: number
  readonly text: string | null
  /** The order of arrival. */
  readonly n: number
}

const ROW = schema({ key: t.string(), at: t.timestamp(), text: t.nullable(t.string()), n: t.float64() })
const keysOf = valueKeyExtractor((batch, i) => (rowOf(batch, i) as Row).key)

const readers = new Map([ROW, OPAQUE_SCHEMA].map((of) => [of, rowReader(of, new StringInterner(), 'sort test')]))
const rowOf = (batch: Batch, i: number): unknown => readers.get(batch.schema)!(batch, i)

/** Times that are negative stand for none. */
function batchOf(rows: readonly Row[], of: Schema, hashBits = 32): Batch {
  const batch = batchOfRows(of, rows)
  const times = Float64Array.from(rows, ({ at }) => (at < 0 ? Number.NaN : at))
  const keys = keysOf(batch)
  const hashes = keys.hashes.map((hash) => hash >> (32 - hashBits))
  return withEventTime(withKeys(batch, { ...keys, hashes } satisfies KeyColumn), times)
}

function sorted(sorter: RowSorter): { rows: Row[]; keyChanges: number } {
  while (!sorter.settle()) {
    // Each call merges a few blocks.
  }
  const rows: Row[] = []
  let keyChanges = 0
  let before: Batch | null = null
  const result = sorter.finish()
  for (let batch = result.next(); batch !== null; batch = result.next()) {
    for (let i = 0; i < batch.length; i++) {
      rows.push(rowOf(batch, i) as Row)
      const isFirst = before === null || compareKeys(before, before.length - 1, batch, i) !== 0
      if (i === 0 ? isFirst : compareKeys(batch, i - 1, batch, i) !== 0) keyChanges++
    }
    before = batch
  }
  result.close()
  return { rows, keyChanges }
}

const anyBatches = fc.array(
  fc.array(
    fc.record({
      key: fc.constantFrom('', 'a', 'ab', 'b', 'c'),
      at: fc.integer({ min: -2, max: 5 }),
      text: fc.option(fc.string()),
    }),
    { minLength: 1, maxLength: 30 },
  ),
  { maxLength: 12 },
)

describe('sorter of rows', () => {
  test('any batches with any memory: keys together, each in order of time, then of arrival', () => {
    fc.assert(
      fc.property(
        anyBatches,
        fc.constantFrom(1_500, 8_000, 1 << 20),
        fc.constantFrom(1, 2, 32),
        fc.boolean(),
        fc.boolean(),
        (batches, memory, hashBits, isOpaque, spills) => {
          const sorter = new RowSorter(spills ? space : null, memory)
          let n = 0
          const numbered = batches.map((rows) => rows.map((row): Row => ({ ...row, n: n++ })))
          for (const rows of numbered) {
            while (!sorter.settle()) {
              // The engine calls again.
            }
            sorter.add(batchOf(rows, isOpaque ? OPAQUE_SCHEMA : ROW, hashBits))
          }
          const { rows, keyChanges } = sorted(sorter)
          const expected = numbered.flat()
          assert.equal(keyChanges, new Set(expected.map(({ key }) => key)).size)
          const timeOf = ({ at }: Row) => (at < 0 ? -1 : at)
          for (const [key, own] of Map.groupBy(expected, (row) => row.key)) {
            const inOrder = own.toSorted((a, b) => timeOf(a) - timeOf(b) || a.n - b.n)
            assert.deepEqual(
              rows.filter((row) => row.key === key),
              inOrder,
            )
          }
          assert.equal(rows.length, expected.length)
          assert.ok(sorter.isEmpty)
        },
      ),
      { numRuns: 40 },
    )
    assert.equal(open, 0)
  })

  test('merges over several levels, with few files open and nothing left behind', () => {
    opened = 0
    const sorter = new RowSorter(space, 32_000)
    let mostOpen = 0
    let settled = 0
    for (let b = 0; b < 80; b++) {
      for (; !sorter.settle(); settled++) mostOpen = Math.max(mostOpen, open)
      const rows = Array.from({ length: 150 }, (_, i) => {
        const n = b * 150 + i
        return { key: `k${(n * 7_919) % 400}`, at: (n * 31) % 1_000, text: 'x'.repeat(60), n }
      })
      sorter.add(batchOf(rows, ROW))
    }
    const { rows, keyChanges } = sorted(sorter)
    assert.deepEqual([rows.length, keyChanges, open], [12_000, 400, 0])
    for (let i = 1; i < rows.length; i++) {
      const [a, b] = [rows[i - 1]!, rows[i]!]
      if (a.key === b.key) assert.ok(a.at < b.at || (a.at === b.at && a.n < b.n))
    }
    // 80 runs of the first level, and those that they became.
    assert.ok(opened > 80 && mostOpen < 20 && settled > 0, `${opened} files, ${mostOpen} at once`)
    assert.deepEqual(readdirSync(directory), [])
  })

  test('rows that bytes cannot carry stay in memory, and are sorted with the others', () => {
    class Own {
      readonly n: number
      constructor(n: number) {
        this.n = n
      }
    }
    const sorter = new RowSorter(space, 2_000)
    const keys = valueKeyExtractor((batch, i) => ((rowOf(batch, i) as { n: number }).n % 3) + 0)
    for (let from = 0; from < 300; from += 20) {
      const own = Array.from({ length: 20 }, (_, i) => (from % 40 === 0 ? new Own(from + i) : { n: from + i }))
      const batch = batchOfRows(OPAQUE_SCHEMA, own)
      while (!sorter.settle()) {
        // The engine calls again.
      }
      sorter.add(withKeys(batch, keys(batch)))
    }
    const { rows } = sorted(sorter)
    assert.equal(rows.length, 300)
    for (let k = 0; k < 3; k++) {
      const numbers = rows.map(({ n }) => n).filter((n) => n % 3 === k)
      assert.deepEqual(
        numbers,
        Array.from({ length: 100 }, (_, i) => 3 * i + k),
      )
    }
    assert.ok(rows.some((row) => row instanceof Own))
  })

  test('closing it in the midst closes its files', () => {
    const sorter = new RowSorter(space, 2_000)
    for (let b = 0; b < 6; b++) {
      sorter.settle()
      const rows = Array.from({ length: 40 }, (_, i) => ({ key: 'k', at: i, text: 'text', n: i }))
      sorter.add(batchOf(rows, ROW))
    }
    assert.ok(open > 0)
    sorter.close()
    assert.equal(open, 0)
  })
})
