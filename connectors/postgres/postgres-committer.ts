/**
 * The Postgres sink's committer: applies sealed outbox segments together with the epoch marker.
 *
 * Runs on the coordinator's thread. The marker is a row of `millrace_epochs`, one a job and sink. An epoch
 * takes one transaction, or several of `transactionBytesMax` when it is larger: then the marker also says how
 * many records of the next epoch are applied, and an epoch that was interrupted goes on after them.
 *
 * Invariants:
 * - The marker only grows, and moves in the same transaction as the rows that it speaks of.
 * - An epoch of other content than the one that was begun is refused: a job that went back behind a
 *   checkpoint would else leave rows of two histories.
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
import { DEAD_LETTER_MARK, DELETE_MARK } from './postgres-writer.ts'
import { externalError, inTransaction, type SqlConnection, SqlFailure } from './sql-connection.ts'
import { chunkStatements } from './statements.ts'

const MARKER_TABLE = 'millrace_epochs'
const TRIES_MAX = 8
const BACKOFF_FIRST_MS = 50
const BACKOFF_MAX_MS = 5_000
/** A chunk also ends at this many bytes: one bind parameter must stay far below 1 GB. */
const CHUNK_BYTES_MAX = 4 * 1024 * 1024

/** What the marker says of an epoch larger than a transaction. */
interface BegunEpoch {
  readonly epoch: number | null
  readonly records: number
  readonly content: string | null
}

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
    const work = (connection: SqlConnection) => this.commitPart(connection, epoch, segments)
    while (!(await this.retrying(`commit epoch ${epoch}`, work))) {
      // Each call is one transaction.
    }
  }

  /** Applies the next part of an epoch in one transaction; true when that was the last one. */
  private async commitPart(connection: SqlConnection, epoch: number, segments: OutboxSegment[]): Promise<boolean> {
    const { failpoint } = this.context.io
    const content = segments.map(({ records, bytes, crc32 }) => `${records}:${bytes}:${crc32}`).join(' ')
    let isDone: boolean
    await connection.begin()
    try {
      const begun = await this.lockMarker(connection, epoch)
      if (begun === null) {
        await connection.rollback()
        return true
      }
      if (begun.epoch !== null && (begun.epoch !== epoch || begun.content !== content)) {
        throw otherEpochBegun(this.markerId, begun.epoch, epoch)
      }
      failpoint?.('sink-transaction-begun')
      const applied = await this.apply(connection, segments, begun.epoch === null ? 0 : begun.records)
      isDone = applied === null
      await connection.query(
        `UPDATE ${MARKER_TABLE} SET epoch = coalesce($2, epoch), part_epoch = $3, part_records = $4, part_content = $5
          WHERE sink_id = $1`,
        isDone ? [this.markerId, epoch, null, 0, null] : [this.markerId, null, epoch, applied, content],
      )
      failpoint?.('sink-rows-written')
    } catch (error) {
      await connection.rollback().catch(() => {})
      throw error
    }
    await connection.commit()
    failpoint?.('sink-transaction-committed')
    return isDone
  }

  /** Locks the marker's row and says what of the next epoch is applied; null when all of `epoch` is. */
  private async lockMarker(connection: SqlConnection, epoch: number): Promise<BegunEpoch | null> {
    const locked = await connection.query(
      `UPDATE ${MARKER_TABLE} SET updated_at = now() WHERE sink_id = $1 AND epoch < $2 AND owner = $3
        RETURNING part_epoch::text, part_records::text, part_content`,
      [this.markerId, epoch, this.owner],
    )
    const row = locked.rows[0]
    if (row === undefined) {
      if ((await this.marker(connection)).epoch >= epoch) return null
      throw fenced(this.markerId)
    }
    const begun = row['part_epoch']
    return {
      epoch: begun === null ? null : Number(begun),
      records: Number(row['part_records']),
      content: row['part_content'] as string | null,
    }
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
        owner text NOT NULL, updated_at timestamptz NOT NULL DEFAULT now(),
        part_epoch bigint, part_records bigint NOT NULL DEFAULT 0, part_content text)`,
    )
    await this.upgradeMarkers(connection)
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

  /** Adds what tables of earlier versions lack. Looked up first: altering waits for everybody else. */
  private async upgradeMarkers(connection: SqlConnection): Promise<void> {
    const found = await connection.query(
      `SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass('${MARKER_TABLE}') AND attname = 'part_content'`,
    )
    if (found.rows.length > 0) return
    await connection.query(
      `ALTER TABLE ${MARKER_TABLE} ADD COLUMN IF NOT EXISTS part_epoch bigint,
        ADD COLUMN IF NOT EXISTS part_records bigint NOT NULL DEFAULT 0, ADD COLUMN IF NOT EXISTS part_content text`,
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

  /**
   * Applies records in order, in chunks of one bind parameter each, from record `from` on. Returns null at the
   * end, or how many are applied in all when the transaction is large enough.
   */
  private async apply(
    connection: SqlConnection,
    segments: readonly OutboxSegment[],
    from: number,
  ): Promise<number | null> {
    const letters = `INSERT INTO ${this.plan.deadLetterTable} SELECT * FROM json_to_recordset($1::text::json)
      AS r(column_name text, reason text, row_text text)`
    let chunk: string[] = []
    let chunkBytes = 0
    let isLetters = false
    let hasDeletes = false
    const send = async () => {
      if (chunk.length === 0) return
      const json = `[${chunk.join(',')}]`
      chunk = []
      chunkBytes = 0
      const statements = isLetters ? [letters] : chunkStatements(this.plan, hasDeletes)
      hasDeletes = false
      for (const statement of statements) await connection.query(statement, [json])
    }
    let bytesTaken = 0
    let at = 0
    for await (const record of this.records(segments, from)) {
      if (bytesTaken >= this.plan.transactionBytesMax) {
        await send()
        return from + at
      }
      bytesTaken += record.length
      at++
      const isLetter = record[0] === DEAD_LETTER_MARK
      const isFull = chunk.length >= this.plan.chunkRowsMax || chunkBytes + record.length > CHUNK_BYTES_MAX
      if (isLetter !== isLetters || isFull) await send()
      isLetters = isLetter
      const bytes = Buffer.from(record.buffer, record.byteOffset, record.byteLength)
      const isDelete = record[0] === DELETE_MARK
      hasDeletes ||= isDelete
      chunk.push(bytes.utf8Slice(isLetter || isDelete ? 1 : 0, bytes.length))
      chunkBytes += record.length
    }
    await send()
    return null
  }

  /** The records of all segments from the one numbered `from` on. */
  private async *records(segments: readonly OutboxSegment[], from: number): AsyncGenerator<Uint8Array> {
    let skip = from
    for (const segment of segments) {
      if (skip >= segment.records) {
        skip -= segment.records
        continue
      }
      for await (const record of this.context.readOutbox(segment)) if (skip-- <= 0) yield record
      skip = 0
    }
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

function otherEpochBegun(markerId: string, begun: number, epoch: number): MillraceError {
  return new MillraceError(
    'SINK_EPOCH_BEGUN',
    `The sink ${markerId} holds part of epoch ${begun}, and is now given another epoch ${epoch}.`,
    {
      domain: 'external',
      hint: 'The job went back behind the checkpoint of that epoch. Restore that checkpoint or a later one; or remove the rows of the epoch and set part_epoch to NULL in millrace_epochs.',
    },
  )
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
