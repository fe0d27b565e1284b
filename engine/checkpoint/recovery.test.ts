/**
 * Takeovers on a real disk: numbers, generations, what is set aside; and what a manifest means for a graph.
 */
import assert from 'node:assert/strict'
import { readFile, truncate, writeFile } from 'node:fs/promises'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { GraphNode, JobGraph } from '../contract/job-graph.ts'
import { MillraceError } from '../core/errors.ts'
import type { Disk } from '../core/io.ts'
import { OPAQUE_SCHEMA } from '../core/schema.ts'
import { nodeIo } from '../runtime/node-io.ts'
import { layout } from './layout.ts'
import { type Manifest, type ManifestOperator, manifestName } from './manifest.ts'
import { createManifest, manifestNumbers, readManifest } from './manifest-store.ts'
import { assignSplits, planRestore, type RecoveryOptions, takeOver } from './recovery.ts'
import { manifestOf, withCheckpointDirectory } from './testing-manifest.ts'

const { disk } = nodeIo

const optionsOf = (directory: string, change: Partial<RecoveryOptions> = {}): RecoveryOptions => ({
  directory,
  restore: 'latest',
  jobName: 'test',
  keyGroups: 128,
  workers: 2,
  stateBackend: 'memory',
  nowMs: 0,
  owner: 'test',
  ...change,
})

const pathOf = (directory: string, number: number) => layout.manifest(directory, manifestName(number))

