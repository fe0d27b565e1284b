/**
 * Sessions on a Postgres server, through the npm package `pg`, which is loaded only when it is needed.
 *
 * Called by connect.ts. Only the few members of `pg` declared here are used.
 */
import { MillraceError } from '../../engine/core/errors.ts'
import { isModuleMissing, packageMissing } from '../../engine/core/optional-package.ts'
import { externalError, type SqlConnection, SqlFailure, type SqlResult, sqlErrorFields } from './sql-connection.ts'

interface PgResult {
  readonly rows: readonly Record<string, unknown>[]
  readonly rowCount: number | null
  readonly command: string
}

interface PgClient {
  connect(): Promise<unknown>
  query(query: { readonly text: string; readonly values?: readonly unknown[] }): Promise<PgResult>
  end(): Promise<void>
  on(event: 'error', listener: (error: Error) => void): unknown
}

type TypeParser = (text: string) => unknown

interface PgModule {
  readonly Client: new (config: {
    readonly connectionString: string
    readonly application_name: string
    readonly connectionTimeoutMillis: number
    readonly keepAlive: boolean
    readonly types: { getTypeParser(oid: number, format?: string): TypeParser }
  }) => PgClient
  readonly types: { getTypeParser(oid: number, format?: string): TypeParser }
}

const INT8_OID = 20
const CONNECT_TIMEOUT_MS = 10_000

/** Loads `pg`; throws `PACKAGE_MISSING` when it is not installed. */
async function loadPg(): Promise<PgModule> {
  const name = 'pg'
  try {
    const module = (await import(name)) as { default?: PgModule } & Partial<PgModule>
    return module.default ?? (module as PgModule)
  } catch (error) {
    if (isModuleMissing(error, name)) throw packageMissing(name, 'A Postgres server', error)
    throw error
  }
}

/** int8 as PGlite gives it: a number while that is exact, else a bigint. */
function parseInt8(text: string): number | bigint {
  const value = Number(text)
  return Number.isSafeInteger(value) ? value : BigInt(text)
}

/** Host and database of a URL, without the password. Throws `POSTGRES_URL_INVALID`. */
function describeUrl(url: string): string {
  const parsed = URL.parse(url)
  if (parsed === null || !/^postgres(ql)?:$/.test(parsed.protocol)) {
    throw new MillraceError('POSTGRES_URL_INVALID', 'The connection URL is not a Postgres URL.', {
      hint: 'Write it as postgres://user:password@host:5432/database.',
    })
  }
  return `${parsed.host}${parsed.pathname}`
}

class ServerSession implements SqlConnection {
  private readonly client: PgClient
  private lost: Error | null = null
  private closed: Promise<void> | null = null

  constructor(client: PgClient) {
    this.client = client
    // Without a listener, a connection lost while idle would end the process.
    client.on('error', (error) => {
      this.lost = error
    })
  }

  async query(text: string, params: readonly unknown[] = []): Promise<SqlResult> {
    const result = await this.send(text, params)
    return { rows: result.rows, affectedRows: result.rowCount ?? 0 }
  }

  async begin(): Promise<void> {
    await this.send('BEGIN')
  }

  async commit(): Promise<void> {
    const result = await this.send('COMMIT')
    // COMMIT of a failed transaction succeeds as ROLLBACK.
    if (result.command === 'ROLLBACK') {
      throw new SqlFailure({ message: 'the transaction had failed', sqlState: '25P02' })
    }
  }

  async rollback(): Promise<void> {
    await this.send('ROLLBACK')
  }

  close(): Promise<void> {
    this.closed ??= this.client.end().catch(() => {})
    return this.closed
  }

  private async send(text: string, values: readonly unknown[] = []): Promise<PgResult> {
    if (this.lost !== null) throw new SqlFailure({ message: this.lost.message }, this.lost)
    try {
      return await this.client.query(values.length === 0 ? { text } : { text, values })
    } catch (error) {
      throw new SqlFailure(sqlErrorFields(error), error)
    }
  }
}

/** Connects to a server. Throws `PACKAGE_MISSING`, `POSTGRES_URL_INVALID`, `POSTGRES_UNAVAILABLE`. */
export async function connectServer(url: string): Promise<SqlConnection> {
  const where = describeUrl(url)
  const pg = await loadPg()
  const client = new pg.Client({
    connectionString: url,
    application_name: 'millrace',
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    keepAlive: true,
    types: {
      getTypeParser: (oid, format) =>
        oid === INT8_OID && format !== 'binary' ? parseInt8 : pg.types.getTypeParser(oid, format),
    },
  })
  const session = new ServerSession(client)
  try {
    await client.connect()
    await session.query(`SET TIME ZONE 'UTC'`)
    return session
  } catch (error) {
    await session.close()
    throw externalError(`connect to ${where}`, new SqlFailure(sqlErrorFields(error), error))
  }
}
