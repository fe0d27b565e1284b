/**
 * The real disk: what it does where files cannot be linked.
 */
import assert from 'node:assert/strict'
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { nodeIo } from './node-io.ts'

const OTHER_DEVICE = '/dev/shm'

async function areApart(a: string, b: string): Promise<boolean> {
  const [here, there] = await Promise.all([stat(a), stat(b)]).catch(() => [null, null])
  return here?.dev !== there?.dev
}

test('a file is copied to another device whole; a damaged one is named and not copied', async (t) => {
  if (!(await areApart(tmpdir(), OTHER_DEVICE))) return t.skip(`${OTHER_DEVICE} is no device of its own`)
  const [from, to] = await Promise.all([tmpdir(), OTHER_DEVICE].map((place) => mkdtemp(join(place, 'millrace-io-'))))
  const { disk } = nodeIo
  try {
    const path = join(from!, 'a.sst')
    await writeFile(path, 'state')
    const content = await disk.hash(path)
    await disk.link(path, join(to!, 'a.sst'), content)
    assert.equal(await readFile(join(to!, 'a.sst'), 'utf8'), 'state')
    await writeFile(path, 'stale')
    const damaged = { code: 'STATE_FILE_CORRUPT', message: /a\.sst is damaged/ }
    await assert.rejects(disk.link(path, join(to!, 'b.sst'), content), damaged)
    assert.deepEqual(await readdir(to!), ['a.sst'])
  } finally {
    for (const place of [from!, to!]) await rm(place, { recursive: true, force: true })
  }
})
