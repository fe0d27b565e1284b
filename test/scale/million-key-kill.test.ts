/**
 * Jobs on two worker threads with RocksDB whose process dies by `kill -9` in the midst of a firing of a million keys, at its
 * first key, at its last ones and in between, in windows and in timers, one death after the other: decision 13. Once it is
 * let live, each key has fired once, and once more for its late row, in the files of an exactly-once sink.
 *
 * `npm run test:scale` runs it.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { Branch, Fired, Settings } from './million-key-kill.fixture.ts'

const FIXTURE = fileURLToPath(new URL('./million-key-kill.fixture.ts', import.meta.url))
const KEYS = Number(process.env['FIRE_KEYS'] ?? 1_000_000)
const LATE_KEYS = 1_000
/** Much less than a million keys take. */
const STATE_BYTES = 16 << 20
/** A thread has about half of the keys. */
const DEATHS: readonly { readonly branch: Branch; readonly firing: number }[] = [
  { branch: 'windows', firing: 1 },
  { branch: 'timers', firing: Math.floor(KEYS / 4) },
  { branch: 'windows', firing: Math.floor(KEYS * 0.3) },
  { branch: 'timers', firing: Math.floor(KEYS * 0.48) },
]

async function run(settings: Settings): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
  const child = spawn(process.execPath, [FIXTURE, JSON.stringify(settings)], {
    stdio: ['ignore', 'ignore', 'inherit'],
    // The child is a program of its own, not a test.
    env: { ...process.env, NODE_TEST_CONTEXT: undefined },
  })
  const [code, signal] = await once(child, 'close')
  return { code, signal }
}

/** Lines of a sink's files by key, in no order. */
function fired(directory: string): Map<number, number[]> {
  const byKey = new Map<number, number[]>()
  const names = existsSync(directory) ? readdirSync(directory).filter((name) => name.endsWith('.jsonl')) : []
  for (const name of names) {
    for (const line of readFileSync(join(directory, name), 'utf8').split('\n')) {
      if (line === '') continue
      const { key, rows } = JSON.parse(line) as Fired
      const own = byKey.get(key)
      if (own === undefined) byKey.set(key, [rows])
      else own.push(rows)
    }
  }
  return byKey
}

function assertOnce(byKey: Map<number, number[]>): void {
  assert.equal(byKey.size, KEYS + 2)
  for (const [key, rows] of byKey) {
    rows.sort((a, b) => a - b)
    if (rows.join() === expectedOf(key)) continue
    // A late row of one split may come before the watermark of the other, and be in the firing.
    assert.ok(key >= 0 && key < 2 * LATE_KEYS && rows.join() === '3', `key ${key} fired with ${rows} rows`)
  }
}

/** Two rows a key, a third one that is late for some; a row of its own made the watermark of each split. */
function expectedOf(key: number): string {
  if (key < 0) return '1'
  return key < 2 * LATE_KEYS ? '2,3' : '2'
}

describe('a firing of a million keys', { skip: process.env['SCALE'] !== 'long' && 'with SCALE=long' }, () => {
  test('killed with its process in its midst, over and over, fires each key once in the end', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'millrace-kill-'))
    try {
      const settings = { directory, keys: KEYS, lateKeys: LATE_KEYS, stateBytes: STATE_BYTES }
      for (const [nth, dieAt] of DEATHS.entries()) {
        assert.equal((await run({ ...settings, restore: nth > 0, dieAt })).signal, 'SIGKILL', JSON.stringify(dieAt))
        for (const branch of ['windows', 'timers']) {
          assert.equal(fired(join(directory, branch)).size, 0, 'nothing of a firing that did not end is shown')
        }
      }
      assert.deepEqual(await run({ ...settings, restore: true, dieAt: null }), { code: 0, signal: null })
      for (const branch of ['windows', 'timers']) assertOnce(fired(join(directory, branch)))
    } finally {
      rmSync(directory, { recursive: true, force: true })
    }
  })
})
