/**
 * The JSON decoder against a reference made of TextDecoder, JSON.parse and plain checks, and the writer
 * against the decoder. Inputs: every shape of record, white space, key order, escapes, nesting,
 * truncation at every byte and flipped bytes. Longer than other files: all of it shares one reference.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { batchOfRows, rowReader } from '../rows.ts'
import { type Field, OPAQUE_SCHEMA, type Schema, schema, t } from '../schema.ts'
import { ByteArena, StringInterner } from '../strings.ts'
import { createJsonDecoder, type JsonDecoder, type JsonDecoderOptions } from './json-decoder.ts'
import { createJsonRowWriter } from './json-writer.ts'
import { parseTimestamp } from './timestamp.ts'

const ALL = schema({
  id: t.string(),
  note: t.nullable(t.string()),
  count: t.int32(),
  total: t.nullable(t.int64()),
  value: t.float64(),
  ratio: t.nullable(t.float64()),
  at: t.timestamp(),
  ok: t.boolean(),
  flag: t.nullable(t.boolean()),
  extra: t.nullable(t.json()),
  'clé "x"': t.nullable(t.int32()),
})

/** So many fields that the quick path is one of tables. */
const MANY: Schema = {
  fields: [
    ...ALL.fields,
    ...Array.from({ length: 100 }, (_, k): Field => ({ name: `more${k}`, kind: 'int32', nullable: true })),
  ],
  isOpaque: false,
}

let made = 0
function decoderOf(of: Schema, options: Partial<JsonDecoderOptions> = {}): JsonDecoder {
  return createJsonDecoder(of, { id: `test-${made++}`, ...options })
}

/** Decodes records through both entry points, alternating; null stands for a rejected record. */
class Harness {
  readonly reasons: string[] = []
  private readonly read
  private readonly decoder: JsonDecoder
  constructor(of: Schema, options: Partial<JsonDecoderOptions> = {}) {
    this.decoder = decoderOf(of, options)
    this.read = rowReader(of, new StringInterner(), `harness-${made++}`)
  }

  lines(records: readonly Uint8Array[], padding = 8): unknown[] {
    const bytes = Buffer.concat([...records.flatMap((r) => [r, Buffer.from('\n')]), Buffer.alloc(padding)])
    const starts: number[] = []
    let at = 0
    for (const r of records) {
      starts.push(at)
      at += r.length + 1
    }
    const out: unknown[] = records.map(() => undefined)
    for (let from = 0; from < at; from = this.decoder.next) {
      const batch = this.decoder.decodeLines(bytes, from, at, 3, (reason, start) => {
        this.reasons.push(reason)
        out[starts.indexOf(start)] = null
      })
      for (let i = 0; i < batch.length; i++) {
        out[starts.indexOf(this.decoder.recordStarts[i]!)] = { row: this.read(batch, i) }
      }
    }
    return out
  }

  ranges(records: readonly Uint8Array[], padding = 9): unknown[] {
    const bytes = Buffer.concat([...records.flatMap((r) => [r, Buffer.from([0])]), Buffer.alloc(padding)])
    const starts = new Int32Array(records.length)
    const ends = new Int32Array(records.length)
    let at = 0
    records.forEach((r, i) => {
      starts[i] = at
      ends[i] = at + r.length
      at += r.length + 1
    })
    const out: unknown[] = records.map(() => undefined)
    for (let from = 0; from < records.length; from = this.decoder.next) {
      const batch = this.decoder.decodeRanges(bytes, starts, ends, from, records.length, 3, (reason, start) => {
        this.reasons.push(reason)
        out[starts.indexOf(start)] = null
      })
      for (let i = 0; i < batch.length; i++) {
        out[starts.indexOf(this.decoder.recordStarts[i]!)] = { row: this.read(batch, i) }
      }
    }
    return out
  }
}

function nesting(text: string): number {
  let depth = 0
  let deepest = 0
  for (const token of text.match(/"(?:[^"\\]|\\.)*"?|[[\]{}]/gs) ?? []) {
    if (token === '{' || token === '[') deepest = Math.max(deepest, ++depth)
    else if (token === '}' || token === ']') depth--
  }
  return deepest
}

function hasProto(value: unknown): boolean {
  if (value === null || typeof value !== 'object') return false
  return Object.entries(value).some(([key, v]) => key === '__proto__' || hasProto(v))
}

