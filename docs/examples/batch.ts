/**
 * Batch mode: the same program over bounded input, with final results only. Running aggregates emit once a key, windows
 * and timers fire at the end of input, and nothing is late. Functions get one key after the other, and each key's elements in
 * order of time; broadcast elements come first.
 *
 * Reach for it to backfill or to test a streaming job on history. `AUTOMATIC` chooses it when every source is bounded.
 */
import { job, RuntimeExecutionMode } from 'millrace'

const sales = [
  { region: 'north', day: '2026-03-02', euros: 30 },
  { region: 'south', day: '2026-03-01', euros: 12 },
  { region: 'north', day: '2026-03-01', euros: 50 },
  { region: 'south', day: '2026-03-02', euros: 8 },
]

export default job('sales', (env) => {
  env.setRuntimeMode(RuntimeExecutionMode.BATCH)
  const byRegion = env.fromCollection(sales).keyBy('region')
  byRegion
    .sum('euros')
    .map(({ region, euros }) => ({ region, euros }))
    .print('total')
  byRegion.maxBy('euros').print('best day')
})

/* prints:
total> {"region":"north","euros":80}
total> {"region":"south","euros":20}
best day> {"region":"north","day":"2026-03-01","euros":50}
best day> {"region":"south","day":"2026-03-01","euros":12}
*/
