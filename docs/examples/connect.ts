/**
 * Connected streams: two streams of different types meet by key in one function with shared state. Trips wait for their
 * driver's record, whichever comes first.
 *
 * Reach for `connect` to enrich one stream by another, or to let one control the other; for pairs that are near in time
 * an interval join is shorter.
 */
import {
  job,
  type KeyedCoProcessFunction,
  type ListState,
  ListStateDescriptor,
  type ProcessContext,
  type RuntimeContext,
  type ValueState,
  ValueStateDescriptor,
} from 'millrace'

const trips = [
  { driver: 7, to: 'airport' },
  { driver: 8, to: 'station' },
  { driver: 7, to: 'harbour' },
]
const drivers = [
  { id: 8, name: 'Grace' },
  { id: 7, name: 'Edsger' },
]
type Trip = (typeof trips)[number]
type Driver = (typeof drivers)[number]
type Collect = (line: string) => void

class NameDrivers implements KeyedCoProcessFunction<number, Trip, Driver, string> {
  private name!: ValueState<string>
  private waiting!: ListState<Trip>

  open(context: RuntimeContext): void {
    this.name = context.getState(new ValueStateDescriptor<string>('name'))
    this.waiting = context.getListState(new ListStateDescriptor<Trip>('waiting'))
  }

  processElement1(trip: Trip, _: ProcessContext<number>, collect: Collect): void {
    const name = this.name.value()
    if (name === undefined) this.waiting.add(trip)
    else collect(`${name} drives to the ${trip.to}`)
  }

  processElement2(driver: Driver, _: ProcessContext<number>, collect: Collect): void {
    this.name.update(driver.name)
    for (const trip of this.waiting.get()) collect(`${driver.name} drives to the ${trip.to}`)
    this.waiting.clear()
  }
}

export default job('trips', (env) => {
  const byDriver = env.fromCollection(trips).keyBy((trip) => trip.driver)
  const byId = env.fromCollection(drivers).keyBy((driver) => driver.id)
  byDriver.connect(byId).process(new NameDrivers()).print()
})

/* prints:
Grace drives to the station
Edsger drives to the airport
Edsger drives to the harbour
*/
