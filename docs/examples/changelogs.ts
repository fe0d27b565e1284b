/**
 * Changelogs: orders that are placed, changed and cancelled, and what each customer owes at any time.
 *
 * Reach for a changelog when rows are corrected after they were sent. Aggregates and joins over it take back what they
 * sent, so that whoever reads their changelog has the right table at all times.
 */
import { type Change, count, job, schema, sum, t } from 'millrace'

interface Order {
  readonly id: number
  readonly customer: string
  readonly euros: number
}
const ORDER = schema({ id: t.int32(), customer: t.string(), euros: t.float64() })

export default job('owed', (env) => {
  env.setParallelism(1)
  const changes = env.fromElements<Change<Order>>(
    { kind: '+I', row: { id: 1, customer: 'ann', euros: 20 } },
    { kind: '+I', row: { id: 2, customer: 'bob', euros: 5 } },
    // A pair: the order as it was, and as it is now.
    { kind: '-U', row: { id: 1, customer: 'ann', euros: 20 } },
    { kind: '+U', row: { id: 1, customer: 'ann', euros: 12 } },
    { kind: '-D', row: { id: 2, customer: 'bob', euros: 5 } },
  )
  env
    .fromChangelogStream(changes, { schema: ORDER, primaryKey: ['id'] })
    .groupBy('customer')
    .aggregate({ orders: count(), owed: sum('euros') })
    .uid('owed')
    .print()
})

/* prints:
+I {"customer":"ann","orders":1,"owed":20}
+I {"customer":"bob","orders":1,"owed":5}
-U {"customer":"ann","orders":1,"owed":20}
+U {"customer":"ann","orders":1,"owed":12}
-D {"customer":"bob","orders":1,"owed":5}
*/
