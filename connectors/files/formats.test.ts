/** Parquet, and the sink's formats: DuckDB writes what we read and reads what we write. */
import assert from 'node:assert/strict'
import { mkdir, readdir, stat } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { describe, test } from 'node:test'
import type { JsonValue } from '../../engine/core/json-value.ts'
import { batchOfRows } from '../../engine/core/rows.ts'
import { type RowOf, schema, t } from '../../engine/core/schema.ts'
import { queryDuckDb } from '../../test/duckdb.testkit.ts'
import { readRows, testCommitterContext, testWriterContext, withDirectory } from '../testing-context.ts'
import { type FilesSinkOptions, filesSink, filesSource } from './index.ts'

const FLIGHTS = join(
  dirname(createRequire(import.meta.url).resolve('vega-datasets')),
  '..',
  'data',
  'flights-3m.parquet',
)

const ROW = {
  id: t.int32(),
  text: t.nullable(t.string()),
  amount: t.nullable(t.float64()),
  flag: t.boolean(),
  big: t.int64(),
  at: t.timestamp(),
}
type Row = RowOf<typeof ROW>

function rowsOf(count: number): Row[] {
  return Array.from({ length: count }, (_, id) => ({
    id,
    text: id % 5 === 0 ? null : `é "row", ${id}\n${'x'.repeat(id % 30)}`,
    amount: id % 7 === 0 ? null : id / 3,
    flag: id % 2 === 0,
    big: BigInt(id) * 1_000_000_007n * 1_000_003n,
    at: 1_700_000_000_000 + id * 1_001,
  }))
}

/** Writes rows in two epochs of the sink and returns the paths of the finished files. */
async function written(directory: string, options: Omit<FilesSinkOptions<Row>, 'path'>, rows: readonly Row[]) {
  const path = join(directory, 'out')
  const sink = filesSink<Row>({ path, ...options })
  const writer = sink.createWriter(await testWriterContext(directory, schema(ROW)))
  const committer = sink.createCommitter!(testCommitterContext(directory))
  await writer.open()
  await committer.open()
  const half = Math.ceil(rows.length / 2)
  for (const [epoch, part] of [rows.slice(0, half), rows.slice(half)].entries()) {
    for (let from = 0; from < part.length; from += 1_000) {
      const batch = batchOfRows(schema(ROW), part.slice(from, from + 1_000))
      for (let at = 0; at < batch.length; ) {
        at = writer.write(batch, at)
        if (at < batch.length) await new Promise((resolve) => setTimeout(resolve, 1))
      }
    }
    const committable = (await writer.prepareCommit()) as JsonValue
    await committer.commit(epoch + 1, [committable])
    await committer.commit(epoch + 1, [committable])
  }
  await writer.close()
  await committer.close()
  return (await readdir(path)).filter((name) => name.startsWith('part-')).map((name) => join(path, name))
}

async function subdirectory(parent: string, name: string): Promise<string> {
  await mkdir(join(parent, name))
  return join(parent, name)
}

describe('Parquet source', () => {
  test('reads the first row groups of three million real flights as DuckDB does', async () => {
    const source = filesSource({
      path: FLIGHTS,
      format: 'parquet',
      schema: schema({ delay: t.nullable(t.int32()), distance: t.int32(), origin: t.string() }),
    })
    const splits = await source.splits({ worker: null as never })
    const rows = splits.reduce((sum, { position }) => {
      const { offset, end } = position as { offset: number; end: number }
      return sum + end - offset
    }, 0)
    const [{ count }] = (await queryDuckDb(`SELECT count(*)::INTEGER AS count FROM '${FLIGHTS}'`)) as [
      { count: number },
    ]
    assert.equal(rows, count)
    const first = splits[0]!
    const { end } = first.position as { end: number }
    const read = await readRows(source, { splits: [first] })
    const [totals] = await queryDuckDb(
      `SELECT count(*)::INTEGER AS n, sum(delay)::DOUBLE AS delay, sum(distance)::DOUBLE AS distance,
              count(DISTINCT origin)::INTEGER AS origins
       FROM (SELECT * FROM read_parquet('${FLIGHTS}', file_row_number = true) WHERE file_row_number < ${end})`,
    )
    const flights = read.rows as { delay: number | null; distance: number; origin: string }[]
    assert.deepEqual(read.letters, [])
    assert.deepEqual(
      {
        n: flights.length,
        delay: flights.reduce((sum, flight) => sum + (flight.delay ?? 0), 0),
        distance: flights.reduce((sum, flight) => sum + flight.distance, 0),
        origins: new Set(flights.map((flight) => flight.origin)).size,
      },
      totals,
    )
  })

  for (const codec of ['uncompressed', 'snappy', 'gzip', 'zstd', 'brotli']) {
    test(`${codec}: several row groups, resumed anywhere, bad rows as dead letters`, () =>
      withDirectory(async (directory) => {
        const path = join(directory, 'a.parquet')
        await queryDuckDb(
          `COPY (SELECT CAST(i AS BIGINT) AS id, CASE WHEN i % 3 = 0 THEN NULL ELSE 'row ' || i END AS text,
                        to_timestamp(i) AS at, i * 1.5 AS amount
                 FROM range(5000) t(i)) TO '${path}' (FORMAT parquet, ROW_GROUP_SIZE 2048, CODEC '${codec}')`,
        )
        const fields = { id: t.int32(), text: t.nullable(t.string()), at: t.timestamp(), amount: t.float64() }
        const expected = Array.from({ length: 5_000 }, (_, i) => {
          return { id: i, text: i % 3 === 0 ? null : `row ${i}`, at: i * 1_000, amount: i * 1.5 }
        })
        const source = filesSource({ path, format: 'parquet', schema: schema(fields) })
        for (const cut of [0, 1, 2_047, 2_048, 3_333, 5_000]) {
          const before = await readRows(source, { rowsMax: 700, rowsWanted: cut })
          const after = await readRows(source, { splits: before.positions })
          assert.deepEqual([...before.rows, ...after.rows], expected)
        }
        const strict = filesSource({ path, format: 'parquet', schema: schema({ ...fields, text: t.string() }) })
        const { rows, letters } = await readRows(strict)
        assert.equal(rows.length, expected.filter((row) => row.text !== null).length)
        assert.equal(letters.length, 5_000 - rows.length)
        assert.match(letters[0]!.reason, /"text" must be string, got NULL/)
      }))
  }

  test('a missing column and a file that is none are errors with advice', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'a.parquet')
      await queryDuckDb(`COPY (SELECT 1 AS id) TO '${path}' (FORMAT parquet)`)
      const other = filesSource({ path, format: 'parquet', schema: schema({ name: t.string() }) })
      await assert.rejects(readRows(other), { code: 'PARQUET_COLUMN_MISSING' })
      const text = filesSource({ path: import.meta.filename, format: 'parquet', schema: schema({ name: t.string() }) })
      await assert.rejects(readRows(text), { code: 'FILE_READ_FAILED' })
    }))
})

