/**
 * A sink that stands still for ten minutes while its source could deliver without end (`SCALE=long`, as in `npm run
 * test:scale`), or for some seconds (`SCALE=short`). The job has to stand still as well, within its bounds of memory and
 * disk; then it is killed between two transactions of one epoch, and started again, and every row is in the table once.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { queryPostgres } from '../../connectors/postgres/index.ts'
import { KEYS, type Sample } from './paused-sink.fixture.ts'

const FIXTURE = fileURLToPath(new URL('./paused-sink.fixture.ts', import.meta.url))
const ARM = new URL('../chaos/arm-failpoint.ts', import.meta.url).href
const scale = process.env['SCALE']
const PAUSE_SECONDS = scale === 'long' ? 600 : 5
const MIB = 1 << 20
/** A checkpoint is due at a quarter: an epoch is longer than a transaction, which has 64 MiB. */
const PENDING_BYTES_MAX = 320 * MIB
/** What was under way when sources had to wait: batches in channels and operators of two workers, and buffers. */
const UNDER_WAY_BYTES = 48 * MIB
/**
 * What the job may take on top of what it takes before the first row: as in test/overload.test.ts, the working set and
 * its cuts, young generations, buffers that are not yet collected, RocksDB. Output is on disk.
 */
const ALLOWED_MIB = 2 * 2 * 8 + 3 * 3 * 4 + 2 * 32 + 60
/** Share of one core that a job takes which stands still. */
const IDLE_CPU_MAX = 0.1

interface Result {
  readonly state: string
  readonly recordsIn: number
}

class Job {
  readonly samples: Sample[] = []
  result: Result | null = null
  readonly child: ChildProcess
  readonly ended: Promise<NodeJS.Signals | number | null>
  private errors = ''

  constructor(directory: string, restore: readonly string[], failpoint: string) {
    const args = ['--max-semi-space-size=4', '--import', ARM, FIXTURE, directory, String(PENDING_BYTES_MAX), ...restore]
    const env = { ...process.env, NODE_TEST_CONTEXT: undefined, CHAOS_FAILPOINT: failpoint }
    this.child = spawn(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'pipe'] })
    this.child.stderr!.on('data', (text: Buffer) => {
      this.errors += text.toString()
    })
    createInterface(this.child.stdout!).on('line', (line) => {
      const said = JSON.parse(line) as Sample | Result
      if ('state' in said) this.result = said
      else this.samples.push(said)
    })
    this.ended = new Promise((resolve) => {
      this.child.on('close', (code, signal) => resolve(signal ?? code))
    })
  }

  /** Resolves with the first sample that `accepts` takes; rejects when the process ends before. */
  async until(accepts: (sample: Sample, earlier: readonly Sample[]) => boolean): Promise<Sample> {
    for (let seen = 0; ; ) {
      for (; seen < this.samples.length; seen++) {
        const sample = this.samples[seen]!
        if (accepts(sample, this.samples.slice(0, seen))) return sample
      }
      const isOver = await Promise.race([
        this.ended.then(() => true),
        new Promise((resolve) => setTimeout(resolve, 50)),
      ])
      assert.notEqual(isOver, true, `the job ended: ${this.errors}`)
    }
  }
}

/** No row came in for a second: it stands still. */
function standsStill(sample: Sample, earlier: readonly Sample[]): boolean {
  const before = earlier.find(({ atMs }) => atMs > sample.atMs - 1_300)
  return before !== undefined && sample.atMs - before.atMs >= 1_000 && before.recordsIn === sample.recordsIn
}

function report(t: TestContext, what: string, { atMs, rssMiB, recordsIn, outboxBytes, cpuSeconds }: Sample): void {
  const outbox = (outboxBytes / MIB).toFixed(0)
  t.diagnostic(
    `${what} (${(atMs / 1_000).toFixed(1)} s): ${recordsIn} rows in, outbox ${outbox} MiB, RSS ${rssMiB} MiB, ${cpuSeconds.toFixed(1)} CPU s`,
  )
}

