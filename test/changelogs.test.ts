/**
 * Random joins and aggregates into other keys over random changes give what DuckDB gives for the final tables, in batches
 * of 1 to 7 rows, on four subtasks that take turns at random, with restores at other parallelisms in between; and
 * nothing is ever taken back that was not there.
 *
 *   CHANGELOG_SEEDS=2000 node --test test/changelogs.test.ts      many
 *   CHANGELOG_SEED=17 node --test test/changelogs.test.ts         one again
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Batch } from '../engine/core/batch.ts'
import { isRetraction, kindAt, RowKind } from '../engine/core/row-kinds.ts'
import { rowReader } from '../engine/core/rows.ts'
import { StringInterner } from '../engine/core/strings.ts'
import { SeededRandom } from '../engine/testing/sim/seeded-random.ts'
import { RandomTable, randomPlan, TABLES } from './changelog-plans.ts'
import { ChangelogRig, Materialized, rowText } from './changelog-rig.ts'
import { queryDuckDb } from './duckdb.testkit.ts'

/** Numbers by value, whatever their type, to nine digits: DuckDB's sums of doubles are rounded at each step. */
function plain(row: Record<string, unknown>): string {
  const entries = Object.entries(row).map(([name, value]) => {
    const isNumber = typeof value === 'bigint' || typeof value === 'number'
    return [name, isNumber ? Number(Number(value).toPrecision(9)) : value]
  })
  return rowText(Object.fromEntries(entries))
}

/** The table that a sink keyed by one column shows. */
class Upserted {
  readonly rows = new Map<string, string>()
  private readonly key: string

  constructor(key: string) {
    this.key = key
  }

  apply(batch: Batch): void {
    const read = rowReader(batch.schema, new StringInterner(), 'upserted')
    for (let i = 0; i < batch.length; i++) {
      const kind = kindAt(batch.kinds, i)
      const row = read(batch, i) as Record<string, unknown>
      const key = rowText(row[this.key])
      if (kind === RowKind.UPDATE_BEFORE) continue
      if (isRetraction(kind)) assert.ok(this.rows.delete(key), `${key} is deleted and was there`)
      else this.rows.set(key, plain(row))
    }
  }
}

function plainRows(batches: readonly Batch[]): string[] {
  const table = new Materialized('the sink')
  for (const batch of batches) table.apply(batch)
  return table.rows().map((text) => plain(revive(text)))
}

function revive(text: string): Record<string, unknown> {
  return JSON.parse(text, (_, value: unknown) =>
    typeof value === 'string' && /^-?\d+n$/.test(value) ? BigInt(value.slice(0, -1)) : value,
  ) as Record<string, unknown>
}

async function check(seed: number): Promise<void> {
  const random = new SeededRandom(seed)
  const plan = randomPlan(random)
  const tables = TABLES.map(() => new RandomTable(random))
  const rig = new ChangelogRig(plan.graph, random.fork(), {
    parallelism: 4,
    batchRows: random.between(1, 7),
    memoryBudgetBytes: random.pick([1, 1 << 26]),
  })
  const compare = async (): Promise<void> => {
    const given = tables.map((table, k) => table.sql(TABLES[k]!)).join(', ')
    const expected = (await queryDuckDb(`WITH ${given} ${plan.sql}`)).map(plain).sort()
    if (plan.sinkKey === null) {
      assert.deepEqual(plainRows(rig.results).sort(), expected)
      return
    }
    const shown = new Upserted(plan.sinkKey)
    for (const batch of rig.results) shown.apply(batch)
    const keys = new Set(expected.map((text) => rowText(revive(text)[plan.sinkKey!])))
    assert.equal(shown.rows.size, keys.size, 'a row for each key of the sink')
    for (const row of shown.rows.values()) assert.ok(expected.includes(row), `${row} is one of its key's rows`)
  }
  try {
    const rounds = random.between(2, 4)
    for (let round = 0; round < rounds; round++) {
      for (let n = random.between(2, 6); n > 0; n--) {
        const nth = random.between(0, TABLES.length - 1)
        const changes = tables[nth]!.changes(random.between(1, 8))
        rig.send(nth, plan.upserts.has(TABLES[nth]!) ? changes.filter(({ kind }) => kind !== '-U') : changes)
      }
      rig.settle()
      if (round === rounds - 1 || random.chance(0.3)) await compare()
      if (random.chance(0.6)) rig.restore()
    }
  } catch (error) {
    const again = `CHANGELOG_SEED=${seed} node --test test/changelogs.test.ts`
    throw new Error(`${again}\n${plan.sql}\n${String(error)}`, { cause: error })
  } finally {
    rig.close()
  }
}

const one = process.env['CHANGELOG_SEED']
const SEEDS = Number(process.env['CHANGELOG_SEEDS'] ?? 8)

test('random plans over changelogs give what DuckDB gives', async () => {
  if (one !== undefined) return check(Number(one))
  for (let seed = 1; seed <= SEEDS; seed++) await check(seed)
})
