/**
 * `--check`: compares a job with its checkpoint and starts nothing. Prints what would be restored, what is
 * new, and what would stay behind; the exit code says whether the job would start.
 */
import { basename, dirname, resolve } from 'node:path'
import { usageError } from '../engine/api/run-flags.ts'
import { type Manifest, type ManifestOperator, manifestName, manifestNumber } from '../engine/checkpoint/manifest.ts'
import { manifestNumbers, readManifest } from '../engine/checkpoint/manifest-store.ts'
import type { JobGraph } from '../engine/contract/job-graph.ts'
import { isObjectUrl } from '../engine/contract/object-store.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { sinkProblems, stateProblems } from '../engine/runtime/check-restore.ts'
import type { JobOptions } from '../engine/runtime/launcher-types.ts'
import { nodeIo } from '../engine/runtime/node-io.ts'

/** One operator of the job, of the checkpoint, or of both. */
export interface CheckLine {
  readonly uid: string
  readonly name: string
  readonly verdict: 'restored' | 'new' | 'left behind'
}

export interface CheckReport {
  readonly lines: readonly CheckLine[]
  /** What keeps the job from starting. */
  readonly problems: readonly string[]
}

function hasState(operator: ManifestOperator): boolean {
  return operator.isKeyed || operator.states.some((state) => state !== null)
}

/** Compares by uid, as a restore does. */
export function compareWithManifest(
  graph: JobGraph,
  manifest: Manifest,
  options: { readonly keyGroups: number; readonly allowNonRestoredState: boolean; readonly stateBackend?: string },
): CheckReport {
  const saved = new Map(manifest.operators.map((operator) => [operator.uid, operator]))
  const inJob = new Set(graph.nodes.map((node) => node.uid))
  const sources = new Set(manifest.sources.map((source) => source.uid))
  const sinks = new Set(manifest.sinks.map((sink) => sink.id))
  const lines: CheckLine[] = graph.nodes.map(({ uid, name }) => {
    const isKnown = saved.has(uid) || sources.has(uid) || sinks.has(uid)
    return { uid, name, verdict: isKnown ? 'restored' : 'new' }
  })
  const problems: string[] = []
  for (const { uid, name } of manifest.operators.filter((operator) => !inJob.has(operator.uid) && hasState(operator))) {
    lines.push({ uid, name, verdict: 'left behind' })
    if (!options.allowNonRestoredState) {
      problems.push(`State of "${name}" (uid ${uid}) has no operator; --allow-non-restored-state leaves it behind.`)
    }
  }
  for (const node of graph.nodes) {
    const operator = saved.get(node.uid)
    if (operator === undefined || node.role !== 'operator' || operator.isKeyed === node.isKeyed) continue
    problems.push(`"${node.name}" (uid ${node.uid}) was ${operator.isKeyed ? '' : 'not '}keyed in the checkpoint.`)
  }
  if (manifest.keyGroups !== options.keyGroups) {
    problems.push(`The checkpoint has ${manifest.keyGroups} key groups, the job ${options.keyGroups}.`)
  }
  const { stateBackend = manifest.stateBackend } = options
  if (manifest.stores.length > 0 && manifest.stateBackend !== stateBackend) {
    problems.push(`The checkpoint's state is of the ${manifest.stateBackend} backend, the job uses ${stateBackend}.`)
  }
  return { lines, problems }
}

interface Loaded {
  readonly path: string
  readonly directory: string
  readonly manifest: Manifest
  /** Newer ones that a start would set aside. */
  readonly corrupt: readonly string[]
}

/** The checkpoint that a start would continue. */
async function loadManifest(directory: string, restore: string | null): Promise<Loaded> {
  const { disk } = nodeIo
  const isLatest = restore === null || restore === 'latest'
  const folder = isLatest ? directory : dirname(dirname(isObjectUrl(restore) ? restore : resolve(restore)))
  const named = isLatest ? null : manifestNumber(basename(restore))
  const numbers = isLatest ? (await manifestNumbers(disk, directory)).reverse() : named === null ? [] : [named]
  const corrupt: string[] = []
  for (const number of numbers) {
    const { manifest, path, error } = await readManifest(disk, folder, number)
    if (manifest !== null) return { path, directory: folder, manifest, corrupt }
    corrupt.push(`${manifestName(number)}: ${error}`)
  }
  throw new MillraceError('CHECKPOINT_NOT_FOUND', `There is no checkpoint at ${restore ?? directory}.`, {
    hint:
      corrupt.length === 0
        ? 'Give the directory of a job that has taken one, or the path of a savepoint.'
        : `Not usable: ${corrupt.join('; ')}.`,
  })
}

/** Resolves to the exit code: 0 when the job would start, 1 when not. */
export async function checkProgram(graph: JobGraph, options: JobOptions): Promise<number> {
  const directory = options.checkpointDirectory
  if (directory === null && (options.restore === null || options.restore === 'latest')) {
    throw usageError('--check needs a checkpoint to compare with.', 'Add --checkpoint-dir DIR or --restore PATH.')
  }
  const { path, manifest, directory: home, corrupt } = await loadManifest(directory ?? '', options.restore)
  const { lines, problems: mismatches } = compareWithManifest(graph, manifest, options)
  const job = { id: 'check', name: options.name, parameters: options.config }
  const problems = [
    ...mismatches,
    ...(await stateProblems(graph, manifest, job, nodeIo)),
    ...(options.acceptDuplicates
      ? []
      : await sinkProblems(graph, manifest, { from: home, directory: directory ?? home }, nodeIo)),
  ]
  const width = Math.max(...lines.map((line) => line.uid.length))
  const text = [
    `checkpoint ${path}`,
    ...corrupt.map((what) => `would set aside ${what}`),
    ...lines.map(({ uid, name, verdict }) => `${verdict.padEnd(11)}  ${uid.padEnd(width)}  ${name}`),
    ...problems.map((problem) => `problem: ${problem}`),
    problems.length === 0 ? 'the job fits the checkpoint' : 'the job does not fit the checkpoint',
  ]
  process.stdout.write(`${text.join('\n')}\n`)
  return problems.length === 0 ? 0 : 1
}
