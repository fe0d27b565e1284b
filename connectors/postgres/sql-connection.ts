/**
 * One SQL session, as the Postgres connector needs it, and how its failures are told apart.
 *
 * Implemented twice: by a client of the embedded PGlite's owner thread (pglite-client.ts) and by a
 * connection to a server (server-connection.ts). Callers use one session from one place at a time.
 */
import { MillraceError, messageOf } from '../../engine/core/errors.ts'

export interface SqlResult {
  readonly rows: readonly Record<string, unknown>[]
  /** Rows inserted, updated or deleted. */
  readonly affectedRows: number
}

export interface SqlConnection {
  /** One statement; `params` are its $1, $2, ... Throws `SqlFailure`. */
  query(text: string, params?: readonly unknown[]): Promise<SqlResult>
  begin(): Promise<void>
  /** Throws `SqlFailure` when the database rolled back instead, or when the outcome is not known. */
  commit(): Promise<void>
  rollback(): Promise<void>
  /** Ends the session; an open transaction is rolled back. Safe to call twice. */
  close(): Promise<void>
}

/** Where the database is: a directory of this machine (embedded PGlite), or a server. */
export type PostgresConnection =
  | {
      readonly kind: 'pglite'
      readonly directory: string
      /** Replaces the connector's own lock on the directory; throws `LOCK_HELD` when it is taken. */
      readonly acquireLock?: AcquireLock
    }
  /** `postgres://user:password@host:port/database`; needs the npm package `pg`. */
  | { readonly kind: 'url'; readonly url: string }

/** Takes an exclusive lock on the file `path`, whose directory exists. */
export type AcquireLock = (path: string) => { release(): void }

/** What survives of a database error on its way between threads. */
export interface SqlErrorFields {
  readonly message: string
  /** Five characters of SQLSTATE; absent when the failure is not the database's answer. */
  readonly sqlState?: string
  readonly detail?: string
  readonly column?: string
  readonly constraint?: string
}

export class SqlFailure extends Error {
  readonly sqlState: string | undefined
  readonly detail: string | undefined
  readonly column: string | undefined
  readonly constraint: string | undefined

  constructor(fields: SqlErrorFields, cause?: unknown) {
    super(fields.message, { cause })
    this.name = 'SqlFailure'
    this.sqlState = fields.sqlState
    this.detail = fields.detail
    this.column = fields.column
    this.constraint = fields.constraint
  }

  /** The database did not answer, so what it did is not known. */
  get isConnectionLost(): boolean {
    return this.sqlState === undefined || this.sqlState.startsWith('08') || this.sqlState.startsWith('57P')
  }

  /** Doing the whole transaction again may help. */
  get isTransient(): boolean {
    if (this.isConnectionLost) return true
    // 40: serialisation failure or deadlock; 53: out of memory, connections or disk; 55P03: lock not available.
    return /^(40|53|55P03)/.test(this.sqlState!)
  }

  /** A value does not fit its column or breaks a constraint: the same rows fail every time. */
  get isRowRefused(): boolean {
    return /^2[123]/.test(this.sqlState ?? '')
  }
}

/** Picks the fields of whatever a driver throws. */
export function sqlErrorFields(thrown: unknown): SqlErrorFields {
  const source = (typeof thrown === 'object' && thrown !== null ? thrown : {}) as Record<string, unknown>
  const text = (name: string): string | undefined => (typeof source[name] === 'string' ? source[name] : undefined)
  const code = text('code')
  // Node's own codes (ECONNRESET) are no SQLSTATE.
  const sqlState = code !== undefined && /^[0-9A-Z]{5}$/.test(code) && !/^E[A-Z]{4}$/.test(code) ? code : undefined
  const detail = text('detail')
  const column = text('column')
  const constraint = text('constraint')
  return {
    message: messageOf(thrown),
    ...(sqlState === undefined ? {} : { sqlState }),
    ...(detail === undefined ? {} : { detail }),
    ...(column === undefined ? {} : { column }),
    ...(constraint === undefined ? {} : { constraint }),
  }
}

/** Runs `work` in a transaction: committed when it resolves, rolled back when it throws. */
export async function inTransaction<T>(connection: SqlConnection, work: () => Promise<T>): Promise<T> {
  await connection.begin()
  let result: T
  try {
    result = await work()
  } catch (error) {
    // The first error is the one to tell; a rollback that fails means the session is gone anyway.
    await connection.rollback().catch(() => {})
    throw error
  }
  await connection.commit()
  return result
}

/** The error that users see for a failure which is not about one row. `what` as "commit epoch 7". */
export function externalError(what: string, failure: unknown): MillraceError {
  if (failure instanceof MillraceError) return failure
  const sqlState = failure instanceof SqlFailure ? failure.sqlState : undefined
  const isTransient = failure instanceof SqlFailure && failure.isTransient
  return new MillraceError(
    isTransient ? 'POSTGRES_UNAVAILABLE' : 'POSTGRES_FAILED',
    `Postgres could not ${what}: ${messageOf(failure)}${sqlState === undefined ? '' : ` (SQLSTATE ${sqlState})`}.`,
    {
      domain: 'external',
      retryable: isTransient,
      hint: isTransient
        ? 'Check that the database is up and can be reached.'
        : 'Check the table, the columns and the permissions.',
      cause: failure,
    },
  )
}
