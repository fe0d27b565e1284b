/**
 * Judges a simulation as it goes: what appears on the disk and outside is held against I1 to I13 of the
 * reliability design, each in a check of its own name.
 *
 * Called by sim-run.ts and sim-process.ts. What sinks hold at the end is judged by sim-results.ts. Only the
 * first violation counts: what follows one is its consequence.
 */
import { isDeepStrictEqual } from 'node:util'
import { crc32 } from 'node:zlib'
import { lowestRestoredWatermark } from '../../../operators/watermark-json.ts'
import { DEAD_LETTER_SINK } from '../../checkpoint/dead-letters.ts'
import { layout } from '../../checkpoint/layout.ts'
import { decodeManifest, type Manifest, type ManifestSource } from '../../checkpoint/manifest.ts'
import type { KeyGroupRange } from '../../contract/keyed-state.ts'
import type { OutboxSegment } from '../../contract/sink.ts'
import type { JsonValue } from '../../core/json-value.ts'
import { keyGroupRange } from '../../core/keys.ts'
import type { Deployment } from '../../runtime/protocol.ts'
import type { DiskObserver } from './sim-disk.ts'
import type { SimExternal } from './sim-external.ts'
import { type SimFiles, sha256Of } from './sim-files.ts'
import { digestByOperator, type Entries, readStoreFiles } from './sim-store.ts'

export interface Violation {
  /** I1 to I13 of the design. */
  readonly invariant: string
  readonly message: string
}

type Split = ManifestSource['splits'][number]

interface KnownManifest {
  readonly path: string
  readonly directory: string
  readonly manifest: Manifest
}

const MANIFEST_PATH = /^(.*)\/manifests\/\d{12}\.json$/
const DEAD_LETTERS_PATH = /\/dead-letters\/epoch-(\d{12})\.jsonl$/

export class SimInvariants implements DiskObserver {
  violation: Violation | null = null
  private readonly files: SimFiles
  private readonly external: SimExternal
  private manifests: KnownManifest[] = []
  /** Damaged ones that were set aside: their numbers are not used again. */
  private readonly setAside: KnownManifest[] = []
  /** Processes that have written a manifest. */
  private readonly owners = new Set<string>()
  private readonly lastAttempts = new Map<string, number>()
  /** Who triggered an attempt, and in which workers, by directory and number. */
  private readonly attempts = new Map<string, { readonly owner: string; readonly workers: Set<number> }>()
  /** What the next new directory starts from: a manifest of another one. */
  private restoredFrom: Manifest | null = null
  /** Epochs that manifests list, by sink; with the manifest that did first. */
  private readonly listed = new Map<string, Map<number, KnownManifest>>()
  /** Files of which a write or sync failed. */
  private readonly failedFiles = new Set<string>()

  constructor(files: SimFiles, external: SimExternal) {
    this.files = files
    this.external = external
    files.observer = this
    external.onApplied = (sink, epoch, before) => this.applied(sink, epoch, before)
  }

  fail(invariant: string, message: string): void {
    this.violation ??= { invariant, message }
  }

  /** The newest manifest of a directory. */
  newest(directory: string): Manifest | null {
    return this.manifests.findLast((known) => known.directory === directory)?.manifest ?? null
  }

  /** Was one made, other than by a takeover, with a higher number? */
  hasCheckpointAfter(directory: string, number: number): boolean {
    return this.manifests.some(
      ({ manifest, directory: where }) =>
        where === directory && manifest.number > number && manifest.kind !== 'takeover',
    )
  }

  manifestAt(path: string): Manifest | null {
    return this.manifests.find((known) => known.path === path)?.manifest ?? null
  }

  /** A manifest that was set aside is back; what it listed counts again. */
  repaired(path: string, bytes: Uint8Array): void {
    if (this.manifestAt(path) !== null) return
    const directory = MANIFEST_PATH.exec(path)![1]!
    this.remember({ path, directory, manifest: decodeManifest(bytes, path) })
  }

