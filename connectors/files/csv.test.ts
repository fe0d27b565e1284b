/** CSV and compressed files: against DuckDB on real data, and against what was written on made-up data. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { describe, test } from 'node:test'
import { brotliCompressSync, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib'
import fc from 'fast-check'
import { type Schema, schema, t } from '../../engine/core/schema.ts'
import { queryDuckDb } from '../../test/duckdb.testkit.ts'
import { readRows, withDirectory } from '../testing-context.ts'
import { filesSource } from './index.ts'

const DATA = join(dirname(createRequire(import.meta.url).resolve('vega-datasets')), '..', 'data')

/** Reads a real file with both, the columns given as DuckDB types. */
async function compare(file: string, columns: Record<string, string>, rowSchema: Schema): Promise<number> {
  const path = join(DATA, file)
  const types = Object.entries(columns).map(([name, type]) => `'${name}': '${type}'`)
  const names = Object.keys(columns).map((name) => `"${name}"`)
  const expected = await queryDuckDb(
    `SELECT ${names} FROM read_csv('${path}', header = true, columns = {${types}}, auto_detect = false, quote = '"')`,
  )
  const { rows, letters } = await readRows(filesSource({ path, format: 'csv', schema: rowSchema }))
  assert.deepEqual(letters, [])
  assert.deepEqual(rows, expected)
  return rows.length
}

describe('real CSV files read as DuckDB reads them', () => {
  test('airports, with quoted cells that hold the delimiter', async () => {
    const columns = { iata: 'VARCHAR', name: 'VARCHAR', city: 'VARCHAR', state: 'VARCHAR', country: 'VARCHAR' }
    const text = t.nullable(t.string())
    const rowSchema = schema({
      ...{ iata: t.string(), name: text, city: text, state: text, country: text },
      ...{ latitude: t.float64(), longitude: t.float64() },
    })
    assert.equal(
      await compare('airports.csv', { ...columns, latitude: 'DOUBLE', longitude: 'DOUBLE' }, rowSchema),
      3_376,
    )
  })

  test('birdstrikes, every cell as text', async () => {
    const path = join(DATA, 'birdstrikes.csv')
    const header = readFileSync(path, 'utf8').split(/\r?\n/, 1)[0]!.split(',')
    const columns = Object.fromEntries(header.map((name) => [name, 'VARCHAR']))
    const rowSchema = schema(Object.fromEntries(header.map((name) => [name, t.nullable(t.string())])))
    assert.equal(await compare('birdstrikes.csv', columns, rowSchema), 10_000)
  })

  test('employment, of integers and negative numbers', async () => {
    const rowSchema = schema({ month: t.string(), nonfarm: t.int64(), nonfarm_change: t.float64() })
    const path = join(DATA, 'us-employment.csv')
    const expected = await queryDuckDb(
      `SELECT CAST(month AS VARCHAR) AS month, CAST(nonfarm AS BIGINT) AS nonfarm, CAST(nonfarm_change AS DOUBLE) AS nonfarm_change FROM read_csv('${path}')`,
    )
    const { rows } = await readRows(filesSource({ path, format: 'csv', schema: rowSchema }))
    assert.deepEqual(rows, expected)
    assert.ok(rows.length > 100)
  })
})

const ROW = schema({
  id: t.int32(),
  text: t.string(),
  amount: t.nullable(t.float64()),
  flag: t.boolean(),
  big: t.int64(),
  at: t.timestamp(),
  note: t.nullable(t.string()),
})
type Row = (typeof ROW)['row'] & object

const cellText = fc.oneof(
  fc.string({ unit: 'grapheme', maxLength: 8 }),
  fc.string({ unit: fc.constantFrom('a', '"', ',', '\n', '\r\n', 'é', ' '), maxLength: 8 }),
)
const anyRow: fc.Arbitrary<Row> = fc.record(
  {
    id: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
    text: cellText,
    amount: fc.option(fc.double({ noNaN: true, noDefaultInfinity: true })),
    flag: fc.boolean(),
    big: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
    at: fc.integer({ min: 0, max: 4e12 }),
    note: fc.option(cellText.filter((text) => text !== '')),
  },
  { noNullPrototype: true },
)

