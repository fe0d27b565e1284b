/** Exact sums: of what is left, correctly rounded, whatever came and went. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { addExactly, exactSum, exactValue } from './exact-sum.ts'

/** The same by integers: every finite double is a multiple of 2^-1074. */
function oracle(values: readonly number[]): number {
  const scaled = (value: number): bigint => {
    const bits = new BigUint64Array(Float64Array.of(value).buffer)[0]!
    const exponent = Number((bits >> 52n) & 0x7ffn)
    const fraction = bits & ((1n << 52n) - 1n)
    const magnitude = exponent === 0 ? fraction : (fraction | (1n << 52n)) << BigInt(exponent - 1)
    return value < 0 ? -magnitude : magnitude
  }
  const total = values.reduce((sum, value) => sum + scaled(value), 0n)
  const magnitude = total < 0n ? -total : total
  const length = magnitude.toString(2).length
  // Number() of a bigint rounds to nearest, ties to even; what is dropped before keeps a sticky bit.
  const drop = Math.max(0, length - 900)
  const sticky = drop > 0 && magnitude % (1n << BigInt(drop)) !== 0n ? 1n : 0n
  const head = Number((magnitude >> BigInt(drop)) | sticky)
  const result = head * 2 ** Math.max(drop - 1_074, -1_022) * 2 ** (drop - 1_074 - Math.max(drop - 1_074, -1_022))
  return total < 0n ? -result : result
}

const anyValue = fc.oneof(
  fc.double({ min: -1e300, max: 1e300, noNaN: true }),
  fc.integer({ min: -9, max: 9 }).map((power) => 2 ** (power * 30)),
  fc.constantFrom(1e20, 1, -1e20, 0.1, -0, 2 ** 53, 1e-300),
)

describe('an exact sum', () => {
  test('is what plain addition loses', () => {
    const sum = exactSum()
    for (const value of [1e20, 1, 0.5]) addExactly(sum, value, 1)
    addExactly(sum, 1e20, -1)
    assert.equal(exactValue(sum), 1.5)
    addExactly(sum, 1.5, -1)
    assert.equal(exactValue(sum), 0)
    assert.deepEqual(sum.parts, [])
  })

  test('is the correctly rounded sum of what is left', () => {
    fc.assert(
      fc.property(fc.array(anyValue, { maxLength: 12 }), fc.array(anyValue, { maxLength: 8 }), (kept, gone) => {
        const sum = exactSum()
        for (const value of gone) addExactly(sum, value, 1)
        for (const value of kept) addExactly(sum, value, 1)
        for (const value of gone.toReversed()) addExactly(sum, value, -1)
        assert.equal(exactValue(sum) + 0, oracle(kept) + 0)
      }),
      { numRuns: 300 },
    )
  })

  test('takes infinities and NaN back', () => {
    const sum = exactSum()
    addExactly(sum, 2, 1)
    addExactly(sum, Number.POSITIVE_INFINITY, 1)
    assert.equal(exactValue(sum), Number.POSITIVE_INFINITY)
    addExactly(sum, Number.NEGATIVE_INFINITY, 1)
    assert.equal(exactValue(sum), Number.NaN)
    addExactly(sum, Number.POSITIVE_INFINITY, -1)
    addExactly(sum, Number.NaN, 1)
    assert.equal(exactValue(sum), Number.NaN)
    addExactly(sum, Number.NaN, -1)
    assert.equal(exactValue(sum), Number.NEGATIVE_INFINITY)
    addExactly(sum, Number.NEGATIVE_INFINITY, -1)
    assert.equal(exactValue(sum), 2)
  })
})
