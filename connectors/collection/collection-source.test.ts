/** Reading from any position at any batch size gives the same rows. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { Source, SourceReaderContext, SplitEnumeratorContext, SplitState } from '../../engine/contract/source.ts'
import { rowReader } from '../../engine/core/rows.ts'
import { schema, t } from '../../engine/core/schema.ts'
import { StringInterner } from '../../engine/core/strings.ts'
import { collectionSource } from './collection-source.ts'

const START: readonly SplitState[] = [{ id: 'rows', position: 0 }]

/** Reads to the end, or through `polls` batches; rows and the snapshot after them. */
async function read(source: Source, splits: readonly SplitState[], rowsMax: number, polls = Number.POSITIVE_INFINITY) {
  const reader = source.createReader({} as SourceReaderContext)
  await reader.open(splits)
  const rowOf = rowReader(source.schema, new StringInterner(), 'test')
  const rows: unknown[] = []
  for (let n = 0; n < polls; n++) {
    const polled = reader.poll(rowsMax)
    if (polled.kind !== 'batch') {
      assert.equal(polled.kind, 'end')
      break
    }
    assert.equal(polled.split, 'rows')
    assert.ok(polled.batch.length > 0 && polled.batch.length <= rowsMax)
    assert.ok(polled.batch.eventTime.every(Number.isNaN))
    for (let i = 0; i < polled.batch.length; i++) rows.push(rowOf(polled.batch, i))
  }
  const snapshot = JSON.parse(JSON.stringify(reader.snapshot())) as SplitState[]
  await reader.close()
  return { rows, snapshot }
}

test('stopping anywhere and going on from the snapshot gives every row once', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.anything(), { maxLength: 40 }),
      fc.integer({ min: 1, max: 50 }),
      fc.integer({ min: 0, max: 10 }),
      async (elements, rowsMax, polls) => {
        const source = collectionSource(elements)
        const before = await read(source, START, rowsMax, polls)
        const later = await read(source, before.snapshot, rowsMax)
        assert.deepEqual([...before.rows, ...later.rows], elements)
        assert.deepEqual(later.snapshot, [{ id: 'rows', position: elements.length }])
      },
    ),
    { numRuns: 100 },
  )
})

test('a schema gives columns, from an array or any iterable', async () => {
  const fields = schema({ id: t.int32(), name: t.nullable(t.string()) })
  const rows = Array.from({ length: 5_000 }, (_, id) => ({ id, name: id % 2 === 0 ? null : `n${id}` }))
  assert.deepEqual(
    (await read(collectionSource(new Set(rows), fields), START, 10_000_000)).rows.length,
    0 + rows.length,
  )
  assert.deepEqual((await read(collectionSource(rows, { schema: fields }), START, 2_048)).rows, rows)
})

test('it is bounded, has one split, and a subtask without it ends at once', async () => {
  const source = collectionSource([1, 2])
  assert.equal(source.boundedness, 'bounded')
  assert.deepEqual(await source.splits({} as SplitEnumeratorContext), START)
  assert.deepEqual(await read(source, [], 10), { rows: [], snapshot: [] })
})

test('later changes of the array have no effect', async () => {
  const rows = [1, 2]
  const source = collectionSource(rows)
  rows.push(3)
  assert.deepEqual((await read(source, START, 10)).rows, [1, 2])
})

test('a row that does not fit, and a position past the end, are named', async () => {
  const fields = schema({ id: t.int32() })
  const source = collectionSource([{ id: 1 }, { id: 'x' as unknown as number }], fields)
  await assert.rejects(read(source, START, 10), { code: 'ROW_INVALID', message: /Row 1 of the collection.*"id"/ })
  for (const position of [3, -1, 0.5, 'x', null]) {
    await assert.rejects(read(source, [{ id: 'rows', position }], 10), { code: 'POSITION_INVALID' })
  }
})

test('batches of a size come with a rest after each, in which it asks to be called again', async () => {
  let wakes = 0
  const context = { wake: () => wakes++ } as unknown as SourceReaderContext
  const reader = collectionSource([1, 2, 3], { batchRows: 2 }).createReader(context)
  await reader.open(START)
  const kinds: string[] = []
  for (let polled = reader.poll(10); ; polled = reader.poll(10)) {
    kinds.push(polled.kind === 'batch' ? `${polled.batch.length} rows` : `${polled.kind}, ${wakes} wakes`)
    await Promise.resolve()
    if (polled.kind === 'end') break
  }
  assert.deepEqual(kinds, ['2 rows', 'pending, 0 wakes', '1 rows', 'pending, 1 wakes', 'end, 2 wakes'])
  assert.throws(() => collectionSource([1], { batchRows: 0 }), { code: 'OPTION_INVALID' })
})
