/**
 * Writes a new savepoint, out of an existing one or from nothing: Flink's State Processor API, in TypeScript's manner.
 *
 *     const path = await SavepointWriter.fromExistingSavepoint('old/manifests/000000000007.json')
 *       .removeOperator('old')
 *       .changeOperatorUid('sums', 'totals')
 *       .transformKeyedState('totals', new ValueStateDescriptor<Total>('total', ...), ({ value }) => ({ ...value, n: 0 }))
 *       .withKeyedState('limits', new ValueStateDescriptor<number>('limit'), limits)
 *       .withOperator('visits', bootstrapWith((env) => env.fromCollection(rows).keyBy('user').process(new Visits())))
 *       .write('new')
 *     // then: millrace run JOB.ts --restore new/manifests/000000000001.json
 *
 * Calls only note what to do; `write` does it, in order. Invariants:
 * - The existing savepoint is never changed; until the last step, creating the manifest, there is no new one.
 * - Source positions, sink markers, pending output and states that nothing touches are taken over as they are.
 * - A key's state lands in the key group, and in the store of the worker, where a restore looks for it.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { keyGroupPrefix, prefixEnd } from '../../state/keyed-layout.ts'
import { manifestNumbers } from '../checkpoint/manifest-store.ts'
import type { KeyedStore } from '../contract/keyed-store.ts'
import { MillraceError } from '../core/errors.ts'
import type { Key } from '../core/keys.ts'
import { linkCheckpoint, openImages } from './checkpoint-images.ts'
import type { StateBackendName } from './launcher-types.ts'
import { nodeIo } from './node-io.ts'
import { adoptRows } from './savepoint-adopt.ts'
import {
  type Draft,
  emptyDraft,
  finishDraft,
  type NewSavepointOptions,
  newOperator,
  storesByKeyGroup,
  uidTaken,
} from './savepoint-draft.ts'
import { type KeyedStateEntry, operatorOf, placeOf } from './savepoint-reader.ts'
import { type BootstrapEntry, bootstrap, type WritableState } from './savepoint-states.ts'
import { type Change, transform } from './savepoint-transform.ts'

/** What a bootstrap job has to fit. */
export interface BootstrapTarget {
  /** Empty, and of a checkpoint afterwards. */
  readonly directory: string
  readonly keyGroups: number
  readonly stateBackend: StateBackendName
}

/** Makes the state of an operator; see `bootstrapWith`. */
export interface OperatorBootstrap {
  /** Leaves a checkpoint with the operator `uid` in the target's directory. */
  run(uid: string, target: BootstrapTarget): Promise<void>
}

type Step = (draft: Draft) => Promise<void>

export class SavepointWriter {
  private readonly base: string | null
  private readonly options: NewSavepointOptions
  private readonly steps: Step[] = []

  private constructor(base: string | null, options: NewSavepointOptions) {
    this.base = base
    this.options = options
  }

  /** Begins with everything of a savepoint or checkpoint: a manifest's path, or a directory for its newest one. */
  static fromExistingSavepoint(path: string): SavepointWriter {
    return new SavepointWriter(placeOf(path), {})
  }

  /** Begins with nothing: for state that other systems hold today. */
  static newSavepoint(options: NewSavepointOptions = {}): SavepointWriter {
    return new SavepointWriter(null, options)
  }

  /** Drops an operator with all of its state. */
  removeOperator(uid: string): this {
    return this.also(async (draft) => {
      const { operatorId } = operatorOf(draft.manifest.operators, uid)
      const from = keyGroupPrefix(operatorId, 0)
      const to = prefixEnd(from.subarray(0, 2))
      if (to !== null) for (const store of draft.stores) store.deleteRange(from, to)
      const operators = draft.manifest.operators.filter((operator) => operator.uid !== uid)
      draft.manifest = { ...draft.manifest, operators }
    })
  }

  /** Gives an operator, a source or a sink another uid. A sink's marker in its target is kept under the old one. */
  changeOperatorUid(from: string, to: string): this {
    return this.also(async (draft) => {
      const { operators, sources, sinks, pending } = draft.manifest
      const known = [...operators.map(({ uid }) => uid), ...sources.map(({ uid }) => uid)]
      if (!known.includes(from)) operatorOf(operators, from)
      if (known.includes(to)) throw uidTaken(to)
      const uidOf = <T extends { readonly uid: string }>(part: T): T =>
        part.uid === from ? { ...part, uid: to } : part
      draft.manifest = {
        ...draft.manifest,
        operators: operators.map(uidOf),
        sources: sources.map(uidOf),
        sinks: sinks.map((sink) => (sink.id === from ? { ...sink, id: to } : sink)),
        pending: pending.map((commit) => (commit.sink === from ? { ...commit, sink: to } : commit)),
      }
    })
  }

