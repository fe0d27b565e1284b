/**
 * The SQL that applies a chunk of rows, given as one bind parameter: a JSON array of objects.
 *
 * Called by the committer. Names come quoted from the sink's plan; values never enter a statement.
 */
import type { SinkPlan } from './postgres-sink.ts'

/** Member of a record that says that the row of its key is gone. */
export const DELETE_MEMBER = 'millrace delete'

/**
 * The statements that apply a chunk, in order: INSERT; with a key, an upsert in which the chunk's last record of a key
 * wins. With `hasDeletes` that record may say that there is no row any more.
 */
export function chunkStatements(plan: SinkPlan, hasDeletes: boolean): readonly string[] {
  const names = plan.columns.map((column) => `"${column.name}"`)
  const list = names.join(', ')
  const types = plan.columns.map((column) => `"${column.name}" ${column.type}`).join(', ')
  if (plan.key.length === 0) {
    return [`INSERT INTO ${plan.table} (${list}) SELECT ${list} FROM json_to_recordset($1::text::json) AS r(${types})`]
  }
  const key = plan.key.map((name) => `"${name}"`).join(', ')
  const others = plan.columns.filter((column) => !plan.key.includes(column.name)).map((column) => `"${column.name}"`)
  const action =
    others.length === 0 ? 'NOTHING' : `UPDATE SET ${others.map((name) => `${name} = excluded.${name}`).join(', ')}`
  const gone = `"${DELETE_MEMBER}"`
  // ON CONFLICT cannot touch a row twice in one statement, so only the last row of each key goes in.
  const last = `SELECT DISTINCT ON (${key}) ${list}, ${gone}
    FROM ROWS FROM (json_to_recordset($1::text::json) AS (${types}, ${gone} boolean))
      WITH ORDINALITY AS r(${list}, ${gone}, "millrace ordinal")
    ORDER BY ${key}, "millrace ordinal" DESC`
  const upsert = `INSERT INTO ${plan.table} (${list}) SELECT ${list} FROM (${last}) AS last
    WHERE ${gone} IS NOT TRUE ON CONFLICT (${key}) DO ${action}`
  if (!hasDeletes) return [upsert]
  const isSame = plan.key.map((name) => `target."${name}" = last."${name}"`).join(' AND ')
  return [`DELETE FROM ${plan.table} AS target USING (${last}) AS last WHERE last.${gone} AND ${isSame}`, upsert]
}
