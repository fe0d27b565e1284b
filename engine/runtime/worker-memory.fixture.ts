/**
 * A program of worker-memory.test.ts: a job of which one worker thread runs out of memory each time it is started.
 * Prints as JSON what became of it. Needs a small --max-old-space-size.
 */
import { MillraceError } from '../core/errors.ts'
import { fixtureGraph } from './job.fixture.ts'
import { optionsOf } from './job.testkit.ts'
import { launchJob } from './launcher.ts'

const fixture = { splits: 1, rowsPerSplit: 10_000, keys: 10, leakAfterRows: 300 }
const causes: string[] = []
const job = await launchJob(
  fixtureGraph(fixture, { rows: [], marker: 0 }),
  optionsOf({
    workers: 1,
    moduleUrl: new URL('./job.fixture.ts', import.meta.url).href,
    config: { fixture: JSON.stringify(fixture) },
    restart: { kind: 'fixed-delay', attempts: 1, delayMs: 0 },
    onEvent(event) {
      if (event.type === 'restart') causes.push(event.cause)
    },
  }),
)
const error = await job.done.then(
  () => null,
  (cause: unknown) => cause,
)
console.log(JSON.stringify({ causes, code: error instanceof MillraceError ? error.code : null }))
