/** What is taken for JSON is JSON, and what is not is named with its place. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { checkJson } from './json-value.ts'

/** With plain prototypes, and one zero. */
function copy(value: unknown): unknown {
  if (value === 0) return 0
  if (Array.isArray(value)) return value.map(copy)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, copy(part)]))
}

test('what is taken comes back from JSON as it was, whatever it is', () => {
  let taken = 0
  fc.assert(
    fc.property(fc.oneof(fc.jsonValue(), fc.anything()), (value) => {
      try {
        checkJson(value, 'It')
      } catch {
        return
      }
      taken++
      const text = JSON.stringify(value)
      assert.deepEqual(copy(JSON.parse(text)), copy(value))
    }),
  )
  assert.ok(taken > 30, `only ${taken} were taken`)
})

test('what it would refuse or change is named with its place', () => {
  const cases: readonly (readonly [unknown, RegExp])[] = [
    [10n, /^It cannot be saved: it is of type bigint\./],
    [undefined, /it is of type undefined/],
    [Number.NaN, /it is NaN/],
    [{ at: [1, { offset: Number.POSITIVE_INFINITY }] }, /\.at\.1\.offset is Infinity/],
    [{ at: new Date(0) }, /\.at is an instance of Date/],
    [[new Map()], /\.0 is an instance of Map/],
    [{ at: () => {} }, /\.at is of type function/],
  ]
  for (const [value, message] of cases) assert.throws(() => checkJson(value, 'It'), { code: 'NOT_JSON', message })
  checkJson(Object.assign(Object.create(null), { a: [null, true, 'x', 1.5] }), 'It')
})
