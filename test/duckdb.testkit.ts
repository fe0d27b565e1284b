/** DuckDB as the one who knows: the second reader of files in tests of formats, and what a job's answer is compared with. */
import { DuckDBInstance } from '@duckdb/node-api'

/** The rows of one query on a database of its own. */
export async function queryDuckDb(sql: string): Promise<Record<string, unknown>[]> {
  const instance = await DuckDBInstance.create(':memory:')
  const connection = await instance.connect()
  try {
    return (await connection.runAndReadAll(sql)).getRowObjectsJS()
  } finally {
    connection.closeSync()
    instance.closeSync()
  }
}