/** Digits of the last `name` member at the top level: JSON.parse rounds long integers. */
function referenceInt64(value: unknown, text: string, name: string): bigint | null {
  if (typeof value === 'string') return inInt64(/^-?(0|[1-9]\d*)$/.test(value) ? BigInt(value) : null)
  if (typeof value !== 'number') return null
  if (Number.isSafeInteger(value)) return BigInt(value)
  const plainKey = text.replaceAll(`"\\u${name.charCodeAt(0).toString(16).padStart(4, '0')}`, `"${name[0]}`)
  const digits = [...plainKey.matchAll(new RegExp(`"${name}"\\s*:\\s*([-+0-9.eE]+)\\s*[,}]`, 'g'))].at(-1)?.[1]
  return digits !== undefined && /^-?\d+$/.test(digits) ? inInt64(BigInt(digits)) : null
}

function inInt64(value: bigint | null): bigint | null {
  return value !== null && BigInt.asIntN(64, value) === value ? value : null
}

function referenceField(field: Field, value: unknown, text: string): { value: unknown } | null {
  if (field.kind === 'opaque') {
    if (value === undefined) return field.nullable ? { value: null } : null
    return hasProto(value) ? null : { value }
  }
  if (value === undefined || value === null) return field.nullable ? { value: null } : null
  switch (field.kind) {
    case 'string':
      return typeof value === 'string' ? { value: value.toWellFormed() } : null
    case 'boolean':
      return typeof value === 'boolean' ? { value } : null
    case 'int32':
      return Number.isInteger(value) && Math.abs(value as number) <= 2 ** 31 && (value as number) !== 2 ** 31
        ? { value: (value as number) + 0 }
        : null
    case 'int64': {
      const integer = referenceInt64(value, text, field.name)
      return integer === null ? null : { value: integer }
    }
    case 'float64':
      if (typeof value === 'number') return { value }
      return value === 'NaN' || value === 'Infinity' || value === '-Infinity' ? { value: Number(value) } : null
    case 'timestamp': {
      if (typeof value === 'number') return Number.isFinite(value) ? { value } : null
      if (typeof value !== 'string') return null
      const m = /^(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d:\d\d)(:\d\d(?:\.\d{1,9})?)?(Z|[+-]\d\d:\d\d)?)?$/.exec(value)
      if (m === null) return null
      const ms = Date.parse(`${m[1]}-${m[2]}-${m[3]}T${m[4] ?? '00:00'}${m[5] ?? ''}${m[6] ?? 'Z'}`)
      return Number.isNaN(ms) ? null : { value: ms }
    }
  }
}

/** What the decoder must answer: { row }, or null for a rejected record. */
function reference(of: Schema, bytes: Uint8Array, depthMax = 64): { row: unknown } | null {
  let text: string
  let value: unknown
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    value = JSON.parse(text)
  } catch {
    return null
  }
  if (nesting(text) > depthMax) return null
  if (of.isOpaque) return hasProto(value) ? null : { row: value }
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return null
  const row: Record<string, unknown> = {}
  for (const field of of.fields) {
    const own = Object.hasOwn(value, field.name) ? (value as Record<string, unknown>)[field.name] : undefined
    const result = referenceField(field, own, text)
    if (result === null) return null
    row[field.name] = result.value
  }
  return { row }
}

function check(of: Schema, records: readonly Uint8Array[], harness = new Harness(of)): void {
  const expected = records.map((r) => reference(of, r))
  assert.deepEqual(harness.ranges(records), expected)
  assert.deepEqual(harness.ranges(records, 0), expected)
  // A line cannot hold a newline, and blank lines are no records.
  const lines = records.flatMap((r, i) =>
    r.includes(10) || /^[ \t\r]*$/.test(Buffer.from(r).toString('latin1')) ? [] : [i],
  )
  const wanted = lines.map((i) => expected[i])
  const inLines = lines.map((i) => records[i]!)
  assert.deepEqual(harness.lines(inLines), wanted)
  assert.deepEqual(harness.lines(inLines, 0), wanted)
}

