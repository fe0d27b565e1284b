/**
 * For test/packed-install.ts: the Postgres connector on the optional peer @electric-sql/pglite.
 */
import { queryPostgres } from 'millrace/connectors/postgres'

try {
  const rows = await queryPostgres({ kind: 'pglite', directory: 'store' }, 'SELECT 40 + 2 AS answer')
  process.stdout.write(`${JSON.stringify(rows)}\n`)
} catch (error) {
  process.stdout.write(`${String((error as { code?: unknown }).code)} ${(error as Error).message}\n`)
}
