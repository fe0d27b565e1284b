/**
 * What it costs to make CSV and Parquet of batches, from their columns and from a row object each.
 *
 * `node bench/micro/file-formats.ts` runs both ways in turn, five rounds of 150 batches each, and prints nanoseconds of
 * processor time a row, the ratio of the two, and the sizes of what they make. The way over rows is how these files were
 * made before: it reads each row by the reader that functions use, joins CSV cells as strings, and hands
 * hyparquet-writer arrays of values.
 */
import * as hyparquetWriter from 'hyparquet-writer'
import { type PartEncoder, partEncoders } from '../../connectors/files/part-encoder.ts'
import { BATCH_ROWS_MAX, type Batch } from '../../engine/core/batch.ts'
import { batchOfRows, rowReader } from '../../engine/core/rows.ts'
import { schema, t } from '../../engine/core/schema.ts'
import { ByteArena, StringInterner } from '../../engine/core/strings.ts'

const FIELDS = {
  session: t.string(),
  client: t.string(),
  country: t.string(),
  at: t.timestamp(),
  amount: t.float64(),
  count: t.int32(),
  note: t.nullable(t.string()),
}
const EVENT = schema(FIELDS)
type Row = Readonly<Record<string, unknown>>

/** Sessions are mostly different from each other, the other texts repeat; some notes need quotes in CSV. */
function batchesOf(count: number): Batch[] {
  return Array.from({ length: count }, (_, k) =>
    batchOfRows(
      EVENT,
      Array.from({ length: BATCH_ROWS_MAX }, (_, i) => {
        const id = k * BATCH_ROWS_MAX + i
        return {
          session: `session-${Math.imul(id, 0x9e3779b1) >>> 0}`,
          client: `client ${id % 3_000}`,
          country: ['Österreich', 'France', 'Deutschland', 'Polska'][id % 4]!,
          at: 1_700_000_000_000 + id * 7,
          amount: (id % 10_007) / 8,
          count: id % 1_000,
          note: id % 3 === 0 ? null : id % 50 === 1 ? `said "${id}", then left` : 'departed on time',
        }
      }),
    ),
  )
}

type Encode = (batches: readonly Batch[]) => Uint8Array

function encodeAll(encoder: PartEncoder, batches: readonly Batch[]): Uint8Array {
  const arena = new ByteArena(1 << 20)
  for (const batch of batches) encoder.write(batch, 0, batch.length, arena)
  encoder.finish(arena)
  return arena.view()
}

function csvOfRows(batches: readonly Batch[]): Uint8Array {
  const read = rowReader(EVENT, new StringInterner(), 'csv of rows')
  const arena = new ByteArena(1 << 20)
  const names = EVENT.fields.map(({ name }) => name)
  const special = /[\r\n,"]/
  const cell = (value: unknown): string => {
    if (value === null) return ''
    if (typeof value !== 'string') return String(value)
    return value !== '' && !special.test(value) ? value : `"${value.replaceAll('"', '""')}"`
  }
  arena.writeString(`${names.join(',')}\n`)
  for (const batch of batches) {
    let text = ''
    for (let i = 0; i < batch.length; i++) {
      const row = read(batch, i) as Row
      for (let k = 0; k < names.length; k++) text += k === 0 ? cell(row[names[k]!]) : `,${cell(row[names[k]!])}`
      text += '\n'
    }
    arena.writeString(text)
  }
  return arena.view()
}

const ROW_GROUP_ROWS = 50_000

function parquetOfRows(batches: readonly Batch[]): Uint8Array {
  const read = rowReader(EVENT, new StringInterner(), 'parquet of rows')
  const bytes = new hyparquetWriter.ByteWriter()
  const types = {
    string: { type: 'BYTE_ARRAY', converted_type: 'UTF8' },
    timestamp: { type: 'INT64', converted_type: 'TIMESTAMP_MILLIS' },
    float64: { type: 'DOUBLE' },
    int32: { type: 'INT32' },
  } as const
  const elements = EVENT.fields.map(({ name, kind, nullable }) => ({
    name,
    repetition_type: nullable ? ('OPTIONAL' as const) : ('REQUIRED' as const),
    ...types[kind as keyof typeof types],
  }))
  const root = { name: 'root', num_children: elements.length }
  const writer = new hyparquetWriter.ParquetWriter({ writer: bytes, schema: [root, ...elements] })
  let columns: unknown[][] = EVENT.fields.map(() => [])
  const writeGroup = (): void => {
    const columnData = EVENT.fields.map(({ name }, k) => ({ name, data: columns[k]! }))
    writer.write({ columnData, rowGroupSize: ROW_GROUP_ROWS * 2 })
    columns = EVENT.fields.map(() => [])
  }
  for (const batch of batches) {
    for (let i = 0; i < batch.length; i++) {
      const row = read(batch, i) as Row
      EVENT.fields.forEach(({ name, kind }, k) => {
        columns[k]!.push(kind === 'timestamp' ? new Date(row[name] as number) : row[name])
      })
    }
    if (columns[0]!.length >= ROW_GROUP_ROWS) writeGroup()
  }
  if (columns[0]!.length > 0) writeGroup()
  writer.finish()
  return bytes.getBytes()
}

export interface FormatResult {
  readonly format: 'csv' | 'parquet'
  /** Nanoseconds of processor time a row, the best of the rounds. */
  readonly fromColumnsNs: number
  readonly fromRowsNs: number
  readonly fromColumns: Uint8Array
  readonly fromRows: Uint8Array
}

export async function benchFileFormats(rounds = 5, batchCount = 150): Promise<FormatResult[]> {
  const batches = batchesOf(batchCount)
  const results: FormatResult[] = []
  for (const [format, fromRows] of [
    ['csv', csvOfRows],
    ['parquet', parquetOfRows],
  ] as const) {
    const create = await partEncoders({ format, csv: {}, schema: EVENT, id: `bench ${format}` })
    const ways: readonly Encode[] = [(all) => encodeAll(create(), all), fromRows]
    const best = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY]
    const made: Uint8Array[] = []
    for (let round = 0; round < rounds; round++) {
      for (const [way, encode] of ways.entries()) {
        const before = process.cpuUsage()
        made[way] = encode(batches)
        const { user, system } = process.cpuUsage(before)
        best[way] = Math.min(best[way]!, ((user + system) * 1_000) / (batchCount * BATCH_ROWS_MAX))
      }
    }
    results.push({ format, fromColumnsNs: best[0]!, fromRowsNs: best[1]!, fromColumns: made[0]!, fromRows: made[1]! })
  }
  return results
}

if (import.meta.main) {
  for (const { format, fromColumnsNs, fromRowsNs, fromColumns, fromRows } of await benchFileFormats()) {
    const ratio = (fromRowsNs / fromColumnsNs).toFixed(2)
    const sizes = `${fromColumns.length} and ${fromRows.length} bytes`
    process.stdout.write(
      `${format}: ${fromColumnsNs.toFixed(0)} ns a row from columns, ${fromRowsNs.toFixed(0)} from rows, ratio ${ratio}; ${sizes}\n`,
    )
  }
}
