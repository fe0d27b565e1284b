/** The embedded database as a file: killed at any instant, opened by two processes, shared by sessions. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { connectPostgres, queryPostgres } from './connect.ts'
import { PgliteHost } from './pglite-client.ts'
import { inTransaction } from './sql-connection.ts'

const FIXTURE = fileURLToPath(new URL('./crash.fixture.ts', import.meta.url))
/** Rows per epoch in the fixture. */
const ROWS = 300
const KILLS = 3
/** Of a transaction: whole epochs, or a fourth of one. */
const TRANSACTION_BYTES = [1 << 26, 20_000]

const directory = mkdtempSync(join(tmpdir(), 'millrace-pglite-'))
const connection = { kind: 'pglite', directory } as const
const children: ChildProcess[] = []

after(() => {
  for (const child of children) child.kill('SIGKILL')
  rmSync(directory, { recursive: true })
})

function startFixture(transactionBytesMax = TRANSACTION_BYTES[0]!): {
  child: ChildProcess
  output: () => string
  printed: (pattern: RegExp) => Promise<void>
} {
  const child = spawn(process.execPath, [FIXTURE, directory, String(transactionBytesMax)], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  children.push(child)
  let output = ''
  let errors = ''
  child.stdout!.on('data', (chunk: Buffer) => {
    output += chunk.toString()
  })
  child.stderr!.on('data', (chunk: Buffer) => {
    errors += chunk.toString()
  })
  const printed = async (pattern: RegExp) => {
    while (!pattern.test(output)) {
      assert.equal(child.exitCode, null, errors)
      await sleep(2)
    }
  }
  return { child, output: () => output, printed }
}

async function kill(child: ChildProcess): Promise<void> {
  const exit = once(child, 'exit')
  child.kill('SIGKILL')
  await exit
}

test('kill -9 while the database is made leaves a directory that works', async () => {
  const isMade = () => existsSync(join(directory, 'data'))
  do {
    // What was made before the kill came is made anew.
    for (const name of readdirSync(directory)) rmSync(join(directory, name), { recursive: true })
    const { child } = startFixture()
    while (!isMade() && !readdirSync(directory).some((name) => name.startsWith('init-'))) {
      assert.equal(child.exitCode, null)
      await sleep(5)
    }
    await sleep(Math.random() * 500)
    await kill(child)
  } while (isMade())
})

test('kill -9 at any instant leaves whole epochs and parts that go on, and all that was acknowledged', async () => {
  for (let round = 0; round < KILLS; round++) {
    const { child, output, printed } = startFixture(TRANSACTION_BYTES[(round + 1) % 2])
    await printed(/\n\d+\n/)
    await sleep(Math.random() * 150)
    await kill(child)
    const acknowledged = Number(/(\d+)\n[^\n]*$/.exec(output())![1])
    const reader = await connectPostgres(connection)
    const markers = await reader.query('SELECT epoch, part_records FROM millrace_epochs')
    const epochs = await reader.query(
      'SELECT epoch, count(DISTINCT row) AS rows, count(*) AS all_rows FROM crash GROUP BY epoch ORDER BY epoch',
    )
    await reader.close()
    const marker = Number(markers.rows[0]!['epoch'])
    assert.ok(marker >= acknowledged, `epoch ${acknowledged} was acknowledged, the marker is ${marker}`)
    const expected = Array.from({ length: marker }, (_, i) => ({ epoch: i + 1, rows: ROWS, all_rows: ROWS }))
    const part = Number(markers.rows[0]!['part_records'])
    if (part > 0) expected.push({ epoch: marker + 1, rows: part, all_rows: part })
    assert.deepEqual(epochs.rows, expected)
  }
})

test('a second process is told who has the directory', async () => {
  const { child, printed } = startFixture()
  await printed(/open/)
  await assert.rejects(queryPostgres(connection, 'SELECT 1'), {
    code: 'LOCK_HELD',
    message: new RegExp(`process ${child.pid} holds`),
  })
  await kill(child)
})

test('sessions share the owner, one transaction at a time, and the last one closes it', async () => {
  const [one, two] = await Promise.all([connectPostgres(connection), connectPostgres(connection)])
  // The fsync that commits rely on is switched on.
  assert.deepEqual(
    (await one.query(`SELECT current_setting('fsync') AS f, current_setting('wal_sync_method') AS m`)).rows,
    [{ f: 'on', m: 'fsync' }],
  )
  await one.query('CREATE TABLE shared (n integer)')
  const order: string[] = []
  let second: Promise<void> = Promise.resolve()
  await inTransaction(one, async () => {
    await one.query('INSERT INTO shared VALUES (1)')
    second = two.query('SELECT count(*) AS n FROM shared').then((result) => {
      order.push(`two sees ${result.rows[0]!['n']}`)
    })
    await sleep(20)
    order.push('one commits')
  })
  await second
  assert.deepEqual(order, ['one commits', 'two sees 1'])

  // Closed in the middle of a transaction, a session takes its changes back and lets the others go on.
  await one.begin()
  await one.query('DELETE FROM shared')
  await one.close()
  assert.deepEqual((await two.query('SELECT n FROM shared')).rows, [{ n: 1 }])

  // COMMIT of a failed transaction says so.
  await two.begin()
  await assert.rejects(two.query('SELECT 1/0'), { sqlState: '22012' })
  await assert.rejects(two.commit(), { sqlState: '25P02' })

  // Another host of this process may not open it either.
  await assert.rejects(new PgliteHost().connect(directory), { code: 'LOCK_HELD', message: /this process/ })
  await two.close()
  await assert.rejects(two.query('SELECT 1'), { name: 'SqlFailure', isConnectionLost: true })
  assert.equal(existsSync(join(directory, 'millrace.lock')), false)
})

test("a caller's own lock replaces the connector's", async () => {
  const events: string[] = []
  const acquireLock = (path: string) => {
    events.push(`lock ${path.slice(path.lastIndexOf('/') + 1)}`)
    return { release: () => void events.push('release') }
  }
  const rows = await queryPostgres({ ...connection, acquireLock }, 'SELECT $1::int + 1 AS n', [41])
  assert.deepEqual(rows, [{ n: 42 }])
  assert.deepEqual(events, ['lock millrace.lock', 'release'])
  const refusing = () => {
    throw new Error('taken')
  }
  await assert.rejects(queryPostgres({ ...connection, acquireLock: refusing }, 'SELECT 1'), /taken/)
  await assert.rejects(queryPostgres(connection, 'SELECT nothing'), { code: 'POSTGRES_FAILED', message: /42703/ })
})
