/**
 * A worker's part in checkpoints: gathers the cuts of its subtasks, makes them durable, acks.
 *
 * Subtasks cut one after the other as barriers reach them. When the last one has, what their cuts have not encoded yet is
 * encoded between turns, and goes into the worker's store piece by piece (cut-pieces.ts). Then the store is imaged by
 * hard links, new files are hashed and linked into shared/, sealed output is synced, and only then the ack goes out (I10).
 *
 * Invariants:
 * - Between its cut and the start of imaging a subtask's state writes nothing to the store; the cut's own changes go there.
 * - Output sealed by an attempt that never completed is acked again with the next attempt: no sealed
 *   record is dropped, none is listed by two manifests as new.
 * - A finished table file is hashed once, and keeps the hash that it was restored with, at any parallelism: a bit that
 *   flips later is not taken for content. A restore, an upload or `verify` finds it.
 * - After `abort` has answered, nothing of the attempt is under way.
 * - Output that could not be sealed is lost to later attempts, so the job goes back to its last manifest.
 */

import { layout } from '../checkpoint/layout.ts'
import type { ManifestFile } from '../checkpoint/manifest.ts'
import type { KeyedStore, WriteBatch } from '../contract/keyed-store.ts'
import { assert } from '../core/assert.ts'
import { mapBounded } from '../core/bounded.ts'
import { MillraceError, messageOf } from '../core/errors.ts'
import type { Io } from '../core/io.ts'
import type { CutPieces } from './cut-pieces.ts'
import type { FromWorker, SinkCommittable, SubtaskCapture } from './protocol.ts'

/** What the keyed state of one operator subtask has to be told. */
export interface CheckpointedState {
  /** Encodes up to about `entriesMax` entries of the cut; true when none is left. */
  captureMore(entriesMax: number): boolean
  /** True when its tables take more than their part of the memory. */
  readonly isOverBudget: boolean
  /** The store has the whole cut: what is written from now on is not in the image. */
  imagingStarted(): void
  /** The store holds everything captured. */
  checkpointSettled(): void
  /** It may not: what was captured is dirty again. */
  checkpointFailed(): void
}

export interface WorkerCheckpointOptions {
  readonly worker: number
  readonly generation: number
  readonly subtasks: number
  readonly io: Io
  readonly directory: string
  /** Private to this worker and run. */
  readonly liveDirectory: string
  readonly store: KeyedStore | null
  /** State files that the manifest of this run's start names. */
  readonly committed: readonly ManifestFile[]
  /** Those of them that the store was opened with, under the same names. */
  readonly restored: readonly ManifestFile[]
  readonly changes: CutPieces | null
  /** Runs a task after the event loop and the subtasks had their turn. */
  readonly defer: (task: () => void) => void
  readonly send: (message: FromWorker) => void
  /** Fails the job, with restart. */
  readonly fail: (error: unknown) => void
}

/** Encoded at a time: about a millisecond. */
const CAPTURE_ENTRIES = 8_192
/** Hashed or sent at the same time. */
const FILES_AT_ONCE = 4

interface Cut {
  readonly attempt: number
  readonly captures: SubtaskCapture[]
  /** Whose changes it has. */
  readonly states: CheckpointedState[]
  readonly sealing: Promise<SinkCommittable | null>[]
  isWhole: boolean
  /** While what is left is encoded and most of it written; null before and after. Does not reject. */
  encoding: Promise<void> | null
}

export class WorkerCheckpoints {
  private readonly options: WorkerCheckpointOptions
  /** The newest attempt that is known of, and since when. */
  private started = { attempt: 0, atMs: 0 }
  private cut: Cut | null = null
  /** The end of the newest cut that all subtasks took; it outlasts `cut`, which ends with the imaging. */
  private finishing: Promise<void> = Promise.resolve()
  /** Sealed output by attempt, kept until that attempt or a later one completes. */
  private sealed: { attempt: number; committable: SinkCommittable }[] = []
  /** Hash and size of table files by name: a store never changes one that it has finished. */
  private readonly known = new Map<string, ManifestFile>()
  /** Hashes that the newest manifest names: those files are in shared/ for sure. */
  private committed: ReadonlySet<string>
  /** What the last ack named, of an attempt that may yet complete. */
  private acked: { readonly attempt: number; readonly files: readonly ManifestFile[] } | null = null

  constructor(options: WorkerCheckpointOptions) {
    this.options = options
    this.committed = new Set(options.committed.map((file) => file.sha256))
    for (const file of options.restored) this.remember(file)
  }

  /** From the first cut to the end of imaging. */
  get inProgress(): boolean {
    return this.cut !== null
  }

