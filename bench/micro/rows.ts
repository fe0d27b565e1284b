/**
 * What it costs to write the rows that functions return into columns.
 *
 * `node bench/micro/rows.ts` prints nanoseconds of processor time a row, the best of seven rounds: two schemas of four
 * and five fields in turn, with strings, numbers, a flag and a field that may be NULL.
 */
import { BATCH_ROWS_MAX } from '../../engine/core/batch.ts'
import { BatchBuilder } from '../../engine/core/rows.ts'
import { schema, t } from '../../engine/core/schema.ts'

const ORDER = schema({ id: t.string(), at: t.timestamp(), amount: t.float64(), isPaid: t.boolean(), items: t.int32() })
const TOTAL = schema({ key: t.string(), total: t.float64(), count: t.int32(), note: t.nullable(t.string()) })

/** Nanoseconds of processor time a row; `batches` of each schema a round. */
export function benchRowWriting(rounds = 7, batches = 600): number {
  const indices = Array.from({ length: BATCH_ROWS_MAX }, (_, i) => i)
  const orders = indices.map((i) => ({ id: `k${i % 500}`, at: 1e12 + i, amount: i / 4, isPaid: i % 2 === 0, items: i }))
  const totals = indices.map((i) => ({ key: `k${i % 500}`, total: i / 4, count: i, note: i % 3 === 0 ? null : 'x' }))
  const order = new BatchBuilder(ORDER)
  const total = new BatchBuilder(TOTAL)
  let best = Number.POSITIVE_INFINITY
  for (let round = 0; round < rounds; round++) {
    const before = process.cpuUsage()
    for (let k = 0; k < batches; k++) {
      for (const row of orders) order.append(row, 0)
      order.build()
      for (const row of totals) total.append(row, 0)
      total.build()
    }
    const { user, system } = process.cpuUsage(before)
    best = Math.min(best, ((user + system) * 1_000) / (batches * 2 * BATCH_ROWS_MAX))
  }
  return best
}

if (import.meta.main) process.stdout.write(`writing a row: ${benchRowWriting().toFixed(1)} ns\n`)
