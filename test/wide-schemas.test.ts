/**
 * All code that is generated for a schema, for schemas of thousands of fields: values come out as they went in, to the last
 * integer of 64 bits, and no function of it is larger than the compiler takes.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { OperatorContext } from '../engine/contract/operator.ts'
import { CsvDecoder } from '../engine/core/csv/csv-decoder.ts'
import { createCsvWriter } from '../engine/core/csv/csv-writer.ts'
import { createJsonDecoder } from '../engine/core/json/json-decoder.ts'
import { createJsonRowWriter } from '../engine/core/json/json-writer.ts'
import { BatchBuilder, batchOfRows, rowReader } from '../engine/core/rows.ts'
import { type Schema, schema, t } from '../engine/core/schema.ts'
import { ByteArena, StringInterner } from '../engine/core/strings.ts'
import { columnarKernel } from '../operators/window-columnar.ts'
import { schemaCodec } from '../state/schema-codec.ts'
import { objectCodec } from '../state/value-codec.ts'

/** What decision 19 allows. A header of a function comes on top. */
const FUNCTION_CHARS_MAX = 24 * 1_024 + 200

const KINDS = [
  t.int64(),
  t.nullable(t.int64()),
  t.string(),
  t.nullable(t.string()),
  t.float64(),
  t.nullable(t.float64()),
  t.int32(),
  t.boolean(),
  t.timestamp(),
  t.nullable(t.timestamp()),
]
const EDGES = [-(2n ** 63n), 2n ** 63n - 1n, 0n, -1n, 2n ** 53n, 2n ** 53n + 1n, -(2n ** 53n) - 1n, 2n ** 63n - 2n]

function wide(fields: number): { readonly target: Schema; readonly rows: Record<string, unknown>[] } {
  const target = schema(
    Object.fromEntries(Array.from({ length: fields }, (_, k) => [`f${k}`, KINDS[k % KINDS.length]!])),
  )
  const value = (kind: string, i: number): unknown => {
    if (kind === 'int64') return EDGES[i % EDGES.length]
    if (kind === 'string') return i % 4 === 0 ? '' : `v"${i},\n`
    return kind === 'boolean' ? i % 3 === 0 : i
  }
  const rows = [0, 1, 2].map((row) =>
    Object.fromEntries(
      target.fields.map(({ name, kind, nullable }, k) => [
        name,
        nullable && (row + k) % 3 === 0 ? null : value(kind, row + Math.floor(k / KINDS.length)),
      ]),
    ),
  )
  return { target, rows }
}

/** Runs `work` and returns, without what is inside of texts, each function of the source that it generated. */
function generatedBy(work: () => void): string[] {
  const plain = globalThis.Function
  const functions: string[] = []
  globalThis.Function = new Proxy(plain, {
    construct(target, args: string[]) {
      // Functions begin at the start of a line, and nothing else that begins there is long.
      functions.push(
        ...args
          .at(-1)!
          .replace(/"(?:[^"\\]|\\.)*"/g, '""')
          .split(/^(?=function )/m),
      )
      return Reflect.construct(target, args) as object
    },
  })
  try {
    work()
  } finally {
    globalThis.Function = plain
  }
  return functions.filter((text) => text.startsWith('function '))
}

function jsonOf(target: Schema, rows: readonly unknown[]): Buffer {
  const arena = new ByteArena()
  createJsonRowWriter(target).writeLines(batchOfRows(target, rows), 0, rows.length, arena)
  return Buffer.concat([arena.view(), Buffer.alloc(8)])
}

const refuse = (reason: string): never => assert.fail(reason)

/** What each path makes of the rows. */
const PATHS: Readonly<Record<string, (target: Schema, rows: readonly Record<string, unknown>[]) => unknown[]>> = {
  'rows and columns': (target, rows) => {
    const builder = new BatchBuilder(target)
    for (const row of rows) builder.append(row, 0)
    const batch = builder.build()
    const read = rowReader(target, new StringInterner(), 'wide rows')
    return rows.map((_, i) => read(batch, i))
  },
  JSON: (target, rows) => {
    const text = jsonOf(target, rows)
    const decoder = createJsonDecoder(target, { id: 'wide JSON' })
    const batch = decoder.decodeLines(text, 0, text.length - 8, rows.length, refuse)
    const read = rowReader(target, new StringInterner(), 'wide JSON rows')
    return rows.map((_, i) => read(batch, i))
  },
  CSV: (target, rows) => {
    const arena = new ByteArena()
    createCsvWriter(target, {}).writeLines(batchOfRows(target, rows), 0, rows.length, arena)
    const text = Buffer.concat([arena.view(), Buffer.alloc(8)])
    const fieldOfColumn = target.fields.map((_, k) => k)
    const decoder = new CsvDecoder(target, { id: 'wide CSV', recordBytesMax: 1 << 20, fieldOfColumn })
    const batch = decoder.decodeLines(text, 0, text.length - 8, rows.length, refuse, true)
    const read = rowReader(target, new StringInterner(), 'wide CSV rows')
    return rows.map((_, i) => read(batch, i))
  },
  'values of state': (target, rows) => {
    const codec = schemaCodec(target, { id: 'wide state' })
    return rows.map((row) => {
      const bytes = codec.encode(row)
      return codec.decode(bytes, 0, bytes.length)
    })
  },
}

