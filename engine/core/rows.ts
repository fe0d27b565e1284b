/**
 * Between columns and the plain row objects that lambdas see.
 *
 * `rowReader` generates one function per schema that makes rows with data properties only, never
 * referring to a batch's buffers: a lambda may keep, spread or serialise its row. `BatchBuilder`
 * goes the other way by a generated function too, and checks each value against its column.
 */

import { assert } from './assert.ts'
import { BATCH_ROWS_MAX, type Batch, type Column, type Nulls } from './batch.ts'
import { MillraceError } from './errors.ts'
import { compile, inFunctions, rowMaking } from './generated-source.ts'
import type { Field, Schema } from './schema.ts'
import { ByteArena, type StringInterner } from './strings.ts'

/** Reads row `i` of `batch` as a fresh plain object (the bare value for the opaque schema). */
export type RowReader = (batch: Batch, i: number) => unknown

/**
 * Generates the row reader of a schema. `id` makes the source unique: functions with identical source
 * share inline caches, which would make them megamorphic.
 */
export function rowReader(schema: Schema, interner: StringInterner, id: string): RowReader {
  if (schema.isOpaque) return (batch, i) => (batch.columns[0] as { values: readonly unknown[] }).values[i]
  const { fields } = schema
  const variables = fields.map(({ kind }, k) => (kind === 'string' ? `v${k}, n${k}, s${k}, e${k}` : `v${k}, n${k}`))
  const bind = inFunctions({
    name: 'bind',
    params: 'batch',
    head: 'let c',
    steps: fields.map(
      ({ kind }, k) =>
        `c = batch.columns[${k}]; n${k} = c.nulls; ${kind === 'string' ? `v${k} = c.bytes; s${k} = c.starts; e${k} = c.ends;` : `v${k} = c.values;`}`,
    ),
  })
  const values = fields.map(readExpression)
  const row = rowMaking({
    fields,
    name: 'read',
    params: 'i',
    narrow: `return { ${fields.map(({ name }, k) => `${JSON.stringify(name)}: ${values[k]}`).join(', ')} }`,
    set: (k, target) => `${target} = ${values[k]}`,
  })
  return compile<RowReader>({
    what: 'row reader',
    id,
    helpers: { interner },
    declarations: `let bound = null, ${variables.join(', ')}`,
    functions: [
      ...bind.functions,
      ...row.functions,
      {
        name: 'readRow',
        params: 'batch, i',
        body: `if (batch !== bound) { bound = batch; ${bind.body} }\n${row.body}`,
      },
    ],
    result: 'readRow',
  })
}

function readExpression(field: Field, k: number): string {
  const value =
    field.kind === 'string'
      ? `interner.decode(v${k}, s${k}[i], e${k}[i])`
      : field.kind === 'boolean'
        ? `v${k}[i] === 1`
        : `v${k}[i]`
  if (field.kind === 'opaque' || !field.nullable) return value
  return `n${k} !== null && n${k}[i] === 1 ? null : ${value}`
}

/** Where a column's values are written, one append a row. */
interface ColumnBuilder {
  /** Checks the value, and takes it or throws. */
  readonly append: (value: unknown, row: number) => void
  /** Of columns of fixed width: where a generated writer stores plain values without a call. */
  readonly fixed?: { readonly values: FixedArray; readonly nulls: NullTracker }
  /** The column of the rows so far, in memory of its own; starts afresh. */
  build(length: number): Column
}

type RowWriter = (row: object, at: number) => void

