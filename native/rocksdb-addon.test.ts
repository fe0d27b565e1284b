/** The addon where it could take the process down: bad arguments, dying workers, many threads, locks. */
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { Worker } from 'node:worker_threads'
import { MillraceError } from '../engine/core/errors.ts'
import { acquireFileLock, acquirePidFileLock } from '../state/file-lock.ts'
import { loadRocksdbAddon } from '../state/rocksdb-addon.ts'

const root = mkdtempSync(join(tmpdir(), 'millrace-addon-'))
after(() => rmSync(root, { recursive: true, force: true }))

const fixture = (name: string): string => join(import.meta.dirname, `${name}.fixture.ts`)

async function runFixture(name: string, ...args: string[]): Promise<string> {
  return (await promisify(execFile)(process.execPath, ['--expose-gc', fixture(name), ...args])).stdout
}

describe('rocksdb addon', () => {
  test('malformed arguments give errors, never a crash', async () => {
    const seed = String(Math.floor(Math.random() * 2 ** 31))
    const args = [join(root, 'fuzz'), '6000', seed]
    await assert.doesNotReject(
      async () => assert.equal(await runFixture('rocksdb-fuzz', ...args), 'survived\n'),
      `seed ${seed}`,
    )
  })

  test('workers terminated in the middle of checkpoints leave the process well', async () => {
    assert.equal(await runFixture('rocksdb-terminate', join(root, 'terminate')), 'survived\n')
  })

  test('holes in the heap are given back to the system', {
    skip: loadRocksdbAddon().trimHeap === undefined,
  }, async () => {
    assert.ok(Number(await runFixture('rocksdb-trim')) > 40)
  })

  test('four workers each use a store at once', async () => {
    const workers = [0, 1, 2, 3].map((i) => {
      const workerData = { directory: join(root, `parallel-${i}`), rounds: 3, rows: 5000 }
      return new Worker(fixture('rocksdb-worker'), { workerData })
    })
    await Promise.all(
      workers.map(async (worker) => {
        const messages: unknown[] = []
        worker.on('message', (message) => messages.push(message))
        const [code] = await once(worker, 'exit')
        assert.deepEqual([code, ...messages], [0, 'running', 'done'])
      }),
    )
  })
})

describe('file lock', () => {
  const kinds = { flock: acquireFileLock, pid: acquirePidFileLock }
  for (const [kind, acquire] of Object.entries(kinds)) {
    const path = join(root, `lock-${kind}`)
    const heldBy = (pid: number | undefined) => (error: unknown) =>
      error instanceof MillraceError && error.code === 'LOCK_HELD' && error.message.includes(`process ${pid}.`)

    test(`${kind}: excludes, names the holder, can be taken again after release`, () => {
      const lock = acquire(path)
      assert.throws(() => acquire(path), heldBy(process.pid))
      lock.release()
      lock.release()
      const again = acquire(path)
      lock.release()
      assert.throws(() => acquire(path), heldBy(process.pid))
      again.release()
    })

    test(`${kind}: a killed holder frees it`, async () => {
      const holder = spawn(process.execPath, [fixture('rocksdb-lock'), path, kind], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      await once(holder.stdout, 'data')
      assert.throws(() => acquire(path), heldBy(holder.pid))
      holder.kill('SIGKILL')
      await once(holder, 'exit')
      acquire(path).release()
    })
  }

  test('pid: a leftover whose pid now is another process is taken over', () => {
    const path = join(root, 'lock-recycled')
    writeFileSync(path, `${process.pid} 1 an-earlier-holder\n`)
    acquirePidFileLock(path).release()
  })
})
