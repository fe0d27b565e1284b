/** Tests of the codecs of user values: round trips, prototypes, fallbacks, and what is refused. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { ValueCodec } from '../engine/contract/keyed-state.ts'
import { describedCodec, objectCodec } from './value-codec.ts'
import { checkRestorable } from './value-restorable.ts'

/** Encodes, overwrites the codec's buffer by another encode, and decodes from the middle of a larger one. */
function roundTrip<V>(codec: ValueCodec, value: V): V {
  const encoded = codec.encode(value)
  const padded = Buffer.alloc(encoded.length + 9)
  padded.set(encoded, 5)
  const decoded = codec.decode(padded, 5, 5 + encoded.length) as V
  padded.fill(0xee)
  return decoded
}

class Money {
  cents = 0
  get euros(): number {
    return this.cents / 100
  }
}

class Accumulator {
  count = 0
  total = new Money()
  byDay: Map<string, number> = new Map()
  nested = { money: new Money(), note: '' }
  add(cents: number): void {
    this.count++
    this.total.cents += cents
    this.byDay.set('today', cents)
    this.nested.money.cents += cents
  }
}

class Flat {
  count = 0
  name = ''
  done = false
  twice(): number {
    return this.count * 2
  }
}

describe('object codec', () => {
  test('plain data of every kind comes back equal', () => {
    const codec = objectCodec()
    const anything = fc.anything({
      withBigInt: true,
      withDate: true,
      withMap: true,
      withSet: true,
      withTypedArray: true,
    })
    fc.assert(fc.property(anything, (value) => assert.deepEqual(roundTrip(codec, value), value)))
  })

  test('class instances come back on their prototypes, nested ones too', () => {
    const codec = objectCodec(() => new Accumulator())
    const value = new Accumulator()
    value.add(250)
    const back = roundTrip(codec, value)
    assert.deepEqual(back, value)
    assert.ok(back instanceof Accumulator && back.total instanceof Money && back.nested.money instanceof Money)
    back.add(50)
    assert.equal(back.total.euros, 3)
    assert.equal(value.total.euros, 2.5, 'the copy shares nothing')
  })

  test('flat templates use the compact form, and what does not fit falls back', () => {
    const codec = objectCodec(() => new Flat(), { id: 'flat' })
    assert.equal(codec.description, 'object(count:number,name:string,done:boolean)')
    const value = Object.assign(new Flat(), { count: 2.5, name: 'Zoë 🦊', done: true })
    assert.equal(codec.encode(value)[0], 1)
    assert.equal(codec.encode(value).length, 1 + 8 + 4 + Buffer.byteLength(value.name) + 1)
    const back = roundTrip(codec, value)
    assert.deepEqual(back, value)
    assert.equal(back.twice(), 5)
    const odd = [{ name: '\ud800' }, { count: 1n }, { name: null }, { extra: 1 }, { done: undefined }]
    for (const change of odd) {
      const changed = Object.assign(new Flat(), change)
      assert.equal(codec.encode(changed)[0], 2)
      assert.deepEqual(roundTrip(codec, changed), changed)
    }
  })

  test('compact round trips', () => {
    const codec = objectCodec(() => ({ n: 0, text: '', flag: false, 'odd "name"': 0 }))
    const record = fc.record({
      n: fc.oneof(fc.double(), fc.integer()),
      text: fc.string({ unit: 'binary' }),
      flag: fc.boolean(),
      'odd "name"': fc.double(),
    })
    fc.assert(fc.property(record, (value) => assert.deepEqual(roundTrip(codec, value), { ...value })))
  })

  test('the description alone is enough to read values as plain data', () => {
    const value = fc.oneof(fc.double(), fc.boolean(), fc.string({ unit: 'binary' }))
    const name = fc.oneof(fc.string(), fc.string({ unit: fc.constantFrom(...'a,:"\\()1\n'), maxLength: 6 }))
    const record = fc.dictionary(name, value, { noNullPrototype: true, minKeys: 1, maxKeys: 6 })
    fc.assert(
      fc.property(record, (sample) => {
        const writer = objectCodec(() => sample)
        const reader = describedCodec(writer.description)
        assert.ok(reader !== null)
        assert.equal(reader.description, writer.description)
        const bytes = writer.encode(sample).slice()
        assert.deepEqual(reader.decode(bytes, 0, bytes.length), sample)
      }),
      // A name that ends the comment of the generated source.
      { examples: [[{ '*/': '' }]] },
    )
    const flat = Object.assign(new Flat(), { name: 'n', count: 2 })
    for (const changed of [flat, Object.assign(new Flat(), { name: null })]) {
      const bytes = objectCodec(() => new Flat())
        .encode(changed)
        .slice()
      const reader = describedCodec('object(count:number,name:string,done:boolean)')
      assert.deepEqual(reader?.decode(bytes, 0, bytes.length), { ...changed })
    }
    for (const other of [
      'times',
      'doubles(2)',
      'object()',
      'object(a)',
      'object(a:int)',
      'object(a:number,)',
      'object(a:number',
    ]) {
      assert.equal(describedCodec(other), null, other)
    }
  })

  test('refuses instances it could not restore, and functions', () => {
    assert.throws(() => objectCodec().encode(new Money()), { code: 'STATE_CLASS_UNKNOWN' })
    assert.throws(() => objectCodec().encode({ list: [new Money()] }), { code: 'STATE_CLASS_UNKNOWN' })
    assert.throws(() => objectCodec(() => new Accumulator()).encode({ list: new Money() }), {
      code: 'STATE_CLASS_UNKNOWN',
    })
    assert.throws(() => objectCodec().encode({ f: () => 1 }), { code: 'STATE_NOT_SERIALIZABLE' })
  })
})

describe('check of templates', () => {
  class Base {
    #secret = 1
    reveal(): number {
      return this.#secret
    }
  }
  class Derived extends Base {}
  class PrivateMethod {
    #go(): number {
      return 1
    }
    run(): number {
      return this.#go()
    }
  }
  class OnlyStatic {
    static #made = 0
    colour = '#fff; #abc = 1'
    // A comment with { #hash = 1 }
    pattern(): RegExp {
      OnlyStatic.#made = OnlyStatic.#made + 1
      return /{ #x = \d/
    }
  }

  test('private members are found in the chain of classes and in nested values', () => {
    for (const value of [
      new Base(),
      new Derived(),
      new PrivateMethod(),
      { inner: [new Derived()] },
      new Map([[1, new Base()]]),
    ]) {
      assert.throws(() => checkRestorable(value, 'the accumulator'), { code: 'STATE_PRIVATE_FIELDS' })
    }
    assert.throws(() => objectCodec(() => new Base(), { what: 'the accumulator' }), /#secret/)
  })

  test('functions as properties are found', () => {
    assert.throws(() => checkRestorable({ a: { go: () => 1 } }, 'the value'), { code: 'STATE_FUNCTION_FIELD' })
  })

  test('what only looks private passes', () => {
    for (const value of [
      new OnlyStatic(),
      new Accumulator(),
      new Date(),
      5,
      null,
      undefined,
      new Float64Array(3),
      [1],
    ]) {
      checkRestorable(value, 'the value')
    }
  })
})
