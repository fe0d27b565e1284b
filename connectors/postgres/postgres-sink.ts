/**
 * The Postgres sink: rows into a table, exactly once, on a server or on the embedded PGlite.
 *
 * Called by jobs. Writers encode rows into the checkpoint's outbox (postgres-writer.ts); once the
 * checkpoint's manifest exists, the committer applies the outbox together with an epoch marker
 * (postgres-committer.ts).
 */
import type { Sink, SinkCommitter } from '../../engine/contract/sink.ts'
import { MillraceError } from '../../engine/core/errors.ts'
import type { Schema } from '../../engine/core/schema.ts'
import { columnsOfSchema, quoteIdentifier, type TargetColumn, targetColumn } from './column-types.ts'
import { connectPostgres } from './connect.ts'
import type { PgliteHost } from './pglite-client.ts'
import { PostgresCommitter } from './postgres-committer.ts'
import { PostgresWriter } from './postgres-writer.ts'
import type { PostgresConnection } from './sql-connection.ts'

const TRANSACTION_BYTES_MAX = 64 << 20

export interface PostgresSinkOptions<T> {
  /** `table` or `schema.table`. */
  readonly table: string
  /**
   * SQL type of each column to write, as `{ id: 'bigint not null', seen: 'timestamptz', data: 'jsonb' }`.
   * Other properties of a row are not written. Left out: the fields of `schema`.
   *
   * Values: times are milliseconds since 1970 UTC (or a Date, or a text), bytea is a Uint8Array, json and
   * jsonb any JSON value, bigint and numeric take `bigint`; NaN and infinities go to float columns only.
   */
  readonly columns?: Readonly<Record<string, string>>
  /**
   * Columns that identify a row: a later row replaces an earlier one with the same key. They need a unique
   * index. Rows of one key must come from one subtask (key the stream by them) for their order to count. With a key, and
   * without `toRow`, the sink takes changelogs too, and deletes what they delete.
   */
  readonly key?: readonly string[]
  readonly connection: PostgresConnection
  /** Rows of a stream without a schema are converted to it. */
  readonly schema?: Schema<T>
  /** The columns' values of a row; left out, the row's own properties. */
  readonly toRow?: (row: T) => Readonly<Record<string, unknown>>
  /**
   * True (the default) creates the table from `columns` and `key` when it is missing; a list of statements
   * is run at every start instead, so write them with IF NOT EXISTS; false does nothing.
   */
  readonly createTable?: boolean | readonly string[]
  /**
   * A table for rows with a value that Postgres cannot store (U+0000 in a text, an integer out of range).
   * It is created when missing, and written in the same transaction as the good rows. Left out, such a row
   * fails the job with `ROW_REFUSED`.
   */
  readonly deadLetterTable?: string
  /** Rows per INSERT statement; 1,000 by default. */
  readonly chunkRowsMax?: number
  /**
   * Bytes of rows in one transaction; 64 MiB by default. An epoch that is larger becomes visible in several
   * transactions, each with its place in the marker, so that a failure between them loses and doubles nothing.
   */
  readonly transactionBytesMax?: number
  /** Owners of PGlite directories; by default the one of the process. */
  readonly host?: PgliteHost
}

/** A sink's options after checking, with names quoted. */
export interface SinkPlan {
  readonly table: string
  readonly columns: readonly TargetColumn[]
  /** Names of the key's columns; empty without a key. */
  readonly key: readonly string[]
  readonly ddl: readonly string[]
  readonly deadLetterTable: string | null
  readonly chunkRowsMax: number
  readonly transactionBytesMax: number
}

/**
 * Makes the sink. Throws `IDENTIFIER_INVALID`, `COLUMN_TYPE_INVALID` or `SINK_OPTIONS_INVALID`.
 *
 * Guarantee: exactly-once. A row becomes visible when the checkpoint that covers it completes.
 */
export function postgresSink<T = unknown>(options: PostgresSinkOptions<T>): Sink<T> {
  const plan = planOf(options)
  const toRow = options.toRow as ((row: unknown) => unknown) | undefined
  return {
    kind: 'postgres',
    guarantee: 'exactly-once',
    ...(options.schema === undefined ? {} : { schema: options.schema }),
    ...(plan.key.length === 0 || toRow !== undefined ? {} : { changelogMode: 'upsert', primaryKey: plan.key }),
    createWriter: (context) => new PostgresWriter(context, plan, toRow ?? null),
    createCommitter: (context): SinkCommitter =>
      new PostgresCommitter(context, plan, () => connectPostgres(options.connection, options.host)),
  }
}

function planOf<T>(options: PostgresSinkOptions<T>): SinkPlan {
  const declared = options.columns ?? (options.schema === undefined ? undefined : columnsOfSchema(options.schema))
  if (declared === undefined || Object.keys(declared).length === 0) {
    throw invalid(`The sink to ${options.table} has no columns.`, 'Pass columns or a schema.')
  }
  const key = options.key ?? []
  for (const name of key) {
    if (!(name in declared)) throw invalid(`The key names ${JSON.stringify(name)}, which is no column.`, '')
  }
  const columns = Object.entries(declared).map(([name, type]) => {
    const column = targetColumn(name, type)
    return key.includes(name) ? { ...column, nullable: false } : column
  })
  const chunkRowsMax = options.chunkRowsMax ?? 1_000
  if (!Number.isInteger(chunkRowsMax) || chunkRowsMax < 1) {
    throw invalid('chunkRowsMax must be a positive integer.', '')
  }
  const transactionBytesMax = options.transactionBytesMax ?? TRANSACTION_BYTES_MAX
  if (!Number.isInteger(transactionBytesMax) || transactionBytesMax < 1) {
    throw invalid('transactionBytesMax must be a positive integer.', '')
  }
  const table = quoteIdentifier(options.table, 'table', 2)
  const createTable = options.createTable ?? true
  return {
    table,
    columns,
    key,
    ddl: typeof createTable === 'boolean' ? (createTable ? [createStatement(table, columns, key)] : []) : createTable,
    deadLetterTable:
      options.deadLetterTable === undefined ? null : quoteIdentifier(options.deadLetterTable, 'table', 2),
    chunkRowsMax,
    transactionBytesMax,
  }
}

function invalid(message: string, hint: string): MillraceError {
  return new MillraceError('SINK_OPTIONS_INVALID', message, hint === '' ? {} : { hint })
}

function createStatement(table: string, columns: readonly TargetColumn[], key: readonly string[]): string {
  const lines = columns.map((c) => `"${c.name}" ${c.type}${c.nullable ? '' : ' NOT NULL'}`)
  if (key.length > 0) lines.push(`PRIMARY KEY (${key.map((name) => `"${name}"`).join(', ')})`)
  return `CREATE TABLE IF NOT EXISTS ${table} (${lines.join(', ')})`
}
