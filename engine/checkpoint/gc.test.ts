/**
 * Garbage collection: whatever a retained manifest reaches stays, savepoints too; the rest goes.
 */
import assert from 'node:assert/strict'
import { truncate, writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import fc from 'fast-check'
import { nodeIo } from '../runtime/node-io.ts'
import { collectGarbage, discardCheckpoints, GarbageCollector, sweepLeftovers } from './gc.ts'
import { layout } from './layout.ts'
import { manifestName } from './manifest.ts'
import { createManifest, manifestNumbers, readManifest } from './manifest-store.ts'
import { manifestOf, withCheckpointDirectory } from './testing-manifest.ts'

const { disk } = nodeIo

interface Given {
  readonly isSavepoint: boolean
  readonly files: readonly number[]
}

async function fill(directory: string, manifests: readonly Given[], orphans: readonly number[]): Promise<void> {
  for (const file of new Set([...orphans, ...manifests.flatMap((m) => m.files)])) {
    await writeFile(layout.sharedFile(directory, `f${file}`), 'x')
  }
  for (const [i, { isSavepoint, files }] of manifests.entries()) {
    const stores = [{ worker: 0, files: files.map((file) => ({ name: `${file}.sst`, sha256: `f${file}`, size: 1 })) }]
    const kind = isSavepoint ? 'savepoint' : 'checkpoint'
    await createManifest(disk, directory, manifestOf({ number: i + 1, kind, stores }))
  }
}

test('keeps what retained checkpoints and savepoints name, and nothing else', async () => {
  const given = fc.record({ isSavepoint: fc.boolean(), files: fc.uniqueArray(fc.nat(9), { maxLength: 4 }) })
  await fc.assert(
    fc.asyncProperty(
      fc.array(given, { maxLength: 9 }),
      fc.array(fc.nat(9)),
      fc.nat(4),
      (manifests, orphans, retained) =>
        withCheckpointDirectory(async (directory) => {
          await fill(directory, manifests, orphans)
          if (retained === 0) await discardCheckpoints(disk, directory, 'test')
          else await collectGarbage(disk, directory, retained)
          const newest = manifests.flatMap((m, i) => (m.isSavepoint || retained === 0 ? [] : [i])).slice(-retained)
          const kept = manifests.flatMap((m, i) => (m.isSavepoint || newest.includes(i) ? [i + 1] : []))
          assert.deepEqual(await manifestNumbers(disk, directory), kept)
          for (const number of kept) assert.equal((await readManifest(disk, directory, number)).error, null)
          const live = new Set(kept.flatMap((number) => manifests[number - 1]!.files.map((file) => `f${file}`)))
          assert.deepEqual(await disk.list(layout.shared(directory)), [...live].sort())
        }),
    ),
    { numRuns: 25 },
  )
})

test('removes nothing while a manifest cannot be read, and says so once', () =>
  withCheckpointDirectory(async (directory) => {
    const manifests = [1, 2, 3, 4, 5].map((file) => ({ isSavepoint: false, files: [file] }))
    await fill(directory, manifests, [9])
    await truncate(layout.manifest(directory, manifestName(4)), 50)
    const garbage = new GarbageCollector({ disk, directory, clock: nodeIo.clock, retained: 3 })
    await assert.rejects(garbage.collect(), { code: 'CHECKPOINT_UNREADABLE', message: /000000000004\.json/ })
    await garbage.collect()
    assert.equal((await disk.list(layout.shared(directory))).length, 6)
  }))

test('an owner that is killed while it removes checkpoints leaves no gap in their numbers', () =>
  withCheckpointDirectory(async (directory) => {
    for (let left = 0; left <= 4; left++) {
      await fill(directory, Array(left === 0 ? 6 : 0).fill({ isSavepoint: false, files: [] }), [])
      let removals = 1
      const dying = {
        ...disk,
        async remove(path: string) {
          if (removals-- === 0) throw new Error('killed')
          await disk.remove(path)
        },
      }
      await collectGarbage(dying, directory, 1).catch(() => {})
      const numbers = await manifestNumbers(disk, directory)
      assert.deepEqual(numbers, [1, 2, 3, 4, 5, 6].slice(-numbers.length))
    }
    assert.deepEqual(await manifestNumbers(disk, directory), [6])
  }))

test('a start sweeps output that its manifest does not name, and half-written manifests', () =>
  withCheckpointDirectory(async (directory) => {
    for (const name of ['keep.seg', 'drop.seg', 'g2-mine.seg', 'g3-later.seg'])
      await writeFile(`${layout.outbox(directory)}/${name}`, 'x')
    await writeFile(layout.manifest(directory, '000000000002.json.1-2.tmp'), 'half')
    const pending = [{ epoch: 1, sink: 's', committables: [{ file: 'outbox/keep.seg' }] }]
    await sweepLeftovers(disk, directory, manifestOf({ pending, generation: 2 }))
    assert.deepEqual(await disk.list(layout.outbox(directory)), ['g3-later.seg', 'keep.seg'])
    assert.deepEqual(await disk.list(layout.manifests(directory)), [])
    assert.deepEqual(await disk.list(layout.live(directory)), [])
  }))
