/**
 * Broadcast state: a small stream of rules that every subtask knows, beside a large stream by key. Readings that come
 * before the rule of their kind wait for it in keyed state.
 *
 * Reach for it when rules, prices or feature flags must change while the job runs. What broadcast elements do must be
 * the same in every subtask; all copies are in the checkpoint.
 */
import {
  job,
  type KeyedBroadcastContext,
  type KeyedBroadcastProcessFunction,
  type KeyedBroadcastReadOnlyContext,
  type ListState,
  ListStateDescriptor,
  MapStateDescriptor,
  type RuntimeContext,
} from 'millrace'

const rules = [
  { kind: 'celsius', limit: 90 },
  { kind: 'bar', limit: 4 },
]
const readings = [
  { machine: 'press', kind: 'bar', value: 3.5 },
  { machine: 'press', kind: 'bar', value: 4.5 },
  { machine: 'oven', kind: 'celsius', value: 91 },
]
type Rule = (typeof rules)[number]
type Reading = (typeof readings)[number]
type Collect = (alarm: string) => void

const LIMITS = new MapStateDescriptor<string, number>('limits')
const WAITING = new ListStateDescriptor<Reading>('waiting')

class Alarms implements KeyedBroadcastProcessFunction<string, Reading, Rule, string> {
  private waiting!: ListState<Reading>

  open(context: RuntimeContext): void {
    this.waiting = context.getListState(WAITING)
  }

  processElement(reading: Reading, context: KeyedBroadcastReadOnlyContext<string>, collect: Collect): void {
    const limit = context.getBroadcastState(LIMITS).get(reading.kind)
    if (limit === undefined) this.waiting.add(reading)
    else check(reading, limit, collect)
  }

  processBroadcastElement(rule: Rule, context: KeyedBroadcastContext<string>, collect: Collect): void {
    context.getBroadcastState(LIMITS).put(rule.kind, rule.limit)
    context.applyToKeyedState(WAITING, (_machine, waiting) => {
      const all = [...waiting.get()]
      for (const reading of all) if (reading.kind === rule.kind) check(reading, rule.limit, collect)
      waiting.update(all.filter((reading) => reading.kind !== rule.kind))
    })
  }
}

function check({ machine, kind, value }: Reading, limit: number, collect: Collect): void {
  if (value > limit) collect(`${machine}: ${value} ${kind} is above ${limit}`)
}

export default job('alarms', (env) => {
  const limits = env.fromCollection(rules).broadcast(LIMITS)
  env.fromCollection(readings).keyBy('machine').connect(limits).process(new Alarms()).print()
})

/* prints:
oven: 91 celsius is above 90
press: 4.5 bar is above 4
*/