  /** The attempt was triggered; its barriers may have come before that was known. */
  triggered(attempt: number): void {
    if (attempt > this.started.attempt) this.started = { attempt, atMs: this.options.io.clock.monotonicMs() }
  }

  /** Between turns: changes that are encoded go on their way once they are many. */
  sendChanges(): void {
    if (this.cut !== null) this.options.changes?.send()
  }

  /**
   * Null, or what subtasks wait for: the store takes changes of the cut more slowly than they come in, or tables are
   * over their budget and nothing may be evicted while the cut is encoded. Does not reject.
   */
  room(): Promise<void> | null {
    if (this.cut === null) return null
    const { encoding, states } = this.cut
    if (encoding !== null && states.some((state) => state.isOverBudget)) return encoding
    return this.options.changes?.room() ?? null
  }

  /** Takes one subtask's cut; what it captured of keyed state is encoded already. */
  add(
    attempt: number,
    capture: SubtaskCapture,
    states: readonly CheckpointedState[],
    sealing: readonly Promise<SinkCommittable | null>[],
  ): void {
    this.triggered(attempt)
    this.cut ??= { attempt, captures: [], states: [], sealing: [], isWhole: false, encoding: null }
    assert(this.cut.attempt === attempt, 'one attempt at a time in a worker')
    this.cut.captures.push(capture)
    this.cut.states.push(...states)
    for (const promise of sealing) {
      // A failure surfaces in `finish`; it must not be an unhandled rejection until then.
      promise.catch(() => {})
      this.cut.sealing.push(promise)
    }
    if (this.cut.captures.length < this.options.subtasks) return
    this.cut.isWhole = true
    this.options.io.failpoint?.('cut-whole')
    this.finishing = this.finish(this.cut)
  }

  /** A worker without subtasks has nothing to cut: acks at once. */
  acknowledgeEmpty(attempt: number): void {
    this.triggered(attempt)
    this.finishing = this.finish({ attempt, captures: [], states: [], sealing: [], isWhole: true, encoding: null })
  }

  private async finish(cut: Cut): Promise<void> {
    const { worker, generation, send, io } = this.options
    const wholeAtMs = io.clock.monotonicMs()
    const startedAtMs = this.started.atMs
    // Whatever becomes of the image: output is sealed once, and a later attempt has to list it.
    const keeping = this.keepSealed(cut)
    keeping.catch(() => {})
    try {
      const image = await this.imageStore(cut)
      await keeping
      io.failpoint?.('outbox-synced')
      this.acked = { attempt: cut.attempt, files: image?.files ?? [] }
      send({
        type: 'ack',
        ack: {
          worker,
          attempt: cut.attempt,
          generation,
          captures: cut.captures,
          store: image === null ? null : { worker, files: image.files },
          newBytes: image?.newBytes ?? 0,
          barrierMs: Math.max(0, wholeAtMs - startedAtMs),
          asyncMs: io.clock.monotonicMs() - wholeAtMs,
          committables: this.sealed.map((entry) => entry.committable),
        },
      })
      io.failpoint?.('acked')
    } catch (error) {
      this.release(cut, false)
      await keeping.catch(() => {})
      // What is damaged stays so: no later attempt would succeed, and the job would run on without checkpoints.
      if (error instanceof MillraceError && error.code === 'STORE_CORRUPT') this.options.fail(error)
      send({ type: 'declined', worker, attempt: cut.attempt, reason: messageOf(error) })
    }
  }

  /** Output is sealed for good, whether or not the attempt succeeds. */
  private async keepSealed(cut: Cut): Promise<void> {
    const settled = await Promise.allSettled(cut.sealing)
    cut.sealing.length = 0
    for (const result of settled) {
      if (result.status === 'fulfilled' && result.value !== null) {
        this.sealed.push({ attempt: cut.attempt, committable: result.value })
      }
    }
    const failed = settled.find((result) => result.status === 'rejected')
    if (failed === undefined) return
    // Its records are in no segment any more, and the state that follows has their effect.
    this.options.fail(failed.reason)
    throw failed.reason
  }

  private async imageStore(cut: Cut): Promise<{ files: ManifestFile[]; newBytes: number } | null> {
    const { store, changes, liveDirectory, io } = this.options
    if (store === null || changes === null) {
      this.release(cut, true)
      return null
    }
    const image = `${liveDirectory}/image-${cut.attempt}`
    try {
      const encoding = this.captureRest(cut, changes)
      cut.encoding = encoding.then(
        () => {},
        () => {},
      )
      const rest = await encoding
      cut.encoding = null
      const imaging = store.writeAndCheckpoint(rest, image)
      for (const state of cut.states) state.imagingStarted()
      const files = await imaging
      this.release(cut, true)
      io.failpoint?.('store-imaged')
      return await this.share(image, files)
    } finally {
      await io.disk.remove(image)
    }
  }

