/**
 * `millrace state DIR [--operator UID] [--limit N] [--json]`: keyed state of a checkpoint, read offline.
 *
 * It reads committed files only, so it may run beside the job. Invariants:
 * - Nothing in DIR is changed: a checkpoint's files are linked into a temporary directory elsewhere (copied
 *   where links are not possible) and opened there. Once linked, the job's clean-up cannot take them away.
 * - The temporary directory is removed however the command ends, `| head` and Ctrl-C included.
 */
import { existsSync, rmSync } from 'node:fs'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { integerFlag, type ParsedFlags, usageError } from '../engine/api/run-flags.ts'
import type { Manifest, ManifestOperator } from '../engine/checkpoint/manifest.ts'
import type { KeyedStore } from '../engine/contract/keyed-store.ts'
import { isObjectUrl } from '../engine/contract/object-store.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { linkCheckpoint, openImages } from '../engine/runtime/checkpoint-images.ts'
import { nodeIo } from '../engine/runtime/node-io.ts'
import { countRows, readState, type StateEntry, stateChunks } from '../state/state-reader.ts'

const LIMIT_DEFAULT = 20
const WRITE_CHARS = 64 << 10
const DATE_MS_MAX = 8.64e15

/** Runs `body` with a temporary directory that is gone afterwards, whatever ends the process. */
async function withScratch(body: (scratch: string) => Promise<void>): Promise<void> {
  const scratch = await mkdtemp(join(tmpdir(), 'millrace-state-'))
  const remove = (): void => rmSync(scratch, { recursive: true, force: true })
  const onInterrupt = (): void => process.exit(130)
  const onTerminate = (): void => process.exit(143)
  process.once('exit', remove).once('SIGINT', onInterrupt).once('SIGTERM', onTerminate)
  try {
    await body(scratch)
  } finally {
    process.off('exit', remove).off('SIGINT', onInterrupt).off('SIGTERM', onTerminate)
    remove()
  }
}

async function withStores(
  path: string,
  body: (manifest: Manifest, stores: readonly KeyedStore[]) => Promise<void>,
): Promise<void> {
  await withScratch(async (scratch) => {
    const linked = await linkCheckpoint(nodeIo.disk, path, scratch)
    const stores = await openImages(linked, scratch)
    try {
      await body(linked.manifest, stores)
    } finally {
      for (const store of stores) store.close()
    }
  })
}

/** Lines on stdout, in pieces, at the pace of whoever reads them. */
class LineWriter {
  private text = ''

  async line(line: string): Promise<void> {
    this.text += `${line}\n`
    if (this.text.length >= WRITE_CHARS) await this.flush()
  }

  async flush(): Promise<void> {
    const text = this.text
    this.text = ''
    await new Promise<void>((done) => process.stdout.write(text, () => done()))
    // Lets signals and a closed pipe be noticed.
    await turn()
  }
}

function bytesOf(value: ArrayBufferView | ArrayBufferLike): string {
  const view = ArrayBuffer.isView(value) ? value : new Uint8Array(value)
  return Buffer.from(view.buffer, view.byteOffset, view.byteLength).toString('base64')
}

/**
 * What JSON can hold: bigints, NaN and infinities as text, maps as lists of pairs, sets and arrays of numbers
 * as lists, bytes in base64, times in ISO 8601, and `[circular]` for a value inside itself.
 */
function plain(value: unknown, outer: readonly unknown[] = []): unknown {
  if (typeof value === 'bigint') return String(value)
  if (typeof value === 'number') return Number.isFinite(value) ? value : String(value)
  if (value === null || typeof value !== 'object') return value
  if (outer.includes(value)) return '[circular]'
  const inner = [...outer, value]
  if (Array.isArray(value)) return value.map((part) => plain(part, inner))
  if (value instanceof Map) return [...value].map((pair) => pair.map((part) => plain(part, inner)))
  if (value instanceof Set) return [...value].map((part) => plain(part, inner))
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? String(value) : value.toISOString()
  if (value instanceof Uint8Array || value instanceof DataView || value instanceof ArrayBuffer) return bytesOf(value)
  if (ArrayBuffer.isView(value)) return Array.from(value as Float64Array, (part) => plain(part))
  if (value instanceof RegExp || value instanceof Error) return String(value)
  if (value instanceof Number || value instanceof String || value instanceof Boolean) return value.valueOf()
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, plain(part, inner)]))
}

