/**
 * KeyedProcessFunction: logic of your own for each key, with state and timers. An order that is not paid within an
 * hour is reported.
 *
 * Reach for it when windows do not fit: timeouts, state machines, "A without B". State and timers are in every
 * checkpoint; timers of event time fire with the watermark.
 */
import {
  hours,
  job,
  type KeyedProcessFunction,
  type OnTimerContext,
  type ProcessContext,
  type RuntimeContext,
  type ValueState,
  ValueStateDescriptor,
  WatermarkStrategy,
} from 'millrace'

const events = [
  { order: 'A-1', kind: 'placed', at: '2026-03-01T09:00:00Z' },
  { order: 'A-2', kind: 'placed', at: '2026-03-01T09:10:00Z' },
  { order: 'A-1', kind: 'paid', at: '2026-03-01T09:20:00Z' },
  { order: 'A-3', kind: 'placed', at: '2026-03-01T11:00:00Z' },
  { order: 'A-3', kind: 'paid', at: '2026-03-01T11:05:00Z' },
]
type OrderEvent = (typeof events)[number]

class UnpaidOrders implements KeyedProcessFunction<string, OrderEvent, string> {
  private deadline!: ValueState<number>

  open(context: RuntimeContext): void {
    this.deadline = context.getState(new ValueStateDescriptor<number>('deadline'))
  }

  processElement(event: OrderEvent, { timestamp, timerService }: ProcessContext<string>): void {
    if (event.kind === 'placed') {
      const deadline = timestamp + hours(1).ms
      timerService.registerEventTimeTimer(deadline)
      this.deadline.update(deadline)
      return
    }
    const deadline = this.deadline.value()
    if (deadline !== undefined) timerService.deleteEventTimeTimer(deadline)
    this.deadline.clear()
  }

  onTimer(timeMs: number, { currentKey }: OnTimerContext<string>, collect: (line: string) => void): void {
    collect(`${currentKey} is still not paid at ${new Date(timeMs).toISOString()}`)
    this.deadline.clear()
  }
}

export default job('unpaid orders', (env) => {
  env
    .fromCollection(events)
    .assignTimestampsAndWatermarks(WatermarkStrategy.forMonotonousTimestamps().withTimestampAssigner('at'))
    .keyBy((event) => event.order)
    .process(new UnpaidOrders())
    .print()
})

/* prints:
A-2 is still not paid at 2026-03-01T10:10:00.000Z
*/
