/**
 * Savepoints: stop a job at a cut, look into its state from outside, and go on at another parallelism.
 *
 * Reach for them before upgrades and moves. A `uid` names an operator's state over versions of the program. On the
 * command line: `millrace savepoint --stop --port P`, `millrace state DIR --operator UID`, `millrace run --restore PATH`.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  RichMapFunction,
  type RunningJob,
  type RuntimeContext,
  StreamExecutionEnvironment,
  type ValueState,
  ValueStateDescriptor,
} from 'millrace'
import { queueSource } from 'millrace/connectors/queue'
import { SavepointReader } from 'millrace/state'

interface Order {
  readonly customer: string
  readonly euros: number
}
const TOTAL = new ValueStateDescriptor<number>('total')

class Totals extends RichMapFunction<Order, string> {
  private total!: ValueState<number>
  override open(context: RuntimeContext): void {
    this.total = context.getState(TOTAL)
  }
  map({ customer, euros }: Order): string {
    const total = (this.total.value() ?? 0) + euros
    this.total.update(total)
    return `${customer} ${total}`
  }
}

const orders = queueSource<Order>()
const folder = await mkdtemp(join(tmpdir(), 'savepoint-'))
const results: string[] = []

async function start(...args: string[]): Promise<RunningJob> {
  const env = StreamExecutionEnvironment.createEnvironment()
  const totals = env.fromSource(orders).uid('orders').keyBy('customer').map(new Totals()).uid('totals')
  totals.addSink((line) => void results.push(line)).uid('results')
  return env.executeAsync('totals', { args })
}

const first = await start('--parallelism', '1', '--checkpoint-dir', join(folder, 'first'))
for (const euros of [10, 20, 30]) await orders.put({ customer: euros === 20 ? 'bob' : 'ada', euros })
while (results.length < 3) await sleep(1)
const path = await first.savepoint({ stop: true })

await using savepoint = await SavepointReader.read(path)
for await (const { key, value } of savepoint.readKeyedState('totals', TOTAL)) console.log(`saved: ${key} ${value}`)

const second = await start('--parallelism', '3', '--checkpoint-dir', join(folder, 'second'), '--restore', path)
await orders.put({ customer: 'ada', euros: 5 })
orders.end()
await second.done
console.log(`results: ${results.sort().join(', ')}`)
await rm(folder, { recursive: true })

/* prints:
saved: ada 40
saved: bob 20
results: ada 10, ada 40, ada 45, bob 20
*/
