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

async function run(scenario: Scenario, scale: number, look: (outcome: Finished) => void): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-overload-'))
  try {
    const text = await new Promise<string>((resolve, reject) => {
      const args = [FIXTURE, scenario, String(scale), directory]
      const env = { ...process.env, NODE_TEST_CONTEXT: undefined }
      execFile(process.execPath, args, { env }, (error, stdout) => (error === null ? resolve(stdout) : reject(error)))
    })
    const lines = (sink: string): string[] => {
      const folder = join(directory, sink)
      const names = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.jsonl')) : []
      return names.flatMap((name) => readFileSync(join(folder, name), 'utf8').split('\n').slice(0, -1))
    }
    look({ ...(JSON.parse(text) as Outcome), lines })
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/**
 * What two workers may take on top of what they take at rest, MiB: the working set and what a cut copies of it, in each;
 * RocksDB's memtables and caches (64); young and not yet collected objects of two heaps (2 x 32); code that is compiled
 * only now, and buffers of channels and sinks (32).
 */
const ALLOWED_MIB = 2 * 2 * STATE_MEMORY_MIB + 64 + 64 + 32

function assertBounded({ rssBefore, rssPeak, error }: Outcome, allowedMiB: number): void {
  assert.equal(error, null)
  const more = rssPeak - rssBefore
  assert.ok(more <= allowedMiB, `${more.toFixed(0)} MiB more than at rest, ${allowedMiB} are allowed`)
}

describe('memory stays bounded', { concurrency: 2 }, () => {
  test('when a sink is slow to write and to commit, and the source could deliver gigabytes', async () => {
    await run('slow-sink', isFull ? 50 : 1, (outcome) => {
      // So few rows pass that caches and heaps do not fill. Without back-pressure it was 148 MiB, with it 62.
      assertBounded(outcome, isFull ? ALLOWED_MIB : ALLOWED_MIB / 2)
      assert.equal(outcome.lines('rows').length, outcome.recordsIn)
      assert.ok(outcome.checkpoints > 0)
    })
  })

  test('when nine rows in ten are of one key, whose list outgrows the memory for state', {
    ...long,
    todo: 'decoded pieces of lists are not counted by their size',
  }, async () => {
    await run('skew', isFull ? 8 : 1, (outcome) => {
      assert.ok(outcome.offeredMiB > 6 * STATE_MEMORY_MIB)
      assertBounded(outcome, ALLOWED_MIB)
      const hot = outcome.lines('counts').filter((line) => line.includes('"00000000"'))
      assert.equal(hot.length, Math.floor((outcome.recordsIn * 0.9) / 1_000))
    })
  })

  test('when most rows are late: some fire their window again, the others are kept aside', long, async () => {
    await run('late-storm', isFull ? 8 : 1, (outcome) => {
      assertBounded(outcome, ALLOWED_MIB)
      const [fired, late] = [outcome.lines('windows').length, outcome.lines('late').length]
      assert.ok(fired > outcome.recordsIn * 0.2 && late > outcome.recordsIn * 0.2, `${fired} fired, ${late} late`)
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
