/** Plain data against what node:v8 gives back, which is the measure of "nothing is dropped". */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deserialize, serialize } from 'node:v8'
import fc from 'fast-check'
import { ByteArena } from '../engine/core/strings.ts'
import { decodePlain, PlainEncoder } from './plain-codec.ts'

const arena = new ByteArena(16)
const encoder = new PlainEncoder(arena)

function encoded(value: unknown): Uint8Array | null {
  arena.clear()
  return encoder.encode(value) ? arena.copy() : null
}

test('values come back as they do from node:v8', () => {
  const anyValue = fc.anything({
    withBigInt: true,
    withDate: true,
    withMap: true,
    withSet: true,
    withNullPrototype: false,
    withUnicodeString: true,
    maxDepth: 4,
    key: fc.oneof(fc.string(), fc.constantFrom('__proto__', 'constructor', '1')),
  })
  fc.assert(
    fc.property(anyValue, (value) => {
      const bytes = encoded(value)
      if (bytes === null) return
      // In the middle of other bytes, as in a store's arena.
      const padded = new Uint8Array([9, ...bytes, 9])
      assert.deepEqual(decodePlain(padded, 1, padded.length - 1), deserialize(serialize(value)))
    }),
    { numRuns: 500 },
  )
})

test('the same value gives the same bytes, however the engine holds it', () => {
  const small = 2_000
  // A field that once held a fraction keeps its numbers as doubles.
  const holder = { value: 0.5 }
  holder.value = small
  assert.notDeepEqual(serialize(holder.value), null)
  assert.deepEqual(encoded({ value: holder.value }), encoded({ value: small }))
  assert.deepEqual(encoded(small), encoded(Number('2000')))
  assert.notDeepEqual(encoded(-0), encoded(0))
})

test('what is not plain is left to node:v8', () => {
  const shared = { a: 1 }
  const cyclic: unknown[] = []
  cyclic.push(cyclic)
  const holes = [1, 2, 3]
  delete holes[1]
  const named = Object.assign([1], { extra: true })
  const many = Array.from({ length: 40 }, (_, i) => ({ i }))
  for (const value of [
    [shared, shared],
    [...many, many[3]],
    [...many, many[30]],
    cyclic,
    holes,
    named,
    new Uint8Array(3),
    /x/,
    new Error('x'),
    Object.assign(new Map(), { extra: 1 }),
  ]) {
    assert.equal(encoded(value), null)
  }
  assert.notEqual(encoded(many), null)
  assert.deepEqual(decodePlain(encoded('\ud800 lone')!, 0, encoded('\ud800 lone')!.length), '\ud800 lone')
})
