/** Postgres connector: exactly-once sink, on a server or on the embedded PGlite, and a read helper. */
export { connectPostgres, queryPostgres } from './connect.ts'
export { PgliteHost } from './pglite-client.ts'
export { type PostgresSinkOptions, postgresSink } from './postgres-sink.ts'
export type { PostgresConnection, SqlConnection } from './sql-connection.ts'
