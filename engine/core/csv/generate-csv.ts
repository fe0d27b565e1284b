/**
 * Generates the quick path of a CSV decoder for the columns of one file.
 *
 * `record(buffer, p, row)` reads the record at `p` into row `row` and returns the position after its newline, or
 * -1 when the record is not plain: a quote, a cell that is no plain value of its kind, text that is no UTF-8,
 * a wrong number of cells. The checked path then decides. What is accepted here must be what that path accepts.
 */

import { type DecoderColumns, memoryVariables } from '../decoder-columns.ts'
import { compile, inFunctions } from '../generated-source.ts'
import { int32Reader, int64Reader, readNumber, utf8Length } from '../json/scan.ts'
import { parseTimestamp } from '../json/timestamp.ts'
import type { Field } from '../schema.ts'

export type FastCsvRecord = (buffer: Buffer, start: number, row: number) => number

export interface CsvPlan {
  readonly id: string
  readonly columns: DecoderColumns
  readonly fieldOfColumn: readonly number[]
  readonly delimiter: number
  readonly quote: number
  readonly nullLiteral: string
}

export function generateCsvRecord(plan: CsvPlan): FastCsvRecord {
  const { fields } = plan.columns.schema
  const last = plan.fieldOfColumn.length - 1
  const cells = inFunctions({
    name: 'cells',
    params: 'b, p, row',
    head: 'let s = 0, e = 0',
    steps: plan.fieldOfColumn.map((k, i) => cell(plan, k < 0 ? null : fields[k]!, k, i === last)),
    tail: 'return p',
    call: (name) => `p = ${name}(b, p, row); if (p === -1) return -1`,
  })
  // Fields without a column in the file are NULL; others have been refused.
  const used = new Set(plan.fieldOfColumn)
  const absent = inFunctions({
    name: 'absent',
    params: 'row',
    steps: fields.flatMap((_, k) => (used.has(k) ? [] : [`m${k}.setNull(row)`])),
  })
  return compile<FastCsvRecord>({
    what: 'CSV decoder',
    id: plan.id,
    helpers: {
      columns: plan.columns.memory,
      cellEnd: cellScanner(plan.delimiter, plan.quote),
      readNumber,
      readInt32: int32Reader(),
      readInt64: int64Reader(),
      parseTimestamp,
    },
    declarations: memoryVariables(fields),
    functions: [
      ...absent.functions,
      ...cells.functions,
      {
        name: 'record',
        params: 'b, p, row',
        body: `if (b[p] === 10 || b[p] === 13) return -1\n${absent.body}\n${cells.body}\nreturn p`,
      },
    ],
    result: 'record',
  })
}

/** The position of the delimiter or line break after well-formed text without quotes, or -1. */
function cellScanner(delimiter: number, quote: number): (b: Uint8Array, p: number) => number {
  const stop = new Uint8Array(256).map((_, c) =>
    c === delimiter || c === quote || c === 0x0a || c === 0x0d || c >= 0x80 ? 1 : 0,
  )
  return (b, p) => {
    for (;;) {
      let c = b[p]!
      while (stop[c] === 0) c = b[++p]!
      if (c === delimiter || c === 0x0a || c === 0x0d) return p
      if (!(c >= 0x80)) return -1
      const length = utf8Length(b, p)
      if (length === 0) return -1
      p += length
    }
  }
}

function cell(plan: CsvPlan, field: Field | null, k: number, isLast: boolean): string {
  const ending = isLast
    ? `if (b[p] === 13) p++; if (b[p] !== 10) return -1; p++`
    : `if (b[p] !== ${plan.delimiter}) return -1; p++`
  if (field === null) return `  p = cellEnd(b, p); if (p === -1) return -1; ${ending}`
  return `  ${read(plan, field, k)}\n  ${ending}`
}

function read(plan: CsvPlan, field: Field, k: number): string {
  const isEmpty = `(b[p] === ${plan.delimiter} || b[p] === 10 || b[p] === 13)`
  const value = readValue(field, k)
  if (field.kind === 'opaque') return 'return -1'
  if (field.kind === 'string') {
    // A cell of the NULL literal goes the checked way.
    const literal = plan.nullLiteral === '' ? '' : `if (e - s === ${Buffer.byteLength(plan.nullLiteral)}) return -1;`
    const nulls = field.nullable
      ? `if (s === e) m${k}.setNull(row); else { ${literal} n${k}[row] = 0; ${value} }`
      : value
    return `s = p; p = cellEnd(b, p); if (p === -1) return -1; e = p; ${nulls}`
  }
  if (!field.nullable) return value
  return `if ${isEmpty} m${k}.setNull(row); else { n${k}[row] = 0; ${value} }`
}

function readValue(field: Field, k: number): string {
  switch (field.kind) {
    case 'string':
      return `s${k}[row] = s; e${k}[row] = e;`
    case 'int32':
      return `p = readInt32(b, p, v${k}, row); if (p === -1) return -1;`
    case 'int64':
      return `p = readInt64(b, p, v${k}, row); if (p === -1) return -1;`
    case 'float64':
      return `p = readNumber(b, p, v${k}, row); if (p === -1) return -1;`
    case 'boolean':
      // true and false as they are mostly written.
      return `if (b[p] === 116 && b[p + 1] === 114 && b[p + 2] === 117 && b[p + 3] === 101) { v${k}[row] = 1; p += 4 }
  else if (b[p] === 102 && b[p + 1] === 97 && b[p + 2] === 108 && b[p + 3] === 115 && b[p + 4] === 101) { v${k}[row] = 0; p += 5 }
  else return -1;`
    default:
      return `s = p; p = cellEnd(b, p); if (p === -1) return -1
  { const ms = parseTimestamp(b, s, p); if (ms === ms) v${k}[row] = ms
  else { const q = readNumber(b, s, v${k}, row); if (q !== p || v${k}[row] - v${k}[row] !== 0) return -1 } }`
  }
}
