/**
 * A job that is restarted in its process leaves nothing behind: no thread, descriptor, mapping, directory, and
 * nothing on the heap.
 *
 * `MILLRACE_RESTARTS=100 npm test -- restart-leaks` restarts that often, on the calling thread and on worker
 * threads, and holds resident memory to its plateau as well.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { tryLoadRocksdbAddon } from '../../state/rocksdb-addon.ts'
import type { Holdings } from './restart-leaks.fixture.ts'

const FIXTURE = fileURLToPath(new URL('./restart-leaks.fixture.ts', import.meta.url))
const restarts = Number(process.env['MILLRACE_RESTARTS'] ?? 0)
const skip = tryLoadRocksdbAddon() === null || process.platform !== 'linux'

/** What the process holds after each of two restarts. */
async function held(workers: number, first: number, last: number): Promise<[Holdings, Holdings]> {
  const args = ['--expose-gc', FIXTURE, String(workers), String(first), String(last)]
  const { stdout } = await promisify(execFile)(process.execPath, args, {
    env: { ...process.env, NODE_TEST_CONTEXT: undefined },
  })
  const lines = stdout.trim().split('\n')
  assert.equal(lines.length, 2, stdout)
  return lines.map((line) => JSON.parse(line) as Holdings) as [Holdings, Holdings]
}

/** Far below one of each a restart. */
const SLACK = 3

function assertNothingLeft(before: Holdings, after: Holdings): void {
  const said = JSON.stringify({ before, after })
  for (const kind of ['threads', 'descriptors', 'mappedFiles', 'live'] as const) {
    assert.ok(after[kind] - before[kind] <= SLACK, `${kind}: ${said}`)
  }
  // A run that is still referred to holds its tables, some 100 KiB at the least.
  assert.ok(after.heapMib - before.heapMib < 2, `heap: ${said}`)
}

test('restarts on the calling thread leave nothing behind', { skip }, async () => {
  assertNothingLeft(...(await held(0, 5, 20)))
})

for (const workers of restarts > 0 ? [0, 1, 2] : []) {
  test(`${restarts} restarts on ${workers} threads do not grow the process`, { skip }, async () => {
    const [before, after] = await held(workers, Math.floor(restarts / 2), restarts)
    assertNothingLeft(before, after)
    assert.ok(after.residentMib < before.residentMib * 1.1, JSON.stringify({ before, after }))
  })
}