  /**
   * Rewrites every value of a keyed state; `undefined` drops the entry. `state` describes the new values, under the name
   * that they have and keep. `change` sees plain data, of list state a key's whole list. Values with a time to live keep
   * the time of their last use; a list that changes its length gives all its values that of the newest. A state may get a
   * time to live so, or lose it. Writing rejects with `STATE_NOT_WRITABLE` for a descriptor of another kind.
   */
  transformKeyedState<K extends Key, Before, After>(
    uid: string,
    state: WritableState<After> & { readonly kind: 'list' },
    change: (entry: KeyedStateEntry<K, Before[]>) => readonly After[] | undefined,
  ): this
  transformKeyedState<K extends Key, Before, After>(
    uid: string,
    state: WritableState<After> & { readonly kind?: Exclude<WritableState<After>['kind'], 'list'> },
    change: (entry: KeyedStateEntry<K, Before>) => After | undefined,
  ): this
  transformKeyedState(uid: string, state: WritableState<unknown>, change: (entry: never) => unknown): this {
    return this.also((draft) => transform(draft, uid, state, change as Change))
  }

  /**
   * Adds entries to a keyed state, over those of the same keys. Operator and state are made where the savepoint has none
   * of them.
   */
  withKeyedState<K extends Key, V>(
    uid: string,
    state: WritableState<V>,
    entries: Iterable<BootstrapEntry<K, V>> | AsyncIterable<BootstrapEntry<K, V>>,
  ): this {
    return this.also((draft) => bootstrap(draft, uid, state, entries))
  }

  /**
   * Adds an operator whose state a job over rows makes: lists, maps, times to live, timers and windows too. Rejects with
   * `OPERATOR_UID_TAKEN` when the savepoint has one of that uid.
   */
  withOperator(uid: string, bootstrap: OperatorBootstrap): this {
    return this.also((draft) => adopt(draft, uid, bootstrap))
  }

  private also(step: Step): this {
    this.steps.push(step)
    return this
  }

  /**
   * Carries everything out and creates the savepoint in `directory`, which must hold none yet; it may be an `s3://` URL.
   * Resolves to the manifest's path, for `--restore`.
   */
  async write(directory: string): Promise<string> {
    const place = placeOf(directory)
    if ((await manifestNumbers(nodeIo.disk, place)).length > 0) {
      throw new MillraceError('CHECKPOINT_DIRECTORY_NOT_EMPTY', `${place} already holds checkpoints.`, {
        hint: 'Choose an empty directory.',
      })
    }
    const scratch = await mkdtemp(join(tmpdir(), 'millrace-savepoint-'))
    let draft: Draft | null = null
    try {
      const linked = this.base === null ? null : await linkCheckpoint(nodeIo.disk, this.base, scratch)
      draft =
        linked === null
          ? await emptyDraft(this.options, scratch)
          : { manifest: linked.manifest, stores: await openImages(linked, scratch), scratch }
      for (const step of this.steps) await step(draft)
      return await finishDraft(draft, linked?.directory ?? null, place, scratch)
    } finally {
      for (const store of draft?.stores ?? []) store.close()
      await rm(scratch, { recursive: true, force: true })
    }
  }
}

/** Runs the bootstrap job beside the draft, and takes the operator over. */
async function adopt(draft: Draft, uid: string, bootstrap: OperatorBootstrap): Promise<void> {
  const { keyGroups, stateBackend, operators } = draft.manifest
  if (operators.some((operator) => operator.uid === uid)) throw uidTaken(uid)
  const scratch = await mkdtemp(join(draft.scratch, 'bootstrap-'))
  const directory = join(scratch, 'job')
  await bootstrap.run(uid, { directory, keyGroups, stateBackend: stateBackend as StateBackendName })
  const linked = await linkCheckpoint(nodeIo.disk, directory, scratch)
  const made = operatorOf(linked.manifest.operators, uid)
  const { operatorId } = newOperator(draft, uid)
  const from = await openImages(linked, scratch)
  try {
    const places = storesByKeyGroup(draft, made)
    const storeOf = (group: number): KeyedStore => draft.stores[places[group]!]!
    await adoptRows({ from, operator: made, operatorId, keyGroups, storeOf })
  } finally {
    for (const store of from) store.close()
  }
  const adopted = draft.manifest.operators.map((operator) =>
    operator.uid === uid ? { ...made, operatorId } : operator,
  )
  draft.manifest = { ...draft.manifest, operators: adopted }
}