describe('a takeover', () => {
  test('numbers without gaps and grows the generation and the attempts', () =>
    withCheckpointDirectory(async (directory) => {
      const fresh = await takeOver(disk, optionsOf(directory, { restore: null }))
      let last: Manifest = fresh.manifest
      assert.deepEqual([last.number, last.generation, last.epoch, last.parent], [1, 1, 0, null])
      assert.equal(fresh.restoredFrom, null)
      for (let i = 0; i < 3; i++) {
        const checkpoint = { ...last, kind: 'checkpoint', number: last.number + 1, epoch: last.epoch + 1 } as const
        await createManifest(disk, directory, { ...checkpoint, attempt: last.attempt + 1 })
        const { manifest, restoredFrom } = await takeOver(disk, optionsOf(directory))
        assert.equal(restoredFrom, pathOf(directory, checkpoint.number))
        assert.deepEqual(
          [manifest.number, manifest.generation, manifest.epoch, manifest.parent, manifest.kind],
          [checkpoint.number + 1, last.generation + 1, checkpoint.epoch, checkpoint.number, 'takeover'],
        )
        assert.ok(manifest.attempt > checkpoint.attempt + 1)
        last = manifest
      }
      assert.deepEqual(await manifestNumbers(disk, directory), [1, 2, 3, 4, 5, 6, 7])
    }))

  test('has one winner', () =>
    withCheckpointDirectory(async (directory) => {
      await createManifest(disk, directory, manifestOf({}))
      // All three have read the same newest manifest before any of them creates the next.
      const ready = Promise.withResolvers<void>()
      let arrived = 0
      const racing: Disk = {
        ...disk,
        async createExclusive(path, bytes) {
          if (++arrived === 3) ready.resolve()
          await ready.promise
          return disk.createExclusive(path, bytes)
        },
      }
      const tries = await Promise.allSettled([1, 2, 3].map(() => takeOver(racing, optionsOf(directory))))
      const lost = tries.filter((result) => result.status === 'rejected')
      assert.equal(lost.length, 2)
      for (const { reason } of lost) assert.equal(reason.code, 'JOB_TAKEN_OVER')
    }))

  test('sets unreadable manifests aside, goes on from the one before, and reuses no generation', () =>
    withCheckpointDirectory(async (directory) => {
      const first = manifestOf({ number: 1, generation: 1 })
      await createManifest(disk, directory, first)
      // A takeover of generation 2 and its checkpoint, both damaged.
      await createManifest(disk, directory, { ...first, number: 2, generation: 2, kind: 'takeover' })
      await createManifest(disk, directory, { ...first, number: 3, generation: 2, epoch: 2 })
      await truncate(pathOf(directory, 3), 100)
      await writeFile(pathOf(directory, 2), 'nothing')
      const { manifest, quarantined } = await takeOver(disk, optionsOf(directory))
      assert.deepEqual(
        quarantined.map(({ path }) => path),
        [pathOf(directory, 3), pathOf(directory, 2)],
      )
      assert.deepEqual([manifest.parent, manifest.epoch], [1, 1])
      assert.ok(manifest.generation > 2)
      assert.ok((await disk.list(layout.manifests(directory))).includes('000000000003.corrupt'))
      // A start that has set them aside and then failed leaves the next one the same.
      await disk.remove(pathOf(directory, manifest.number))
      const again = await takeOver(disk, optionsOf(directory))
      assert.deepEqual([again.manifest.number, again.manifest.generation], [manifest.number, manifest.generation])
      assert.equal(manifest.number, 4, 'numbers of manifests set aside are not used again')
    }))

  test('is refused each time when every checkpoint is damaged: the second start does not begin from nothing', () =>
    withCheckpointDirectory(async (directory) => {
      await createManifest(disk, directory, manifestOf({ number: 1, generation: 1 }))
      const whole = await readFile(pathOf(directory, 1))
      await truncate(pathOf(directory, 1), 100)
      for (let start = 1; start <= 2; start++) {
        await assert.rejects(takeOver(disk, optionsOf(directory)), { code: 'CHECKPOINT_NOT_FOUND' })
      }
      await writeFile(pathOf(directory, 1), whole)
      assert.equal((await takeOver(disk, optionsOf(directory))).manifest.parent, 1)
    }))

  test('by a restart fails once another process has had the job', () =>
    withCheckpointDirectory(async (directory) => {
      const restart = (owner: string) => takeOver(disk, optionsOf(directory, { owner, isRestart: true }))
      await takeOver(disk, optionsOf(directory, { owner: 'a' }))
      assert.equal((await restart('a')).manifest.number, 2)
      await takeOver(disk, optionsOf(directory, { owner: 'b' }))
      await assert.rejects(restart('a'), { code: 'JOB_TAKEN_OVER' })
      assert.equal((await restart('b')).manifest.number, 4)
    }))

  test('that has chosen its base fails when the owner makes a checkpoint meanwhile', () =>
    withCheckpointDirectory(async (directory) => {
      await createManifest(disk, directory, manifestOf({ number: 1 }))
      const slow = {
        ...disk,
        async read(path: string) {
          const bytes = await disk.read(path)
          await createManifest(disk, directory, manifestOf({ number: 2, epoch: 2 }))
          return bytes
        },
      }
      await assert.rejects(takeOver(slow, optionsOf(directory)), { code: 'JOB_TAKEN_OVER' })
      assert.deepEqual(await manifestNumbers(disk, directory), [1, 2])
    }))

  test('that finds all it had listed collected has met an owner at work', () =>
    withCheckpointDirectory(async (directory) => {
      await createManifest(disk, directory, manifestOf({ number: 1 }))
      const slow = { ...disk, list: async () => ['000000000001.json'] }
      await disk.remove(pathOf(directory, 1))
      await assert.rejects(takeOver(slow, optionsOf(directory)), { code: 'JOB_TAKEN_OVER' })
    }))

  test('is not possible under a number that the winner has collected since', () =>
    withCheckpointDirectory(async (directory) => {
      for (const number of [1, 2, 3]) await createManifest(disk, directory, manifestOf({ number }))
      await disk.remove(pathOf(directory, 2))
      assert.equal(await createManifest(disk, directory, manifestOf({ number: 2, owner: 'late' })), false)
    }))

  test('leaves a manifest alone that the disk cannot read for now', () =>
    withCheckpointDirectory(async (directory) => {
      await createManifest(disk, directory, manifestOf({}))
      const down = new MillraceError('OBJECT_STORE_UNAVAILABLE', 'no answer', { domain: 'external', retryable: true })
      const failing = { ...disk, read: () => Promise.reject(down) }
      await assert.rejects(takeOver(failing, optionsOf(directory)), { code: 'CHECKPOINT_UNREADABLE' })
      assert.deepEqual(await manifestNumbers(disk, directory), [1])
    }))

  test('treats a manifest whose state files are missing or short as unreadable', () =>
    withCheckpointDirectory(async (directory) => {
      await createManifest(disk, directory, manifestOf({ number: 1 }))
      const file = { name: 'a.sst', sha256: 'ff', size: 3 }
      await createManifest(disk, directory, manifestOf({ number: 2, stores: [{ worker: 0, files: [file] }] }))
      assert.match(String((await readManifest(disk, directory, 2)).error), /missing/)
      await writeFile(layout.sharedFile(directory, 'ff'), 'xx')
      assert.match(String((await readManifest(disk, directory, 2)).error), /2 bytes/)
      const { manifest } = await takeOver(disk, optionsOf(directory))
      assert.equal(manifest.parent, 1)
    }))

  test('that the job refuses changes nothing, and is told whether there is a newer checkpoint', () =>
    withCheckpointDirectory(async (directory) => {
      for (const number of [1, 2, 3]) await createManifest(disk, directory, manifestOf({ number, kind: 'savepoint' }))
      const asked: unknown[] = []
      const refused = (restore: string) =>
        assert.rejects(
          takeOver(disk, {
            ...optionsOf(directory, { restore }),
            async refuse({ manifest, isBehind }) {
              asked.push([manifest.number, isBehind])
              throw new Error('no')
            },
          }),
          /no/,
        )
      await refused('latest')
      await refused(pathOf(directory, 1))
      await truncate(pathOf(directory, 3), 10)
      await refused('latest')
      await refused('latest')
      assert.deepEqual(asked, [
        [3, false],
        [1, true],
        [2, true],
        [2, true],
      ])
      assert.deepEqual(await manifestNumbers(disk, directory), [1, 2])
    }))

  test('from an older checkpoint of the same directory never goes back in generations', () =>
    withCheckpointDirectory(async (directory) => {
      await createManifest(disk, directory, manifestOf({ number: 1, kind: 'savepoint', generation: 1 }))
      await createManifest(disk, directory, manifestOf({ number: 2, generation: 6, attempt: 6_000_009 }))
      const { manifest } = await takeOver(disk, optionsOf(directory, { restore: pathOf(directory, 1) }))
      assert.deepEqual([manifest.number, manifest.parent, manifest.generation], [3, 1, 7])
      assert.ok(manifest.attempt > 6_000_009)
    }))

  test('brings the files of a savepoint in another directory', () =>
    withCheckpointDirectory((from) =>
      withCheckpointDirectory(async (directory) => {
        await writeFile(layout.sharedFile(from, 'ab'), 'xyz')
        await writeFile(`${layout.outbox(from)}/p.seg`, 'out')
        const stores = [{ worker: 0, files: [{ name: 'a', sha256: 'ab', size: 3 }] }]
        const pending = [{ epoch: 1, sink: 's', committables: [{ file: 'outbox/p.seg' }] }]
        await createManifest(disk, from, manifestOf({ stores, pending }))
        await takeOver(disk, optionsOf(directory, { restore: pathOf(from, 1) }))
        assert.notEqual((await readManifest(disk, directory, 1)).manifest, null)
        assert.equal(await disk.size(`${layout.outbox(directory)}/p.seg`), 3)
      }),
    ))

  test('in a new directory begins dead letters anew, with those that wait', () =>
    withCheckpointDirectory((from) =>
      withCheckpointDirectory(async (directory) => {
        await writeFile(`${layout.outbox(from)}/waits.seg`, 'out')
        const commit = (epoch: number, file: string) => ({ epoch, sink: 'dead-letters', committables: [{ file }] })
        const pending = [commit(1, 'outbox/applied.seg'), commit(2, 'outbox/waits.seg')]
        const sinks = [{ id: 'dead-letters', kind: 'dead-letters', marker: 7 }]
        await createManifest(disk, from, manifestOf({ pending, sinks }))
        const { manifest } = await takeOver(disk, optionsOf(directory, { restore: pathOf(from, 1) }))
        assert.deepEqual([manifest.sinks, manifest.pending], [[], [pending[1]]])
      }),
    ))

  test('refuses what would lose or mix state', () =>
    withCheckpointDirectory(async (directory) => {
      const stores = [{ worker: 0, files: [] }]
      await createManifest(disk, directory, manifestOf({ stores }))
      const refused = (change: Partial<RecoveryOptions>, code: string) =>
        assert.rejects(takeOver(disk, optionsOf(directory, change)), { code })
      await refused({ restore: null }, 'CHECKPOINT_DIRECTORY_NOT_EMPTY')
      await refused({ keyGroups: 64 }, 'KEY_GROUPS_CHANGED')
      await refused({ stateBackend: 'rocksdb' }, 'STATE_BACKEND_CHANGED')
      await refused({ restore: pathOf(directory, 9) }, 'CHECKPOINT_NOT_FOUND')
      await refused({ restore: '/nowhere' }, 'CHECKPOINT_NOT_FOUND')
      await truncate(pathOf(directory, 1), 10)
      await refused({}, 'CHECKPOINT_NOT_FOUND')
    }))
})

