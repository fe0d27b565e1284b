/** Selecting and cutting rows of a changelog: pairs stay pairs, and what is left of a pair is a change of its own. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { gatherBatch, withKinds } from './batch.ts'
import { BatchGatherer } from './batch-gather.ts'
import { cutBetweenPairs, gatherKinds, KIND_TEXTS } from './row-kinds.ts'
import { batchOfRows } from './rows.ts'
import { schema, t } from './schema.ts'

const kindsOf = (text: string): Uint8Array =>
  Uint8Array.from(text.split(' ').map((kind) => KIND_TEXTS.indexOf(kind as '+I')))

/** Changes of which every -U stands before its +U. */
const anyKinds = fc
  .array(fc.constantFrom('+I', '-D', '-U +U'), { minLength: 1, maxLength: 20 })
  .map((changes) => kindsOf(changes.join(' ')))

function assertPaired(kinds: Uint8Array): void {
  for (let i = 0; i < kinds.length; i++) {
    if (kinds[i] === 1) assert.equal(kinds[i + 1], 2, `+U follows the -U at ${i}`)
    if (kinds[i] === 2) assert.equal(kinds[i - 1], 1, `-U comes before the +U at ${i}`)
  }
}

describe('a selection', () => {
  test('keeps pairs, and makes changes of halves', () => {
    const kinds = kindsOf('+I -U +U -D -U +U')
    const select = (...rows: number[]): string => {
      const to = new Uint8Array(rows.length)
      gatherKinds(kinds, Int32Array.from(rows), rows.length, to)
      return [...to].map((kind) => KIND_TEXTS[kind]).join(' ')
    }
    assert.equal(select(1, 2, 5), '-U +U +I')
    assert.equal(select(0, 1, 4, 5), '+I -D -U +U')
    // Halves of two pairs beside each other are not one.
    assert.equal(select(1, 5), '-D +I')
  })

  test('of any rows leaves every -U before its +U, and takes back and adds what it did', () => {
    fc.assert(
      fc.property(anyKinds, fc.array(fc.boolean(), { minLength: 40, maxLength: 40 }), (kinds, chosen) => {
        const rows = Int32Array.from([...kinds.keys()].filter((row) => chosen[row]))
        const plain = batchOfRows(
          schema({ id: t.int32() }),
          [...kinds.keys()].map((id) => ({ id })),
        )
        const selected = gatherBatch(withKinds(plain, kinds), rows, rows.length)
        assertPaired(selected.kinds!)
        rows.forEach((row, i) => {
          assert.equal(selected.kinds![i]! === 1 || selected.kinds![i] === 3, kinds[row] === 1 || kinds[row] === 3)
        })
      }),
    )
  })

  test('of an upsert changelog leaves kinds as they are', () => {
    const kinds = kindsOf('+I +U +U -D')
    const to = new Uint8Array(2)
    gatherKinds(kinds, Int32Array.of(1, 3), 2, to)
    assert.deepEqual(to, kindsOf('+U -D'))
  })
})

test('a cut is never within a pair, and always after something', () => {
  fc.assert(
    fc.property(anyKinds, fc.integer({ min: 1, max: 7 }), (kinds, size) => {
      for (let from = 0; from < kinds.length; ) {
        const to = cutBetweenPairs(kinds, from, Math.min(kinds.length, from + size))
        assert.ok(to > from)
        assertPaired(kinds.subarray(from, to))
        from = to
      }
    }),
  )
})

test('rows gathered from batches with and without kinds keep theirs', () => {
  const plain = batchOfRows(schema({ id: t.int32() }), [{ id: 1 }, { id: 2 }])
  const gatherer = new BatchGatherer()
  gatherer.add(plain, 1)
  gatherer.add(withKinds(plain, kindsOf('-U +U')), 0)
  gatherer.add(withKinds(plain, kindsOf('-U +U')), 1)
  assert.deepEqual(gatherer.build().kinds, kindsOf('+I -U +U'))
  gatherer.add(plain, 0)
  assert.equal(gatherer.build().kinds, null)
})