  /** The job goes on in a new directory, from this manifest. */
  movesFrom(path: string): void {
    this.restoredFrom = this.manifestAt(path)
  }

  created(path: string, bytes: Uint8Array): void {
    const letters = DEAD_LETTERS_PATH.exec(path)?.[1]
    if (letters !== undefined) this.checkI4Listed(DEAD_LETTER_SINK, Number(letters))
    const directory = MANIFEST_PATH.exec(path)?.[1]
    if (directory === undefined) return
    const manifest = decodeManifest(bytes, path)
    const known = { path, directory, manifest }
    if (this.isStray(known) || this.isBack(known)) return
    this.takeBack(known)
    this.checkI1Files(known)
    this.checkI2Numbers(known)
    this.checkI11Owner(known)
    this.checkI7KeyGroups(manifest)
    this.checkI9Progress(known)
    this.checkI10Failed(known)
    this.remember(known)
    if (manifest.owner !== undefined) this.owners.add(manifest.owner)
  }

  private remember(known: KnownManifest): void {
    this.manifests.push(known)
    this.manifests.sort((a, b) => a.manifest.number - b.manifest.number)
    for (const { sink, epoch } of known.manifest.pending) {
      const epochs = this.listed.get(sink) ?? new Map<number, KnownManifest>()
      this.listed.set(sink, epochs)
      const first = epochs.get(epoch)
      if (first === undefined || this.setAside.includes(first)) epochs.set(epoch, known)
    }
  }

  /**
   * A process that was taken over may come late with a number that the winner has collected already. Such a
   * manifest binds nobody; if its epoch were applied all the same, that would be seen (I4).
   */
  private isStray({ directory, manifest }: KnownManifest): boolean {
    return manifest.number < (this.newest(directory)?.number ?? 0)
  }

  /**
   * A try to create a manifest that was answered with a time-out may have its effect once a damaged copy of it has been
   * set aside: then it is there again, whole. It binds nobody until somebody goes on from it.
   */
  private isBack({ path, directory, manifest }: KnownManifest): boolean {
    const before = this.setAside.find((known) => known.path === path)
    if (before === undefined || !isDeepStrictEqual(before.manifest, manifest)) return false
    return manifest.number > (this.newest(directory)?.number ?? 0)
  }

  /** `known` goes on from one that had been set aside and came back: what that listed counts again. */
  private takeBack({ directory, manifest }: KnownManifest): void {
    const at = this.setAside.findIndex(
      (other) =>
        other.directory === directory &&
        other.manifest.number === manifest.parent &&
        manifest.kind === 'takeover' &&
        this.files.exists(other.path),
    )
    if (at >= 0) this.remember(this.setAside.splice(at, 1)[0]!)
  }

  /** After a crash, manifests may be gone whose creation never reported success. */
  crashed(): void {
    const [left, lost] = [this.manifests.filter(({ path }) => this.files.exists(path)), this.manifests]
    for (const known of lost) if (!left.includes(known)) this.forget(known)
  }

  private forget(known: KnownManifest): void {
    this.manifests = this.manifests.filter((other) => other !== known)
    for (const epochs of this.listed.values()) {
      for (const [epoch, by] of epochs) if (by === known) epochs.delete(epoch)
    }
  }

  failed(path: string): void {
    this.failedFiles.add(path)
  }

