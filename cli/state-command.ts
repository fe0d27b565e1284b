/**
 * `millrace state DIR [--operator UID] [--limit N] [--json]`: keyed state of a checkpoint, read offline.
 *
 * It reads committed files only, so it may run beside the job: the files of a checkpoint never change, and
 * they are linked into a temporary directory before they are opened.
 */
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { integerFlag, type ParsedFlags, usageError } from '../engine/api/run-flags.ts'
import { layout } from '../engine/checkpoint/layout.ts'
import type { Manifest, ManifestOperator } from '../engine/checkpoint/manifest.ts'
import { manifestNumbers, readManifest } from '../engine/checkpoint/manifest-store.ts'
import { MillraceError } from '../engine/core/errors.ts'
import type { StateBackendName } from '../engine/runtime/launcher-types.ts'
import { nodeIo } from '../engine/runtime/node-io.ts'
import { keyedStoreFactory } from '../engine/runtime/store-factories.ts'
import { readState, type StateEntry } from '../state/state-reader.ts'

const LIMIT_DEFAULT = 20

interface Checkpoint {
  readonly directory: string
  readonly manifest: Manifest
}

/** The newest readable checkpoint of a directory, or the one whose manifest is named. */
async function findCheckpoint(path: string): Promise<Checkpoint> {
  const named = /^(.*)\/manifests\/0*(\d+)\.json$/.exec(path)
  const directory = named === null ? path : named[1]!
  const numbers = named === null ? (await manifestNumbers(nodeIo.disk, path)).reverse() : [Number(named[2])]
  let problem = 'it has no checkpoints'
  for (const number of numbers) {
    const { manifest, error } = await readManifest(nodeIo.disk, directory, number)
    if (manifest !== null) return { directory, manifest }
    problem = error
  }
  throw new MillraceError('CHECKPOINT_NOT_FOUND', `Cannot read state from ${path}: ${problem}.`, {
    hint: "Give a job's --checkpoint-dir, or the path that `millrace savepoint` printed.",
  })
}

function operatorOf(manifest: Manifest, uid: string): ManifestOperator {
  const keyed = manifest.operators.filter((operator) => operator.isKeyed)
  const found = keyed.find((operator) => operator.uid === uid)
  if (found !== undefined) return found
  throw new MillraceError('OPERATOR_UNKNOWN', `No operator with uid ${JSON.stringify(uid)} keeps keyed state.`, {
    hint: `Known: ${keyed.map((operator) => operator.uid).join(', ') || 'none'}.`,
  })
}

/** Hands every entry of an operator to `visit` until that returns false. */
async function visitState(
  { directory, manifest }: Checkpoint,
  operator: ManifestOperator,
  visit: (entry: StateEntry) => boolean,
): Promise<void> {
  const factory = await keyedStoreFactory(manifest.stateBackend as StateBackendName)
  const scratch = await mkdtemp(join(tmpdir(), 'millrace-state-'))
  try {
    for (const [i, stored] of manifest.stores.entries()) {
      const image = join(scratch, `image-${i}`)
      await nodeIo.disk.makeDirectory(image)
      for (const file of stored.files) {
        await nodeIo.disk.link(layout.sharedFile(directory, file.sha256), join(image, file.name))
      }
      const store = factory.restore(image, join(scratch, `store-${i}`))
      try {
        for (const entry of readState(store, operator.operatorId, manifest.keyGroups, operator.tables)) {
          if (!visit(entry)) return
        }
      } finally {
        store.close()
      }
    }
  } finally {
    await rm(scratch, { recursive: true, force: true })
  }
}

/** JSON with what JSON lacks: bigints as text, maps as lists of pairs, sets as lists, NaN and infinities as text. */
function jsonOf(value: unknown): string {
  return JSON.stringify(value, (_, part: unknown) => {
    if (typeof part === 'bigint' || (typeof part === 'number' && !Number.isFinite(part))) return String(part)
    if (part instanceof Map) return [...part]
    if (part instanceof Set) return [...part]
    return part
  })
}

function lineOf(entry: StateEntry): string {
  const window = entry.namespace === 0 ? '-' : new Date(entry.namespace).toISOString()
  return `${jsonOf(entry.key)}  ${window}  ${entry.table}  ${jsonOf(entry.value)}`
}

async function listOperators(checkpoint: Checkpoint, asJson: boolean): Promise<void> {
  for (const operator of checkpoint.manifest.operators.filter((candidate) => candidate.isKeyed)) {
    let entries = 0
    await visitState(checkpoint, operator, () => ++entries > 0)
    const { uid, name, parallelism, tables } = operator
    const shapes = tables.map((table) => `${table.name} v${table.version} ${table.layout}`)
    process.stdout.write(
      asJson
        ? `${JSON.stringify({ uid, name, parallelism, tables, entries })}\n`
        : `${uid}  "${name}"  parallelism ${parallelism}  ${entries} entries  ${shapes.join('; ')}\n`,
    )
  }
}

export async function stateCommand(flags: ParsedFlags): Promise<number> {
  const [path, stray] = flags.positionals
  if (path === undefined || stray !== undefined) {
    throw usageError('This command needs one directory.', 'Write millrace state DIR --operator UID.')
  }
  if (!existsSync(path)) throw usageError(`There is no ${path}.`, "Give a job's --checkpoint-dir.")
  const limit = integerFlag(flags, 'limit', 0, Number.MAX_SAFE_INTEGER) ?? LIMIT_DEFAULT
  const asJson = flags.has('json')
  const checkpoint = await findCheckpoint(path)
  const uid = flags.text('operator')
  if (uid === null) {
    await listOperators(checkpoint, asJson)
    return 0
  }
  let shown = 0
  await visitState(checkpoint, operatorOf(checkpoint.manifest, uid), (entry) => {
    process.stdout.write(`${asJson ? jsonOf({ operator: uid, ...entry }) : lineOf(entry)}\n`)
    shown++
    return limit === 0 || shown < limit
  })
  return 0
}
