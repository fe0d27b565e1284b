/**
 * A program of restart-leaks.test.ts: a job that fails every few batches and is restarted in this process, over
 * and over. Prints, as JSON lines, what the process holds after the first restarts and at the end.
 *
 * Arguments: workers (0 for the calling thread), restarts. Needs --expose-gc.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fixtureGraph } from './job.fixture.ts'
import { optionsOf, withDirectory } from './job.testkit.ts'
import { launchJob } from './launcher.ts'

export interface Holdings {
  readonly threads: number
  readonly descriptors: number
  /** Memory mappings of files: libraries, and what a store maps. */
  readonly mappedFiles: number
  /** Directories of attempts. */
  readonly live: number
  readonly heapMib: number
  readonly residentMib: number
}

const [workers, first, last] = process.argv.slice(2).map(Number) as [number, number, number]
const fixture = { splits: 2, rowsPerSplit: 1e9, keys: 500, pauseMs: 1, failAfterRows: 400 }

function holdings(directory: string): Holdings {
  globalThis.gc!()
  const { heapUsed, rss } = process.memoryUsage()
  return {
    threads: readdirSync('/proc/self/task').length,
    descriptors: readdirSync('/proc/self/fd').length,
    mappedFiles: readFileSync('/proc/self/maps', 'utf8')
      .split('\n')
      .filter((line) => line.includes(' /')).length,
    live: readdirSync(join(directory, 'live')).length,
    heapMib: heapUsed / (1 << 20),
    residentMib: rss / (1 << 20),
  }
}

await withDirectory(async (directory) => {
  let restarts = 0
  const job = await launchJob(
    fixtureGraph(fixture, { rows: [], marker: 0 }),
    optionsOf({
      parallelism: 2,
      workers,
      moduleUrl: new URL('./job.fixture.ts', import.meta.url).href,
      config: { fixture: JSON.stringify(fixture) },
      stateBackend: 'rocksdb',
      checkpointIntervalMs: 5,
      checkpointDirectory: directory,
      restart: { kind: 'fixed-delay', attempts: Number.POSITIVE_INFINITY, delayMs: 0 },
      onEvent(event) {
        // Nothing is left of a run when the next one is announced.
        if (event.type !== 'restart') return
        restarts++
        if (restarts === first || restarts === last) console.log(JSON.stringify(holdings(directory)))
        if (restarts === last) void job.cancel()
      },
    }),
  )
  await job.done.catch(() => {})
})
