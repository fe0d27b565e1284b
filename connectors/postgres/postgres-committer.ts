/**
 * The Postgres sink's committer: applies sealed outbox segments and the epoch marker in one transaction.
 *
 * Runs on the coordinator's thread. The marker is a row of `millrace_epochs`, one a job and sink.
 *
 * Invariants:
 * - The marker only grows, and moves in the same transaction as the rows of its epoch.
 * - Only the last committer that opened (its token is in the marker's row) can move it. The transaction
 *   starts with the marker's UPDATE, whose row lock makes two committers wait for one another.
 * - After a failure with unknown outcome, the same transaction is tried again on a new connection: if the
 *   first one did commit, the marker says so and nothing is applied.
 */
import { randomUUID } from 'node:crypto'
import type { OutboxSegment, SinkCommitter, SinkCommitterContext } from '../../engine/contract/sink.ts'
import { MillraceError } from '../../engine/core/errors.ts'
import type { JsonValue } from '../../engine/core/json-value.ts'
import type { SinkPlan } from './postgres-sink.ts'
import { DEAD_LETTER_MARK } from './postgres-writer.ts'
import { externalError, inTransaction, type SqlConnection, SqlFailure } from './sql-connection.ts'
import { insertStatement } from './statements.ts'

const MARKER_TABLE = 'millrace_epochs'
const TRIES_MAX = 8
const BACKOFF_FIRST_MS = 50
const BACKOFF_MAX_MS = 5_000
/** A chunk also ends at this many bytes: one bind parameter must stay far below 1 GB. */
const CHUNK_BYTES_MAX = 4 * 1024 * 1024

export class PostgresCommitter implements SinkCommitter {
  private readonly context: SinkCommitterContext
  private readonly plan: SinkPlan
  private readonly connect: () => Promise<SqlConnection>
  /** Key of the marker's row. */
  private readonly markerId: string
  private readonly owner = randomUUID()
  private connecting: Promise<SqlConnection> | null = null

  /** Starts connecting at once, because an embedded database takes seconds to make. */
  constructor(context: SinkCommitterContext, plan: SinkPlan, connect: () => Promise<SqlConnection>) {
    this.context = context
    this.plan = plan
    this.connect = connect
    this.markerId = `${context.jobName}/${context.sinkId}`
    // `open` awaits it; a job that ends before must not die of an unhandled rejection.
    this.connection().catch(() => {})
  }

  async open(): Promise<void> {
    await this.retrying('prepare the target', (connection) => this.prepare(connection))
  }

  async readMarker(): Promise<number> {
    return this.retrying('read the epoch marker', async (connection) => (await this.marker(connection)).epoch)
  }

  async peekMarker(): Promise<number> {
    return this.retrying('read the epoch marker', async (connection) => {
      const { rows } = await connection.query('SELECT to_regclass($1) IS NOT NULL AS there', [MARKER_TABLE])
      if (rows[0]?.['there'] !== true) return 0
      const found = await connection.query(`SELECT epoch::text FROM ${MARKER_TABLE} WHERE sink_id = $1`, [
        this.markerId,
      ])
      return Number(found.rows[0]?.['epoch'] ?? 0)
    })
  }

  async commit(epoch: number, committables: readonly JsonValue[]): Promise<void> {
    const segments = committables.map(segmentOf)
    await this.retrying(`commit epoch ${epoch}`, async (connection) => {
      await connection.begin()
      try {
        const moved = await connection.query(
          `UPDATE ${MARKER_TABLE} SET epoch = $1, updated_at = now() WHERE sink_id = $2 AND epoch < $1 AND owner = $3`,
          [epoch, this.markerId, this.owner],
        )
        if (moved.affectedRows !== 1) {
          const marker = await this.marker(connection)
          await connection.rollback()
          if (marker.epoch >= epoch) return
          throw fenced(this.markerId)
        }
        this.context.io.failpoint?.('sink-transaction-begun')
        for (const segment of segments) await this.apply(connection, segment)
        this.context.io.failpoint?.('sink-rows-written')
      } catch (error) {
        await connection.rollback().catch(() => {})
        throw error
      }
      await connection.commit()
      this.context.io.failpoint?.('sink-transaction-committed')
    })
  }

  async close(): Promise<void> {
    const connecting = this.connecting
    this.connecting = null
    if (connecting === null) return
    const connection = await connecting.catch(() => null)
    await connection?.close()
  }

  private connection(): Promise<SqlConnection> {
    this.connecting ??= this.connect()
    return this.connecting
  }

  private async prepare(connection: SqlConnection): Promise<void> {
    const sqlStatesOfRace = ['23505', '42P07', '42710']
    await inTransaction(connection, () => this.takeOver(connection)).catch((error: unknown) => {
      // CREATE ... IF NOT EXISTS run by two sessions at once fails in one of them; the next try finds the table.
      const isRace = error instanceof SqlFailure && sqlStatesOfRace.includes(error.sqlState ?? '')
      throw isRace ? new SqlFailure({ message: error.message, sqlState: '40001' }, error) : error
    })
  }