const operatorOf = (uid: string, change: Partial<ManifestOperator> = {}): ManifestOperator => ({
  uid,
  name: uid,
  operatorId: 0,
  parallelism: 2,
  isKeyed: true,
  states: [],
  tables: [],
  ...change,
})

function graphOf(...uids: string[]): JobGraph {
  const nodes = uids.map((uid, id) => ({
    id,
    uid,
    name: uid,
    uidIsExplicit: true,
    parallelism: 0,
    maxParallelism: 0,
    outputSchema: OPAQUE_SCHEMA,
    chaining: 'always',
    role: 'operator',
    isKeyed: true,
  })) as unknown as GraphNode[]
  return { nodes, edges: [] }
}

describe('planRestore', () => {
  const stores = [{ worker: 0, files: [] }]
  const plan = (
    manifest: Manifest,
    graph: JobGraph,
    change: { workers?: number; parallelism?: number; allow?: boolean } = {},
  ) =>
    planRestore(manifest, graph, () => change.parallelism ?? 2, {
      workers: change.workers ?? 2,
      allowNonRestoredState: change.allow ?? false,
    })

  test('keeps ids under their uid and gives new operators new ones', () => {
    const operators = [operatorOf('a', { operatorId: 4, states: [7] }), operatorOf('b', { operatorId: 2 })]
    const { operatorIds, operatorStates } = plan(manifestOf({ operators, stores }), graphOf('new', 'b', 'a'))
    assert.deepEqual(operatorIds, { a: 4, b: 2, new: 5 })
    assert.deepEqual(operatorStates, { a: [7], b: [], new: [] })
  })

  test('hands stores on whole only in the same shape', () => {
    const manifest = manifestOf({ operators: [operatorOf('a')], stores })
    assert.ok(plan(manifest, graphOf('a')).storesMatchWorkers)
    assert.ok(!plan(manifest, graphOf('a'), { workers: 3 }).storesMatchWorkers)
    assert.ok(!plan(manifest, graphOf('a'), { parallelism: 3 }).storesMatchWorkers)
    assert.ok(plan({ ...manifest, stores: [] }, graphOf('a'), { workers: 3 }).storesMatchWorkers)
  })

  test('refuses to drop state silently, and drops all of it when told to', () => {
    const manifest = manifestOf({ operators: [operatorOf('a'), operatorOf('gone', { operatorId: 9 })], stores })
    assert.throws(() => plan(manifest, graphOf('a')), { code: 'STATE_NOT_RESTORED', message: /gone/ })
    // Its id can be given again later: its entries must not wait there.
    assert.ok(!plan(manifest, graphOf('a'), { allow: true }).storesMatchWorkers)
    const stateless = operatorOf('gone', { isKeyed: false, states: [null, null] })
    assert.doesNotThrow(() => plan(manifestOf({ operators: [stateless] }), graphOf('a')))
    const held = operatorOf('gone', { isKeyed: false, states: [null, 1] })
    assert.throws(() => plan(manifestOf({ operators: [held] }), graphOf('a')), { code: 'STATE_NOT_RESTORED' })
  })
})

