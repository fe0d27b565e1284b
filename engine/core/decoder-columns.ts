/**
 * Where a decoder of text puts its rows: one set of column memory, used again for every batch.
 *
 * The generated path and the checked path of a decoder write into the same `DecoderColumns`. A string is a
 * view of the source buffer (starts, ends) or, when it had to be unescaped, lies in the arena and is
 * stored as -1 - position; `finish` brings both into one buffer.
 *
 * Invariant: rows [0, length) are complete; a row at `length` may be half written and is overwritten.
 */
import { BATCH_ROWS_MAX, type Batch, type Column } from './batch.ts'
import type { Field, Schema } from './schema.ts'
import { ByteArena } from './strings.ts'

/** Memory of one column. Only the arrays that its kind needs are longer than zero. */
export class ColumnMemory {
  readonly field: Field
  readonly doubles: Float64Array
  readonly int32s: Int32Array
  readonly int64s: BigInt64Array
  /** Pairs of words over `int64s`. */
  readonly words: Int32Array
  readonly booleans: Uint8Array
  readonly starts: Int32Array
  readonly ends: Int32Array
  readonly nulls: Uint8Array
  objects: unknown[] = []

  constructor(field: Field) {
    const rows = (...kinds: string[]) => (kinds.includes(field.kind) ? BATCH_ROWS_MAX : 0)
    this.field = field
    this.doubles = new Float64Array(rows('float64', 'timestamp'))
    this.int32s = new Int32Array(rows('int32'))
    this.int64s = new BigInt64Array(rows('int64'))
    this.words = new Int32Array(this.int64s.buffer)
    this.booleans = new Uint8Array(rows('boolean'))
    this.starts = new Int32Array(rows('string'))
    this.ends = new Int32Array(rows('string'))
    this.nulls = new Uint8Array(field.nullable ? BATCH_ROWS_MAX : 0)
  }

  /** Row `row` is NULL. */
  setNull(row: number): void {
    switch (this.field.kind) {
      case 'opaque':
        this.objects[row] = null
        return
      case 'string':
        this.starts[row] = 0
        this.ends[row] = 0
        break
      case 'int64':
        this.int64s[row] = 0n
        break
      case 'int32':
        this.int32s[row] = 0
        break
      case 'boolean':
        this.booleans[row] = 0
        break
      default:
        this.doubles[row] = 0
    }
    this.nulls[row] = 1
  }
}

/**
 * Declarations for generated decoders, over `columns` (a `ColumnMemory` a field): m0 is the memory of field 0, v0 its values (of
 * texts s0 and e0, their starts and ends), n0 its NULLs where there may be some.
 */
export function memoryVariables(fields: readonly Field[]): string {
  const arrays = { boolean: 'booleans', int32: 'int32s', int64: 'words', float64: 'doubles', timestamp: 'doubles' }
  return fields
    .map(({ kind, nullable }, k) => {
      const memory = `const m${k} = columns[${k}]`
      // Its array is a new one for each batch.
      if (kind === 'opaque') return memory
      const values = kind === 'string' ? `s${k} = m${k}.starts, e${k} = m${k}.ends` : `v${k} = m${k}.${arrays[kind]}`
      return `${memory}, ${values}${nullable ? `, n${k} = m${k}.nulls` : ''}`
    })
    .join('\n')
}

export class DecoderColumns {
  readonly schema: Schema
  readonly memory: readonly ColumnMemory[]
  /** Unescaped strings of this batch. */
  readonly arena = new ByteArena(1_024)
  private readonly eventTime = new Float64Array(BATCH_ROWS_MAX)

  constructor(schema: Schema) {
    this.schema = schema
    this.memory = schema.fields.map((field) => new ColumnMemory(field))
  }

  /** Starts a batch. */
  begin(): void {
    this.arena.clear()
    for (const column of this.memory) if (column.field.kind === 'opaque') column.objects = []
  }

  /** The batch of rows [0, length), whose views lie in bytes[from, to). Valid until `begin`. */
  finish(length: number, bytes: Uint8Array, from: number, to: number): Batch {
    this.eventTime.fill(Number.NaN, 0, length)
    let text = bytes
    if (this.arena.length > 0) {
      text = Buffer.allocUnsafe(to - from + this.arena.length)
      text.set(bytes.subarray(from, to), 0)
      text.set(this.arena.view(), to - from)
    }
    return {
      schema: this.schema,
      length,
      columns: this.memory.map((column) => this.column(column, length, text, from, to - from)),
      eventTime: this.eventTime.subarray(0, length),
      keys: null,
      kinds: null,
    }
  }

  private column(column: ColumnMemory, length: number, text: Uint8Array, from: number, arenaAt: number): Column {
    const hasNulls = column.nulls.length > 0 && column.nulls.subarray(0, length).includes(1)
    const nulls = hasNulls ? column.nulls.subarray(0, length) : null
    const kind = column.field.kind
    switch (kind) {
      case 'opaque':
        column.objects.length = length
        return { kind, values: column.objects, nulls: null }
      case 'string':
        if (this.arena.length > 0) moveViews(column, length, from, arenaAt)
        return {
          kind,
          bytes: text,
          starts: column.starts.subarray(0, length),
          ends: column.ends.subarray(0, length),
          nulls,
        }
      case 'boolean':
        return { kind, values: column.booleans.subarray(0, length), nulls }
      case 'int32':
        return { kind, values: column.int32s.subarray(0, length), nulls }
      case 'int64':
        return { kind, values: column.int64s.subarray(0, length), nulls }
      case 'float64':
      case 'timestamp':
        return { kind, values: column.doubles.subarray(0, length), nulls }
    }
  }
}

/** Views of the source buffer move by -from; positions in the arena lie behind the copied source bytes. */
function moveViews(column: ColumnMemory, length: number, from: number, arenaAt: number): void {
  const { starts, ends, nulls } = column
  for (let i = 0; i < length; i++) {
    if (nulls[i] === 1) continue
    const start = starts[i]!
    const end = ends[i]!
    starts[i] = start < 0 ? arenaAt - 1 - start : start - from
    ends[i] = end < 0 ? arenaAt - 1 - end : end - from
  }
}
