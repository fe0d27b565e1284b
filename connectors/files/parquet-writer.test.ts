/** Parquet from columns: over pages and row groups, with and without dictionaries, NULLs wherever, as DuckDB and the source read it. */
import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import * as hyparquetWriter from 'hyparquet-writer'
import { gatherBatch } from '../../engine/core/batch.ts'
import { batchOfRows } from '../../engine/core/rows.ts'
import { type RowOf, schema, t } from '../../engine/core/schema.ts'
import { ByteArena } from '../../engine/core/strings.ts'
import { queryDuckDb } from '../../test/duckdb.testkit.ts'
import { readRows, withDirectory } from '../testing-context.ts'
import { filesSource } from './index.ts'
import { ParquetEncoder } from './parquet-writer.ts'

const FIELDS = {
  id: t.int32(),
  country: t.string(),
  unique: t.string(),
  early: t.nullable(t.string()),
  never: t.nullable(t.int64()),
  amount: t.nullable(t.float64()),
  flag: t.nullable(t.boolean()),
  big: t.int64(),
  at: t.timestamp(),
}
type Row = RowOf<typeof FIELDS>

function rowOf(id: number): Row {
  return {
    id,
    country: ['de', 'fr', '', 'é'][id % 4]!,
    unique: `row ${id} ${'x'.repeat(id % 17)}`,
    // NULLs in the first page alone, and not in all of it.
    early: id < 9_000 && id % 3 === 0 ? null : `v${id % 500}`,
    never: null,
    amount: id % 7 === 0 ? null : id % 11 === 0 ? Number.NaN : id / 3 - 100,
    flag: id % 5 === 0 ? null : id % 2 === 0,
    big: BigInt(id) * 1_000_000_007n * -1_003n,
    at: -1_000 + id * 86_400_000 * 3,
  }
}

/** A file of rows, in batches whose rows lie in another order than they are written. */
function fileOf(rows: readonly Row[], flushAfter: number): Buffer {
  const encoder = new ParquetEncoder(schema(FIELDS), hyparquetWriter)
  const arena = new ByteArena()
  for (let from = 0; from < rows.length; from += 2_000) {
    const part = rows.slice(from, from + 2_000)
    const batch = batchOfRows(schema(FIELDS), part.toReversed())
    const order = Int32Array.from(part.keys()).reverse()
    const held = encoder.heldBytes
    encoder.write(gatherBatch(batch, order, part.length), 0, part.length, arena)
    assert.ok(encoder.heldBytes > held)
    if (from === flushAfter) encoder.flush(arena)
  }
  encoder.finish(arena)
  return Buffer.from(arena.view())
}

test('any pages of any columns', () =>
  withDirectory(async (directory) => {
    const rows = Array.from({ length: 12_500 }, (_, id) => rowOf(id))
    const path = join(directory, 'a.parquet')
    await writeFile(path, fileOf(rows, 10_000))
    const { rows: back } = await readRows(filesSource({ path, format: 'parquet', schema: schema(FIELDS) }))
    assert.deepEqual(back, rows)
    const [totals] = await queryDuckDb(
      `SELECT count(*)::INTEGER AS n, count(DISTINCT "unique")::INTEGER AS texts, count(early)::INTEGER AS early,
              count(never)::INTEGER AS never, sum(flag::INTEGER)::INTEGER AS flags, min(big)::BIGINT AS least,
              (epoch_ms(max("at")))::BIGINT AS latest, count(*) FILTER (isnan(amount))::INTEGER AS nans,
              count(*) FILTER (country = 'é' AND id > 12000)::INTEGER AS found
       FROM read_parquet('${path}')`,
    )
    const countOf = (matches: (row: Row) => boolean) => rows.filter(matches).length
    assert.deepEqual(totals, {
      n: rows.length,
      texts: rows.length,
      early: countOf((row) => row.early !== null),
      never: 0,
      flags: countOf((row) => row.flag === true),
      least: rows.at(-1)!.big,
      latest: BigInt(rows.at(-1)!.at),
      nans: countOf((row) => Number.isNaN(row.amount)),
      found: countOf((row) => row.country === 'é' && row.id > 12_000),
    })
    const chunks = await queryDuckDb(
      `SELECT path_in_schema AS field, row_group_id::INTEGER AS "group", encodings, stats_null_count::INTEGER AS nulls,
              stats_min_value AS min, stats_max_value AS max FROM parquet_metadata('${path}')`,
    )
    const chunk = (field: string, group: number) => {
      const { encodings, nulls, min, max } = chunks.find((each) => each['field'] === field && each['group'] === group)!
      return [encodings, nulls, min, max]
    }
    assert.deepEqual(chunk('id', 0), ['PLAIN', 0, '0', '11999'])
    assert.deepEqual(chunk('country', 1), ['PLAIN, RLE_DICTIONARY', 0, '', 'é'])
    assert.deepEqual(chunk('unique', 1).slice(0, 2), ['PLAIN', 0])
    assert.deepEqual(chunk('early', 0), ['PLAIN, RLE_DICTIONARY', 3_000, 'v0', 'v99'])
    assert.deepEqual(chunk('never', 1), ['PLAIN', 500, null, null])
    assert.deepEqual(chunk('flag', 1), ['PLAIN', 100, 'false', 'true'])
  }))

test('opaque values are JSON, and a file of no rows is one', () =>
  withDirectory(async (directory) => {
    const encoder = new ParquetEncoder(schema({ extra: t.json() }), hyparquetWriter)
    const arena = new ByteArena()
    const values = [{ a: [1, 'é'] }, null, 'text', undefined, 12n, { n: Number.NaN }]
    encoder.write(
      batchOfRows(
        schema({ extra: t.json() }),
        values.map((extra) => ({ extra })),
      ),
      0,
      values.length,
      arena,
    )
    encoder.finish(arena)
    const path = join(directory, 'a.parquet')
    await writeFile(path, arena.view())
    assert.deepEqual(
      (await queryDuckDb(`SELECT extra::VARCHAR AS extra FROM read_parquet('${path}')`)).map(({ extra }) => extra),
      ['{"a":[1,"é"]}', null, '"text"', null, '12', '{"n":"NaN"}'],
    )
    await writeFile(path, fileOf([], -1))
    assert.deepEqual(await queryDuckDb(`SELECT count(*)::INTEGER AS n FROM read_parquet('${path}')`), [{ n: 0 }])
  }))

test('a time that is none is refused', () => {
  const at = schema({ at: t.timestamp() })
  const encoder = new ParquetEncoder(at, hyparquetWriter)
  const batch = batchOfRows(at, [{ at: Number.NaN }])
  assert.throws(() => encoder.write(batch, 0, 1, new ByteArena()), { code: 'ROW_NOT_SERIALIZABLE' })
})
