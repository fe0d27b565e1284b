/**
 * Golden checkpoints: savepoints that earlier versions wrote, kept in test/golden, one folder a manifest format, or
 * another change of what is stored, and backend. This version restores each, at its own parallelism and at another, and
 * goes on to exactly the results of a run that was never interrupted.
 */
import assert from 'node:assert/strict'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { SavepointReader } from '../engine/api/state.ts'
import { MANIFEST_FORMAT } from '../engine/checkpoint/manifest.ts'
import { verifyCheckpoints } from '../engine/checkpoint/verify.ts'
import { nodeIo } from '../engine/runtime/node-io.ts'
import { tryLoadRocksdbAddon } from '../state/rocksdb-addon.ts'
import { GOLDEN_JOBS, type GoldenJob } from './golden/golden-jobs.ts'

const GOLDEN = fileURLToPath(new URL('./golden', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'millrace-golden-test-'))
after(() => rmSync(folder, { recursive: true, force: true }))

const checkpoints = readdirSync(GOLDEN).filter((name) => /-\d+-(memory|rocksdb)$/.test(name))
const jobOf = (name: string): GoldenJob => GOLDEN_JOBS[name.replace(/-\d+-(memory|rocksdb)$/, '')]!

/** Lines of runs without interruption, sorted. */
const whole = new Map<GoldenJob, Promise<string[]>>()

function wholeOf(golden: GoldenJob): Promise<string[]> {
  const known = whole.get(golden)
  if (known !== undefined) return known
  const lines = (async () => {
    const directory = join(folder, `whole-${whole.size}`)
    const { job, lines } = await golden.start({ directory, stateBackend: 'memory', limit: golden.rows, hold: false })
    await job.done
    return lines.sort()
  })()
  whole.set(golden, lines)
  return lines
}

test('every format that this version may meet has golden checkpoints', () => {
  for (let format = 1; format <= MANIFEST_FORMAT; format++) {
    for (const backend of ['memory', 'rocksdb']) assert.ok(checkpoints.includes(`format-${format}-${backend}`))
  }
})

for (const name of checkpoints) {
  const stateBackend = name.endsWith('memory') ? 'memory' : 'rocksdb'
  const parallelisms = name.startsWith('format-') ? [1, 3] : stateBackend === 'memory' ? [3] : [1]
  for (const parallelism of parallelisms) {
    const skip = stateBackend === 'rocksdb' && tryLoadRocksdbAddon() === null
    test(`${name} goes on with parallelism ${parallelism}`, { skip }, async () => {
      const directory = join(folder, `${name}-${parallelism}`)
      cpSync(join(GOLDEN, name), directory, { recursive: true })
      assert.deepEqual((await verifyCheckpoints(nodeIo.disk, directory)).problems, [])
      const before = readFileSync(join(directory, 'lines.txt'), 'utf8').trimEnd().split('\n')
      const golden = jobOf(name)
      const run = { directory, stateBackend, limit: golden.rows, hold: false, restore: 'latest', parallelism } as const
      const { job, lines } = await golden.start(run)
      await job.done
      assert.deepEqual([...before, ...lines].sort(), await wholeOf(golden))
    })
  }
}

test('windows that keep their rows are read whole, as earlier versions stored them and as this one does', async () => {
  const seen: unknown[] = []
  for (const number of [1, 2]) {
    await using savepoint = await SavepointReader.read(join(GOLDEN, `window-rows-${number}-memory`))
    const windows: Record<string, unknown[]> = {}
    for (const { uid, states } of savepoint.operators.filter(({ isKeyed }) => isKeyed)) {
      assert.ok(states.some(({ name }) => name.endsWith('windows')))
      // Rows of two inputs come as bytes, of another form in each.
      if (uid.endsWith('paired')) continue
      windows[uid] = []
      for await (const { key, value, windowStart } of savepoint.readWindowState(uid)) {
        windows[uid].push([key, windowStart, value])
      }
      windows[uid].sort()
    }
    seen.push(windows)
  }
  const [before, now] = seen as Record<string, [string, number, { n: number }[]][]>[]
  assert.deepEqual(now, before)
  const odd = now!.aligned!.find(([key]) => key === 'k1')![2]
  assert.deepEqual(
    odd.map(({ n }) => n),
    Array.from({ length: 100 }, (_, i) => i * 2 + 1),
  )
})

for (const name of checkpoints.filter((name) => name.startsWith('format-'))) {
  const stateBackend = name.endsWith('memory') ? 'memory' : 'rocksdb'
  const skip = stateBackend === 'rocksdb' && tryLoadRocksdbAddon() === null
  test(`${name} with a flipped bit in its state ends the job before it reads a record`, { skip }, async () => {
    const directory = join(folder, `${name}-flipped`)
    cpSync(join(GOLDEN, name), directory, { recursive: true })
    const [manifest] = readdirSync(join(directory, 'manifests'))
    const text = readFileSync(join(directory, 'manifests', manifest!), 'utf8')
    const files = [...text.matchAll(/"name": "([^"]+)",\s+"sha256": "([0-9a-f]{64})"/g)]
    const state = files.find(([, file]) => stateBackend === 'memory' || file!.endsWith('.sst'))!
    const path = join(directory, 'shared', state[2]!)
    const bytes = readFileSync(path)
    bytes[bytes.length >> 2]! ^= 0x10
    writeFileSync(path, bytes)
    const golden = jobOf(name)
    const run = { directory, stateBackend, limit: golden.rows, hold: false, restore: 'latest' } as const
    const { job, lines } = await golden.start(run)
    await assert.rejects(job.done, { message: /damaged|[Cc]orrupt/ })
    assert.deepEqual(lines, [])
    const { problems } = await verifyCheckpoints(nodeIo.disk, directory)
    assert.ok(
      problems.some((problem) => problem.includes(state[2]!)),
      problems.join(),
    )
  })
}