function jsonOf(value: unknown): string {
  return JSON.stringify(plain(value)) ?? 'null'
}

function windowOf(namespace: number): string {
  if (namespace === 0) return '-'
  return Math.abs(namespace) <= DATE_MS_MAX ? new Date(namespace).toISOString() : String(namespace)
}

function lineOf({ key, entry, namespace, table, value }: StateEntry): string {
  const name = entry === undefined ? table : `${table}[${jsonOf(entry)}]`
  return `${jsonOf(key)}  ${windowOf(namespace)}  ${name}  ${jsonOf(value)}`
}

function keyedOperators(manifest: Manifest): ManifestOperator[] {
  return manifest.operators.filter((operator) => operator.isKeyed)
}

function operatorOf(manifest: Manifest, uid: string): ManifestOperator {
  const keyed = keyedOperators(manifest)
  const found = keyed.find((operator) => operator.uid === uid)
  if (found !== undefined) return found
  throw new MillraceError('OPERATOR_UNKNOWN', `No operator with uid ${JSON.stringify(uid)} keeps keyed state.`, {
    hint: `Known: ${keyed.map((operator) => operator.uid).join(', ') || 'none'}.`,
  })
}

async function listOperators(manifest: Manifest, stores: readonly KeyedStore[], asJson: boolean): Promise<void> {
  const out = new LineWriter()
  for (const { uid, name, parallelism, operatorId, tables } of keyedOperators(manifest)) {
    const counts = new Map<number, number>()
    for (const chunk of stateChunks(stores, operatorId, manifest.keyGroups)) {
      countRows(chunk, counts)
      await turn()
    }
    const shown = tables.map((table) => ({ ...table, entries: counts.get(table.id) ?? 0 }))
    const entries = shown.reduce((sum, table) => sum + table.entries, 0)
    const texts = shown.map((table) => `${table.name} v${table.version} ${table.layout}: ${table.entries}`)
    await out.line(
      asJson
        ? JSON.stringify({ uid, name, parallelism, entries, tables: shown })
        : `${uid}  "${name}"  parallelism ${parallelism}  ${entries} entries  ${texts.join('; ')}`,
    )
  }
  await out.flush()
}

interface EntryOptions {
  readonly uid: string
  /** 0 shows all. */
  readonly limit: number
  readonly asJson: boolean
}

async function listEntries(manifest: Manifest, stores: readonly KeyedStore[], options: EntryOptions): Promise<void> {
  const { uid, limit, asJson } = options
  const { operatorId, tables } = operatorOf(manifest, uid)
  const out = new LineWriter()
  let shown = 0
  for (const entry of readState(stores, operatorId, manifest.keyGroups, tables)) {
    await out.line(asJson ? jsonOf({ operator: uid, ...entry, value: entry.value ?? null }) : lineOf(entry))
    if (++shown === limit) break
  }
  await out.flush()
}

export async function stateCommand(flags: ParsedFlags): Promise<number> {
  const [given, stray] = flags.positionals
  if (given === undefined || stray !== undefined) {
    throw usageError('This command needs one directory.', 'Write millrace state DIR --operator UID.')
  }
  if (!isObjectUrl(given) && !existsSync(given))
    throw usageError(`There is no ${given}.`, "Give a job's --checkpoint-dir.")
  const limit = integerFlag(flags, 'limit', 0, Number.MAX_SAFE_INTEGER) ?? LIMIT_DEFAULT
  const asJson = flags.has('json')
  const uid = flags.text('operator')
  await withStores(isObjectUrl(given) ? given.replace(/\/+$/, '') : resolve(given), (manifest, stores) =>
    uid === null ? listOperators(manifest, stores, asJson) : listEntries(manifest, stores, { uid, limit, asJson }),
  )
  return 0
}
