/**
 * Keys: the hash against vectors of an independent implementation, and encodings and key groups against
 * a table that must never change, because old checkpoints depend on it.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import {
  decodeKey,
  encodeKey,
  fieldKeyExtractor,
  type Key,
  keyGroupOf,
  keyGroupRange,
  murmur3,
  subtaskOfKeyGroup,
  valueKeyExtractor,
} from './keys.ts'
import { batchOfRows, rowReader } from './rows.ts'
import { schema, t } from './schema.ts'
import { ByteArena, StringInterner } from './strings.ts'

/** MurmurHash3_x86_32, seed 0: input in hex, hash as unsigned. */
const MURMUR_VECTORS: readonly (readonly [string, number])[] = [
  ['', 0x00000000],
  ['61', 0x3c2569b2],
  ['6161', 0x371091a9],
  ['616161', 0xb4d05fb7],
  ['61616161', 0x7eeed987],
  ['68656c6c6f', 0x248bfa47],
  ['68656c6c6f2c20776f726c64', 0x149bbb7f],
  ['54686520717569636b2062726f776e20666f78206a756d7073206f76657220746865206c617a7920646f67', 0x2e4ff723],
  ['ffffffff', 0x76293b50],
  ['00', 0x514e28b7],
  ['0000', 0x30f4c306],
  ['000000', 0x85f0b427],
  ['00000000', 0x2362f9de],
  ['cf80cf80cf80cf80cf80cf80cf80cf80', 0xec72b6e8],
  ['3c', 0x164d8194],
  ['e9d7', 0x53ea5474],
  ['f38479', 0xb0e43c8c],
  ['d9a267de', 0xe81f1d3f],
  ['c127b6d495', 0x743b0a98],
  ['ac194180409e', 0x31c6fd7e],
  ['26bd8517d36bec', 0xabd6e034],
  ['19f3869c682c8846', 0x598f6c87],
  ['73afcf1bd4944a9036', 0x170fe1a2],
  ['80a0dd09216a74c1d4f0', 0x2f625177],
  ['64a32fda747e8dc5d7fac5', 0x5802dab2],
  ['5a4d21a8c2d381af6c5ec681', 0x584c4708],
  ['5c74c549eda5fa2db9ce651ccb', 0x84770aff],
  ['8aace29aee3806108efa44172e2b', 0x819282ab],
  ['e8296aecbab1ba4449c608fc3af169', 0x16fece19],
  ['b406a1a363f02a3c754dcb97a833bfa1', 0x4c47f906],
  ['1c4be258b632127030533a5ec7929971bd', 0x3de62dc2],
  ['ea52a50e557ed95ac96c879ec82691b8e3b7', 0x045ae387],
  ['d49c6fffe48eeba2a3244e9d6253732bab64df', 0x69ff8df8],
  ['7708e1ca71f25ac50a1af0849d9c619c2cfaa75c', 0xa70bc148],
  ['1b96e5a433500a42791eadf78b083aea42f6d0fc3a', 0xbf574949],
  ['a01412fa569209d5725f7bdfc3a77ce4b69aadf7ed82', 0x670881bc],
  ['908a5f09d815a6c299d9c5f1578a609b4ef2256d78aa98', 0xc52f44fd],
  ['5ee6bdc976be380605cf3d3a8cfda2151acb812e6ea7825b', 0x37440d02],
  ['c294b7b2369559d136dc79c24e6c937a7f79fa1ffa442440e7', 0xa4aa7fc9],
  ['4d4234a3a0f58cb6d679a11be7786194158832a1fe76db6f575b', 0x3c11c0c3],
  ['88c6c52dc9cbbbc99d598fa3f4eb321a770d30a261b1a3233ea975', 0x79fa7537],
  ['d4a3262fc7a42f9eaf1ea474c2e50938ea9e63e362893252c1abf445', 0xe8d6ac7a],
  ['c55d6b3d4bb8a8d75bbbd53df0251fbf2b6d297cb5b4109744f8e4cd1f', 0xda9a9912],
  ['a20b658bd0ddebb69c1dd6f080390346f6f62d9b969676b94c920fc242a2', 0x872567bc],
  ['7b0ac1cc983b7f15ff3eb44b2126b89b09e8b2242164d03104e9bb93b97e41', 0xfd436d97],
  ['088da658f7de229e4ce51a366e0c57ad4e10058329c8cdcfff4c2d433d1017c1', 0x75276ed1],
  ['c1cf9b25b1da5baa71ba635e8b1021c83bf66341d8a452aeee1fb646b59dc3b652011cfbb472bea117feea4c9b52d0', 0xacf7132f],
  [
    '44dcb23358c5c854b1a9ce26d2c5cc8ce2df6adee6bf3fc92ea95bbefa1a42b33b1a2b8b220225c555c7e2b74f7eb0af924718d287ad3c9c0da74f564841a8',
    0x0acd7e07,
  ],
  [
    '7543c511aecd2e4882528cc7049248bf04f64e584c7457c39de0a74d048f6d2db0c43f460edab607cb3f5cdfc98ffdbb0eaa9c1e23de2d224c831b53877d8913',
    0x47d63f01,
  ],
  [
    'cd0d70410ea3cba59f9b97bdcd6a8d08764dd55a2de9b6be039c7c8785fc3388b1373064b4db91095cc4f04f448c22364d252118f88b037928814369a85813efd49f58026bbdd0e29cef07ac8dad5efae2724c4f0ff36c78f77e078f426175088b458fa5',
    0x9b957e1d,
  ],
]

