/**
 * Interval join: pairs of elements with the same key whose event times are near. Here an advertisement that was shown
 * at most ten minutes before a purchase.
 *
 * Reach for it to relate two streams of events; state is kept only as long as a partner may still come.
 */
import { job, minutes, WatermarkStrategy } from 'millrace'

const shown = [
  { user: 'ada', advert: 'shoes', at: '2026-03-01T10:00:00Z' },
  { user: 'bob', advert: 'books', at: '2026-03-01T10:01:00Z' },
  { user: 'ada', advert: 'hats', at: '2026-03-01T10:15:00Z' },
]
const bought = [
  { user: 'ada', item: 'shoes', at: '2026-03-01T10:04:00Z' },
  { user: 'ada', item: 'scarf', at: '2026-03-01T10:16:00Z' },
  { user: 'bob', item: 'tea', at: '2026-03-01T10:30:00Z' },
]

export default job('attribution', (env) => {
  const byTime = WatermarkStrategy.forMonotonousTimestamps().withTimestampAssigner('at')
  const adverts = env.fromCollection(shown).assignTimestampsAndWatermarks(byTime).keyBy('user')
  const purchases = env.fromCollection(bought).assignTimestampsAndWatermarks(byTime).keyBy('user')

  adverts
    .intervalJoin(purchases)
    .between(0, minutes(10))
    .process({
      processElement(advert, purchase, { leftTimestamp, rightTimestamp }, collect) {
        const after = (rightTimestamp - leftTimestamp) / 60_000
        collect(`${advert.user} saw ${advert.advert} and bought ${purchase.item} ${after} min later`)
      },
    })
    .print()
})

/* prints:
ada saw shoes and bought shoes 4 min later
ada saw hats and bought scarf 1 min later
*/