  /** Makes what is missing and puts this committer's token into the marker's row. */
  private async takeOver(connection: SqlConnection): Promise<void> {
    await connection.query(
      `CREATE TABLE IF NOT EXISTS ${MARKER_TABLE} (sink_id text PRIMARY KEY, epoch bigint NOT NULL,
        owner text NOT NULL, updated_at timestamptz NOT NULL DEFAULT now())`,
    )
    for (const statement of this.plan.ddl) await connection.query(statement)
    if (this.plan.deadLetterTable !== null) {
      await connection.query(
        `CREATE TABLE IF NOT EXISTS ${this.plan.deadLetterTable}
          (column_name text NOT NULL, reason text NOT NULL, row_text text NOT NULL)`,
      )
    }
    await connection.query(
      `INSERT INTO ${MARKER_TABLE} (sink_id, epoch, owner) VALUES ($1, 0, $2)
        ON CONFLICT (sink_id) DO UPDATE SET owner = excluded.owner, updated_at = now()`,
      [this.markerId, this.owner],
    )
  }

  private async marker(connection: SqlConnection): Promise<{ epoch: number; owner: string }> {
    const result = await connection.query(`SELECT epoch::text, owner FROM ${MARKER_TABLE} WHERE sink_id = $1`, [
      this.markerId,
    ])
    const row = result.rows[0]
    if (row === undefined) {
      throw new MillraceError('SINK_MARKER_MISSING', `The marker of ${this.markerId} is gone from ${MARKER_TABLE}.`, {
        domain: 'external',
        hint: 'Restore the table from a backup, or start the job without its checkpoint.',
      })
    }
    return { epoch: Number(row['epoch']), owner: String(row['owner']) }
  }

  /** Inserts a segment's records in order, in chunks of one bind parameter each. */
  private async apply(connection: SqlConnection, segment: OutboxSegment): Promise<void> {
    const rows = insertStatement(this.plan)
    const letters = `INSERT INTO ${this.plan.deadLetterTable} SELECT * FROM json_to_recordset($1::text::json)
      AS r(column_name text, reason text, row_text text)`
    let chunk: string[] = []
    let chunkBytes = 0
    let isLetters = false
    const send = async () => {
      if (chunk.length === 0) return
      const json = `[${chunk.join(',')}]`
      chunk = []
      chunkBytes = 0
      await connection.query(isLetters ? letters : rows, [json])
    }
    for await (const record of this.context.readOutbox(segment)) {
      const isLetter = record[0] === DEAD_LETTER_MARK
      const isFull = chunk.length >= this.plan.chunkRowsMax || chunkBytes + record.length > CHUNK_BYTES_MAX
      if (isLetter !== isLetters || isFull) await send()
      isLetters = isLetter
      const bytes = Buffer.from(record.buffer, record.byteOffset, record.byteLength)
      chunk.push(bytes.utf8Slice(isLetter ? 1 : 0, bytes.length))
      chunkBytes += record.length
    }
    await send()
  }

  /** Runs `work`, again with growing pauses after transient failures, on a new connection where needed. */
  private async retrying<T>(what: string, work: (connection: SqlConnection) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await work(await this.connection())
      } catch (error) {
        if (error instanceof SqlFailure && error.isRowRefused) throw refusedByDatabase(what, this.plan.table, error)
        if (!isRetryable(error, attempt)) throw externalError(what, error)
        // Also after a deadlock, where the session still works: a new one is the simple way to a clean state.
        await this.close()
        await this.pause(attempt)
      }
    }
  }

  private pause(attempt: number): Promise<void> {
    const { timers, random } = this.context.io
    const limitMs = Math.min(BACKOFF_FIRST_MS * 2 ** (attempt - 1), BACKOFF_MAX_MS)
    return new Promise((resolve) => timers.schedule(limitMs * (0.5 + random.next() / 2), resolve))
  }
}

function isRetryable(error: unknown, attempt: number): boolean {
  if (attempt >= TRIES_MAX) return false
  if (error instanceof MillraceError) return error.retryable
  return error instanceof SqlFailure && error.isTransient
}

function fenced(markerId: string): MillraceError {
  return new MillraceError('SINK_FENCED', `Another run of the job has taken over the sink ${markerId}.`, {
    domain: 'user',
    hint: 'This run has to stop; look for the one that took over.',
  })
}

function refusedByDatabase(what: string, table: string, failure: SqlFailure): MillraceError {
  const column = failure.column === undefined ? '' : ` Column ${JSON.stringify(failure.column)}.`
  const detail = failure.detail === undefined ? '' : ` ${failure.detail}`
  return new MillraceError(
    'ROW_REFUSED',
    `Postgres refused a row for ${table} (${what}): ${failure.message}.${column}${detail} (SQLSTATE ${failure.sqlState})`,
    {
      domain: 'external',
      hint: 'Relax the constraint in the database, or correct its data, and start the job again: nothing is lost.',
      cause: failure,
    },
  )
}

/** A committable back from the manifest's JSON. */
function segmentOf(value: JsonValue): OutboxSegment {
  const segment = value as Partial<Record<keyof OutboxSegment, unknown>> | null
  if (
    typeof segment?.file !== 'string' ||
    typeof segment.records !== 'number' ||
    typeof segment.bytes !== 'number' ||
    typeof segment.crc32 !== 'number'
  ) {
    throw new MillraceError('COMMITTABLE_INVALID', 'A committable in the manifest is no outbox segment.', {
      domain: 'internal',
    })
  }
  return { file: segment.file, records: segment.records, bytes: segment.bytes, crc32: segment.crc32 }
}