/** While the sink stands still. Gives the rows that came in. */
async function checkPause(t: TestContext, job: Job): Promise<number> {
  const first = await job.until(() => true)
  report(t, 'at first', first)
  const still = await job.until(
    (sample, earlier) => sample.checkpoints === 2 && sample.recordsIn > 0 && standsStill(sample, earlier),
  )
  report(t, 'when it stands still', still)
  const last = await job.until(({ atMs }) => atMs >= still.atMs + PAUSE_SECONDS * 1_000)
  report(t, `${PAUSE_SECONDS} s later`, last)
  const pause = job.samples.filter(({ atMs }) => atMs >= still.atMs && atMs <= last.atMs)
  for (const { recordsIn, outboxBytes, checkpoints, checkpointsFailed, backPressured } of pause) {
    assert.equal(recordsIn, still.recordsIn, 'no row is taken')
    assert.equal(outboxBytes, still.outboxBytes, 'no output is written')
    assert.equal(checkpoints, 2, 'two epochs wait, and no checkpoint follows')
    assert.equal(checkpointsFailed, 0)
    assert.ok(backPressured > 0.9, `the source is back-pressured, not ${backPressured}`)
  }
  const bytesMax = PENDING_BYTES_MAX * 1.25 + UNDER_WAY_BYTES
  assert.ok(still.outboxBytes > PENDING_BYTES_MAX * 0.75, `only ${still.outboxBytes} bytes wait`)
  assert.ok(still.outboxBytes < bytesMax, `${still.outboxBytes} bytes wait, ${bytesMax} may`)
  const rssMax = Math.max(...job.samples.map(({ rssMiB }) => rssMiB))
  assert.ok(rssMax - first.rssMiB < ALLOWED_MIB, `${rssMax - first.rssMiB} MiB more, ${ALLOWED_MIB} are allowed`)
  const busy = (last.cpuSeconds - still.cpuSeconds) / ((last.atMs - still.atMs) / 1_000)
  t.diagnostic(`${(busy * 100).toFixed(2)} % of a core while it stood still`)
  assert.ok(busy < IDLE_CPU_MAX, `${(busy * 100).toFixed(1)} % of a core while it stood still`)
  return still.recordsIn
}

async function checkTable(directory: string, rows: number): Promise<void> {
  const connection = { kind: 'pglite', directory: join(directory, 'database') } as const
  const [sums] = await queryPostgres(
    connection,
    `SELECT count(*) AS rows, count(DISTINCT id) AS ids, min(length(body)) AS shortest,
       (SELECT count(*) FROM (SELECT key FROM rows GROUP BY key HAVING count(*) <> max(nth)) AS wrong) AS wrong_keys,
       count(DISTINCT key) AS keys FROM rows`,
  )
  assert.deepEqual(sums, { rows, ids: rows, shortest: 1_000, wrong_keys: 0, keys: KEYS })
}

test('a sink that stands still: the job waits within bounds, and nothing is lost or doubled afterwards', {
  skip: scale === undefined && 'with SCALE=short or SCALE=long',
  timeout: (PAUSE_SECONDS + 300) * 1_000,
}, async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-paused-sink-'))
  const jobs: Job[] = []
  const start = (failpoint: string, ...restore: string[]): Job => {
    const job = new Job(directory, restore, failpoint)
    jobs.push(job)
    return job
  }
  try {
    const paused = start('sink-transaction-committed:1')
    const rowsInPause = await checkPause(t, paused)
    writeFileSync(join(directory, 'open'), '')
    assert.equal(await paused.ended, 'SIGKILL', 'killed after the first transaction')
    const connection = { kind: 'pglite', directory: join(directory, 'database') } as const
    const [marker] = await queryPostgres(connection, 'SELECT epoch, part_epoch, part_records FROM millrace_epochs')
    assert.deepEqual([marker!['epoch'], marker!['part_epoch']], [0, 1], 'a part of epoch 1')
    assert.ok(Number(marker!['part_records']) > 0)
    t.diagnostic(`killed after ${marker!['part_records']} records of epoch 1`)

    const resumed = start('', 'latest')
    const goesOn = await resumed.until(({ recordsIn }) => recordsIn > 0)
    report(t, 'goes on', goesOn)
    const more = await resumed.until(({ recordsIn, checkpoints }) => recordsIn > rowsInPause / 4 && checkpoints > 0)
    report(t, 'takes rows again', more)
    writeFileSync(join(directory, 'enough'), '')
    assert.equal(await resumed.ended, 0)
    assert.equal(resumed.result?.state, 'finished')
    const positions = readdirSync(join(directory, 'checkpoints', 'outbox'))
    assert.deepEqual(positions, [], 'no output is left')
    const [{ rows }] = (await queryPostgres(connection, 'SELECT count(*) AS rows FROM rows')) as [{ rows: number }]
    t.diagnostic(`${rows} rows in the table`)
    assert.ok(rows > rowsInPause / 2)
    await checkTable(directory, rows)
  } finally {
    for (const { child } of jobs) child.kill('SIGKILL')
    rmSync(directory, { recursive: true, force: true })
  }
})
