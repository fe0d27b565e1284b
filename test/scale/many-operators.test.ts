/**
 * Sixteen workers of twenty stateful operators within a budget, with more state than that: decision 15. What the process
 * holds is measured while it runs, checkpoints, is killed, restored at another parallelism, and loses a thread in the midst
 * of its work; and every id must find what every operator kept of it. Then what stores themselves share.
 *
 * The job is the long form (`npm run test:scale`); its figures are printed.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { batchOf, type Change, lookUp } from '../../state/keyed-store-conformance.ts'
import { loadRocksdbAddon } from '../../state/rocksdb-addon.ts'
import { rocksdbStoreFactory } from '../../state/rocksdb-store.ts'
import type { Sample, Settings } from './many-operators.fixture.ts'

const isLong = process.env['SCALE'] === 'long'
const FIXTURE = fileURLToPath(new URL('./many-operators.fixture.ts', import.meta.url))
const MIB = 1 << 20
/** As in test/overload.test.ts: what is measured is what the job holds, not garbage that waits for its collection. */
const YOUNG_MIB = 4
/** One flushes, two compact, whatever the number of stores. */
const STORE_THREADS_MAX = 3
/** Files of a store with some hundred megabytes, its directories and locks; what a worker thread itself has open. */
const DESCRIPTORS_A_WORKER = 48

const STATE_BYTES = 8 * MIB
/** Of it, for a store's cache and unflushed writes: a quarter. */
const STORE_BYTES = 2 * MIB
const OPERATORS = 20
const IDS = 40_000
const TEXT_BYTES = 200

/** MiB of the process with no row yet: threads with their heaps, and the code of twenty operators in each. */
const atRestMiB = (workers: number): number => 100 + 48 * workers

/** MiB more that it may take. */
function allowedMiB(workers: number): number {
  const budget = (workers * STATE_BYTES) / MIB
  // Rows between threads: two pages a ring, which rows for one of so many subtasks fill in part; and the pages for all.
  const exchange = (OPERATORS * workers * workers * 2 * 16) / 1_024 + 64
  // A worker's young generation and buffers of batches that are not yet collected.
  return budget + exchange + workers * (3 * YOUNG_MIB + 12)
}

/** Runs the job; ends when it has, or kills it once `enough`. */
async function run(settings: Settings, enough: (sample: Sample) => boolean): Promise<Sample[]> {
  const child = spawn(process.execPath, [`--max-semi-space-size=${YOUNG_MIB}`, FIXTURE, JSON.stringify(settings)], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, NODE_TEST_CONTEXT: undefined },
  })
  const closed = once(child, 'close')
  const samples: Sample[] = []
  for await (const line of createInterface({ input: child.stdout })) {
    const sample = JSON.parse(line) as Sample
    samples.push(sample)
    if (enough(sample)) child.kill('SIGKILL')
  }
  await closed
  return samples
}

const most = (samples: readonly Sample[], of: (sample: Sample) => number): number => Math.max(...samples.map(of))

function assertBounded(samples: readonly Sample[], workers: number): string {
  const { rssAtRestMiB } = samples[0]!
  const more = most(samples, ({ rssPeakMiB }) => rssPeakMiB) - rssAtRestMiB
  const mib = (bytes: number): string => (bytes / MIB).toFixed(1)
  const said = [
    `${workers} workers: ${rssAtRestMiB.toFixed(0)} MiB at rest, ${more.toFixed(0)} more at most`,
    `tables ${mib(most(samples, ({ tableBytes }) => tableBytes))}`,
    `cache ${mib(most(samples, ({ shared }) => shared.cache))} of ${mib(most(samples, (one) => one.shared.cacheCapacity))}`,
    `unflushed ${mib(most(samples, ({ shared }) => shared.writeBuffers))} of ${mib(most(samples, (one) => one.shared.writeBuffersCapacity))} MiB`,
    `files ${mib(most(samples, ({ storedBytes }) => storedBytes))} MiB`,
    `${most(samples, ({ threads }) => threads)} threads, ${most(samples, ({ storeThreads }) => storeThreads)} of stores`,
    `${most(samples, ({ descriptors }) => descriptors)} descriptors`,
  ].join(', ')
  assert.ok(rssAtRestMiB <= atRestMiB(workers), `${said}; at rest ${atRestMiB(workers)} are allowed`)
  assert.ok(more <= allowedMiB(workers), `${said}; ${allowedMiB(workers).toFixed(0)} more are allowed`)
  for (const { shared, tableBytes, storeThreads, descriptors } of samples) {
    assert.ok(tableBytes <= workers * STATE_BYTES, said)
    assert.ok(shared.cache <= shared.cacheCapacity * 1.1 + shared.cachePinned, said)
    assert.ok(shared.writeBuffers <= shared.writeBuffersCapacity * 1.5, said)
    assert.ok(shared.cacheCapacity + shared.writeBuffersCapacity <= workers * STORE_BYTES, said)
    assert.ok(storeThreads <= STORE_THREADS_MAX, said)
    assert.ok(descriptors <= 100 + workers * DESCRIPTORS_A_WORKER, said)
  }
  return said
}

