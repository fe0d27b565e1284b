/**
 * The SQL that applies a chunk of rows, given as one bind parameter: a JSON array of objects.
 *
 * Called by the committer. Names come quoted from the sink's plan; values never enter a statement.
 */
import type { SinkPlan } from './postgres-sink.ts'

/** INSERT of a chunk; with a key, an upsert in which the chunk's last row of a key wins. */
export function insertStatement(plan: SinkPlan): string {
  const names = plan.columns.map((column) => `"${column.name}"`)
  const list = names.join(', ')
  const types = plan.columns.map((column) => `"${column.name}" ${column.type}`).join(', ')
  if (plan.key.length === 0) {
    return `INSERT INTO ${plan.table} (${list}) SELECT ${list} FROM json_to_recordset($1::text::json) AS r(${types})`
  }
  const key = plan.key.map((name) => `"${name}"`).join(', ')
  const others = plan.columns.filter((column) => !plan.key.includes(column.name)).map((column) => `"${column.name}"`)
  const action =
    others.length === 0 ? 'NOTHING' : `UPDATE SET ${others.map((name) => `${name} = excluded.${name}`).join(', ')}`
  // ON CONFLICT cannot touch a row twice in one statement, so only the last row of each key goes in.
  return `INSERT INTO ${plan.table} (${list})
    SELECT DISTINCT ON (${key}) ${list}
    FROM ROWS FROM (json_to_recordset($1::text::json) AS (${types})) WITH ORDINALITY AS r(${list}, "millrace ordinal")
    ORDER BY ${key}, "millrace ordinal" DESC
    ON CONFLICT (${key}) DO ${action}`
}
