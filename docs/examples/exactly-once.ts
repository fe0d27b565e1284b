/**
 * Checkpoints, restarts and an exactly-once sink: this job fails half-way, starts again from its last checkpoint, and
 * its files hold each result once.
 *
 * Reach for this in every job whose results are counted. State and source positions go back to the checkpoint; the
 * files of an epoch appear when its checkpoint is complete.
 */
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type JobEvent, milliseconds, RestartStrategies, RichMapFunction, StreamExecutionEnvironment } from 'millrace'
import { filesSink } from 'millrace/connectors/files'

/** Fails once, at the 150th number, in the job's first attempt. */
class FailOnce extends RichMapFunction<number, number> {
  map(n: number): number {
    if (n === 150 && this.getRuntimeContext().attemptNumber === 0) throw new Error('the power went out')
    return n
  }
}

const directory = await mkdtemp(join(tmpdir(), 'exactly-once-'))
const env = StreamExecutionEnvironment.createEnvironment()
  .setParallelism(2)
  .enableCheckpointing(milliseconds(20))
  .setRestartStrategy(RestartStrategies.fixedDelayRestart(3, milliseconds(10)))
env
  .fromDataGenerator((index) => index, { count: 200, ratePerSecond: 1_000 })
  .map(new FailOnce())
  .keyBy((n) => n % 10)
  .reduce((sum, n) => sum + n)
  .sinkTo(filesSink({ path: directory }))

let restarts = 0
const onEvent = ({ type }: JobEvent): void => {
  if (type === 'restart') restarts++
}
// On the calling thread, as in a service; `env.execute(name)` would run it as this process's program.
const running = await env.executeAsync('sums', { onEvent })
await running.done

const parts = (await readdir(directory)).filter((name) => name.endsWith('.jsonl'))
const texts = await Promise.all(parts.map((name) => readFile(join(directory, name), 'utf8')))
const sums = texts.join('').split('\n').filter(Boolean).map(Number)
console.log(`restarts: ${restarts}, results: ${sums.length}, greatest sum: ${Math.max(...sums)}`)
await rm(directory, { recursive: true })

/* prints:
restarts: 1, results: 200, greatest sum: 2080
*/