describe('sixteen workers of twenty operators', { skip: !isLong && 'with SCALE=long' }, () => {
  test('stay within their budget with more state than that, killed, restored at another parallelism, and with a thread lost', async (context) => {
    const directory = mkdtempSync(join(tmpdir(), 'millrace-many-'))
    try {
      const settings = { directory, operators: OPERATORS, ids: IDS, textBytes: TEXT_BYTES, stateBytes: STATE_BYTES }
      const killed = await run(
        { ...settings, workers: 16, restore: false },
        ({ recordsIn, checkpoints }) => checkpoints > 0 && recordsIn > IDS * 1.25,
      )
      assert.equal(killed.at(-1)!.ended, false)
      context.diagnostic(assertBounded(killed, 16))
      const restored = await run({ ...settings, workers: 12, restore: true, exitAtId: IDS - 1 }, () => false)
      const { ended, error, restarts } = restored.at(-1)!
      assert.deepEqual({ ended, error, restarts }, { ended: true, error: null, restarts: 1 })
      context.diagnostic(assertBounded(restored, 12))
      const found = readdirSync(join(directory, 'found'))
        .filter((name) => name.endsWith('.jsonl'))
        .flatMap((name) =>
          readFileSync(join(directory, 'found', name), 'utf8')
            .split('\n')
            .slice(0, -1),
        )
        .map((line) => JSON.parse(line) as { id: number; found: number })
      assert.equal(found.length, IDS)
      assert.equal(new Set(found.map(({ id }) => id)).size, IDS)
      assert.ok(found.every((row) => row.found === OPERATORS))
    } finally {
      rmSync(directory, { recursive: true, force: true })
    }
  })

  test('leave the process as it was when their threads are ended in the midst of calls', async (context) => {
    const directory = mkdtempSync(join(tmpdir(), 'millrace-many-'))
    const addon = loadRocksdbAddon()
    const script = new URL('../../native/rocksdb-worker.fixture.ts', import.meta.url)
    const before = { ...addon.sharedMemory(), descriptors: descriptors() }
    const rss: number[] = []
    try {
      for (let round = 0; round < 4; round++) {
        const workers = Array.from({ length: 16 }, (_, i) => {
          const workerData = { directory: join(directory, `${round}-${i}`), rounds: 1_000, rows: 3_000 + 500 * i }
          return new Worker(script, { workerData })
        })
        await Promise.all(workers.map((worker) => once(worker, 'message')))
        assert.ok(addon.sharedMemory().cacheCapacity > before.cacheCapacity)
        assert.ok(storeThreads() <= STORE_THREADS_MAX, `${storeThreads()} threads of stores`)
        await Promise.all(workers.map((worker) => worker.terminate()))
        addon.trimHeap?.()
        rss.push(process.memoryUsage().rss / MIB)
        const { cacheCapacity, writeBuffersCapacity, writeBuffers } = addon.sharedMemory()
        assert.ok(cacheCapacity <= before.cacheCapacity && writeBuffersCapacity <= before.writeBuffersCapacity)
        assert.equal(writeBuffers, 0)
        assert.ok(descriptors() <= before.descriptors + 8, `${descriptors()} descriptors`)
      }
      context.diagnostic(`${rss.map((mib) => mib.toFixed(0)).join(', ')} MiB after each round`)
      assert.ok(rss.at(-1)! < rss[0]! + 64, `${rss.join(', ')} MiB`)
    } finally {
      rmSync(directory, { recursive: true, force: true })
    }
  })
})

const descriptors = (): number => readdirSync('/proc/self/fd').length

function storeThreads(): number {
  return readdirSync('/proc/self/task').filter((task) => {
    try {
      return readFileSync(`/proc/self/task/${task}/comm`, 'utf8').startsWith('rocksdb:')
    } catch {
      return false
    }
  }).length
}

test('thirty-two stores of a process share a cache, what is unflushed, and three threads', () => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-many-'))
  const addon = loadRocksdbAddon()
  const factory = rocksdbStoreFactory(STORE_BYTES)
  const stores = Array.from({ length: 32 }, (_, i) => factory.create(join(directory, String(i))))
  try {
    const open = addon.sharedMemory()
    assert.equal(open.cacheCapacity + open.writeBuffersCapacity, 32 * STORE_BYTES)
    const rssBefore = process.memoryUsage().rss
    // One store takes what the others leave.
    const rows = isLong ? 200_000 : 12_000
    for (let from = 0; from < rows; from += 2_000) {
      const changes: Change[] = Array.from({ length: 2_000 }, (_, k) => [`key ${from + k}`, `${k} `.repeat(400)])
      for (const store of [stores[0]!, stores[from % 32]!]) store.write(batchOf(changes))
      const { cache, cachePinned, cacheCapacity, writeBuffers, writeBuffersCapacity } = addon.sharedMemory()
      assert.ok(writeBuffers <= writeBuffersCapacity * 1.5, `${writeBuffers} of ${writeBuffersCapacity} are unflushed`)
      assert.ok(cache <= cacheCapacity * 1.1 + cachePinned, `${cache} of ${cacheCapacity} are cached`)
    }
    for (const store of stores) store.write(batchOf([['own', 'value']]))
    for (const store of stores) assert.deepEqual(lookUp(store, ['own', 'absent']), ['value', null])
    assert.ok(storeThreads() <= STORE_THREADS_MAX, `${storeThreads()} threads of stores`)
    const more = (process.memoryUsage().rss - rssBefore) / MIB
    assert.ok(more < 64 + 64, `${more.toFixed(0)} MiB more, of which 64 are theirs`)
  } finally {
    for (const store of stores) store.close()
    rmSync(directory, { recursive: true, force: true })
  }
  const { cacheCapacity, writeBuffersCapacity, writeBuffers } = addon.sharedMemory()
  assert.deepEqual(
    [cacheCapacity + writeBuffersCapacity, writeBuffers],
    [2 * MIB, 0],
    'they gave back what they brought',
  )
})
