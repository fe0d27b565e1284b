/**
 * What would keep a job from continuing a checkpoint, found without starting it: shapes of state, sinks that are ahead.
 *
 * Called by `millrace run --check`. State is checked by opening each keyed operator once over an empty store that
 * claims to hold what the checkpoint describes: the same code that a restore runs, so the same words. A user's
 * `open` runs therefore, and no other code of the job. Sinks are asked for their markers without being opened,
 * because opening one takes it away from a job that may be running.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { KeyedBackend } from '../../state/keyed-backend.ts'
import { memoryStoreFactory } from '../../state/memory-store.ts'
import type { Manifest, ManifestOperator } from '../checkpoint/manifest.ts'
import { isSegment, readOutbox } from '../checkpoint/outbox.ts'
import type { JobGraph, OperatorNode } from '../contract/job-graph.ts'
import type { KeyedState } from '../contract/keyed-state.ts'
import type { KeyedStore } from '../contract/keyed-store.ts'
import type { OperatorContext } from '../contract/operator.ts'
import type { JobContext } from '../contract/worker-context.ts'
import { AccumulatorRegistry } from '../core/accumulators.ts'
import { messageOf } from '../core/errors.ts'
import type { Io } from '../core/io.ts'
import { keyGroupRange } from '../core/keys.ts'
import { StringInterner } from '../core/strings.ts'
import { MetricRegistry } from '../core/user-metrics.ts'
import { peekSinks } from './sink-recovery.ts'

/** One sentence for each state that could not be restored into the job's operators. */
export async function stateProblems(graph: JobGraph, manifest: Manifest, job: JobContext, io: Io): Promise<string[]> {
  const folder = await mkdtemp(join(tmpdir(), 'millrace-check-'))
  const store = memoryStoreFactory().create(join(folder, 'store'))
  try {
    return graph.nodes.flatMap((node) => {
      const saved = manifest.operators.find((operator) => operator.uid === node.uid)
      if (node.role !== 'operator' || saved === undefined || !node.isKeyed || !saved.isKeyed) return []
      return problemsOfOperator(node, saved, manifest.keyGroups, store, { job, io }).map(
        (problem) => `"${node.name}" (uid ${node.uid}): ${problem}`,
      )
    })
  } finally {
    store.close()
    await rm(folder, { recursive: true, force: true })
  }
}

function problemsOfOperator(
  node: OperatorNode,
  saved: ManifestOperator,
  keyGroups: number,
  store: KeyedStore,
  { job, io }: { readonly job: JobContext; readonly io: Io },
): string[] {
  const problems: string[] = []
  const counters = { lateDropped: 0, filtered: 0, coldReads: 0 }
  const backend = new KeyedBackend({
    operatorId: saved.operatorId,
    keyGroups: keyGroupRange(0, 1, keyGroups),
    store,
    memoryBudgetBytes: 1 << 20,
    counters,
    restored: saved.tables,
  })
  const keyed: KeyedState = {
    keyGroups: backend.keyGroups,
    table(declaration) {
      try {
        return backend.table(declaration)
      } catch (error) {
        problems.push(messageOf(error))
        // Under a name of its own it is new: the operator goes on to its further states.
        return backend.table({ ...declaration, name: `${declaration.name} as declared` })
      }
    },
  }
  const context: OperatorContext = {
    name: node.name,
    uid: node.uid,
    subtask: 0,
    parallelism: 1,
    worker: {
      job,
      workerIndex: 0,
      io,
      interner: new StringInterner(),
      nowMs: () => io.clock.nowMs(),
      uniqueId: (prefix) => `${prefix} of the check`,
    },
    attempt: 0,
    counters,
    metrics: new MetricRegistry(() => io.clock.nowMs()),
    accumulators: new AccumulatorRegistry(),
    keyed,
    restored: saved.states,
    scheduleProcessingTime() {},
    wake() {},
  }
  const operator = node.create()
  try {
    operator.open(context)
  } catch (error) {
    problems.push(messageOf(error))
  }
  try {
    operator.close?.()
  } catch {
    // What a check has opened half-way may not close well; it says nothing about the restore.
  }
  return problems
}

/**
 * One sentence for each sink whose marker does not fit the checkpoint, or that cannot say, and for each file of output
 * that is still to be applied and is damaged. The checkpoint lies in `from`, the job would run in `directory`.
 */
export async function sinkProblems(
  graph: JobGraph,
  manifest: Manifest,
  { from, directory }: { readonly from: string; readonly directory: string },
  io: Io,
): Promise<string[]> {
  const problems: string[] = []
  const place = { io, graph, jobName: manifest.jobName, directory }
  for await (const { id, marker, error } of peekSinks(place, { manifest, directory: from })) {
    if (error !== null) problems.push(messageOf(error))
    else if (marker !== null) problems.push(...(await outputProblems(manifest, from, { id, marker }, io)))
  }
  return problems
}

async function outputProblems(
  manifest: Manifest,
  directory: string,
  { id, marker }: { readonly id: string; readonly marker: number },
  io: Io,
): Promise<string[]> {
  const problems: string[] = []
  const waiting = manifest.pending.filter(({ sink, epoch }) => sink === id && epoch > marker)
  for (const segment of waiting.flatMap(({ committables }) => committables).filter(isSegment)) {
    try {
      for await (const _ of readOutbox(io.disk, directory, segment));
    } catch (error) {
      problems.push(messageOf(error))
    }
  }
  return problems
}
