/**
 * What verification finds: gaps in the numbers, output that is damaged before it was applied.
 */
import assert from 'node:assert/strict'
import { rm, truncate, writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import { crc32 } from 'node:zlib'
import { nodeIo } from '../runtime/node-io.ts'
import { layout } from './layout.ts'
import { manifestName } from './manifest.ts'
import { createManifest } from './manifest-store.ts'
import { manifestOf, withCheckpointDirectory } from './testing-manifest.ts'
import { verifyCheckpoints } from './verify.ts'

const { disk } = nodeIo

test('a number that is missing is named, unless what lay there was collected over a savepoint', () =>
  withCheckpointDirectory(async (directory) => {
    assert.deepEqual((await verifyCheckpoints(disk, directory)).problems, [`${directory}: there is no checkpoint`])
    for (const number of [1, 2, 3, 4, 5]) {
      await createManifest(disk, directory, manifestOf({ number, kind: number === 1 ? 'savepoint' : 'checkpoint' }))
    }
    assert.deepEqual((await verifyCheckpoints(disk, directory)).problems, [])
    await rm(layout.manifest(directory, manifestName(2)))
    assert.deepEqual((await verifyCheckpoints(disk, directory)).problems, [])
    await rm(layout.manifest(directory, manifestName(4)))
    assert.deepEqual((await verifyCheckpoints(disk, directory)).problems, ['manifests 4 to 4 are missing'])
  }))

test('output that waits for its commit is held against its checksum; what was applied is gone, which is well', () =>
  withCheckpointDirectory(async (directory) => {
    const bytes = Buffer.from('a record')
    const file = 'outbox/g1-a.seg'
    const path = `${directory}/${file}`
    const committables = [{ file, records: 1, bytes: bytes.length, crc32: crc32(bytes) }, { part: 'of the sink' }]
    await createManifest(disk, directory, manifestOf({ pending: [{ epoch: 1, sink: 's', committables }] }))
    const problems = async () => (await verifyCheckpoints(disk, directory)).problems
    await writeFile(path, bytes)
    assert.deepEqual(await problems(), [])
    await truncate(path, 3)
    assert.deepEqual(await problems(), [`${file}: does not match its checksum`])
    await writeFile(path, 'A record')
    assert.deepEqual(await problems(), [`${file}: does not match its checksum`])
    await rm(path)
    assert.deepEqual(await problems(), [])
  }))
