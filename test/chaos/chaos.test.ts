/**
 * The chaos run on a few kills, and its judge on output that is wrong in every way it has to notice.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { connectPostgres } from '../../connectors/postgres/index.ts'
import { chaosEvent, keyNumberOf, WINDOW_MS } from './events.ts'
import { rssSlope } from './rss-slope.ts'
import { judge } from './verdict.ts'

test('kills at steps and at random instants lose and double nothing', () => {
  const main = fileURLToPath(new URL('./main.ts', import.meta.url))
  const result = spawnSync(process.execPath, [main, '--kills', '4', '--seconds', '20', '--verbose'], {
    encoding: 'utf8',
    env: { ...process.env, NODE_TEST_CONTEXT: undefined },
  })
  assert.equal(result.status, 0, result.stderr)
  assert.match(result.stdout, /^lost 0 duplicated 0 kills [1-4] recoveries [1-4] p50 \d+ p99 \d+\n$/)
})

test('the judge sees what is lost, doubled and wrong', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'millrace-judge-'))
  try {
    const fed = 400
    const lines: string[] = []
    const nth = new Map<number, number>()
    const windows = new Map<string, { key: string; start: number; events: number; amount: number }>()
    for (let id = 0; id < fed; id++) {
      const event = chaosEvent(id)
      const place = (nth.get(keyNumberOf(id)) ?? 0) + 1
      nth.set(keyNumberOf(id), place)
      lines.push(JSON.stringify({ id, key: event.key, nth: place }))
      const start = Math.floor(event.at / WINDOW_MS) * WINDOW_MS
      const window = windows.get(`${event.key} ${start}`) ?? { key: event.key, start, events: 0, amount: 0 }
      window.events++
      window.amount += event.amount
      windows.set(`${event.key} ${start}`, window)
    }
    const rows = [...windows.values()]
    await mkdir(join(directory, 'numbered'))
    const connection = await connectPostgres({ kind: 'pglite', directory: join(directory, 'store') })
    await connection.query(
      'CREATE TABLE window_sums (key text, window_start double precision, events integer, amount double precision)',
    )
    const insert = (row: (typeof rows)[number], events = row.events) =>
      connection.query('INSERT INTO window_sums VALUES ($1, $2, $3, $4)', [row.key, row.start, events, row.amount])
    for (const row of rows.slice(2)) await insert(row)
    await insert(rows[0]!, rows[0]!.events + 1)
    await insert(rows[2]!)
    await connection.close()
    const output = [...lines.slice(1), lines[5]!].map((line) =>
      line.startsWith('{"id":9,') ? line.replace(/"nth":\d+/, '"nth":99') : line,
    )
    await writeFile(join(directory, 'numbered', 'part-1-0.jsonl'), `${output.join('\n')}\n`)

    const verdict = await judge(directory, fed)
    // Event 0 and window 1 are missing; event 5 and window 2 are twice; event 9 and window 0 say something else.
    assert.deepEqual([verdict.lost, verdict.duplicated, verdict.wrong], [2, 2, 2], verdict.examples.join('\n'))
    assert.ok(verdict.examples.includes(`lost: event 0 of key-${keyNumberOf(0)}`))
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
})

test('memory slope: growth an hour, and an error that scatter makes and time lessens', () => {
  const samples = (minutes: number, scatterMib: number) =>
    Array.from({ length: minutes }, (_, i) => ({
      timeMs: 5e9 + i * 60_000,
      mib: 500 + (36 * i) / 60 + (i % 2 === 0 ? scatterMib : -scatterMib),
    }))
  const exact = rssSlope(samples(60, 0))!
  assert.ok(Math.abs(exact.mibPerHour - 36) < 1e-6 && exact.errorMibPerHour < 1e-6)
  const hour = rssSlope(samples(60, 20))!
  const quarter = rssSlope(samples(15, 20))!
  assert.ok(Math.abs(hour.mibPerHour - 36) < 2 * hour.errorMibPerHour)
  // The error falls with the length to the power of 3/2, at samples evenly spaced: 4 times as long, an eighth.
  assert.ok(Math.abs(quarter.errorMibPerHour / hour.errorMibPerHour - 8) < 0.5)
  assert.equal(rssSlope(samples(2, 0)), null)
})