describe('files sink', () => {
  const rows = rowsOf(6_000)
  const types = `{'id': 'INTEGER', 'text': 'VARCHAR', 'amount': 'DOUBLE', 'flag': 'BOOLEAN', 'big': 'BIGINT', 'at': 'BIGINT'}`

  test('writes CSV that DuckDB and the source read back', () =>
    withDirectory(async (directory) => {
      const files = await written(directory, { format: 'csv' }, rows)
      const list = files.map((file) => `'${file}'`).join(', ')
      const read = await queryDuckDb(
        `SELECT * FROM read_csv([${list}], header = true, columns = ${types}, auto_detect = false, quote = '"', allow_quoted_nulls = false) ORDER BY id`,
      )
      assert.deepEqual(
        read.map((row) => ({ ...row, at: Number(row['at']) })),
        rows,
      )
      const back = await readRows(filesSource({ path: files.sort(), format: 'csv', schema: schema(ROW) }))
      assert.deepEqual(back.rows, rows)
    }))

  test('writes Parquet that DuckDB and the source read back', () =>
    withDirectory(async (directory) => {
      const files = await written(directory, { format: 'parquet' }, rows)
      const list = files.map((file) => `'${file}'`).join(', ')
      const read = await queryDuckDb(
        `SELECT id, text, amount, flag, big, epoch_ms("at") AS "at" FROM read_parquet([${list}]) ORDER BY id`,
      )
      assert.deepEqual(
        read.map((row) => ({ ...row, at: Number(row['at']) })),
        rows,
      )
      const back = await readRows(filesSource({ path: files.sort(), format: 'parquet', schema: schema(ROW) }))
      assert.deepEqual(back.rows, rows)
    }))

  for (const compression of ['gzip', 'zstd'] as const) {
    test(`${compression}: JSON lines and CSV come back`, () =>
      withDirectory(async (directory) => {
        for (const format of ['json', 'csv'] as const) {
          const files = await written(await subdirectory(directory, format), { format, compression }, rows)
          const back = await readRows(filesSource({ path: files.sort(), format, schema: schema(ROW) }))
          assert.deepEqual(back.rows, rows)
        }
      }))
  }

  test('rolls a part once it has the size asked for', () =>
    withDirectory(async (directory) => {
      const files = await written(directory, { rollBytes: 50_000 }, rows)
      assert.ok(files.length > 6, `${files.length} files`)
      for (const file of files) assert.ok((await stat(file)).size < 150_000)
      const back = await readRows(filesSource({ path: files, schema: schema(ROW) }))
      const byId = (a: unknown, b: unknown) => (a as Row).id - (b as Row).id
      assert.deepEqual(back.rows.sort(byId), rows)
    }))

  test('refuses rows without columns where the format needs them', () =>
    withDirectory(async (directory) => {
      const { OPAQUE_SCHEMA } = await import('../../engine/core/schema.ts')
      const writer = filesSink({ path: directory, format: 'csv' }).createWriter(
        await testWriterContext(directory, OPAQUE_SCHEMA),
      )
      await assert.rejects(writer.open(), { code: 'SCHEMA_REQUIRED' })
      assert.throws(() => filesSink({ path: directory, format: 'parquet', compression: 'gzip' }), {
        code: 'OPTION_INVALID',
      })
    }))
})