const space = fc.constantFrom('', '', '', '', ' ', '  ', '\t', '\r', '\n')
const plainText = fc.oneof(
  fc.string({ maxLength: 12 }),
  fc.string({ unit: 'grapheme', maxLength: 6 }),
  fc.string({ unit: 'binary', maxLength: 5 }),
)
/** A JSON string literal: plain, with short escapes, or with every unit as \u. */
const textLiteral = fc.tuple(plainText, fc.nat(5)).map(([text, mode]) => {
  if (mode > 0) return JSON.stringify(text)
  return `"${[...Array(text.length).keys()].map((i) => `\\u${text.charCodeAt(i).toString(16).padStart(4, '0')}`).join('')}"`
})
const numberLiteral = fc.oneof(
  fc.integer().map(String),
  fc.nat(100).map(String),
  fc.double({ noNaN: true, noDefaultInfinity: true }).map((v) => JSON.stringify(v)),
  fc.integer({ min: -99_999, max: 99_999 }).map((v) => String(v / 100)),
  fc.bigInt({ min: -(2n ** 66n), max: 2n ** 66n }).map(String),
  fc.stringMatching(/^-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?$/),
  fc.stringMatching(/^-?[0-9.eE+-]{1,6}$/),
  fc.constantFrom(
    '-0',
    '0',
    '-0.0',
    '1e3',
    '1.0',
    '2147483647',
    '2147483648',
    '-2147483648',
    '-2147483649',
    '9007199254740993',
    '9223372036854775807',
    '9223372036854775808',
    '-9223372036854775808',
    '999999999',
    '1000000000',
    '999999999999999',
    '1000000000000000',
    '0.1',
    '01',
    '1e999',
  ),
)
const literal = fc.constantFrom('true', 'false', 'null', 'nul', 'True')
const dateLiteral = fc
  .date({ min: new Date(0), max: new Date('2100-01-01'), noInvalidDate: true })
  .map((d) => JSON.stringify(d.toISOString()))
const { value: anyLiteral } = fc.letrec<{ value: string; leaf: string }>((tie) => ({
  leaf: fc.oneof(textLiteral, numberLiteral, literal),
  value: fc.oneof(
    { maxDepth: 4, withCrossShrink: true },
    tie('leaf'),
    fc
      .array(
        fc.tuple(space, tie('value'), space).map((p) => p.join('')),
        { maxLength: 3 },
      )
      .map((v) => `[${v.join(',')}]`),
    fc
      .array(
        fc
          .tuple(fc.oneof(textLiteral, fc.constantFrom('"__proto__"', '"__pr\\u006fto__"', '"a"')), space, tie('value'))
          .map(([k, s, v]) => `${k}${s}:${s}${v}`),
        { maxLength: 3 },
      )
      .map((v) => `{${v.join(',')}}`),
  ),
}))

const fitting: Record<Field['kind'], fc.Arbitrary<string>> = {
  string: textLiteral,
  boolean: fc.constantFrom('true', 'false'),
  int32: fc.integer().map(String),
  int64: fc.oneof(
    fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }).map(String),
    fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }).map((v) => `"${v}"`),
  ),
  float64: numberLiteral,
  timestamp: fc.oneof(fc.nat().map(String), dateLiteral),
  opaque: anyLiteral,
}

/** A member of a record: mostly a value of the field's kind, now and then anything. */
function member(field: Field): fc.Arbitrary<string[]> {
  const value = fc.oneof(
    { weight: 12, arbitrary: fitting[field.kind] },
    { weight: 1, arbitrary: anyLiteral },
    { weight: field.nullable ? 2 : 0, arbitrary: fc.constant('null') },
  )
  const key = JSON.stringify(field.name)
  const escaped = `"\\u${field.name.charCodeAt(0).toString(16).padStart(4, '0')}${key.slice(2)}`
  const name = fc.oneof({ weight: 30, arbitrary: fc.constant(key) }, { weight: 1, arbitrary: fc.constant(escaped) })
  const count = fc.oneof(
    { weight: 30, arbitrary: fc.constant(1) },
    { weight: field.nullable ? 8 : 1, arbitrary: fc.constant(0) },
    { weight: 1, arbitrary: fc.constant(2) },
  )
  return fc
    .tuple(name, fc.tuple(value, value), space, space, count)
    .map(([n, values, a, b, c]) => values.slice(0, c).map((v) => `${n}${a}:${b}${v}`))
}

