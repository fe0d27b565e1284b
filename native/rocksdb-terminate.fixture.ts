/** Run by rocksdb-addon.test.ts: terminates workers in the middle of checkpoints; prints `survived`. */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'

const root = process.argv[2]!
const script = new URL('./rocksdb-worker.fixture.ts', import.meta.url)
for (let round = 0; round < 12; round++) {
  const rows = round % 2 === 0 ? 2000 : 30_000
  const worker = new Worker(script, { workerData: { directory: join(root, String(round)), rounds: 100, rows } })
  await new Promise<void>((resolve, reject) => {
    worker.once('message', () => resolve())
    worker.once('error', reject)
  })
  await sleep(round * 4)
  await worker.terminate()
}
console.log('survived')
