/**
 * The manifest: the one file whose existence commits a checkpoint.
 *
 * It names everything that a restart needs. Manifests are numbered without gaps, created only if their
 * number is free, and never changed. The last line of the file is the SHA-256 of what comes before it,
 * so a torn or altered manifest is recognised.
 *
 * Three numbers, never mixed: `number` is the file's, `generation` the owner's (both grow at a takeover),
 * `epoch` the sinks' (grows only with a completed checkpoint).
 */
import { createHash } from 'node:crypto'
import { MillraceError } from '../core/errors.ts'
import type { JsonValue } from '../core/json-value.ts'
import type { SplitCheckpoint } from '../runtime/source-driver.ts'

export const MANIFEST_FORMAT = 1

/** A file of keyed state, stored as shared/<sha256>. */
export interface ManifestFile {
  /** Its name inside the store. */
  readonly name: string
  readonly sha256: string
  readonly size: number
}

export interface ManifestStore {
  readonly worker: number
  readonly files: readonly ManifestFile[]
}

export interface ManifestTable {
  /** Part of its entries' keys. */
  readonly id: number
  readonly name: string
  readonly version: number
  readonly layout: string
}

export interface ManifestOperator {
  readonly uid: string
  readonly name: string
  /** Prefix of its keys in the stores; kept for ever under the same uid. */
  readonly operatorId: number
  readonly parallelism: number
  readonly isKeyed: boolean
  /** Non-keyed state, one entry a subtask. */
  readonly states: readonly JsonValue[]
  readonly tables: readonly ManifestTable[]
}

export interface ManifestSource {
  readonly uid: string
  readonly splits: readonly SplitCheckpoint[]
}

/** Output of one epoch that is not known to be applied yet. */
export interface PendingCommit {
  readonly epoch: number
  readonly sink: string
  readonly committables: readonly JsonValue[]
}

export interface ManifestSink {
  readonly id: string
  readonly kind: string
  /** Marker that the sink must show before the first pending epoch is applied. */
  readonly marker: number
}

export interface Manifest {
  readonly format: number
  readonly kind: 'checkpoint' | 'savepoint' | 'final' | 'takeover'
  /**
   * Random id of the process that wrote it: no two processes write the same bytes, so whoever reads a manifest
   * back knows whether it is its own. Manifests of earlier releases have none.
   */
  readonly owner?: string
  readonly number: number
  readonly parent: number | null
  readonly generation: number
  readonly epoch: number
  /** Highest attempt id used so far; the next one is greater. */
  readonly attempt: number
  readonly createdAtMs: number
  readonly jobName: string
  readonly keyGroups: number
  readonly workers: number
  readonly stateBackend: string
  readonly operators: readonly ManifestOperator[]
  readonly sources: readonly ManifestSource[]
  readonly stores: readonly ManifestStore[]
  readonly sinks: readonly ManifestSink[]
  readonly pending: readonly PendingCommit[]
}

const NAME = /^(\d{12})\.json$/

export function manifestName(number: number): string {
  return `${String(number).padStart(12, '0')}.json`
}

/** The number in a manifest's file name, or null for other files. */
export function manifestNumber(name: string): number | null {
  const match = NAME.exec(name)
  return match === null ? null : Number(match[1])
}

function digest(body: string): string {
  return createHash('sha256').update(body).digest('hex')
}

export function encodeManifest(manifest: Manifest): Uint8Array {
  const body = `${JSON.stringify(manifest, null, 1)}\n`
  return Buffer.from(`${body}${digest(body)}\n`)
}

/** Throws `MANIFEST_CORRUPT` or `MANIFEST_FORMAT` with what is wrong. */
export function decodeManifest(bytes: Uint8Array, name: string): Manifest {
  const text = Buffer.from(bytes).toString('utf8')
  const cut = text.length - 65
  const body = text.slice(0, Math.max(0, cut))
  if (cut < 2 || text.slice(cut) !== `${digest(body)}\n`) {
    throw new MillraceError('MANIFEST_CORRUPT', `Manifest ${name} does not match its checksum.`, { domain: 'external' })
  }
  const manifest = JSON.parse(body) as Manifest
  if (manifest.format !== MANIFEST_FORMAT) {
    throw new MillraceError(
      'MANIFEST_FORMAT',
      `Manifest ${name} has format ${manifest.format}, this version reads ${MANIFEST_FORMAT}.`,
      { hint: 'Restore it with the version of Millrace that wrote it, and take a savepoint there.' },
    )
  }
  return manifest
}
