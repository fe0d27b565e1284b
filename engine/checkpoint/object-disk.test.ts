/**
 * The disk over an object store: one winner whatever replies are lost, hashes on the way in, and the whole protocol
 * (takeover, manifests, garbage collection) on a remote directory.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import type { ObjectStore } from '../contract/object-store.ts'
import { MillraceError } from '../core/errors.ts'
import type { Disk } from '../core/io.ts'
import { nodeIo } from '../runtime/node-io.ts'
import { GarbageCollector } from './gc.ts'
import { layout } from './layout.ts'
import { createManifest, manifestNumbers, readManifest } from './manifest-store.ts'
import { objectDisk } from './object-disk.ts'
import { type CallFate, MemoryObjectStore } from './object-store.testkit.ts'
import { createOutbox, readOutbox } from './outbox.ts'
import { takeOver } from './recovery.ts'
import { manifestOf } from './testing-manifest.ts'

const DIRECTORY = 's3://bucket/job'

/** A disk of one process over a shared store; waits pass at once. */
function diskOver(store: MemoryObjectStore): Disk {
  return objectDisk({
    local: nodeIo.disk,
    random: { next: () => 0 },
    timers: {
      schedule(_delayMs, task) {
        const timer = setImmediate(task)
        return () => clearImmediate(timer)
      },
    },
    open: async (url) => {
      assert.equal(url, 's3://bucket')
      return store
    },
  })
}

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'millrace-objects-'))
  try {
    await body(folder)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')

test('creating has one winner, whichever requests are refused and whichever replies are lost', async () => {
  const fates = fc.array(fc.constantFrom<CallFate>('answered', 'refused', 'lost'), { maxLength: 6 })
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 3 }), fates, async (callers, plan) => {
      const store = new MemoryObjectStore(nodeIo.disk)
      let at = 0
      // At most five calls fail in a row, which is fewer than the tries of one caller.
      store.fate = () => (at < plan.length ? plan[at++]! : 'answered')
      const names = Array.from({ length: callers }, (_, i) => `caller ${i}`)
      const outcomes = await Promise.allSettled(
        names.map((name) => diskOver(store).createExclusive(`${DIRECTORY}/manifests/1`, Buffer.from(name))),
      )
      const won = names.filter(
        (_, i) => outcomes[i]!.status === 'fulfilled' && (outcomes[i] as { value: boolean }).value,
      )
      const held = Buffer.from(store.objects.get('job/manifests/1') ?? []).toString()
      assert.ok(won.length <= 1, `several won: ${won.join()}`)
      if (won.length === 1) assert.equal(held, won[0])
      if (outcomes.every(({ status }) => status === 'fulfilled')) assert.equal(won.length, 1)
    }),
    { numRuns: 200 },
  )
})

test('what is brought has the hash asked for, after one more try', () =>
  withFolder(async (folder) => {
    const store = new MemoryObjectStore(nodeIo.disk)
    const disk = diskOver(store)
    const content = { sha256: sha256('state'), size: 5 }
    await writeFile(join(folder, 'a.sst'), 'state')
    const url = layout.sharedFile(DIRECTORY, content.sha256)
    await disk.link(join(folder, 'a.sst'), url, content)
    await disk.link(url, join(folder, 'b.sst'), content)
    assert.equal(await readFile(join(folder, 'b.sst'), 'utf8'), 'state')

    const key = `job/shared/${content.sha256}`
    let hurt = true
    store.fate = (call) => {
      if (call.startsWith('download')) {
        store.objects.set(key, Buffer.from(hurt ? 'stale' : 'state'))
        hurt = false
      }
      return 'answered'
    }
    await disk.link(url, join(folder, 'c.sst'), content)
    assert.equal(await readFile(join(folder, 'c.sst'), 'utf8'), 'state')

    store.fate = () => 'answered'
    store.objects.set(key, Buffer.from('stale'))
    await assert.rejects(disk.link(url, join(folder, 'd.sst'), content), { code: 'STATE_FILE_CORRUPT' })
    assert.ok(!existsSync(join(folder, 'd.sst')))
    // Nor does a job that moves take damage along.
    const moved = layout.sharedFile(`${DIRECTORY}2`, content.sha256)
    await assert.rejects(disk.link(url, moved, content), { code: 'STATE_FILE_CORRUPT' })
    assert.equal(await disk.size(moved), null)
    store.objects.delete(key)
    await assert.rejects(disk.link(url, join(folder, 'd.sst'), content), { code: 'ENOENT' })
  }))

