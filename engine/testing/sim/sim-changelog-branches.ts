/**
 * Parts of simulated jobs over changelogs: totals of totals, and rows that meet totals that change. What is sunk is the
 * changelog itself; the table that it makes is compared.
 */
import { ChangelogStream, count, max } from '../../api/index.ts'
import type { Branch } from './sim-branch.ts'
import type { InputRow } from './sim-input.ts'
import type { BranchResults } from './sim-results.ts'

/**
 * The rows that a sunk changelog leaves. I5: what is taken back was there, also where the job failed, was rescaled or
 * moved in between.
 */
function materialized(results: BranchResults, id: string, fields: readonly string[]): string[] {
  const counts = new Map<string, number>()
  for (const row of results.sink(id)) {
    const [text] = results.textsOf([row], fields)
    const isTakenBack = row['kind'] === '-U' || row['kind'] === '-D'
    const left = (counts.get(text!) ?? 0) + (isTakenBack ? -1 : 1)
    if (left < 0) results.fail('I5', `${id}: ${text} was taken back and not there`)
    counts.set(text!, left)
  }
  return [...counts].flatMap(([text, n]) => new Array<string>(Math.max(0, n)).fill(text))
}

/** How many keys have how many rows: every row takes a key from one total to the next. */
export const changelogs: Branch = {
  sources: 1,
  build({ streams, sink }) {
    const changes = ChangelogStream.ofInserts(streams[0]!)
      .groupBy('key')
      .aggregate({ rows: count(), last: max('id') })
      .uid('changelogs-by-key')
      .groupBy('rows')
      .aggregate({ keys: count(), last: max('last') })
      .uid('changelogs-by-rows')
      .toChangelogStream()
      .map(({ kind, row }) => ({ kind, rows: Number(row.rows), keys: Number(row.keys), last: row.last }))
    sink(changes, 'changelogs')
  },
  check(results) {
    const left = materialized(results, 'changelogs', ['rows', 'keys', 'last'])
    if (results.isPartial) return
    const byKey = [...Map.groupBy(results.rows(0), (row) => row.key).values()]
    const expected = [...Map.groupBy(byKey, (rows) => rows.length)].map(([rows, keys]) => {
      const last = Math.max(...keys.flat().map((row) => row.id))
      return `${rows} ${keys.length} ${last}`
    })
    results.same('totals of totals', expected, left)
  },
}

/** A change of a key's total changes every row that meets it: with all rows, one key's output is their square. */
const TOTALLED_EVERY = 4
const isTotalled = ({ id }: { readonly id: number }): boolean => id % TOTALLED_EVERY === 0

/** Rows of one source with the totals of another, alone while there are none; one row in four of each. */
export const totalled: Branch = {
  sources: 2,
  build({ streams, sink }) {
    const totals = ChangelogStream.ofInserts(streams[1]!)
      .filter(isTotalled)
      .select({ of: 'key', number: 'id' })
      .groupBy('of')
      .aggregate({ rows: count() })
      .uid('totalled-totals')
    const changes = ChangelogStream.ofInserts(streams[0]!)
      .filter(isTotalled)
      .select({ key: 'key', id: 'id' })
      .join(totals, { type: 'left', where: ['key'], equalTo: ['of'] })
      .uid('totalled-rows')
      .toChangelogStream()
      .map(({ kind, row }) => ({ kind, id: row.id, rows: row.rows === null ? 0 : Number(row.rows) }))
    sink(changes, 'totalled')
  },
  check(results) {
    const left = materialized(results, 'totalled', ['id', 'rows'])
    if (results.isPartial) return
    const totals = results.countBy(results.rows(1).filter(isTotalled), (row: InputRow) => row.key)
    const expected = results
      .rows(0)
      .filter(isTotalled)
      .map(({ key, id }) => `${id} ${totals.get(key) ?? 0}`)
    results.same('rows with totals', expected, left)
  },
}
