/**
 * Opens a session on whichever database a connection names, and reads from it.
 *
 * Called by the sink's committer, by the command line and by tests.
 *
 * `processHost` is this connector's only module state: two sinks of a job and a reader on one directory
 * have to share its owner thread, and nothing else joins them. It holds an entry only while sessions are
 * open.
 */
import { PgliteHost } from './pglite-client.ts'
import { connectServer } from './server-connection.ts'
import { externalError, type PostgresConnection, type SqlConnection } from './sql-connection.ts'

const processHost = new PgliteHost()

/** Opens a session. Throws what `PgliteHost.connect` and `connectServer` throw. */
export function connectPostgres(
  connection: PostgresConnection,
  host: PgliteHost = processHost,
): Promise<SqlConnection> {
  return connection.kind === 'pglite'
    ? host.connect(connection.directory, connection.acquireLock)
    : connectServer(connection.url)
}

/**
 * Runs one statement and resolves to its rows. int8 comes as a number while exact, else as a bigint;
 * numeric as text; timestamptz as a Date; json parsed. Throws `POSTGRES_FAILED` with the database's message.
 */
export async function queryPostgres(
  connection: PostgresConnection,
  sql: string,
  params: readonly unknown[] = [],
  host?: PgliteHost,
): Promise<readonly Record<string, unknown>[]> {
  const session = await connectPostgres(connection, host)
  try {
    const result = await session.query(sql, params)
    return result.rows
  } catch (error) {
    throw externalError('run the query', error)
  } finally {
    await session.close()
  }
}
