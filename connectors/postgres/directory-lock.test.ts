/** The pid file: refused to the living, taken from the dead. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { acquireDirectoryLock } from './directory-lock.ts'

function withLockPath(body: (path: string, directory: string) => void): void {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-lock-'))
  try {
    body(join(directory, 'millrace.lock'), directory)
  } finally {
    rmSync(directory, { recursive: true })
  }
}

test('a held lock is refused naming the pid, and free after release', () => {
  withLockPath((path, directory) => {
    const lock = acquireDirectoryLock(path)
    assert.throws(() => acquireDirectoryLock(path), {
      code: 'LOCK_HELD',
      message: new RegExp(`pid ${process.pid}\\b`),
    })
    lock.release()
    lock.release()
    acquireDirectoryLock(path).release()
    assert.deepEqual(readdirSync(directory), [], 'no file is left behind')
  })
})

test('the file of a dead process is taken over', () => {
  withLockPath((path) => {
    const dead = spawnSync(process.execPath, ['-e', '']).pid
    writeFileSync(path, `${dead} 1 x\n`)
    acquireDirectoryLock(path)
    assert.equal(readFileSync(path, 'utf8').split(' ')[0], String(process.pid))
  })
})

test('a pid that was given to a later process does not hold the lock', () => {
  withLockPath((path) => {
    writeFileSync(path, `${process.pid} 1 x\n`)
    const lock = acquireDirectoryLock(path)
    assert.notEqual(readFileSync(path, 'utf8').split(' ')[1], '1')
    lock.release()
  })
})

test('releasing does not remove the file of another owner', () => {
  withLockPath((path) => {
    const lock = acquireDirectoryLock(path)
    writeFileSync(path, `${process.ppid} - other\n`)
    lock.release()
    assert.match(readFileSync(path, 'utf8'), /other/)
  })
})
