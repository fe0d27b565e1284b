/** CSV from columns is byte for byte what it is from rows, whatever the dialect and the text. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { gatherBatch } from '../batch.ts'
import { batchOfRows } from '../rows.ts'
import { schema, t } from '../schema.ts'
import { ByteArena } from '../strings.ts'
import type { CsvDialect } from './csv-decoder.ts'
import { createCsvWriter } from './csv-writer.ts'

const FIELDS = {
  'id, "first"': t.int32(),
  text: t.nullable(t.string()),
  name: t.string(),
  amount: t.nullable(t.float64()),
  flag: t.boolean(),
  big: t.int64(),
  at: t.timestamp(),
  extra: t.json(),
}
const ROW = schema(FIELDS)

/** A line as the rules say it, from a row. */
function lineOf(row: Record<string, unknown>, { delimiter = ',', quote = '"', nullLiteral = '' }: CsvDialect): string {
  const quoted = (text: string) =>
    text === '' || text === nullLiteral || [delimiter, quote, '\n', '\r'].some((special) => text.includes(special))
      ? `${quote}${text.replaceAll(quote, quote + quote)}${quote}`
      : text
  const cell = (value: unknown) => {
    if (value === null || value === undefined) return nullLiteral
    if (typeof value === 'string') return quoted(value)
    return typeof value === 'object' ? quoted(JSON.stringify(value)) : String(value)
  }
  return ROW.fields.map(({ name }) => cell(row[name])).join(delimiter)
}

const cellText = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 12 }).filter((text) => text.isWellFormed()),
  fc.string({ unit: fc.constantFrom('a', ',', ';', '"', "'", '\n', '\r', 'é', '\\N'), maxLength: 6 }),
)
const number = fc.oneof(fc.double(), fc.integer(), fc.constantFrom(0, -0, 1e21, 5e-7))
const row = fc.record({
  'id, "first"': fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
  text: fc.option(cellText),
  name: cellText,
  amount: fc.option(number),
  flag: fc.boolean(),
  big: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  at: fc.integer({ min: 0, max: 4e12 }),
  extra: fc.constantFrom(null, { a: 'x,"y"' }, ['é']),
})
const dialect = fc.record(
  {
    delimiter: fc.constantFrom(',', ';', '\t'),
    quote: fc.constantFrom('"', "'"),
    nullLiteral: fc.constantFrom('', '\\N', 'é'),
  },
  { requiredKeys: [] },
)

test('any rows in any dialect, also out of a batch whose rows lie elsewhere', () => {
  fc.assert(
    fc.property(fc.array(row, { maxLength: 8 }), dialect, (rows, options) => {
      const writer = createCsvWriter(ROW, options)
      const order = Int32Array.from(rows.keys()).reverse()
      const batch = gatherBatch(batchOfRows(ROW, rows), order, rows.length)
      const arena = new ByteArena(1)
      writer.writeHeader(arena)
      writer.writeLines(batch, 0, rows.length, arena)
      const names = Object.fromEntries(ROW.fields.map(({ name }) => [name, name]))
      const expected = [names, ...rows.toReversed()].map((each) => `${lineOf(each, options)}\n`).join('')
      assert.equal(Buffer.from(arena.view()).toString(), expected)
    }),
    { numRuns: 150 },
  )
})
