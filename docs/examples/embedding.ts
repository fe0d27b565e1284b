/**
 * A job inside a service: the program feeds it through a queue and reads its results as an async iterator.
 *
 * Reach for it when a server or a script wants windows, state or joins without a cluster around. Both ends have
 * back-pressure: `put` waits while the queue is full, and the job waits while nobody asks the iterator.
 */
import { StreamExecutionEnvironment } from 'millrace'
import { queueSource } from 'millrace/connectors/queue'

interface Move {
  readonly player: string
  readonly points: number
}

const moves = queueSource<Move>({ capacity: 100 })
const scores = StreamExecutionEnvironment.createEnvironment()
  .fromSource(moves)
  .keyBy('player')
  .sum('points')
  .executeAndCollectAsync()

await moves.put({ player: 'ada', points: 3 })
await moves.put({ player: 'bob', points: 4 })
await moves.put({ player: 'ada', points: 5 })

for await (const { player, points } of scores) {
  console.log(`${player} has ${points} points`)
  // Leaving the loop cancels the job; `moves.end()` would let it finish what is on its way.
  if (points >= 8) break
}

/* prints:
ada has 3 points
bob has 4 points
ada has 8 points
*/
