/**
 * A worker's checkpoints: what `abort` waits for, what becomes of sealed output, and files that garbage
 * collection took in between.
 */
import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { collectGarbage } from '../checkpoint/gc.ts'
import { layout } from '../checkpoint/layout.ts'
import type { KeyedStore } from '../contract/keyed-store.ts'
import { MillraceError } from '../core/errors.ts'
import type { Disk } from '../core/io.ts'
import { CutPieces } from './cut-pieces.ts'
import { nodeIo } from './node-io.ts'
import type { FromWorker, SinkCommittable, SubtaskCapture, WorkerAck } from './protocol.ts'
import { type WorkerCheckpointOptions, WorkerCheckpoints } from './worker-checkpoint.ts'

const CAPTURE: SubtaskCapture = { vertex: 0, subtask: 0, alignmentMs: 0, syncMs: 0, operators: [], splits: null }
const sealed = (name: string): SinkCommittable => ({ sink: 's', committable: { name } })

/** A store whose image always has the same one finished file. */
const store = {
  async writeAndCheckpoint(_batch: unknown, directory: string) {
    await mkdir(directory, { recursive: true })
    await writeFile(join(directory, '000001.sst'), 'state')
    return [{ name: '000001.sst', size: 5 }]
  },
} as unknown as KeyedStore