/** Key, its encoding in hex, its group of 128. Fixed for ever. */
const GOLDEN_KEYS: readonly (readonly [Key, string, number])[] = [
  ['', '01', 43],
  ['a', '0161', 115],
  ['user-42', '01757365722d3432', 80],
  ['zürich €😀', '017ac3bc7269636820e282acf09f9880', 40],
  [0, '020000000000000000', 25],
  [1, '023ff0000000000000', 71],
  [-1.5, '02bff8000000000000', 96],
  [Infinity, '027ff0000000000000', 58],
  [0n, '030000000000000000', 34],
  [-1n, '03ffffffffffffffff', 82],
  [9223372036854775807n, '037fffffffffffffff', 28],
  [true, '0401', 6],
  [false, '0400', 6],
  [null, '05', 85],
  [[], '06', 57],
  [['a', 1], '0600000002016100000009023ff0000000000000', 68],
  [[['a'], null, 2n], '060000000706000000020161000000010500000009030000000000000002', 75],
]

function encoded(key: unknown): Uint8Array {
  const arena = new ByteArena(4)
  encodeKey(key, arena)
  return arena.copy()
}

const leafKey = fc.oneof(
  fc.string({ unit: 'grapheme', maxLength: 20 }),
  fc.double({ noNaN: true }),
  fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  fc.boolean(),
  fc.constant(null),
)
const anyKey: fc.Arbitrary<Key> = fc.letrec<{ key: Key }>((tie) => ({
  key: fc.oneof({ maxDepth: 3 }, leafKey, fc.array(tie('key'), { maxLength: 4 })),
})).key

const plusZero = (key: Key): Key => (key === 0 ? 0 : Array.isArray(key) ? key.map(plusZero) : key)

describe('murmur3', () => {
  test('equals the published algorithm', () => {
    for (const [hex, hash] of MURMUR_VECTORS) {
      const bytes = Buffer.from(hex, 'hex')
      assert.equal(murmur3(bytes, 0, bytes.length) >>> 0, hash, hex)
    }
  })

  test('does not depend on where the bytes lie', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), fc.nat(9), (bytes, offset) => {
        const larger = new Uint8Array(bytes.length + offset + 5).fill(0xee)
        larger.set(bytes, offset)
        assert.equal(murmur3(larger, offset, offset + bytes.length), murmur3(bytes, 0, bytes.length))
      }),
    )
  })
})