test('assignSplits gives every split to one subtask, known ones with their progress', () => {
  const ids = fc.uniqueArray(fc.nat(40).map(String), { maxLength: 15 })
  fc.assert(
    fc.property(ids, ids, fc.integer({ min: 1, max: 9 }), (known, discovered, parallelism) => {
      const splits = known.map((id, i) => ({ id, position: i, watermark: i === 0 ? null : i, idle: i % 2 === 0 }))
      const manifest = manifestOf({ sources: [{ uid: 'in', splits }] })
      const assigned = assignSplits(
        manifest,
        'in',
        discovered.map((id) => ({ id, position: -1 })),
        parallelism,
      )
      assert.equal(assigned.length, parallelism)
      const all = assigned.flat()
      assert.deepEqual(all.map(({ id }) => id).sort(), [...new Set([...known, ...discovered])].sort())
      for (const split of all) {
        const at = known.indexOf(split.id)
        const expected =
          at < 0
            ? { position: -1, watermark: Number.NEGATIVE_INFINITY, idle: false }
            : { position: at, watermark: at === 0 ? Number.NEGATIVE_INFINITY : at, idle: at % 2 === 0 }
        assert.deepEqual(split, { id: split.id, ...expected })
      }
      const sizes = assigned.map((subtask) => subtask.length)
      assert.ok(Math.max(...sizes) - Math.min(...sizes) <= 1, 'evenly')
    }),
  )
})