  private async captureRest(cut: Cut, changes: CutPieces): Promise<WriteBatch> {
    for (const state of cut.states) {
      while (!this.captureSome(state)) {
        changes.send()
        await (changes.room() ?? new Promise<void>((resolve) => this.options.defer(resolve)))
      }
    }
    changes.send()
    return changes.close()
  }

  private captureSome(state: CheckpointedState): boolean {
    try {
      return state.captureMore(CAPTURE_ENTRIES)
    } catch (error) {
      // A value that cannot be saved will not be saved by the next attempt either.
      this.options.fail(error)
      throw error
    }
  }

  /** Links new files of an image into shared/ under their hashes, durably. */
  private async share(
    image: string,
    files: readonly { readonly name: string; readonly size: number }[],
  ): Promise<{ files: ManifestFile[]; newBytes: number }> {
    const { io, directory } = this.options
    const { disk } = io
    let newBytes = 0
    const shared = await mapBounded(files, FILES_AT_ONCE, async ({ name, size: imaged }) => {
      const file = await this.hashed(image, name, imaged)
      if (this.committed.has(file.sha256)) return file
      // Looked at each time: what an aborted attempt had brought there may have been collected since. If it has
      // not, it is not sent again, so that a slow upload comes to its end over several attempts.
      const target = layout.sharedFile(directory, file.sha256)
      const size = await disk.size(target)
      if (size !== file.size) {
        // Cut short by whatever happened to it: a link would leave it as it is.
        if (size !== null) await disk.remove(target)
        await this.bring(`${image}/${name}`, target, file)
      }
      newBytes += file.size
      return file
    })
    await disk.syncDirectory(layout.shared(directory))
    io.failpoint?.('files-shared')
    return { files: shared, newBytes }
  }

  /** An object store takes only what has the hash: what it refused may have been damaged since it was hashed. */
  private async bring(path: string, target: string, file: ManifestFile): Promise<void> {
    const { disk } = this.options.io
    await disk.syncFile(path)
    try {
      await disk.link(path, target, file)
    } catch (error) {
      const found = await disk.hash(path).catch(() => file)
      throw found.sha256 === file.sha256 ? error : damaged(file, `its content has hash ${found.sha256}`)
    }
  }

  private async hashed(image: string, name: string, size: number): Promise<ManifestFile> {
    const known = this.known.get(name)
    if (known?.size === size) return known
    if (known !== undefined) throw damaged(known, `it has ${size} bytes`)
    const file = { name, ...(await this.options.io.disk.hash(`${image}/${name}`)) }
    this.remember(file)
    return file
  }

  /** Other files than tables keep their names and change. */
  private remember(file: ManifestFile): void {
    if (file.name.endsWith('.sst')) this.known.set(file.name, file)
  }

  /** Ends the cut; `stored` says that the store took what was captured. Writes are free again. */
  private release(cut: Cut, stored: boolean): void {
    if (this.cut !== cut) return
    this.options.changes?.end()
    for (const state of cut.states) {
      if (stored) state.checkpointSettled()
      else state.checkpointFailed()
    }
    this.cut = null
  }

  /** Gives an attempt up and answers once nothing of it is under way. */
  async abort(attempt: number): Promise<void> {
    const { worker, send } = this.options
    const cut = this.cut
    if (cut !== null && cut.attempt <= attempt && !cut.isWhole) {
      this.release(cut, false)
      await this.keepSealed(cut).catch(() => {})
    }
    await this.finishing
    await this.options.changes?.settled()
    send({ type: 'abortDone', worker, attempt })
  }

  /** A manifest lists everything sealed up to this attempt. */
  completed(attempt: number): void {
    this.sealed = this.sealed.filter((entry) => entry.attempt > attempt)
    if (this.acked?.attempt === attempt) this.committed = new Set(this.acked.files.map((file) => file.sha256))
  }
}

/** Of a file of the live store, which the next run does not use: it begins with the files of the last checkpoint. */
function damaged({ name, size, sha256 }: ManifestFile, problem: string): MillraceError {
  return new MillraceError(
    'STORE_CORRUPT',
    `The local state file ${name} was damaged since it was made (${size} bytes, ${sha256}): ${problem}.`,
    { domain: 'external', hint: 'Check the local disk.' },
  )
}
