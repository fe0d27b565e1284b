/**
 * Map state with a time to live: payments that a shop's retries send twice are counted once, and identities are
 * forgotten after a day, so that state does not grow for ever.
 *
 * Reach for map state when a key has many entries: each is stored by itself, so a change costs one entry. Time to live
 * goes by the machine's clock, as in Flink.
 */
import {
  days,
  job,
  type KeyedProcessFunction,
  type MapState,
  MapStateDescriptor,
  type ProcessContext,
  type RuntimeContext,
  StateTtlConfig,
  type ValueState,
  ValueStateDescriptor,
} from 'millrace'

const payments = [
  { shop: 'north', id: 'p1', euros: 20 },
  { shop: 'north', id: 'p2', euros: 5 },
  { shop: 'north', id: 'p1', euros: 20 },
  { shop: 'south', id: 'p1', euros: 7 },
]
type Payment = (typeof payments)[number]

class Takings implements KeyedProcessFunction<string, Payment, { shop: string; euros: number }> {
  private seen!: MapState<string, true>
  private total!: ValueState<number>

  open(context: RuntimeContext): void {
    const ttl = StateTtlConfig.newBuilder(days(1)).setUpdateType('OnCreateAndWrite').build()
    this.seen = context.getMapState(new MapStateDescriptor<string, true>('seen').enableTimeToLive(ttl))
    this.total = context.getState(new ValueStateDescriptor<number>('total'))
  }

  processElement(
    { shop, id, euros }: Payment,
    _: ProcessContext<string>,
    collect: (row: { shop: string; euros: number }) => void,
  ): void {
    if (this.seen.contains(id)) return
    this.seen.put(id, true)
    const total = (this.total.value() ?? 0) + euros
    this.total.update(total)
    collect({ shop, euros: total })
  }
}

export default job('takings', (env) => {
  env.fromCollection(payments).keyBy('shop').process(new Takings()).uid('takings').print()
})

/* prints:
{"shop":"north","euros":20}
{"shop":"north","euros":25}
{"shop":"south","euros":7}
*/
