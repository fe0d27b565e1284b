/**
 * Manifests and checkpoint directories for tests of this room.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { nodeIo } from '../runtime/node-io.ts'
import { layout } from './layout.ts'
import { MANIFEST_FORMAT, type Manifest } from './manifest.ts'

export function manifestOf(change: Partial<Manifest>): Manifest {
  return {
    format: MANIFEST_FORMAT,
    kind: 'checkpoint',
    owner: 'test',
    number: 1,
    parent: null,
    generation: 1,
    epoch: 1,
    attempt: 1_000_001,
    createdAtMs: 0,
    jobName: 'test',
    keyGroups: 128,
    workers: 2,
    stateBackend: 'memory',
    operators: [],
    sources: [],
    stores: [],
    sinks: [],
    pending: [],
    ...change,
  }
}

/** An empty checkpoint directory, removed afterwards. */
export async function withCheckpointDirectory(body: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'millrace-checkpoints-'))
  try {
    for (const folder of [layout.manifests, layout.shared, layout.outbox]) {
      await nodeIo.disk.makeDirectory(folder(directory))
    }
    await body(directory)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}
