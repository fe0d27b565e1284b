/**
 * The Postgres sink's writer: encodes rows and appends them to the checkpoint's outbox.
 *
 * Runs in every subtask. A record is the row as a JSON object of its columns. A row that Postgres
 * cannot store is either an error here or, with a dead-letter table, a record whose first byte is `!`. Of a changelog, a
 * -D is a record of its key with the first byte `-`, and a -U is left out: the +U after it has the same key.
 *
 * Invariant: a committable is one outbox segment (sink.ts), so what it holds is in a file and checked.
 */
import type { OutboxWriter, SinkWriter, SinkWriterContext } from '../../engine/contract/sink.ts'
import type { Batch } from '../../engine/core/batch.ts'
import { MillraceError } from '../../engine/core/errors.ts'
import type { JsonValue } from '../../engine/core/json-value.ts'
import { kindAt, RowKind } from '../../engine/core/row-kinds.ts'
import { type RowReader, rowReader } from '../../engine/core/rows.ts'
import { fieldIndex } from '../../engine/core/schema.ts'
import { Refusal, rowEncoder } from './column-types.ts'
import type { SinkPlan } from './postgres-sink.ts'
import { DELETE_MEMBER } from './statements.ts'

/** Above this the writer waits for the disk. */
const BUFFERED_BYTES_MAX = 4 * 1024 * 1024

/** First byte of a dead letter's record; rows start with `{`. */
export const DEAD_LETTER_MARK = '!'.charCodeAt(0)
/** First byte of the record that deletes the row of a key. */
export const DELETE_MARK = '-'.charCodeAt(0)

export class PostgresWriter implements SinkWriter {
  private readonly context: SinkWriterContext
  private readonly plan: SinkPlan
  private readonly toRow: ((row: unknown) => unknown) | null
  private readonly read: RowReader
  private readonly encode: (row: unknown) => string
  private readonly encodeKey: (row: unknown) => string
  private outbox: OutboxWriter | null = null
  private flushing: Promise<void> | null = null
  private failure: { readonly error: unknown } | null = null

  constructor(context: SinkWriterContext, plan: SinkPlan, toRow: ((row: unknown) => unknown) | null) {
    this.context = context
    this.plan = plan
    this.toRow = toRow
    if (toRow === null && !context.schema.isOpaque) {
      for (const column of plan.columns) fieldIndex(context.schema, column.name)
    }
    this.read = rowReader(context.schema, context.worker.interner, context.worker.uniqueId('postgres'))
    this.encode = rowEncoder(plan.columns)
    this.encodeKey = rowEncoder(plan.columns.filter((column) => plan.key.includes(column.name)))
  }

  async open(): Promise<void> {
    this.outbox = this.context.createOutbox()
  }

  write(batch: Batch, from: number): number {
    const outbox = this.outbox!
    for (let i = from; i < batch.length; i++) {
      if (outbox.bufferedBytes > BUFFERED_BYTES_MAX) {
        this.flush()
        return i
      }
      const kind = kindAt(batch.kinds, i)
      if (kind === RowKind.UPDATE_BEFORE) continue
      outbox.append(Buffer.from(this.encodeRow(this.read(batch, i), kind === RowKind.DELETE)))
    }
    return batch.length
  }

  async prepareCommit(): Promise<JsonValue | null> {
    // Called before anything is awaited: this is where the output is cut.
    const sealed = this.outbox!.seal()
    const [segment] = await Promise.all([sealed, this.flushing])
    if (this.failure !== null) throw this.failure.error
    return segment === null ? null : { ...segment }
  }

  async close(): Promise<void> {
    await this.outbox?.close()
  }

  private flush(): void {
    if (this.flushing !== null) return
    this.flushing = this.outbox!.flush().then(
      () => {
        this.flushing = null
        this.context.wake()
      },
      (error: unknown) => {
        this.flushing = null
        this.failure = { error }
        this.context.fail(error)
      },
    )
  }

  private encodeRow(row: unknown, isDelete: boolean): string {
    const values = this.toRow === null ? row : this.toRow(row)
    try {
      if (isDelete) return `-{"${DELETE_MEMBER}":true,${this.encodeKey(values).slice(1)}`
      return this.encode(values)
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
      const letter = { column_name: error.column, reason: error.message, row_text: rowText(values) }
      if (this.plan.deadLetterTable !== null) return `!${JSON.stringify(letter)}`
      const where = error.column === '' ? '' : `Column ${JSON.stringify(error.column)}: `
      throw new MillraceError('ROW_REFUSED', `A row for ${this.plan.table} was refused. ${where}${error.message}.`, {
        domain: 'user',
        hint: 'Change the value with toRow, or set deadLetterTable to keep such rows aside.',
        cause: error,
      })
    }
  }
}

/** A row as text for people; control characters stay escaped, so that a text column can hold it. */
function rowText(row: unknown): string {
  const seen = (_key: string, value: unknown) =>
    typeof value === 'bigint' || (typeof value === 'number' && !Number.isFinite(value)) ? String(value) : value
  try {
    return JSON.stringify(row, seen) ?? String(row)
  } catch (error) {
    return `not JSON: ${error instanceof Error ? error.message : String(error)}`
  }
}
