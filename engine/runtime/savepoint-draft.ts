/**
 * A savepoint in the making: its manifest, and stores that hold its keyed state.
 *
 * Made and finished by savepoint-writer.ts, whose steps change it (savepoint-states.ts). Invariant: nothing is in the new
 * directory under a manifest before `finishDraft` creates it, last of all.
 */
import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { WriteBatchBuilder } from '../../state/keyed-layout.ts'
import { layout } from '../checkpoint/layout.ts'
import {
  MANIFEST_FORMAT,
  type Manifest,
  type ManifestFile,
  type ManifestOperator,
  type ManifestTable,
  manifestName,
} from '../checkpoint/manifest.ts'
import { createManifest } from '../checkpoint/manifest-store.ts'
import { damagedFile } from '../checkpoint/object-disk.ts'
import { adoptPending } from '../checkpoint/recovery.ts'
import type { KeyedStore } from '../contract/keyed-store.ts'
import { assert } from '../core/assert.ts'
import { MillraceError } from '../core/errors.ts'
import { DEFAULT_KEY_GROUPS, subtaskOfKeyGroup } from '../core/keys.ts'
import type { StateBackendName } from './launcher-types.ts'
import { nodeIo } from './node-io.ts'
import { workerOf } from './planner.ts'
import { defaultStateBackend, keyedStoreFactory } from './store-factories.ts'

export interface NewSavepointOptions {
  /** Fixed for the life of the job; 128 unless given. */
  readonly keyGroups?: number
  readonly stateBackend?: StateBackendName
  readonly jobName?: string
}

/** What a step works on. */
export interface Draft {
  manifest: Manifest
  /** By worker. */
  readonly stores: KeyedStore[]
  /** For files that steps need meanwhile. */
  readonly scratch: string
}

export async function emptyDraft(options: NewSavepointOptions, scratch: string): Promise<Draft> {
  const stateBackend = options.stateBackend ?? defaultStateBackend()
  const factory = await keyedStoreFactory(stateBackend)
  const manifest: Manifest = {
    format: MANIFEST_FORMAT,
    kind: 'savepoint',
    number: 0,
    parent: null,
    generation: 0,
    epoch: 0,
    attempt: 0,
    createdAtMs: nodeIo.clock.nowMs(),
    jobName: options.jobName ?? 'bootstrap',
    keyGroups: options.keyGroups ?? DEFAULT_KEY_GROUPS,
    workers: 1,
    stateBackend,
    operators: [],
    sources: [],
    stores: [{ worker: 0, files: [] }],
    sinks: [],
    pending: [],
  }
  return { manifest, stores: [factory.create(join(scratch, 'store-0'))], scratch }
}

/** Files first, the manifest last. */
export async function finishDraft(draft: Draft, from: string | null, to: string, scratch: string): Promise<string> {
  const { disk, clock } = nodeIo
  for (const folder of [layout.manifests, layout.shared, layout.outbox]) await disk.makeDirectory(folder(to))
  const stores = []
  const nothing = new WriteBatchBuilder()
  for (const [i, { worker, files: restored }] of draft.manifest.stores.entries()) {
    const image = join(scratch, `written-${i}`)
    const files: ManifestFile[] = []
    const known = new Map(restored.map((file) => [file.name, file]))
    for (const { name } of await draft.stores[i]!.writeAndCheckpoint(nothing.batch(), image)) {
      const content = await disk.hash(join(image, name))
      // Tables never change once they are made: this one is of the savepoint that it all began with.
      const before = name.endsWith('.sst') ? known.get(name) : undefined
      if (before !== undefined && before.sha256 !== content.sha256) {
        throw damagedFile(layout.sharedFile(from!, before.sha256), before, content)
      }
      const target = layout.sharedFile(to, content.sha256)
      await disk.link(join(image, name), target, content)
      await disk.syncFile(target)
      files.push({ name, ...content })
    }
    stores.push({ worker, files })
  }
  await disk.syncDirectory(layout.shared(to))
  if (from !== null) await adoptPending(disk, from, to, draft.manifest)
  const manifest: Manifest = {
    ...draft.manifest,
    kind: 'savepoint',
    owner: randomUUID(),
    number: 1,
    parent: null,
    createdAtMs: clock.nowMs(),
    stores,
  }
  if (await createManifest(disk, to, manifest)) return layout.manifest(to, manifestName(1))
  throw new MillraceError('CHECKPOINT_DIRECTORY_NOT_EMPTY', `Somebody else wrote a checkpoint to ${to}.`, {
    hint: 'Choose an empty directory.',
  })
}

/** Where a restore looks for the keys of an operator: for each key group the place of its store. */
export function storesByKeyGroup({ manifest, stores }: Draft, { parallelism }: ManifestOperator): number[] {
  const { keyGroups, workers } = manifest
  return Array.from({ length: keyGroups }, (_, group) => {
    const subtask = subtaskOfKeyGroup(group, Math.max(1, parallelism), keyGroups)
    const at = manifest.stores.findIndex(({ worker }) => worker === workerOf(subtask, workers))
    assert(stores.length > 0, 'a savepoint that takes state has a store')
    return Math.max(0, at)
  })
}

export function uidTaken(uid: string): MillraceError {
  return new MillraceError('OPERATOR_UID_TAKEN', `The savepoint has an operator ${JSON.stringify(uid)} already.`, {
    hint: 'Remove that one first, or choose another uid.',
  })
}

export function newOperator(draft: Draft, uid: string): ManifestOperator {
  const { operators } = draft.manifest
  const operator: ManifestOperator = {
    uid,
    name: uid,
    operatorId: operators.reduce((next, { operatorId }) => Math.max(next, operatorId + 1), 0),
    parallelism: 1,
    isKeyed: true,
    states: [],
    tables: [],
  }
  draft.manifest = { ...draft.manifest, operators: [...operators, operator] }
  return operator
}

/** Puts a table's description into its operator. */
export function declare(draft: Draft, uid: string, table: ManifestTable): void {
  const operators = draft.manifest.operators.map((operator) =>
    operator.uid === uid
      ? { ...operator, tables: [...operator.tables.filter(({ id }) => id !== table.id), table] }
      : operator,
  )
  draft.manifest = { ...draft.manifest, operators }
}