  /** I1: every file is there and would be after a crash at this instant, and no hash is that of damage. */
  private checkI1Files({ directory, manifest }: KnownManifest): void {
    for (const { name, sha256, size } of manifest.stores.flatMap((store) => store.files)) {
      const path = layout.sharedFile(directory, sha256)
      if (!this.files.survives(path, size)) {
        this.fail('I1', `manifest ${manifest.number} names ${name} (${sha256}), which is not durable`)
      } else if (this.files.isOfRot(sha256)) {
        this.fail('I1', `manifest ${manifest.number} takes the damage to ${name} for its content`)
      } else if (!this.holds(path, (bytes) => sha256Of(bytes) === sha256)) {
        this.fail('I1', `manifest ${manifest.number} names ${name} (${sha256}), which holds something else`)
      }
    }
    for (const { sink, epoch, committables } of manifest.pending) {
      if (this.isApplied(directory, sink, epoch)) continue
      for (const committable of committables) {
        const { file, bytes, crc32: checksum } = committable as unknown as Partial<OutboxSegment>
        if (file === undefined) continue
        const path = `${directory}/${file}`
        if (!this.files.survives(path, bytes!)) {
          this.fail('I1', `manifest ${manifest.number} names ${file} of ${sink}, which is not durable`)
        } else if (!this.holds(path, (bytes) => crc32(bytes) === checksum)) {
          this.fail('I1', `manifest ${manifest.number} names ${file} of ${sink}, which holds something else`)
        }
      }
    }
  }

  /** As it is, or with a bit flipped, which is for a later reader to find. */
  private holds(path: string, isRight: (bytes: Buffer) => boolean): boolean {
    const bytes = this.files.read(path)
    return isRight(bytes) || this.files.isOfRot(sha256Of(bytes))
  }

  private isApplied(directory: string, sink: string, epoch: number): boolean {
    const known = this.external.sinks.get(sink)
    if (known !== undefined) return epoch <= known.marker
    // Dead letters: the file that proves the commit.
    return this.files.exists(`${layout.deadLetters(directory)}/epoch-${String(epoch).padStart(12, '0')}.jsonl`)
  }

  /** I11: an older generation writes no manifest, and a process that was taken over does not take the job back. */
  private checkI11Owner({ directory, manifest }: KnownManifest): void {
    const last = this.newest(directory)
    if (manifest.kind !== 'takeover' && manifest.generation !== last?.generation) {
      this.fail('I11', `manifest ${manifest.number} of generation ${manifest.generation} follows ${last?.generation}`)
    }
    const { owner } = manifest
    if (last === null || owner === undefined || owner === last.owner) return
    if (this.owners.has(owner)) this.fail('I11', `${owner} took the job back from ${last.owner}`)
  }

  /** I2: numbers have no gaps, attempts and epochs are never reused. */
  private checkI2Numbers({ directory, manifest }: KnownManifest): void {
    const last = this.newest(directory)
    const numbers = this.setAside.filter((other) => other.directory === directory).map((other) => other.manifest.number)
    const lastNumber = Math.max(last?.number ?? 0, ...numbers)
    if (manifest.number !== lastNumber + 1) this.fail('I2', `manifest ${manifest.number} follows ${lastNumber}`)
    if (manifest.kind === 'takeover') {
      if (last !== null && manifest.generation <= last.generation) {
        this.fail('I2', `takeover ${manifest.number} has generation ${manifest.generation} after ${last.generation}`)
      }
      return
    }
    const lastAttempt = this.lastAttempts.get(directory) ?? 0
    if (manifest.attempt <= lastAttempt) this.fail('I2', `attempt ${manifest.attempt} after ${lastAttempt}`)
    this.lastAttempts.set(directory, manifest.attempt)
    if (last !== null && manifest.epoch <= last.epoch) {
      this.fail('I2', `manifest ${manifest.number} has epoch ${manifest.epoch} after ${last.epoch}`)
    }
  }

  /** I2: an attempt is triggered once, by one process: a late ack of another would count for it. */
  checkI2Attempt(directory: string, owner: string, worker: number, attempt: number): void {
    const by = `${directory} ${attempt}`
    const first = this.attempts.get(by) ?? { owner, workers: new Set<number>() }
    this.attempts.set(by, first)
    if (first.owner !== owner) this.fail('I2', `${owner} uses attempt ${attempt}, as ${first.owner} did`)
    if (first.workers.has(worker)) this.fail('I2', `${owner} uses attempt ${attempt} again`)
    first.workers.add(worker)
  }

