/**
 * For test/packed-install.ts: a job inside a service, on the calling thread, below a function and a timer.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { StreamExecutionEnvironment } from 'millrace'
import { collectSink } from 'millrace/connectors/collect'

async function answer(): Promise<readonly number[]> {
  const env = StreamExecutionEnvironment.createEnvironment()
  const collected = collectSink<number>()
  env
    .fromElements(1, 2, 3, 4)
    .map((n) => n * n)
    .sinkTo(collected)
  const running = await env.executeAsync('squares')
  const { recordsIn } = await running.done
  return [recordsIn, ...collected.rows().sort((a, b) => a - b)]
}

setTimeout(async () => {
  await delay(1)
  process.stdout.write(`${JSON.stringify(await answer())}\n`)
}, 1)
