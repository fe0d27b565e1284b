/** The filter of cold keys: no key is forgotten, fresh ones are told apart, and beyond its memory less and less so. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { murmur3 } from '../engine/core/keys.ts'
import { ColdKeys } from './cold-keys.ts'

const BYTES_MAX = 20_000
/** Ten bits a key. */
const KEYS_WITHIN = (BYTES_MAX * 8) / 10

const bytes = new Uint8Array(4)
function hashOf(n: number): number {
  new DataView(bytes.buffer).setUint32(0, n)
  return murmur3(bytes, 0, 4)
}

/** Adds keys [from, to); returns the part of them that the filter took for known ones. */
function added(filter: ColdKeys, from: number, to: number): number {
  let mistaken = 0
  for (let n = from; n < to; n++) {
    if (filter.mayHold(hashOf(n))) mistaken++
    filter.add(hashOf(n))
    assert.ok(filter.byteLength <= BYTES_MAX)
  }
  return mistaken / (to - from)
}

test('a filter with little memory still spares look-ups of fresh keys, and gives up at last', () => {
  const filter = new ColdKeys(BYTES_MAX)
  const half = KEYS_WITHIN / 2
  const mistaken = [0, 1, 2, 3].map((i) => added(filter, i * half, (i + 1) * half))
  assert.ok(mistaken[0]! < 0.1, `${mistaken}`)
  assert.ok(mistaken[3]! < 0.4, `${mistaken}`)
  for (let n = 0; n < 2 * KEYS_WITHIN; n++) assert.ok(filter.mayHold(hashOf(n)), 'no key is forgotten')

  added(filter, 2 * KEYS_WITHIN, 12 * KEYS_WITHIN)
  assert.equal(filter.byteLength, 0, 'it gave up its memory')
  assert.ok(filter.mayHold(hashOf(-1)))
  filter.clear()
  assert.ok(!filter.mayHold(hashOf(0)))
})
