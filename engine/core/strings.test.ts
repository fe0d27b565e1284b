/**
 * Strings: the interner gives what decoding gives, whatever shares a slot; arenas keep positions.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { asBuffer, ByteArena, gatherStrings, StringInterner } from './strings.ts'

test('interning equals decoding, malformed UTF-8 and repeats included', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 80 }), { maxLength: 30 }), (values) => {
      const interner = new StringInterner()
      const shared = new Uint8Array(new SharedArrayBuffer(100))
      for (const value of [...values, ...values]) {
        shared.set(value, 7)
        assert.equal(interner.decode(shared, 7, 7 + value.length), Buffer.from(value).toString('utf8'))
      }
    }),
  )
})

test('values that share a slot do not mix', () => {
  // 100,000 distinct values over 8,192 slots: each slot is fought over; each value is asked for twice.
  const interner = new StringInterner()
  for (let i = 0; i < 100_000; i++) {
    const bytes = Buffer.from(`value-${i}`)
    assert.equal(interner.decode(bytes, 0, bytes.length), `value-${i}`)
    assert.equal(interner.decode(bytes, 0, bytes.length), `value-${i}`)
  }
})

test('an interned string does not follow later changes of its bytes', () => {
  const interner = new StringInterner()
  const bytes = Buffer.from('aaaa')
  const before = interner.decode(bytes, 0, 4)
  bytes.fill('b')
  assert.equal(before, 'aaaa')
  assert.equal(interner.decode(bytes, 0, 4), 'bbbb')
})

test('an arena returns every string that was written, while it grows', () => {
  fc.assert(
    fc.property(fc.array(fc.string({ unit: 'grapheme', maxLength: 200 }), { maxLength: 20 }), (texts) => {
      const arena = new ByteArena(1)
      const starts = texts.map((text, i) => {
        const bytes = Buffer.from(text)
        return i % 2 === 0 ? arena.writeString(text) : arena.writeBytes(bytes, 0, bytes.length)
      })
      const buffer = asBuffer(arena.copy())
      texts.forEach((text, i) => {
        assert.equal(buffer.utf8Slice(starts[i], starts[i + 1] ?? arena.length), text)
      })
    }),
  )
})

test('gathered strings lie back to back, and nothing beside them is touched', () => {
  const texts = fc.array(fc.oneof(fc.string({ maxLength: 40 }), fc.string({ minLength: 250, maxLength: 270 })), {
    minLength: 1,
    maxLength: 12,
  })
  fc.assert(
    fc.property(texts, fc.infiniteStream(fc.nat()), fc.nat({ max: 9 }), fc.boolean(), (values, picks, at, all) => {
      const arena = new ByteArena(1)
      const starts = Int32Array.from(values, (value) => arena.writeString(value))
      const ends = Int32Array.from(values, (_, i) => starts[i + 1] ?? arena.length)
      const rows = all ? null : Int32Array.from({ length: 20 }, () => picks.next().value % values.length)
      const count = rows === null ? values.length : rows.length
      const expected = Array.from({ length: count }, (_, i) => values[rows === null ? i : rows[i]!]!).join('')
      const size = Buffer.byteLength(expected)
      const to = new Uint8Array(at + size + 9).fill(0xee)
      assert.equal(gatherStrings(arena.view(), starts, ends, rows, count, to, at), at + size)
      assert.equal(Buffer.from(to.subarray(at, at + size)).toString(), expected)
      assert.ok([...to.subarray(0, at), ...to.subarray(at + size)].every((byte) => byte === 0xee))
    }),
  )
})