  /** I7: the subtasks of each keyed operator own every key group once. */
  private checkI7KeyGroups(manifest: Manifest): void {
    for (const operator of manifest.operators) {
      if (!operator.isKeyed) continue
      let next = 0
      for (let subtask = 0; subtask < operator.parallelism; subtask++) {
        const range = keyGroupRange(subtask, operator.parallelism, manifest.keyGroups)
        if (range.from !== next) this.fail('I7', `${operator.uid} #${subtask} starts at ${range.from}, not ${next}`)
        next = range.to
      }
      if (next !== manifest.keyGroups) this.fail('I7', `${operator.uid} owns ${next} key groups`)
      if (operator.states.length !== operator.parallelism) this.fail('I7', `${operator.uid} lacks a subtask's state`)
    }
  }

  /** I7: a worker's store has keys of its own key groups only. `ranges` are those, by operator id. */
  checkI7Store(worker: number, entries: Entries, ranges: ReadonlyMap<number, readonly KeyGroupRange[]>): void {
    for (const key of entries.keys()) {
      const operator = (key.charCodeAt(0) << 8) | key.charCodeAt(1)
      const group = (key.charCodeAt(2) << 8) | key.charCodeAt(3)
      if (ranges.get(operator)?.some(({ from, to }) => group >= from && group < to) === true) continue
      this.fail('I7', `worker ${worker} holds key group ${group} of operator ${operator}, which is not its own`)
      return
    }
  }

  private parentOf({ directory, manifest }: KnownManifest): Manifest | null {
    const own = this.manifests.findLast(
      (known) => known.directory === directory && known.manifest.number === manifest.parent,
    )
    return own?.manifest ?? (this.newest(directory) === null ? this.restoredFrom : null)
  }

  /** I9: positions and watermarks never go back from a manifest to the one made after it; no split is lost. */
  private checkI9Progress(known: KnownManifest): void {
    const { manifest } = known
    const before = this.parentOf(known)
    for (const source of before?.sources ?? []) {
      const now = manifest.sources.find((candidate) => candidate.uid === source.uid)
      for (const split of source.splits) {
        const next = now?.splits.filter((candidate) => candidate.id === split.id) ?? []
        if (next.length === 1) this.checkI9Split(manifest.number, split, next[0]!)
        else this.fail('I9', `manifest ${manifest.number} has split ${split.id} ${next.length} times`)
      }
    }
    for (const operator of before?.operators ?? []) {
      const now = manifest.operators.find((candidate) => candidate.uid === operator.uid)
      if (now !== undefined && lowestWatermark(now.states) < lowestWatermark(operator.states)) {
        this.fail('I9', `the watermark of ${operator.uid} went back in manifest ${manifest.number}`)
      }
    }
  }

  private checkI9Split(number: number, before: Split, after: Split): void {
    const watermark = (split: Split): number =>
      split.watermark === 'end' ? Number.POSITIVE_INFINITY : (split.watermark ?? Number.NEGATIVE_INFINITY)
    if ((after.position as number) < (before.position as number)) {
      this.fail('I9', `split ${before.id} went back from ${before.position} to ${after.position} in manifest ${number}`)
    }
    if (watermark(after) < watermark(before)) {
      this.fail('I9', `the watermark of split ${before.id} went back in manifest ${number}`)
    }
  }

  /** I10: no manifest lists output of which a write or sync failed: an ack implies no outstanding error. */
  private checkI10Failed({ directory, manifest }: KnownManifest): void {
    for (const committable of manifest.pending.flatMap((commit) => commit.committables)) {
      const { file } = committable as { file?: string }
      if (file !== undefined && this.failedFiles.has(`${directory}/${file}`)) {
        this.fail('I10', `manifest ${manifest.number} lists ${file}, of which a write failed`)
      }
    }
  }

