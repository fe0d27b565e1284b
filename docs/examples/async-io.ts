/**
 * Async I/O: ask another system about each element without holding up the stream; requests that fail are made again.
 *
 * Reach for it to enrich from a service or a database. Requests under way are in checkpoints and are made again after a
 * restore, so they must bear repeating. A real one hands `signal` on: `fetch(url, { signal })`.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { AsyncDataStream, type AsyncRequest, AsyncRetryStrategies, job, milliseconds, seconds } from 'millrace'

const orders = [
  { id: 1, country: 'NO', euros: 100 },
  { id: 2, country: 'FR', euros: 50 },
  { id: 3, country: 'NO', euros: 10 },
]

/** Stands for a rate service that is slow, and that fails when it is asked about France for the first time. */
async function rateOf(country: string, { attempt, signal }: AsyncRequest): Promise<number> {
  await sleep(country === 'FR' ? 1 : 5, undefined, { signal })
  if (country === 'FR' && attempt === 1) throw new Error('service unavailable')
  return country === 'NO' ? 11.5 : 1
}

export default job('local prices', (env) => {
  env.setParallelism(1) // So that the order shows: several subtasks keep an order each.
  const orderStream = env.fromCollection(orders)
  // `orderedWait`: results in the order of the orders, although answers come in another.
  AsyncDataStream.orderedWaitWithRetry(
    orderStream,
    async (order, request) => [{ id: order.id, local: order.euros * (await rateOf(order.country, request)) }],
    seconds(30), // for all attempts of one element
    100, // requests under way at once in a subtask
    AsyncRetryStrategies.exponentialBackoff(3, milliseconds(5), seconds(1), 2),
  ).print()
})

/* prints:
{"id":1,"local":1150}
{"id":2,"local":50}
{"id":3,"local":115}
*/
