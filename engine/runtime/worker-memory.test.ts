/** A worker thread that runs out of memory is a lost worker: the process lives, and restarts the job. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const FIXTURE = fileURLToPath(new URL('./worker-memory.fixture.ts', import.meta.url))

/**
 * Node gives a thread that meets its limit 16 MiB more to end with. What is promoted of a young generation of the usual
 * size can be more, and then the process ends.
 */
const MEMORY = ['--max-old-space-size=40', '--max-semi-space-size=1']

test('a worker without memory is restarted as any lost one, until restarts are used up', async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [...MEMORY, FIXTURE], {
    env: { ...process.env, NODE_TEST_CONTEXT: undefined },
  })
  const { causes, code } = JSON.parse(stdout) as { causes: string[]; code: string }
  assert.deepEqual([causes.length, code], [1, 'WORKER_LOST'], stdout)
  assert.match(causes[0]!, /reaching memory limit/)
})
