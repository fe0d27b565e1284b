/**
 * What `--check` asks of sinks: markers, and output that is still to be applied.
 */
import assert from 'node:assert/strict'
import { rm, writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import { crc32 } from 'node:zlib'
import { manifestOf, withCheckpointDirectory } from '../checkpoint/testing-manifest.ts'
import { sinkProblems } from './check-restore.ts'
import { type Delivered, fixtureGraph } from './job.fixture.ts'
import { nodeIo } from './node-io.ts'

test('a sink that is ahead, and output that is lost or damaged before it was applied, are problems', () =>
  withCheckpointDirectory(async (directory) => {
    const delivered: Delivered = { rows: [], marker: 1 }
    const graph = fixtureGraph({ splits: 1, rowsPerSplit: 1, keys: 1 }, delivered)
    const sink = graph.nodes.find((node) => node.role === 'sink')!.uid
    const file = 'outbox/g1-a.seg'
    const bytes = Buffer.from([2, 0, 0, 0, 7, 7])
    const committables = [{ file, records: 1, bytes: bytes.length, crc32: crc32(bytes) }]
    const manifest = manifestOf({
      epoch: 2,
      pending: [{ epoch: 2, sink, committables }],
      sinks: [{ id: sink, kind: 'fixture', marker: 1 }],
    })
    const problems = () => sinkProblems(graph, manifest, { from: directory, directory }, nodeIo)
    await writeFile(`${directory}/${file}`, bytes)
    assert.deepEqual(await problems(), [])
    await writeFile(`${directory}/${file}`, 'torn')
    assert.match((await problems()).join(), /g1-a\.seg does not match its checksum/)
    await rm(`${directory}/${file}`)
    assert.match((await problems()).join(), /ENOENT.*g1-a\.seg/)
    // It was applied before it went.
    delivered.marker = 2
    assert.deepEqual(await problems(), [])
    delivered.marker = 3
    assert.match((await problems()).join(), /already holds epoch 3, but the checkpoint ends at epoch 2/)
  }))
