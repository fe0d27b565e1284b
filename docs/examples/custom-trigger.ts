/**
 * A trigger of your own: when a window's function is called. This one fires as soon as an auction's bids reach a
 * limit, and at the window's end at the latest.
 *
 * Reach for it when a result must be early in some cases. Its memory goes into `getPartitionedState`, because one
 * object serves all windows; `PurgingTrigger`, `CountTrigger` and others are there already.
 */
import {
  job,
  minutes,
  type TimeWindow,
  Trigger,
  type TriggerContext,
  TriggerResult,
  TumblingEventTimeWindows,
  ValueStateDescriptor,
  WatermarkStrategy,
} from 'millrace'

const bids = [
  { auction: 'lamp', price: 10, at: '2026-03-01T15:00:10Z' },
  { auction: 'vase', price: 700, at: '2026-03-01T15:00:20Z' },
  { auction: 'vase', price: 400, at: '2026-03-01T15:00:30Z' },
  { auction: 'lamp', price: 15, at: '2026-03-01T15:00:40Z' },
]
type Bid = (typeof bids)[number]

class TotalTrigger extends Trigger<Bid> {
  private readonly limit: number
  private readonly total = new ValueStateDescriptor<number>('total')

  constructor(limit: number) {
    super()
    this.limit = limit
  }
  onElement(bid: Bid, _timestamp: number, window: TimeWindow, context: TriggerContext): TriggerResult {
    context.registerEventTimeTimer(window.maxTimestamp)
    const total = context.getPartitionedState(this.total)
    const sum = (total.value() ?? 0) + bid.price
    total.update(sum)
    return sum >= this.limit ? TriggerResult.FIRE_AND_PURGE : TriggerResult.CONTINUE
  }
  onEventTime(): TriggerResult {
    return TriggerResult.FIRE
  }
  onProcessingTime(): TriggerResult {
    return TriggerResult.CONTINUE
  }
  clear(window: TimeWindow, context: TriggerContext): void {
    context.deleteEventTimeTimer(window.maxTimestamp)
    context.getPartitionedState(this.total).clear()
  }
}

export default job('auctions', (env) => {
  env
    .fromCollection(bids)
    .assignTimestampsAndWatermarks(WatermarkStrategy.forMonotonousTimestamps().withTimestampAssigner('at'))
    .keyBy((bid) => bid.auction)
    .window(TumblingEventTimeWindows.of(minutes(1)))
    .trigger(new TotalTrigger(1_000))
    .process(({ key, currentWatermark, window }, inWindow, collect) => {
      const when = currentWatermark < window.maxTimestamp ? 'early' : 'at the end'
      collect(`${key} ${when}: ${[...inWindow].map((bid) => bid.price)}`)
    })
    .print()
})

/* prints:
vase early: 700,400
lamp at the end: 10,15
*/