const unknownMember = fc
  .tuple(fc.oneof(textLiteral, fc.constantFrom('"__proto__"', '"i"', '"idx"')), space, anyLiteral)
  .map(([k, s, v]) => `${k}${s}:${v}`)

function record(of: Schema): fc.Arbitrary<string> {
  const members = fc.tuple(...of.fields.map(member)).map((lists) => lists.flat())
  return fc
    .tuple(
      members,
      fc.array(unknownMember, { maxLength: 2 }),
      fc.boolean(),
      fc.infiniteStream(fc.nat(1_000)),
      space,
      space,
    )
    .map(([known, unknown, shuffle, stream, a, b]) => {
      const all = [...known, ...unknown]
      if (shuffle) {
        for (let i = all.length - 1; i > 0; i--) {
          const j = stream.next().value! % (i + 1)
          ;[all[i], all[j]] = [all[j]!, all[i]!]
        }
      }
      return `${a}{${b}${all.join(`${a},${b}`)}${a}}${b}`
    })
}

describe('JSON decoder', () => {
  test('answers as JSON.parse and checks for any record', () => {
    fc.assert(
      fc.property(fc.array(record(ALL), { minLength: 1, maxLength: 8 }), (records) => {
        check(
          ALL,
          records.map((r) => Buffer.from(r)),
        )
      }),
      { numRuns: 600 },
    )
  })

  test('answers the same for a schema of many fields', () => {
    fc.assert(
      fc.property(fc.array(record(ALL), { minLength: 1, maxLength: 8 }), (records) => {
        check(
          MANY,
          records.map((r) => Buffer.from(r)),
        )
      }),
      { numRuns: 60 },
    )
  })

  test('answers the same after bytes are changed, lost or cut off', () => {
    const edit = fc.record({
      kind: fc.constantFrom('set', 'drop', 'cut', 'add'),
      at: fc.nat(10_000),
      byte: fc.oneof(fc.nat(255), fc.constantFrom(...Buffer.from('"\\{}[]:,0-.e\n \0'))),
    })
    fc.assert(
      fc.property(
        fc.array(fc.tuple(record(ALL), fc.array(edit, { minLength: 1, maxLength: 2 })), { minLength: 1, maxLength: 6 }),
        (cases) => {
          const records = cases.map(([text, edits]) => {
            let bytes = Buffer.from(text)
            for (const e of edits) {
              const at = e.at % (bytes.length + 1)
              if (e.kind === 'cut') bytes = bytes.subarray(0, at)
              else if (e.kind === 'drop') bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1)])
              else if (e.kind === 'add')
                bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from([e.byte]), bytes.subarray(at)])
              else if (at < bytes.length) bytes[at] = e.byte
            }
            return bytes
          })
          check(ALL, records)
        },
      ),
      { numRuns: 600 },
    )
  })

  test('one record cut at every byte and with every byte replaced', () => {
    const text =
      '{"id":"a\u00e9\u{1f600}","count":-12,"value":1.5e0,"at":"2001-02-03T04:05:06Z","ok":true,"extra":{"k":[1,"\\n"]},"total":12}'
    const bytes = Buffer.from(text)
    const records: Buffer[] = []
    for (let i = 0; i <= bytes.length; i++) {
      records.push(bytes.subarray(0, i))
      for (const byte of [0x00, 0x09, 0x0a, 0x20, 0x22, 0x2c, 0x30, 0x39, 0x5c, 0x7d, 0x80, 0xc3, 0xed, 0xf4]) {
        const changed = Buffer.from(bytes)
        if (i < bytes.length) changed[i] = byte
        records.push(changed)
      }
    }
    check(ALL, records)
  })

  test('accepts exactly the well-formed UTF-8 sequences', () => {
    const one = schema({ s: t.string() })
    const edges = [0x20, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff]
    const records: Buffer[] = []
    for (let lead = 0x80; lead <= 0xff; lead++) {
      for (const second of edges) {
        for (const rest of [[], [0x80], [0xbf], [0x20], [0x80, 0x80], [0xbf, 0xbf], [0x80, 0xc0], [0x80, 0x80, 0x80]]) {
          records.push(Buffer.concat([Buffer.from('{"s":"'), Buffer.from([lead, second, ...rest]), Buffer.from('"}')]))
        }
      }
    }
    check(one, records)
  })

  test('the opaque schema takes any JSON value and refuses __proto__', () => {
    fc.assert(
      fc.property(fc.array(anyLiteral, { minLength: 1, maxLength: 5 }), (values) => {
        check(
          OPAQUE_SCHEMA,
          values.map((v) => Buffer.from(v)),
        )
      }),
      { numRuns: 300 },
    )
  })

  test('numbers have the bits that JSON.parse gives', () => {
    const one = schema({ v: t.float64() })
    const harness = new Harness(one)
    fc.assert(
      fc.property(fc.array(numberLiteral, { minLength: 1, maxLength: 20 }), (values) => {
        const records = values.map((v) => Buffer.from(`{"v":${v}}`))
        const got = harness.lines(records) as ({ row: { v: number } } | null)[]
        got.forEach((g, i) => {
          const want = reference(one, records[i]!) as { row: { v: number } } | null
          assert.equal(g === null, want === null, values[i])
          if (g !== null && want !== null) assert.ok(Object.is(g.row.v, want.row.v), values[i])
        })
      }),
      { numRuns: 1_000 },
    )
  })

  test('reasons name the field, the place or the limit', () => {
    const small = schema({ a: t.string(), n: t.int32(), j: t.nullable(t.json()) })
    const reasonOf = (record: Uint8Array | string) => {
      const harness = new Harness(small, { depthMax: 4, recordBytesMax: 200 })
      assert.deepEqual(harness.lines([Buffer.from(record)]), [null])
      return harness.reasons.join('|')
    }
    assert.match(reasonOf('{"n":1}'), /Field "a" is missing/)
    assert.match(reasonOf('{"a":null,"n":1}'), /Field "a" is null/)
    assert.match(reasonOf('{"a":"x","n":1.5}'), /Field "n" must be int32, got 1.5/)
    assert.match(reasonOf('{"a":"x","n":"1"}'), /Field "n" must be int32, got "1"/)
    assert.match(reasonOf('{"a":"x","n":}'), /Malformed JSON: .*position 11|Malformed JSON: Unexpected token '}'/)
    assert.match(reasonOf(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d])), /Invalid UTF-8 at byte 2/)
    assert.match(reasonOf('{"a":"x","n":1,"j":[[[[1]]]]}'), /Nested deeper than 4 levels at position 22/)
    assert.match(reasonOf('{"a":"x","n":1,"u":[[[[1]]]]}'), /Nested deeper than 4 levels/)
    assert.match(reasonOf(`{"a":"${'x'.repeat(200)}","n":1}`), /has 214 bytes, more than the 200 allowed/)
    assert.match(reasonOf('{"a":"x","n":1,"j":{"b":{"__proto__":1}}}'), /"__proto__" in field "j" is refused/)
    assert.match(reasonOf('[1]'), /must be a JSON object, got an array/)
  })

  test('a byte order mark, blank lines and carriage returns', () => {
    const one = schema({ v: t.int32() })
    const decoder = decoderOf(one)
    const bytes = Buffer.from('\ufeff{"v":1}\r\n\n  \r\n{"v":2}\r\n\0\0\0\0\0\0\0\0')
    const rejects: string[] = []
    const batch = decoder.decodeLines(bytes, 0, bytes.length - 8, 100, (reason) => rejects.push(reason))
    assert.deepEqual([...(batch.columns[0] as { values: Int32Array }).values], [1, 2])
    assert.deepEqual(rejects, [])
    assert.equal(decoder.next, bytes.length - 8)
  })

  test('a schema of a thousand fields', () => {
    const wide = schema(
      Object.fromEntries(
        Array.from({ length: 1_000 }, (_, i) => [`field${i}`, i % 2 === 0 ? t.float64() : t.nullable(t.string())]),
      ),
    )
    const row = Object.fromEntries(
      Array.from({ length: 1_000 }, (_, i) => [`field${i}`, i % 2 === 0 ? i : i % 3 === 0 ? null : `v${i}`]),
    )
    assert.deepEqual(new Harness(wide).lines([Buffer.from(JSON.stringify(row)), Buffer.from('{"field0":1}')]), [
      { row },
      null,
    ])
  })
})