describe('schemas of three thousand fields', () => {
  const { target, rows } = wide(3_000)
  for (const [name, path] of Object.entries(PATHS)) {
    describe(name, () => {
      test('values come out as they went in, to 2^63, of functions of bounded size', () => {
        let out: unknown[] = []
        const functions = generatedBy(() => {
          out = path(target, rows)
        })
        assert.deepEqual(out, rows)
        assert.ok(functions.length > 20, `${functions.length} functions are seen`)
        for (const text of functions) {
          // An object of constants is one instruction.
          const isLiteral = /^function emptyRow\(\) \{\s*return \{ (?:"": null,? ?)+\}\s*\}\s*$/.test(text)
          assert.ok(isLiteral || text.length <= FUNCTION_CHARS_MAX, `${text.slice(0, 80)} has ${text.length}`)
        }
      })
    })
  }

  test('aggregates of numbers and NULLs, in loops of bounded size', () => {
    const input = schema({
      ...Object.fromEntries(
        Array.from({ length: 3_000 }, (_, k) => [`n${k}`, k % 2 === 0 ? t.int64() : t.nullable(t.float64())]),
      ),
    })
    const batch = batchOfRows(
      input,
      [1, 2, 3].map((n) =>
        Object.fromEntries(
          input.fields.map(({ name, kind }, k) => [name, kind === 'int64' ? BigInt(n * k) : n === 2 ? null : n * k]),
        ),
      ),
    )
    const kinds = ['sum', 'max', 'min'] as const
    const aggregates = Object.fromEntries(
      input.fields.map(({ name }, k) => [`a${k}`, { kind: kinds[k % 3]!, field: name }]),
    )
    const kernel = columnarKernel({ inputSchema: input, aggregates })
    const layout = kernel.layout as { readonly initial: readonly number[] }
    const doubles = layout.initial.map((value) => new Float64Array([value]))
    const functions = generatedBy(() =>
      kernel.open({ name: 'wide', worker: { uniqueId: () => 'wide' } } as unknown as OperatorContext, false),
    )
    assert.ok(functions.length > 20 && functions.every((text) => text.length <= FUNCTION_CHARS_MAX))
    kernel.accumulate(batch, Int32Array.of(0, 1, 2), 3, Int32Array.of(0, 0, 0), { doubles } as never, 0)
    let at = 0
    for (let k = 0; k < 3_000; k++) {
      const values = k % 2 === 0 ? [k, 2 * k, 3 * k] : [k, 3 * k]
      const wanted = [values.reduce((a, b) => a + b), Math.max(...values), Math.min(...values)][k % 3]
      assert.equal(doubles[at++]![0], wanted, `aggregate ${k}`)
      // How many values a nullable field had.
      if (k % 2 === 1) assert.equal(doubles[at++]![0], 2)
    }
    assert.equal(at, doubles.length)
  })
})

test('a JSON record of many fields with missing, unknown, repeated and reordered keys is read as by the checked path', () => {
  const { target, rows } = wide(200)
  const nullables = target.fields.flatMap(({ name, nullable }) => (nullable ? [name] : []))
  const [row] = rows
  const absent = Object.fromEntries(Object.entries(row!).filter(([name]) => !nullables.includes(name)))
  const plain = jsonOf(target, [row]).toString('utf8').split('\n')[0]!
  const members = plain.slice(1, -1).split(/,(?="f\d+":)/)
  const lines: readonly (readonly [string, unknown])[] = [
    [plain, row],
    [`{${members.toReversed().join(',')}}`, row],
    [`{ ${members.join(' , ')} , "other": {"f0": [1, "}"]} , "f00":1 }`, row],
    [
      `{${members.filter((member) => !nullables.includes(member.split('"')[1]!)).join(',')}}`,
      { ...absent, ...Object.fromEntries(nullables.map((name) => [name, null])) },
    ],
    [`{${members.join(',')},"f6":-7}`, { ...row, f6: -7 }],
    [plain, row],
    [`{${members.slice(1).join(',')}}`, 'Field "f0" is missing'],
    [plain.slice(0, -1), 'Malformed JSON'],
    [`{${members.join(',')},}`, 'Malformed JSON'],
    ['{}', 'Field "f0" is missing'],
    [plain, row],
  ]
  const text = Buffer.from(`${lines.map(([line]) => line).join('\n')}\n${'\0'.repeat(8)}`)
  const decoder = createJsonDecoder(target, { id: 'wide lines' })
  const read = rowReader(target, new StringInterner(), 'wide lines')
  const reasons: string[] = []
  const batch = decoder.decodeLines(text, 0, text.length - 8, lines.length, (reason) => reasons.push(reason))
  assert.deepEqual(
    Array.from({ length: batch.length }, (_, i) => read(batch, i)),
    lines.flatMap(([, wanted]) => (typeof wanted === 'string' ? [] : [wanted])),
  )
  const wanted = lines.flatMap(([, reason]) => (typeof reason === 'string' ? [reason] : []))
  assert.equal(reasons.length, wanted.length)
  for (const [i, reason] of reasons.entries()) assert.ok(reason.includes(wanted[i]!), reason)
})

test('the largest compact value of state is one function', () => {
  const names = Array.from({ length: 64 }, (_, k) => `${k}`.repeat(500))
  const value = Object.fromEntries(names.map((name, k) => [name, `text ${k}`]))
  const codec = objectCodec(() => ({ ...value }), { id: 'largest compact' })
  assert.match(codec.description, /^object\(/)
  const bytes = codec.encode(value)
  assert.deepEqual(codec.decode(bytes, 0, bytes.length), value)
})