/** A function that stores the fields of a row; what is not plainly right is left to the column's `append`. */
function rowWriter(schema: Schema, columns: readonly ColumnBuilder[]): RowWriter {
  const writing = inFunctions({
    name: 'write',
    params: 'row, at',
    head: 'let v',
    steps: schema.fields.map((field, k) => {
      const stored = columns[k]!.fixed === undefined ? null : plainStore(field.kind)
      const clear = field.nullable ? `nulls[${k}].clear(at);` : ''
      const append = `append${k}(v, at);`
      return `v = row[${JSON.stringify(field.name)}];
      ${stored === null ? append : `if (${stored.test}) { values${k}[at] = ${stored.value}; ${clear} } else ${append}`}`
    }),
  })
  return compile<RowWriter>({
    what: 'row writer',
    id: '',
    helpers: {
      values: columns.map((column) => column.fixed?.values),
      nulls: columns.map((column) => column.fixed?.nulls),
      appends: columns.map((column) => column.append),
    },
    declarations: `const [${columns.map((_, k) => `values${k}`).join(', ')}] = values, [${columns.map((_, k) => `append${k}`).join(', ')}] = appends`,
    functions: [...writing.functions, { name: 'writeRow', params: 'row, at', body: writing.body }],
    result: 'writeRow',
  })
}

/** How a plain JavaScript value `v` of a kind is told and stored; null where `append` has to look closer. */
function plainStore(kind: Field['kind']): { readonly test: string; readonly value: string } | null {
  switch (kind) {
    case 'float64':
    case 'timestamp':
      return { test: `typeof v === 'number'`, value: 'v' }
    case 'int32':
      return { test: `typeof v === 'number' && (v | 0) === v`, value: 'v' }
    case 'boolean':
      return { test: `typeof v === 'boolean'`, value: 'v ? 1 : 0' }
    default:
      return null
  }
}

/** Collects rows into batches of at most `BATCH_ROWS_MAX` rows. */
export class BatchBuilder {
  length = 0
  readonly schema: Schema
  private readonly columns: readonly ColumnBuilder[]
  private readonly eventTime: Float64Array
  private readonly write: RowWriter

  constructor(schema: Schema) {
    this.schema = schema
    this.columns = schema.fields.map(columnBuilder)
    this.write = rowWriter(schema, this.columns)
    this.eventTime = new Float64Array(BATCH_ROWS_MAX)
  }

  get isFull(): boolean {
    return this.length === BATCH_ROWS_MAX
  }

  /** Appends one row; the builder must not be full. Throws `ROW_INVALID` naming the field. */
  append(row: unknown, eventTime: number): void {
    const at = this.length
    assert(at < BATCH_ROWS_MAX, 'a batch builder is built before it overflows')
    if (this.schema.isOpaque) {
      this.columns[0]!.append(row, at)
    } else {
      if (row === null || typeof row !== 'object') {
        throw new MillraceError('ROW_INVALID', `A row must be an object, got ${row === null ? 'null' : typeof row}.`)
      }
      this.write(row, at)
    }
    this.eventTime[at] = eventTime
    this.length = at + 1
  }

  /** The batch of the rows so far; the builder starts afresh. */
  build(): Batch {
    const length = this.length
    const batch: Batch = {
      schema: this.schema,
      length,
      columns: this.columns.map((column) => column.build(length)),
      eventTime: this.eventTime.slice(0, length),
      keys: null,
      kinds: null,
    }
    this.length = 0
    return batch
  }
}

/**
 * A batch from row objects, for sources of your own: up to 2,048 rows, each with its event time in milliseconds where
 * `eventTimes` has one. Throws `BATCH_TOO_LARGE`, and `ROW_INVALID` for a row that does not fit the schema.
 */
export function batchOfRows(schema: Schema, rows: readonly unknown[], eventTimes?: readonly number[]): Batch {
  if (rows.length > BATCH_ROWS_MAX) {
    throw new MillraceError('BATCH_TOO_LARGE', `${rows.length} rows are too many for a batch.`, {
      hint: `Hand on up to ${BATCH_ROWS_MAX} at once, as \`poll\` is asked for.`,
    })
  }
  const builder = new BatchBuilder(schema)
  for (let i = 0; i < rows.length; i++) builder.append(rows[i], eventTimes === undefined ? Number.NaN : eventTimes[i]!)
  return builder.build()
}

function typeError(field: Field, value: unknown): MillraceError {
  const got = value === null ? 'null' : typeof value
  return new MillraceError('ROW_INVALID', `Field ${JSON.stringify(field.name)} must be ${field.kind}, got ${got}.`, {
    hint: field.nullable ? '' : 'Declare it with t.nullable(...) if it may be absent.',
  })
}