describe('timestamps', () => {
  const parse = (text: string) => parseTimestamp(Buffer.from(text), 0, Buffer.byteLength(text))
  test('agree with Date over four centuries and in every shape', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: -62_135_596_800_000, max: Date.UTC(2400, 0, 1) }),
        fc.integer({ min: -1_439, max: 1_439 }),
        (ms, offset) => {
          const iso = new Date(ms).toISOString()
          assert.equal(parse(iso), ms)
          assert.equal(parse(iso.slice(0, -1)), ms)
          assert.equal(parse(iso.slice(0, 10)), Math.floor(ms / 86_400_000) * 86_400_000)
          assert.equal(parse(iso.slice(0, 16).replaceAll('-', '/').replace('T', ' ')), Math.floor(ms / 60_000) * 60_000)
          const zone = `${offset < 0 ? '-' : '+'}${String(Math.floor(Math.abs(offset) / 60)).padStart(2, '0')}:${String(Math.abs(offset) % 60).padStart(2, '0')}`
          assert.equal(parse(`${iso.slice(0, -1)}${zone}`), Date.parse(`${iso.slice(0, -1)}${zone}`))
        },
      ),
    )
  })
  test('refuse what is no time', () => {
    for (const text of [
      '2001-02-29',
      '1900-02-29T00:00Z',
      '2001-13-01',
      '2001-00-01',
      '2001-01-00',
      '2001-01-32',
      '2001-01/01',
      '2001-01-01T24:00',
      '2001-01-01T00:60',
      '2001-01-01T00:00:60',
      '2001-01-01T00:00:00.',
      '2001-01-01T00:00Zx',
      '2001-01-01T00',
      '2001-01-01T00:00+1:00',
      '2001-01-01T00:00+24:00',
      '01-01-2001',
      '',
      'x',
    ]) {
      assert.ok(Number.isNaN(parse(text)), text)
    }
    assert.equal(parse('2000-02-29'), Date.UTC(2000, 1, 29))
    assert.equal(parse('2001-01-01T00:00:00.0005Z'), Date.UTC(2001, 0, 1) + 0.5)
  })
})