/** Quoted only where that is needed, or always. */
function csvCell(value: unknown, always: boolean): string {
  if (value === null) return ''
  const text = typeof value === 'number' && Object.is(value, -0) ? '-0' : String(value)
  if (!always && text !== '' && !/["\r\n,]/.test(text)) return text
  return `"${text.replaceAll('"', '""')}"`
}

function csvOf(rows: readonly Row[], always: boolean, newline: string): string {
  const names = Object.keys(ROW.fields).map((k) => ROW.fields[Number(k)]!.name)
  const lines = rows.map((row) =>
    names.map((name) => csvCell(row[name as keyof Row], always && row[name as keyof Row] !== null)).join(','),
  )
  return [names.join(','), ...lines].map((line) => line + newline).join('')
}

describe('made-up CSV', () => {
  test('comes back as it was written, however it is quoted and cut into batches, from every position', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'a.csv')
      const source = filesSource({ path, format: 'csv', schema: ROW })
      await fc.assert(
        fc.asyncProperty(
          fc.array(anyRow, { maxLength: 12 }),
          fc.boolean(),
          fc.constantFrom('\n', '\r\n'),
          fc.integer({ min: 1, max: 7 }),
          fc.nat(12),
          async (rows, always, newline, rowsMax, cut) => {
            await writeFile(path, csvOf(rows, always, newline))
            const first = await readRows(source, { rowsMax, rowsWanted: Math.min(cut, rows.length) })
            const rest = await readRows(source, { rowsMax, splits: first.positions })
            assert.deepEqual([...first.letters, ...rest.letters], [])
            assert.deepEqual([...first.rows, ...rest.rows], rows)
          },
        ),
        { numRuns: 150 },
      )
    }))

  test('records longer than the read window, and text without a last newline', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'a.csv')
      const long = `${'line\n'.repeat(200_000)}"end"`
      const rows = [1, 2, 3].map((id) => ({ id, text: id === 2 ? long : 'short' }))
      const text = ['id,text', ...rows.map((row) => `${row.id},${csvCell(row.text, false)}`)].join('\n')
      await writeFile(path, text)
      const read = await readRows(
        filesSource({ path, format: 'csv', schema: schema({ id: t.int32(), text: t.string() }) }),
      )
      assert.deepEqual(read.rows, rows)
    }))

  test('what cannot be used is a dead letter, with the reason and its position', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'a.csv')
      const lines = ['id,name', '1,a', 'x,b', '3', '4,"d" d', '5,"never closed', '6,f']
      await writeFile(path, lines.join('\n'))
      const read = await readRows(
        filesSource({ path, format: 'csv', schema: schema({ id: t.int32(), name: t.string() }) }),
      )
      assert.deepEqual(read.rows, [{ id: 1, name: 'a' }])
      assert.deepEqual(
        read.letters.map(({ offset, reason, bytes }) => [offset, reason, Buffer.from(bytes).toString()]),
        [
          [12, 'Field "id" must be int32, got "x".', 'x,b'],
          [16, 'The record has 1 cells, not 2.', '3'],
          [18, 'Cell 2 goes on behind its closing quote.', '4,"d" d'],
          [26, 'A quote is never closed.', '5,"never closed\n6,f'],
        ],
      )
    }))

  test('dialects: delimiter, NULL literal, no header; columns by name in any order, others passed over', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'a.tsv')
      const rowSchema = schema({ id: t.int32(), name: t.nullable(t.string()), age: t.nullable(t.int32()) })
      await writeFile(path, '1\tNULL\t7\n2\t"NULL"\t\n')
      const csv = { delimiter: '\t', nullLiteral: 'NULL', header: false }
      const plain = await readRows(filesSource({ path, format: 'csv', schema: rowSchema, csv }))
      const expected = [
        { id: 1, name: null, age: 7 },
        { id: 2, name: 'NULL', age: null },
      ]
      assert.deepEqual(plain.rows, expected)
      await writeFile(path, '\ufeffname;ignored;"id"\nx;"a;b";5\n')
      const named = await readRows(filesSource({ path, format: 'csv', schema: rowSchema, csv: { delimiter: ';' } }))
      assert.deepEqual(named.rows, [{ id: 5, name: 'x', age: null }])
      const strict = filesSource({ path, format: 'csv', schema: schema({ other: t.int32() }), csv: { delimiter: ';' } })
      await assert.rejects(readRows(strict), { code: 'CSV_COLUMN_MISSING' })
      assert.throws(() => filesSource({ path, schema: ROW, csv: { delimiter: 'ab' } }), { code: 'OPTION_INVALID' })
    }))
})

describe('compressed files', () => {
  const rows = Array.from({ length: 3_000 }, (_, id) => ({ id, text: `row ${id} ${'é'.repeat(id % 40)}` }))
  const rowSchema = schema({ id: t.int32(), text: t.string() })
  const forms = { gz: gzipSync, zst: zstdCompressSync, br: brotliCompressSync, deflate: deflateSync }
  const lines = rows.map((row) => `${JSON.stringify(row)}\n`).join('')
  const csv = ['id,text', ...rows.map((row) => `${row.id},${row.text}`)].join('\n')

  for (const [extension, compress] of Object.entries(forms)) {
    test(`${extension}: JSON lines, an array and CSV, resumed in the middle`, () =>
      withDirectory(async (directory) => {
        const contents = [
          { name: 'a.jsonl', format: 'json', text: lines },
          { name: 'b.json', format: 'json', text: ` [${rows.map((row) => JSON.stringify(row)).join(',\n')}] \n` },
          { name: 'c.csv', format: 'csv', text: csv },
        ] as const
        for (const { name, format, text } of contents) {
          const path = join(directory, `${name}.${extension}`)
          await writeFile(path, compress(Buffer.from(text)))
          const source = filesSource({ path, format, schema: rowSchema })
          const first = await readRows(source, { rowsMax: 100, rowsWanted: 1_234 })
          const rest = await readRows(source, { splits: first.positions })
          assert.deepEqual([...first.rows, ...rest.rows], rows, name)
          assert.deepEqual(
            (await readRows(source, { splits: rest.positions })).rows,
            [],
            'a finished file stays finished',
          )
        }
      }))
  }

  test('a damaged file fails with advice', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'a.jsonl.gz')
      await writeFile(path, gzipSync(lines).subarray(0, 5_000))
      await assert.rejects(readRows(filesSource({ path, schema: rowSchema })), { code: 'FILE_READ_FAILED' })
      await writeFile(path, lines)
      await assert.rejects(readRows(filesSource({ path, schema: rowSchema })), { code: 'FILE_READ_FAILED' })
      const plain = await readRows(filesSource({ path, schema: rowSchema, compression: 'none' }))
      assert.equal(plain.rows.length, rows.length)
    }))
})