test('output waits in the store too: a sealed segment is an object, and nothing of it stays on the local disk', () =>
  withFolder(async (folder) => {
    const store = new MemoryObjectStore(nodeIo.disk)
    const disk = diskOver(store)
    const outbox = createOutbox({
      disk,
      directory: DIRECTORY,
      liveDirectory: folder,
      prefix: 'p',
      onError: (error) => assert.fail(String(error)),
    })
    outbox.append(Buffer.from('one'))
    outbox.append(Buffer.from('two'))
    // The reply to the upload is lost once.
    let lost = false
    store.fate = (call) => {
      if (!call.startsWith('upload') || lost) return 'answered'
      lost = true
      return 'lost'
    }
    const segment = (await outbox.seal())!
    assert.deepEqual(await readdir(folder), [])
    const records: string[] = []
    for await (const record of readOutbox(disk, DIRECTORY, segment)) records.push(Buffer.from(record).toString())
    assert.deepEqual(records, ['one', 'two'])
  }))

test('a store that stays away fails the call, and the next one finds it again', async () => {
  const store = new MemoryObjectStore(nodeIo.disk)
  const disk = diskOver(store)
  store.fate = () => 'refused'
  await assert.rejects(disk.read(`${DIRECTORY}/x`), { code: 'OBJECT_STORE_UNAVAILABLE', retryable: true })
  store.fate = () => 'answered'
  store.objects.set('job/x', Buffer.from('here'))
  assert.equal(Buffer.from(await disk.read(`${DIRECTORY}/x`)).toString(), 'here')
})

test('what predecessors left unfinished is dropped; a store that does not allow that keeps it, and no start fails by it', async () => {
  const store: MemoryObjectStore & Pick<ObjectStore, 'dropUnfinished'> = new MemoryObjectStore(nodeIo.disk)
  const disk = diskOver(store)
  await disk.dropUnfinished!(`${DIRECTORY}/shared`)
  const prefixes: string[] = []
  let failures: MillraceError[] = []
  store.dropUnfinished = async (prefix) => {
    prefixes.push(prefix)
    const failure = failures.pop()
    if (failure !== undefined) throw failure
    return 1
  }
  failures = [new MillraceError('OBJECT_STORE_UNAVAILABLE', 'away', { retryable: true })]
  await disk.dropUnfinished!(`${DIRECTORY}/shared`)
  failures = [new MillraceError('OBJECT_STORE_REFUSED', 'AccessDenied')]
  await disk.dropUnfinished!(`${DIRECTORY}/outbox`)
  assert.deepEqual(prefixes, ['job/shared/', 'job/shared/', 'job/outbox/'])
  failures = Array.from({ length: 9 }, () => new MillraceError('OBJECT_STORE_UNAVAILABLE', 'away', { retryable: true }))
  await assert.rejects(disk.dropUnfinished!(`${DIRECTORY}/shared`), { code: 'OBJECT_STORE_UNAVAILABLE' })
})

const takeover = (disk: Disk, owner: string, restore: string | null = 'latest') =>
  takeOver(disk, {
    directory: DIRECTORY,
    restore,
    jobName: 'test',
    keyGroups: 128,
    workers: 1,
    stateBackend: 'memory',
    nowMs: 0,
    owner,
  })

test('a remote job is taken over once, and the owner before creates nothing more', async () => {
  const store = new MemoryObjectStore(nodeIo.disk)
  const first = diskOver(store)
  const { manifest } = await takeover(first, 'a', null)
  const races = await Promise.allSettled(['b', 'c'].map((owner) => takeover(diskOver(store), owner)))
  assert.deepEqual(races.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
  // What the zombie would write next has a number that is taken, and is not its own.
  assert.equal(await createManifest(first, DIRECTORY, { ...manifest, kind: 'checkpoint', number: 2 }), false)
  const { manifest: held } = await readManifest(first, DIRECTORY, 2)
  assert.ok(held?.owner === 'b' || held?.owner === 'c')
})

test('remote files go after a grace period, and never once another process owns the job', async () => {
  const store = new MemoryObjectStore(nodeIo.disk)
  const disk = diskOver(store)
  let nowMs = 0
  const garbage = new GarbageCollector({
    disk,
    directory: DIRECTORY,
    clock: { monotonicMs: () => nowMs },
    retained: 1,
    graceMs: 1_000,
  })
  const add = async (number: number): Promise<void> => {
    const hash = sha256(String(number))
    store.objects.set(`job/shared/${hash}`, Buffer.from('x'))
    const files = [{ name: '1.sst', sha256: hash, size: 1 }]
    await createManifest(disk, DIRECTORY, manifestOf({ number, owner: 'a', stores: [{ worker: 0, files }] }))
  }
  const names = () => disk.list(layout.shared(DIRECTORY))
  await add(1)
  await add(2)
  await garbage.collect()
  assert.deepEqual(await manifestNumbers(disk, DIRECTORY), [2])
  assert.equal((await names()).length, 2)
  nowMs = 1_000
  // Another process takes over between the marking and the first removal.
  store.fate = (call) => {
    if (call === 'list job/shared/') store.objects.set('job/manifests/000000000003.json', Buffer.from('newer'))
    return 'answered'
  }
  await garbage.collect()
  assert.equal((await names()).length, 2)
  store.fate = () => 'answered'
  store.objects.delete('job/manifests/000000000003.json')
  await garbage.collect()
  assert.deepEqual(await names(), [sha256('2')])
})
