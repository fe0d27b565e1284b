/** Tests of the key layout: order and round trip of namespaces, ends of prefixes, batches with deletes. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { keyPrefix, namespaceOf, prefixEnd, setKeyGroup, stateIdOf, WriteBatchBuilder } from './keyed-layout.ts'

test('the byte order of namespaces is their numeric order', () => {
  const number = fc.double({ noNaN: true })
  fc.assert(
    fc.property(number, number, (a, b) => {
      const order = Buffer.compare(keyPrefix(1, 2, a), keyPrefix(1, 2, b))
      assert.equal(Math.sign(order), a < b ? -1 : a > b ? 1 : 0)
      assert.equal(namespaceOf(keyPrefix(1, 2, a), 0), a === 0 ? 0 : a)
    }),
  )
})

test('operator, key group and state are big-endian at fixed places', () => {
  const prefix = keyPrefix(0x0102, 0x0506, 0)
  setKeyGroup(prefix, 0x0304)
  assert.equal(Buffer.from(prefix).toString('hex'), '0102030405068000000000000000')
  assert.equal(stateIdOf(prefix, 0), 0x0506)
})

test('the end of a prefix is the first key above all that start with it', () => {
  assert.deepEqual(prefixEnd(Uint8Array.of(1, 0xff, 0xff)), Uint8Array.of(2))
  assert.deepEqual(prefixEnd(Uint8Array.of(1, 2)), Uint8Array.of(1, 3))
  assert.equal(prefixEnd(Uint8Array.of(0xff)), null)
})

test('deletes are told from puts, also after reuse', () => {
  const builder = new WriteBatchBuilder()
  for (let round = 0; round < 2; round++) {
    for (let i = 0; i < 1_000; i++) {
      builder.keys.add(Uint8Array.of(i >> 8, i), 0, 2)
      if (i % 3 === 2) builder.endDelete()
      else {
        builder.values.add(Uint8Array.of(i), 0, 1)
        builder.endPut()
      }
    }
    const { keys, values, deletes } = builder.batch()
    assert.equal(keys.count, 1_000)
    assert.equal(values.offsets[1_000], 667)
    for (let i = 0; i < 1_000; i++) assert.equal(deletes![i], i % 3 === 2 ? 1 : 0)
    builder.clear()
    assert.equal(builder.batch().deletes, null)
  }
})
