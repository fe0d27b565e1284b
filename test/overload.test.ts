/**
 * Overload in jobs as they run: two worker threads, RocksDB, exactly-once files, each in a process of its own whose
 * peak memory the kernel measures. The bounds are derived from what the engine may hold, and are far below what it
 * would hold if a queue or a state had no bound. Two of them run by default; `OVERLOAD=short` runs all, and `OVERLOAD=full`
 * all with larger loads within the same bounds.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { HUGE_MIB, type Outcome, type Scenario, STATE_MEMORY_MIB } from './overload.fixture.ts'

const FIXTURE = fileURLToPath(new URL('./overload.fixture.ts', import.meta.url))
const isFull = process.env['OVERLOAD'] === 'full'
/** Each of these takes seconds of processor time. */
const long = { skip: process.env['OVERLOAD'] === undefined && 'with OVERLOAD=short or full' }

interface Finished extends Outcome {
  /** Lines of a sink's files. */
  lines(sink: string): string[]
}

async function run(scenario: Scenario, scale: number, look: (outcome: Finished) => void): Promise<Outcome> {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-overload-'))
  try {
    const text = await new Promise<string>((resolve, reject) => {
      const args = [`--max-semi-space-size=${YOUNG_MIB}`, FIXTURE, scenario, String(scale), directory]
      const env = { ...process.env, NODE_TEST_CONTEXT: undefined }
      execFile(process.execPath, args, { env }, (error, stdout) => (error === null ? resolve(stdout) : reject(error)))
    })
    const lines = (sink: string): string[] => {
      const folder = join(directory, sink)
      const names = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.jsonl')) : []
      return names.flatMap((name) => readFileSync(join(folder, name), 'utf8').split('\n').slice(0, -1))
    }
    const outcome = JSON.parse(text) as Outcome
    look({ ...outcome, lines })
    return outcome
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/**
 * A semi-space of V8, MiB. By default V8 lets young garbage grow until its heaps have kept some 100 MiB of pages a worker,
 * whatever a job holds; so small, what is measured is what the job holds.
 */
const YOUNG_MIB = 4
/**
 * What two workers may take on top of what they take at rest, MiB: the working set and what a cut copies of it, in each;
 * young generations of three threads; buffers of batches that are not yet collected, for which V8 looks after 32 MiB, in
 * each; RocksDB's memtables, blocks and compactions, code that is compiled only now, channels and sinks (60).
 */
const ALLOWED_MIB = 2 * 2 * STATE_MEMORY_MIB + 3 * 3 * YOUNG_MIB + 2 * 32 + 60
/** Between two runs of the same job, MiB. */
const NOISE_MIB = 48

function assertBounded({ rssBefore, rssPeak, error }: Outcome, allowedMiB: number): void {
  assert.equal(error, null)
  const more = rssPeak - rssBefore
  assert.ok(more <= allowedMiB, `${more.toFixed(0)} MiB more than at rest, ${allowedMiB} are allowed`)
}

describe('memory stays bounded', { concurrency: 2 }, () => {
  test('when a sink is slow to write and to commit, and the source could deliver gigabytes', async () => {
    await run('slow-sink', isFull ? 50 : 1, (outcome) => {
      // So few rows pass that caches and heaps do not fill.
      assertBounded(outcome, isFull ? ALLOWED_MIB : ALLOWED_MIB / 2)
      assert.equal(outcome.lines('rows').length, outcome.recordsIn)
      assert.ok(outcome.checkpoints > 0)
    })
  })

  test('when nine rows in ten are of one key, whose list outgrows the memory for state', long, async () => {
    const skew = (scale: number) =>
      run('skew', scale, (outcome) => {
        assert.ok(outcome.offeredMiB > 6 * STATE_MEMORY_MIB)
        assertBounded(outcome, ALLOWED_MIB)
        const hot = outcome.lines('counts').filter((line) => line.includes('"00000000"'))
        assert.equal(hot.length, Math.floor((outcome.recordsIn * 0.9) / 1_000))
      })
    const once = await skew(1)
    if (!isFull) return
    const fourTimes = await skew(4)
    const more = fourTimes.rssPeak - once.rssPeak
    assert.ok(more <= NOISE_MIB, `four times the rows took ${more.toFixed(0)} MiB more`)
  })

  test('when most rows are late: some fire their window again, the others are kept aside', long, async () => {
    await run('late-storm', isFull ? 8 : 1, (outcome) => {
      assertBounded(outcome, ALLOWED_MIB)
      const [fired, late] = [outcome.lines('windows').length, outcome.lines('late').length]
      assert.ok(fired > outcome.recordsIn * 0.2 && late > outcome.recordsIn * 0.2, `${fired} fired, ${late} late`)
    })
  })

  test('when most rows are late and dropped', long, async () => {
    await run('late-dropped', isFull ? 8 : 1, (outcome) => {
      assertBounded(outcome, isFull ? ALLOWED_MIB : ALLOWED_MIB / 2)
      assert.ok(outcome.late > outcome.recordsIn * 0.9, `${outcome.late} of ${outcome.recordsIn} dropped`)
    })
  })

  test('when values as large as that are restored', long, async () => {
    const scale = isFull ? 10 : 1
    await run('huge-restored', scale, (outcome) => {
      assertBounded(outcome, ALLOWED_MIB + 8 * HUGE_MIB * scale)
      assert.ok(outcome.restarts > 0)
      const recalled = outcome.lines('recalled').map((line) => JSON.parse(line) as { key: string })
      const length = (HUGE_MIB * scale * (1 << 20)) / 2
      assert.deepEqual(
        recalled.sort((a, b) => Number(a.key) - Number(b.key)),
        ['00000000', '00000001'].map((key) => ({ key, length, isIntact: true })),
      )
    })
  })

  test(
    'when records are larger than pages and rings, through an exchange, state, checkpoints and a sink',
    long,
    async () => {
      const scale = isFull ? 10 : 1
      await run('huge-records', scale, (outcome) => {
        // A record is held, as text or bytes, by: reader, exchange, row, state, its cut, RocksDB, exchange, sink. Those
        // of a heap or of an arena that has to double may be there twice.
        assertBounded(outcome, ALLOWED_MIB + 2 * 8 * HUGE_MIB * scale)
        assert.ok(outcome.checkpoints > 0)
        const lengths = outcome.lines('newest').map((line) => (JSON.parse(line) as { body: string }).body.length)
        const half = (HUGE_MIB * scale * (1 << 20)) / 2
        assert.deepEqual(
          lengths.sort((a, b) => a - b),
          [1, half, half, half, 2 * half],
        )
        assert.equal(
          outcome.deadLettered,
          1,
          'what is nested 100,000 levels deep is a dead letter, no overflow of the stack',
        )
      })
    },
  )
})

test('a value that is nested 100,000 levels deep fails the job with what to do', async () => {
  await run('deep-value', 1, ({ error }) => {
    assert.equal(error?.code, 'ROW_NOT_SERIALIZABLE')
    assert.match(error.message, /nested too deeply.*Flatten the value/)
  })
})
