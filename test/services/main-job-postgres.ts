/**
 * The main job with its pattern store on a real PostgreSQL server: the same 55 patterns, also when the
 * server crashes and the job is killed on the way. Run by `npm run test:services`.
 */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { queryPostgres } from '../../connectors/postgres/index.ts'
import { expectedPatterns, patternOf, patternsInFiles, sorted } from '../main-job-oracle.ts'
import { hasEnded, STATE, startMainJob, until, withDirectory } from '../main-job-process.ts'
import { type PostgresServer, startPostgres } from './postgres-server.ts'

let server: PostgresServer

before(async () => {
  server = await startPostgres()
})
after(() => server.stop())

async function assertAnswer(directory: string): Promise<void> {
  const { patterns } = await expectedPatterns()
  const rows = await queryPostgres({ kind: 'url', url: server.url }, 'SELECT * FROM success_patterns')
  const stored = rows.map((row) => patternOf(row as unknown as Parameters<typeof patternOf>[0]))
  assert.deepEqual(sorted(stored), patterns, 'pattern store')
  assert.deepEqual(await patternsInFiles(join(directory, STATE, 'patterns')), patterns, 'file sink')
}

async function emptyStore(): Promise<void> {
  const connection = { kind: 'url', url: server.url } as const
  await queryPostgres(connection, 'DROP TABLE IF EXISTS success_patterns')
  await queryPostgres(connection, 'DROP TABLE IF EXISTS millrace_epochs')
}

test('finds the 55 patterns', async () => {
  await emptyStore()
  await withDirectory(async (directory) => {
    const run = startMainJob(directory, '--rate', '0', '--exit', '--fresh', '--postgres', server.url)
    assert.deepEqual(await run.ended, { code: 0, signal: null }, run.output())
    await assertAnswer(directory)
  })
})

test('loses and doubles nothing when the server crashes and the job is killed', async () => {
  await emptyStore()
  await withDirectory(async (directory) => {
    for (let round = 0; round < 4; round++) {
      const run = startMainJob(directory, '--rate', '500', '--exit', '--postgres', server.url)
      // Where starts take long, all flights are fed before the last rounds: then a run ends by itself.
      await until(() => (round > 0 && hasEnded(run)) || run.output().split('pattern ').length > 2, run, 'a pattern')
      await server.crashAndRestart()
      await new Promise((resolve) => setTimeout(resolve, 200 + Math.random() * 1_500))
      if (round % 2 === 0) await server.crashAndRestart()
      run.child.kill('SIGKILL')
      const { code, signal } = await run.ended
      assert.ok(signal === 'SIGKILL' || code === 0, run.output())
    }
    const last = startMainJob(directory, '--rate', '0', '--exit', '--postgres', server.url)
    // A crash while it commits is survived without a restart of the process.
    await until(() => hasEnded(last) || last.output().includes('started'), last, 'the start')
    await server.crashAndRestart()
    assert.deepEqual(await last.ended, { code: 0, signal: null }, last.output())
    await assertAnswer(directory)
  })
})
