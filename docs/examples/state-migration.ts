/**
 * State of another shape: version 2 of a job goes on from what version 1 saved, and its descriptor says what changed.
 *
 * Reach for `version` and `migrations` whenever a stored type changes. Fields that are only added or removed need no
 * migration; a change without one is refused at the start, before any data is touched.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type KeyedProcessFunction, StreamExecutionEnvironment, type ValueState, ValueStateDescriptor } from 'millrace'

const ratings = [
  { film: 'Alien', stars: 5 },
  { film: 'Alien', stars: 4 },
  { film: 'Brazil', stars: 3 },
  { film: 'Alien', stars: 3 },
]
type Rating = (typeof ratings)[number]

interface SumV1 {
  readonly sum: number
  readonly count: number
}
interface SumV2 {
  readonly stars: number
  readonly votes: number
  readonly mean: number
}
const V1 = new ValueStateDescriptor<SumV1>('ratings')
const V2 = new ValueStateDescriptor<SumV2>('ratings', {
  version: 2,
  migrations: { 2: ({ sum, count }: SumV1) => ({ stars: sum, votes: count, mean: sum / count }) },
})

type Step<S> = (before: S | undefined, stars: number) => S

const addV1: Step<SumV1> = (before, stars) => ({
  sum: (before?.sum ?? 0) + stars,
  count: (before?.count ?? 0) + 1,
})
const addV2: Step<SumV2> = (before, stars) => {
  const [total, votes] = [(before?.stars ?? 0) + stars, (before?.votes ?? 0) + 1]
  return { stars: total, votes, mean: total / votes }
}

/** Keeps what `step` makes of each rating, by film. Every subtask gets a function of its own. */
function keeping<S>(descriptor: ValueStateDescriptor<S>, step: Step<S>) {
  return (): KeyedProcessFunction<string, Rating, string> => {
    let state: ValueState<S>
    return {
      open(context) {
        state = context.getState(descriptor)
      },
      processElement({ film, stars }, _, collect) {
        state.update(step(state.value(), stars))
        collect(`${film} ${JSON.stringify(state.value())}`)
      },
    }
  }
}

const directory = await mkdtemp(join(tmpdir(), 'state-migration-'))
async function run(
  create: () => KeyedProcessFunction<string, Rating, string>,
  count: number,
  ...args: string[]
): Promise<void> {
  const env = StreamExecutionEnvironment.createEnvironment()
  const stream = env.fromDataGenerator((index) => ratings[index]!, { count }).uid('ratings')
  // The uid finds the state again in another version of the program.
  stream
    .keyBy('film')
    .process(create)
    .uid('means')
    .addSink((line) => console.log(line))
    .uid('lines')
  await (await env.executeAsync('means', { args: ['--checkpoint-dir', directory, ...args] })).done
}
await run(keeping(V1, addV1), 3)
await run(keeping(V2, addV2), 4, '--restore', 'latest')
await rm(directory, { recursive: true })

/* prints:
Alien {"sum":5,"count":1}
Alien {"sum":9,"count":2}
Brazil {"sum":3,"count":1}
Alien {"stars":12,"votes":3,"mean":4}
*/
