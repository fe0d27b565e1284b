/**
 * Rows of several batches of one schema as one new batch.
 *
 * Used where rows change places among batches: the sort of batch execution merges runs with it, and puts the small
 * results of one key after the other into batches of a useful size. Invariants:
 * - What `build` returns owns its memory, besides opaque values, which it shares with the sources.
 * - Sources are read at `build`, so they must not change until then.
 * - Pairs of a changelog stay whole: whoever adds their two rows adds them one after the other, to one batch.
 */
import { BATCH_ROWS_MAX, type Batch, type Column, type KeyColumn, type Nulls } from './batch.ts'
import { kindAt, type RowKinds } from './row-kinds.ts'
import { gatherStrings } from './strings.ts'

type NumberArray = Float64Array | Int32Array | Uint8Array | BigInt64Array
interface Strings {
  readonly bytes: Uint8Array
  readonly starts: Int32Array
  readonly ends: Int32Array
}

export class BatchGatherer {
  /** Rows added since the last `build`. */
  length = 0
  private sources: Batch[] = []
  private readonly numbers = new Map<Batch, number>()
  private readonly which = new Int32Array(BATCH_ROWS_MAX)
  private readonly rows = new Int32Array(BATCH_ROWS_MAX)
  private last: Batch | null = null
  private lastNumber = 0

  get isFull(): boolean {
    return this.length === BATCH_ROWS_MAX
  }

  /** Appends a row; there must be room. */
  add(batch: Batch, row: number): void {
    if (batch !== this.last) this.use(batch)
    this.which[this.length] = this.lastNumber
    this.rows[this.length++] = row
  }

  private use(batch: Batch): void {
    this.last = batch
    let number = this.numbers.get(batch)
    if (number === undefined) {
      number = this.sources.push(batch) - 1
      this.numbers.set(batch, number)
    }
    this.lastNumber = number
  }

  /** The rows in the order in which they were added; there must be one. */
  build(): Batch {
    const { sources, length } = this
    const { schema, keys } = sources[0]!
    const built: Batch = {
      schema,
      length,
      columns: schema.fields.map((_, k) => this.column(k)),
      eventTime: this.pick(
        sources.map((source) => source.eventTime),
        new Float64Array(length),
      ),
      keys: keys === null ? null : this.keys(),
      kinds: this.kinds(),
    }
    this.sources = []
    this.numbers.clear()
    this.last = null
    this.length = 0
    return built
  }

  private kinds(): RowKinds {
    if (this.sources.every((source) => source.kinds === null)) return null
    const { which, rows, length, sources } = this
    const kinds = new Uint8Array(length)
    for (let i = 0; i < length; i++) kinds[i] = kindAt(sources[which[i]!]!.kinds, rows[i]!)
    return kinds
  }

  private keys(): KeyColumn {
    const columns = this.sources.map((source) => source.keys!)
    const hashes = this.pick(
      columns.map((column) => column.hashes),
      new Int32Array(this.length),
    )
    return { ...this.strings(columns), hashes }
  }

  private column(k: number): Column {
    const columns = this.sources.map((source) => source.columns[k]!)
    const { kind } = columns[0]!
    const nulls = this.nulls(columns)
    switch (kind) {
      case 'string':
        return { kind, ...this.strings(columns as unknown as Strings[]), nulls }
      case 'opaque':
        return { kind, values: this.values(columns), nulls: null }
      case 'boolean':
        return { kind, values: this.pick(valuesOf<Uint8Array>(columns), new Uint8Array(this.length)), nulls }
      case 'int32':
        return { kind, values: this.pick(valuesOf<Int32Array>(columns), new Int32Array(this.length)), nulls }
      case 'int64':
        return { kind, values: this.pick(valuesOf<BigInt64Array>(columns), new BigInt64Array(this.length)), nulls }
      default:
        return { kind, values: this.pick(valuesOf<Float64Array>(columns), new Float64Array(this.length)), nulls }
    }
  }

  private pick<A extends NumberArray>(from: readonly A[], to: A): A {
    const { which, rows, length } = this
    for (let i = 0; i < length; i++) to[i] = from[which[i]!]![rows[i]!]!
    return to
  }

  private values(columns: readonly Column[]): unknown[] {
    const { which, rows, length } = this
    const from = valuesOf<readonly unknown[]>(columns)
    const values = new Array<unknown>(length)
    for (let i = 0; i < length; i++) values[i] = from[which[i]!]![rows[i]!]
    return values
  }

  private nulls(columns: readonly Column[]): Nulls {
    if (columns.every((column) => column.nulls === null)) return null
    const { which, rows, length } = this
    const nulls = new Uint8Array(length)
    for (let i = 0; i < length; i++) nulls[i] = columns[which[i]!]!.nulls?.[rows[i]!] ?? 0
    return nulls
  }

  /** Runs of rows from one source are copied together. */
  private strings(columns: readonly Strings[]): Strings {
    const { which, rows, length } = this
    const starts = new Int32Array(length)
    const ends = new Int32Array(length)
    let total = 0
    for (let i = 0; i < length; i++) {
      const column = columns[which[i]!]!
      starts[i] = total
      total += column.ends[rows[i]!]! - column.starts[rows[i]!]!
      ends[i] = total
    }
    const bytes = new Uint8Array(total)
    for (let i = 0; i < length; ) {
      const source = which[i]!
      let to = i + 1
      while (to < length && which[to] === source) to++
      const column = columns[source]!
      gatherStrings(column.bytes, column.starts, column.ends, rows.subarray(i, to), to - i, bytes, starts[i]!)
      i = to
    }
    return { bytes, starts, ends }
  }
}

function valuesOf<A>(columns: readonly Column[]): A[] {
  return columns.map((column) => (column as unknown as { readonly values: A }).values)
}
