/**
 * The collection source: rows of the program itself, as in `fromElements`.
 *
 * Called by the API and by tests. Bounded, one split whose position is the index of the next row. Every
 * thread builds the same rows from the same program, so reading from a position gives the same rows.
 */
import type { Source, SourceReader, SplitState } from '../../engine/contract/source.ts'
import { BATCH_ROWS_MAX } from '../../engine/core/batch.ts'
import { MillraceError, messageOf } from '../../engine/core/errors.ts'
import { BatchBuilder } from '../../engine/core/rows.ts'
import { OPAQUE_SCHEMA, type Schema } from '../../engine/core/schema.ts'

const SPLIT = 'rows'

export interface CollectionOptions<T> {
  /** Columns of the rows; without it a row is any JavaScript value. */
  readonly schema?: Schema<T>
  /**
   * Rows handed on at once, with a rest after each such batch, in which the watermark catches up. Watermarks come
   * between batches and a few milliseconds apart, so without it nothing in a short collection is late: give 1 to see on
   * a few rows what a long input would do.
   */
  readonly batchRows?: number
}

/**
 * Makes the source. Later changes of `rows` have no effect. Throws `OPTION_INVALID`; while reading, throws
 * `ROW_INVALID` naming the row that does not fit the schema.
 */
export function collectionSource<T>(rows: Iterable<T>, options: Schema<T> | CollectionOptions<T> = {}): Source<T> {
  const { schema = OPAQUE_SCHEMA as Schema<T>, batchRows }: CollectionOptions<T> =
    'fields' in options ? { schema: options } : options
  if (batchRows !== undefined && !(Number.isInteger(batchRows) && batchRows >= 1)) {
    throw new MillraceError('OPTION_INVALID', `Batches of ${batchRows} rows are not possible.`, {
      hint: 'Give a whole number from 1 on.',
    })
  }
  const elements = Array.from(rows)
  return {
    kind: 'collection',
    schema,
    boundedness: 'bounded',
    splits: async () => [{ id: SPLIT, position: 0 }],
    createReader: (context) =>
      new CollectionReader(
        elements,
        schema,
        batchRows === undefined ? null : { rows: batchRows, wake: () => context.wake() },
      ),
  }
}

/** A rest after every so many rows. */
interface Rests {
  readonly rows: number
  wake(): void
}

class CollectionReader implements SourceReader {
  private readonly rows: readonly unknown[]
  private readonly builder: BatchBuilder
  private readonly rests: Rests | null
  private isResting = false
  private hasSplit = false
  private next = 0

  constructor(rows: readonly unknown[], schema: Schema, rests: Rests | null) {
    this.rows = rows
    this.rests = rests
    this.builder = new BatchBuilder(schema)
  }

  async open(splits: readonly SplitState[]): Promise<void> {
    const split = splits[0]
    if (split === undefined) return
    const position = split.position
    const isIndex = typeof position === 'number' && Number.isInteger(position) && position >= 0
    if (split.id !== SPLIT || splits.length > 1 || !isIndex || position > this.rows.length) {
      throw new MillraceError(
        'POSITION_INVALID',
        `The checkpoint's position ${JSON.stringify(splits)} does not fit a collection of ${this.rows.length} rows.`,
        { hint: 'The collection was changed since the checkpoint; start without it.' },
      )
    }
    this.hasSplit = true
    this.next = position
  }

  poll(rowsMax: number) {
    const { rests } = this
    const limit = Math.min(rowsMax, rests?.rows ?? BATCH_ROWS_MAX, BATCH_ROWS_MAX)
    const end = Math.min(this.rows.length, this.next + Math.max(1, limit))
    if (this.isResting) {
      this.isResting = false
      // The engine must have seen `pending` before.
      queueMicrotask(() => rests!.wake())
      return { kind: 'pending' } as const
    }
    if (!this.hasSplit || this.next === end) return { kind: 'end' } as const
    this.isResting = rests !== null
    for (let i = this.next; i < end; i++) this.append(i)
    this.next = end
    return { kind: 'batch', split: SPLIT, batch: this.builder.build() } as const
  }

  snapshot(): readonly SplitState[] {
    return this.hasSplit ? [{ id: SPLIT, position: this.next }] : []
  }

  async close(): Promise<void> {}

  /** The program's own row is a programming error when it does not fit, so it is no dead letter. */
  private append(index: number): void {
    try {
      this.builder.append(this.rows[index], Number.NaN)
    } catch (error) {
      throw new MillraceError('ROW_INVALID', `Row ${index} of the collection: ${messageOf(error)}`, { cause: error })
    }
  }
}