describe('JSON writer', () => {
  const rows = fc.array(
    fc.record(
      {
        id: fc.string({ unit: 'binary' }).map((s) => s.toWellFormed()),
        note: fc.option(fc.string()),
        count: fc.integer(),
        total: fc.option(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })),
        value: fc.double(),
        ratio: fc.option(fc.double()),
        at: fc.integer({ min: 0, max: 4e12 }),
        ok: fc.boolean(),
        flag: fc.option(fc.boolean()),
        extra: fc
          .jsonValue()
          .filter((v) => !JSON.stringify(v).includes('__proto__') && !Object.is(v, -0))
          .map((v) => JSON.parse(JSON.stringify(v)) as unknown),
        'clé "x"': fc.option(fc.integer()),
      },
      { noNullPrototype: true },
    ),
    { minLength: 1, maxLength: 20 },
  )
  test('what is written reads back as the same rows', () => {
    const writer = createJsonRowWriter(ALL)
    const harness = new Harness(ALL)
    fc.assert(
      fc.property(rows, (input) => {
        const arena = new ByteArena(16)
        writer.writeLines(batchOfRows(ALL, input), 0, input.length, arena)
        const lines = Buffer.from(arena.copy()).toString().trimEnd().split('\n')
        for (const line of lines) JSON.parse(line)
        assert.deepEqual(
          harness.lines(lines.map((l) => Buffer.from(l))),
          input.map((row) => ({ row })),
        )
      }),
      { numRuns: 300 },
    )
  })
  test('opaque values keep bigints and name what JSON cannot write', () => {
    const writer = createJsonRowWriter(OPAQUE_SCHEMA)
    const arena = new ByteArena(16)
    const values = [
      { a: 1n, b: 2n ** 60n, c: Number.NaN, d: [Number.NEGATIVE_INFINITY] },
      undefined,
      null,
      'x\ny',
      new Date(0),
    ]
    writer.writeLines(batchOfRows(OPAQUE_SCHEMA, values), 0, values.length, arena)
    assert.equal(
      Buffer.from(arena.copy()).toString(),
      '{"a":1,"b":"1152921504606846976","c":"NaN","d":["-Infinity"]}\nnull\nnull\n"x\\ny"\n"1970-01-01T00:00:00.000Z"\n',
    )
  })
})