describe('key encoding', () => {
  test('is the golden one', () => {
    for (const [key, hex, group] of GOLDEN_KEYS) {
      const bytes = encoded(key)
      assert.equal(Buffer.from(bytes).toString('hex'), hex)
      assert.equal(keyGroupOf(murmur3(bytes, 0, bytes.length), 128), group, hex)
    }
  })

  test('decodes to the same key', () => {
    fc.assert(
      fc.property(anyKey, fc.nat(7), (key, offset) => {
        const bytes = encoded(key)
        const larger = new Uint8Array(bytes.length + offset + 3).fill(0xee)
        larger.set(bytes, offset)
        assert.deepEqual(decodeKey(larger, offset, offset + bytes.length), plusZero(key))
      }),
    )
  })

  test('differs for different keys', () => {
    fc.assert(
      fc.property(anyKey, anyKey, (a, b) => {
        const same = JSON.stringify(a, show) === JSON.stringify(b, show)
        assert.equal(Buffer.compare(encoded(a), encoded(b)) === 0, same)
      }),
    )
  })

  test('writes -0 as 0, on its own and within composite keys', () => {
    assert.deepEqual(encoded(-0), encoded(0))
    assert.deepEqual(encoded(['a', -0]), encoded(['a', 0]))
  })

  test('refuses what has no equality to rely on', () => {
    const refused = [
      Number.NaN,
      undefined,
      ['a', undefined],
      [Number.NaN],
      {},
      () => 1,
      Symbol('s'),
      2n ** 63n,
      -(2n ** 63n) - 1n,
    ]
    for (const key of refused) assert.throws(() => encoded(key), { code: 'KEY_INVALID' })
  })

  test('refuses a corrupt tag', () => {
    assert.throws(() => decodeKey(Uint8Array.of(99), 0, 1), { code: 'KEY_CORRUPT' })
  })
})

/** JSON text that tells every kind of key apart. */
function show(_: string, value: unknown): unknown {
  if (typeof value === 'bigint') return { bigint: String(value) }
  if (typeof value === 'number') return { number: String(value) }
  return value
}

describe('extractors', () => {
  const ALL = schema({
    boolean: t.nullable(t.boolean()),
    int32: t.nullable(t.int32()),
    int64: t.nullable(t.int64()),
    float64: t.nullable(t.float64()),
    timestamp: t.nullable(t.timestamp()),
    string: t.nullable(t.string()),
    json: t.json<Key>(),
    plain: t.string(),
  })
  const orNull = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: null })
  const row = fc.record({
    boolean: orNull(fc.boolean()),
    int32: orNull(fc.integer()),
    int64: orNull(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })),
    float64: orNull(fc.double({ noNaN: true })),
    timestamp: orNull(fc.integer()),
    string: orNull(fc.string({ unit: 'grapheme' })),
    json: anyKey,
    plain: fc.string({ unit: 'grapheme' }),
  })

  test('by field and by value give the same keys for every kind of column', () => {
    fc.assert(
      fc.property(fc.array(row, { maxLength: 30 }), (rows) => {
        const batch = batchOfRows(ALL, rows)
        const read = rowReader(ALL, new StringInterner(), 'test')
        ALL.fields.forEach(({ name }, index) => {
          const byField = fieldKeyExtractor(ALL, index)(batch)
          const byValue = valueKeyExtractor((b, i) => (read(b, i) as Record<string, unknown>)[name])(batch)
          for (let i = 0; i < rows.length; i++) {
            const bytes = byField.bytes.subarray(byField.starts[i], byField.ends[i])
            assert.deepEqual(bytes, byValue.bytes.subarray(byValue.starts[i], byValue.ends[i]), `${name} row ${i}`)
            assert.equal(byField.hashes[i], murmur3(bytes, 0, bytes.length))
            assert.equal(byValue.hashes[i], byField.hashes[i])
          }
        })
      }),
      { numRuns: 50 },
    )
  })

  test('take batches larger than their first buffers', () => {
    const text = 'x'.repeat(100)
    const batch = batchOfRows(
      ALL,
      Array.from({ length: 2_048 }, (_, i) => ({ json: i, plain: text + i })),
    )
    const keys = fieldKeyExtractor(ALL, 7)(batch)
    for (const i of [0, 1, 700, 2_047]) {
      assert.equal(decodeKey(keys.bytes, keys.starts[i]!, keys.ends[i]!), text + i)
    }
  })
})

test('a subtask owns exactly the key groups that are sent to it', () => {
  for (const keyGroups of [1, 2, 7, 128, 200, 1_000]) {
    for (let parallelism = 1; parallelism <= 200; parallelism++) {
      let next = 0
      for (let subtask = 0; subtask < parallelism; subtask++) {
        const range = keyGroupRange(subtask, parallelism, keyGroups)
        assert.equal(range.from, next, 'ranges are contiguous')
        for (let group = range.from; group < range.to; group++) {
          if (subtaskOfKeyGroup(group, parallelism, keyGroups) !== subtask) {
            assert.fail(`group ${group} of ${keyGroups} at parallelism ${parallelism}`)
          }
        }
        next = range.to
      }
      assert.equal(next, keyGroups, 'every group is owned')
    }
  }
})
