/**
 * The main job as users start it, against DuckDB's answer on the same flights: run once, run again, and
 * killed with SIGKILL at random instants with the parallelism changed in between.
 */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { queryPostgres } from '../connectors/postgres/index.ts'
import { verifyCheckpoints } from '../engine/checkpoint/verify.ts'
import { nodeIo } from '../engine/runtime/node-io.ts'
import { expectedPatterns, patternOf, patternsInFiles, sorted } from './main-job-oracle.ts'
import { hasEnded, STATE, startMainJob, until, withDirectory } from './main-job-process.ts'

async function storedPatterns(directory: string) {
  const rows = await queryPostgres(
    { kind: 'pglite', directory: join(directory, STATE, 'store') },
    'SELECT * FROM success_patterns',
  )
  return sorted(rows.map((row) => patternOf(row as unknown as Parameters<typeof patternOf>[0])))
}

async function assertAnswer(directory: string): Promise<void> {
  const expected = await expectedPatterns()
  assert.equal(expected.windows, 6_901)
  assert.equal(expected.patterns.length, 55)
  assert.deepEqual(await patternsInFiles(join(directory, STATE, 'patterns')), expected.patterns, 'file sink')
  assert.deepEqual(await storedPatterns(directory), expected.patterns, 'pattern store')
  const verified = await verifyCheckpoints(nodeIo.disk, join(directory, STATE, 'checkpoints'))
  assert.deepEqual(verified.problems, [])
}

test('finds the 55 patterns of the flights, and nothing more on a second start', async () => {
  await withDirectory(async (directory) => {
    const first = startMainJob(directory, '--rate', '0', '--exit', '--fresh')
    assert.deepEqual(await first.ended, { code: 0, signal: null }, first.output())
    const lines = first.output().split('\n')
    assert.equal(lines.filter((line) => line.startsWith('pattern ')).length, 55)
    assert.match(first.output(), /dashboard http:\/\/127\.0\.0\.1:\d+/)
    // Started a second time, it would complain of flags that are the main job's own.
    assert.doesNotMatch(first.output(), /^millrace: /m)
    assert.match(first.output(), /state (rocksdb \d|memory)/)
    await assertAnswer(directory)

    const second = startMainJob(directory, '--rate', '0', '--exit')
    assert.deepEqual(await second.ended, { code: 0, signal: null }, second.output())
    await assertAnswer(directory)
  })
})

test('Ctrl-C stops with a checkpoint, a second process is refused, a second start goes on', async () => {
  await withDirectory(async (directory) => {
    const first = startMainJob(directory, '--rate', '4000')
    await until(() => first.output().includes('pattern '), first, 'a pattern')
    const other = startMainJob(directory, '--rate', '0')
    assert.equal((await other.ended).code, 1)
    assert.match(other.output(), new RegExp(`process ${first.child.pid}\\b`))
    first.child.kill('SIGINT')
    assert.equal((await first.ended).code, 130, first.output())

    const second = startMainJob(directory, '--rate', '0', '--exit')
    assert.equal((await second.ended).code, 0, second.output())
    assert.match(second.output(), /continues/)
    await assertAnswer(directory)
  })
})

/** Flights in the log, by the published ends of its partitions. */
function eventsFed(directory: string): number {
  const topic = join(directory, STATE, 'log', 'learning-events')
  let total = 0
  for (let partition = 0; existsSync(join(topic, String(partition), 'end')); partition++) {
    const end = readFileSync(join(topic, String(partition), 'end'))
    if (end.length >= 8) total += Number(end.readBigInt64BE(0))
  }
  return total
}

test('ten kills at random instants and three parallelisms lose and double nothing', async () => {
  await withDirectory(async (directory) => {
    const parallelisms = ['2', '3', '1']
    let kills = 0
    for (let kill = 0; kill < 10; kill++) {
      const run = startMainJob(directory, '--rate', '300', '--exit', '--parallelism', parallelisms[kill % 3]!)
      const before = eventsFed(directory)
      // A third of the kills hit the start and the recovery, the others a job that runs.
      const inStart = kill % 3 === 2
      const progresses = () => run.output().includes('started') && eventsFed(directory) > before
      // Where starts take long, all flights are fed before the last kills: then a run ends by itself.
      if (!inStart) await until(() => hasEnded(run) || progresses(), run, 'progress')
      await new Promise((resolve) => setTimeout(resolve, Math.random() * (inStart ? 1_500 : 2_000)))
      run.child.kill('SIGKILL')
      const { code, signal } = await run.ended
      assert.ok(signal === 'SIGKILL' || code === 0, run.output())
      if (signal !== null) kills++
    }
    assert.ok(kills > 0)
    const last = startMainJob(directory, '--rate', '0', '--exit', '--parallelism', '2')
    assert.equal((await last.ended).code, 0, last.output())
    await assertAnswer(directory)
  })
})