async function rig(
  subtasks: number,
  body: (rig: Awaited<ReturnType<typeof make>>) => Promise<void>,
  keeps: KeyedStore = store,
  changes: Partial<WorkerCheckpointOptions> = {},
): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'millrace-worker-'))
  try {
    await body(await make(directory, subtasks, keeps, changes))
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

async function make(directory: string, subtasks: number, keeps: KeyedStore, changes: Partial<WorkerCheckpointOptions>) {
  for (const folder of [layout.shared, layout.manifests]) await nodeIo.disk.makeDirectory(folder(directory))
  const sent: FromWorker[] = []
  const failures: unknown[] = []
  let hashing: Promise<void> = Promise.resolve()
  const disk: Disk = { ...nodeIo.disk, hash: async (path) => hashing.then(() => nodeIo.disk.hash(path)) }
  const checkpoints = new WorkerCheckpoints({
    worker: 0,
    generation: 1,
    subtasks,
    io: { ...nodeIo, disk },
    directory,
    liveDirectory: join(directory, 'live'),
    committed: [],
    restored: [],
    store: subtasks === 0 ? null : keeps,
    changes: subtasks === 0 ? null : new CutPieces(keeps, 1 << 20),
    defer: setImmediate,
    send: (message) => sent.push(message),
    fail: (error) => failures.push(error),
    ...changes,
  })
  const arrived = async (type: FromWorker['type'], attempt: number): Promise<FromWorker> => {
    for (;;) {
      const found = sent.find((m) => m.type === type && attemptOf(m) === attempt)
      if (found !== undefined) return found
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
  }
  return {
    directory,
    checkpoints,
    sent,
    failures,
    ack: async (attempt: number): Promise<WorkerAck> => ((await arrived('ack', attempt)) as { ack: WorkerAck }).ack,
    holdHashing(): () => void {
      let go: () => void = () => {}
      hashing = new Promise((resolve) => {
        go = resolve
      })
      return go
    },
  }
}

function attemptOf(message: FromWorker): number | null {
  if (message.type === 'ack') return message.ack.attempt
  return message.type === 'abortDone' || message.type === 'declined' ? message.attempt : null
}

test('an abort answers only when the attempt is over, and its output joins the next ack', () =>
  rig(1, async ({ checkpoints, sent, ack, holdHashing }) => {
    const go = holdHashing()
    checkpoints.add(5, CAPTURE, [], [Promise.resolve(sealed('five'))])
    // Imaging ends at once; hashing, which follows, is held.
    while (checkpoints.inProgress) await new Promise((resolve) => setTimeout(resolve, 1))
    const aborted = checkpoints.abort(5)
    await new Promise((resolve) => setTimeout(resolve, 20))
    assert.ok(!sent.some((m) => m.type === 'abortDone'), 'the attempt is still being made durable')
    go()
    await aborted
    assert.ok(sent.some((m) => m.type === 'abortDone' && m.attempt === 5))
    checkpoints.add(6, CAPTURE, [], [Promise.resolve(sealed('six'))])
    assert.deepEqual((await ack(6)).committables, [sealed('five'), sealed('six')])
    checkpoints.completed(6)
    checkpoints.add(7, CAPTURE, [], [])
    assert.deepEqual((await ack(7)).committables, [])
  }))

test('output sealed before an abort of an unfinished cut is kept', () =>
  rig(2, async ({ checkpoints, ack }) => {
    checkpoints.add(1, CAPTURE, [], [Promise.resolve(sealed('one'))])
    await checkpoints.abort(1)
    checkpoints.add(2, CAPTURE, [], [])
    checkpoints.add(2, CAPTURE, [], [Promise.resolve(sealed('two'))])
    assert.deepEqual((await ack(2)).committables, [sealed('one'), sealed('two')])
  }))

test('output that cannot be sealed fails the job: a later checkpoint would miss it', () =>
  rig(1, async ({ checkpoints, sent, failures }) => {
    checkpoints.add(1, CAPTURE, [], [Promise.reject(new Error('no space'))])
    await checkpoints.abort(1)
    assert.match(String(failures[0]), /no space/)
    assert.ok(!sent.some((m) => m.type === 'ack'))
  }))

test('a full disk declines the attempt; a damaged store fails the job, because no attempt would succeed', async () => {
  for (const [code, failures] of [
    ['STORE_IO', 0],
    ['STORE_CORRUPT', 1],
  ] as const) {
    const broken = {
      writeAndCheckpoint: () => Promise.reject(new MillraceError(code, 'simulated')),
    } as unknown as KeyedStore
    const body: Parameters<typeof rig>[1] = async (rigged) => {
      rigged.checkpoints.add(1, CAPTURE, [], [])
      await rigged.checkpoints.abort(1)
      assert.equal(rigged.failures.length, failures, code)
      assert.ok(rigged.sent.some((message) => message.type === 'declined'))
    }
    await rig(1, body, broken)
  }
})

test('a file that only an aborted attempt had linked is linked again after a collection', () =>
  rig(1, async ({ directory, checkpoints, ack }) => {
    checkpoints.add(1, CAPTURE, [], [])
    const first = await ack(1)
    await checkpoints.abort(1)
    await collectGarbage(nodeIo.disk, directory, 3)
    checkpoints.add(2, CAPTURE, [], [])
    const { store: image } = await ack(2)
    assert.deepEqual(image, first.store)
    const path = layout.sharedFile(directory, image!.files[0]!.sha256)
    assert.equal(await nodeIo.disk.size(path), 5, 'the ack names a file that is there (I1)')
  }))

test('a file keeps the hash that it was restored with; one of another length is damaged', async () => {
  const file = { name: '000001.sst', sha256: 'a'.repeat(64), size: 5 }
  const kept: Parameters<typeof rig>[1] = async ({ checkpoints, ack }) => {
    checkpoints.add(1, CAPTURE, [], [])
    assert.deepEqual((await ack(1)).store!.files, [file])
  }
  await rig(1, kept, store, { committed: [file], restored: [file] })
  const cut: Parameters<typeof rig>[1] = async ({ checkpoints, failures }) => {
    checkpoints.add(1, CAPTURE, [], [])
    await checkpoints.abort(1)
    assert.match(String(failures[0]), /000001\.sst was damaged .*it has 5 bytes/)
  }
  const longer = { ...file, size: 6 }
  await rig(1, cut, store, { committed: [longer], restored: [longer] })
})

test('an upload that is refused because the file was damaged meanwhile fails the job; any other declines', async () => {
  for (const [harm, failures] of [
    ['stale', 1],
    ['state', 0],
  ] as const) {
    const disk: Disk = {
      ...nodeIo.disk,
      async link(from) {
        await writeFile(from, harm)
        throw new MillraceError('OBJECT_STORE_UNAVAILABLE', 'simulated')
      },
    }
    const body: Parameters<typeof rig>[1] = async (rigged) => {
      rigged.checkpoints.add(1, CAPTURE, [], [])
      await rigged.checkpoints.abort(1)
      assert.equal(rigged.failures.length, failures)
      if (failures > 0) assert.match(String(rigged.failures[0]), /000001\.sst was damaged .*its content has hash/)
      assert.ok(rigged.sent.some((message) => message.type === 'declined'))
    }
    await rig(1, body, store, { io: { ...nodeIo, disk } })
  }
})

test('a shared file that was cut short is replaced', () =>
  rig(1, async ({ directory, checkpoints, ack }) => {
    checkpoints.add(1, CAPTURE, [], [])
    const path = layout.sharedFile(directory, (await ack(1)).store!.files[0]!.sha256)
    await checkpoints.abort(1)
    await writeFile(path, 'st')
    checkpoints.add(2, CAPTURE, [], [])
    await ack(2)
    assert.equal(await readFile(path, 'utf8'), 'state')
  }))

test('a worker without subtasks acks at once', () =>
  rig(0, async ({ checkpoints, ack }) => {
    checkpoints.acknowledgeEmpty(3)
    const { captures, store: image, committables } = await ack(3)
    assert.deepEqual({ captures, image, committables }, { captures: [], image: null, committables: [] })
  }))
