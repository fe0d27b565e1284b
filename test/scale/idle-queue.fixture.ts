/**
 * A service whose job waits for records of a queue, for test/scale/idle.test.ts:
 *   node test/scale/idle-queue.fixture.ts <ms>
 *
 * After so long it puts a record into the queue, and ends it. The timer for that keeps no process alive: only the job does.
 */
import { queueSource } from '../../connectors/queue/index.ts'
import { StreamExecutionEnvironment } from '../../engine/api/index.ts'

const queue = queueSource<string>()

async function serve(): Promise<void> {
  const env = StreamExecutionEnvironment.getExecutionEnvironment()
  env.enableCheckpointing(1_000)
  env
    .fromSource(queue)
    .keyBy((word) => word)
    .map((word) => `heard ${word}`)
    .print()
  const result = await env.execute('idle queue')
  process.stdout.write(`${result.state}, ${result.recordsIn} records\n`)
}

queue.offer('first')
setTimeout(() => {
  queue.offer('last')
  queue.end()
}, Number(process.argv[2])).unref()
setImmediate(serve)