  /** I6: the stores of a run hold together exactly what the manifest's files say, whoever holds it. */
  checkI6Restored(deployment: Deployment, restored: readonly Entries[]): void {
    const expected = new Map<number, number>()
    for (const { files } of deployment.stores) {
      const bytes = files.map((file) =>
        this.files.readSound(layout.sharedFile(deployment.storesDirectory, file.sha256)),
      )
      addAll(expected, digestByOperator(readStoreFiles(bytes)))
    }
    const actual = new Map<number, number>()
    for (const entries of restored) addAll(actual, digestByOperator(entries))
    for (const [uid, id] of Object.entries(deployment.operatorIds)) {
      if (actual.get(id) !== expected.get(id)) this.fail('I6', `the restored state of ${uid} is not what was stored`)
    }
  }

  removed(path: string): void {
    const manifest = this.manifests.find((known) => known.path === path)
    // The newest goes only when it is set aside.
    if (manifest !== undefined && manifest.manifest === this.newest(manifest.directory)) {
      this.manifests = this.manifests.filter((other) => other !== manifest)
      this.setAside.push(manifest)
    }
    const shared = /^(.*)\/shared\/([0-9a-f]{64})$/.exec(path)
    if (shared !== null) this.checkI13State(shared[1]!, shared[2]!)
    const output = /^(.*)\/(outbox\/[^/]+)$/.exec(path)
    if (output !== null) this.checkI13Output(output[1]!, output[2]!)
  }

  /** I13: no state file goes that a retained manifest names. */
  private checkI13State(directory: string, sha256: string): void {
    for (const known of this.manifests) {
      if (known.directory !== directory || !this.files.exists(known.path)) continue
      if (known.manifest.stores.some((store) => store.files.some((file) => file.sha256 === sha256))) {
        this.fail('I13', `removed ${sha256}, which manifest ${known.manifest.number} names`)
      }
    }
  }

  /** I13: no output goes before it was applied. */
  private checkI13Output(directory: string, file: string): void {
    for (const { sink, epoch, committables } of this.newest(directory)?.pending ?? []) {
      const isNamed = committables.some((entry) => (entry as { file?: string }).file === file)
      if (isNamed && !this.isApplied(directory, sink, epoch)) {
        this.fail('I13', `removed ${file} before epoch ${epoch} of ${sink} was applied`)
      }
    }
  }

  /** I4: only epochs that a manifest lists become visible. */
  private checkI4Listed(sink: string, epoch: number): void {
    if (this.listed.get(sink)?.has(epoch) !== true) this.fail('I4', `${sink} shows epoch ${epoch} without a manifest`)
  }

  /** I3: markers ascend, and no epoch is left out. */
  private applied(sink: string, epoch: number, before: number): void {
    this.checkI4Listed(sink, epoch)
    const listed = this.listed.get(sink)
    if (epoch <= before) this.fail('I3', `the marker of ${sink} went from ${before} to ${epoch}`)
    for (const [other, by] of listed ?? []) {
      // An epoch of a manifest that was set aside is made again under the same number, perhaps without output.
      if (this.setAside.includes(by)) continue
      if (other > before && other < epoch) this.fail('I3', `${sink} applied epoch ${epoch} before ${other}`)
    }
  }

  /** I5: once a job has stopped, everything that manifests list is visible. */
  checkI5NothingPending(): void {
    for (const [sink, epochs] of this.listed) {
      for (const [epoch, known] of epochs) {
        if (!this.setAside.includes(known) && !this.isApplied(known.directory, sink, epoch)) {
          this.fail('I5', `the job ended, but epoch ${epoch} of ${sink} is not visible`)
        }
      }
    }
  }
}

function addAll(sums: Map<number, number>, more: ReadonlyMap<number, number>): void {
  for (const [id, digest] of more) sums.set(id, ((sums.get(id) ?? 0) + digest) >>> 0)
}

/** Of the operators that keep one in their state; +Infinity without any. */
function lowestWatermark(states: readonly JsonValue[]): number {
  const kept = states.filter((state) => state !== null && typeof state === 'object' && 'watermark' in state)
  return kept.length === 0 ? Number.POSITIVE_INFINITY : lowestRestoredWatermark(kept)
}