function columnBuilder(field: Field): ColumnBuilder {
  switch (field.kind) {
    case 'opaque':
      return opaqueBuilder()
    case 'string':
      return stringBuilder(field)
    case 'boolean':
      return fixedBuilder(field, (v) => (v === true ? 1 : v === false ? 0 : undefined))
    case 'int32':
      return fixedBuilder(field, (v) => (typeof v === 'number' && (v | 0) === v ? v : undefined))
    case 'int64':
      return fixedBuilder(field, (v) =>
        typeof v === 'bigint'
          ? BigInt.asIntN(64, v) === v
            ? v
            : undefined
          : typeof v === 'number' && Number.isSafeInteger(v)
            ? BigInt(v)
            : undefined,
      )
    case 'float64':
    case 'timestamp':
      return fixedBuilder(field, (v) => (typeof v === 'number' ? v : v instanceof Date ? v.getTime() : undefined))
  }
}

function opaqueBuilder(): ColumnBuilder {
  let values: unknown[] = []
  return {
    append: (value, row) => {
      values[row] = value
    },
    build: (length) => {
      const built = values
      values = []
      // A row that another column refused may have left its value behind.
      built.length = length
      return { kind: 'opaque', values: built, nulls: null }
    },
  }
}

class NullTracker {
  private nulls: Uint8Array | null = null
  mark(row: number): void {
    this.nulls ??= new Uint8Array(BATCH_ROWS_MAX)
    this.nulls[row] = 1
  }
  /** Forgets the mark that a refused row may have left. */
  clear(row: number): void {
    if (this.nulls !== null) this.nulls[row] = 0
  }
  build(length: number): Nulls {
    const { nulls } = this
    this.nulls = null
    return nulls === null ? null : nulls.subarray(0, length)
  }
}

const STRING_BYTES_MIN = 256

function stringBuilder(field: Field): ColumnBuilder {
  // Handed out with each column, so that small batches of a quiet stream cost little: as large as the last one was.
  let arena = new ByteArena(STRING_BYTES_MIN)
  const starts = new Int32Array(BATCH_ROWS_MAX)
  const ends = new Int32Array(BATCH_ROWS_MAX)
  const nulls = new NullTracker()
  return {
    append: (value, row) => {
      starts[row] = arena.length
      nulls.clear(row)
      if (typeof value === 'string') arena.writeString(value)
      else if ((value === null || value === undefined) && field.nullable) nulls.mark(row)
      else throw typeError(field, value)
      ends[row] = arena.length
    },
    build: (length) => {
      const bytes = arena.view()
      arena = new ByteArena(Math.max(STRING_BYTES_MIN, bytes.length + (bytes.length >> 3)))
      return {
        kind: 'string',
        bytes,
        starts: starts.slice(0, length),
        ends: ends.slice(0, length),
        nulls: nulls.build(length),
      }
    },
  }
}

type FixedArray = Uint8Array | Int32Array | Float64Array | BigInt64Array

function fixedArray(kind: Field['kind']): FixedArray {
  switch (kind) {
    case 'boolean':
      return new Uint8Array(BATCH_ROWS_MAX)
    case 'int32':
      return new Int32Array(BATCH_ROWS_MAX)
    case 'int64':
      return new BigInt64Array(BATCH_ROWS_MAX)
    default:
      return new Float64Array(BATCH_ROWS_MAX)
  }
}

function fixedBuilder(field: Field, convert: (value: unknown) => number | bigint | undefined): ColumnBuilder {
  const values = fixedArray(field.kind)
  const nulls = new NullTracker()
  return {
    fixed: { values, nulls },
    append: (value, row) => {
      const converted = convert(value)
      nulls.clear(row)
      if (converted !== undefined) values[row] = converted as never
      else if ((value === null || value === undefined) && field.nullable) nulls.mark(row)
      else throw typeError(field, value)
    },
    build: (length) => ({ kind: field.kind, values: values.slice(0, length), nulls: nulls.build(length) }) as Column,
  }
}
