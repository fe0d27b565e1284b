/**
 * Judges a simulation: invariants as things happen on the disk and in the outside system, and at the end
 * what the sinks hold against a naive model of the whole input.
 *
 * Called by sim-run.ts. The names I1 to I13 are those of the reliability design. Only the first violation
 * counts: what follows one is its consequence.
 */
import { layout } from '../../checkpoint/layout.ts'
import { decodeManifest, type Manifest, type ManifestSource } from '../../checkpoint/manifest.ts'
import { keyGroupRange } from '../../core/keys.ts'
import type { DiskObserver, SimDisk } from './sim-disk.ts'
import type { SimExternal, SinkRow } from './sim-external.ts'
import { inputRow, isBadRow, type SimJobShape } from './sim-job.ts'

export interface Violation {
  /** I1 to I13 of the design. */
  readonly invariant: string
  readonly message: string
}

const MANIFEST_PATH = /\/manifests\/\d{12}\.json$/

export class SimOracle implements DiskObserver {
  violation: Violation | null = null
  private readonly disk: SimDisk
  private readonly directory: string
  private readonly shape: SimJobShape
  private readonly external: SimExternal
  private readonly manifests = new Map<string, Manifest>()
  private newest: Manifest | null = null
  private lastAttempt = 0
  /** Epochs that any manifest lists, by sink. */
  private readonly listed = new Map<string, Set<number>>()

  constructor(disk: SimDisk, directory: string, shape: SimJobShape, external: SimExternal) {
    this.disk = disk
    this.directory = directory
    this.shape = shape
    this.external = external
    disk.observer = this
    external.onApplied = (sink, epoch, before) => this.applied(sink, epoch, before)
  }

  fail(invariant: string, message: string): void {
    this.violation ??= { invariant, message }
  }

  created(path: string, bytes: Uint8Array): void {
    if (!MANIFEST_PATH.test(path)) return
    const manifest = decodeManifest(bytes, path)
    this.checkFiles(manifest)
    this.checkNumbers(manifest)
    this.checkKeyGroups(manifest)
    if (this.newest !== null) this.checkSources(this.newest, manifest)
    this.manifests.set(path, manifest)
    this.newest = manifest
    for (const { sink, epoch } of manifest.pending) {
      const epochs = this.listed.get(sink) ?? new Set()
      this.listed.set(sink, epochs.add(epoch))
    }
  }

  /** I1, and that the files would be there after a crash at this instant. */
  private checkFiles(manifest: Manifest): void {
    for (const file of manifest.stores.flatMap((store) => store.files)) {
      if (!this.disk.survives(layout.sharedFile(this.directory, file.sha256), file.size)) {
        this.fail('I1', `manifest ${manifest.number} names ${file.name} (${file.sha256}), which is not durable`)
      }
    }
    for (const commit of manifest.pending) {
      if (this.isApplied(commit.sink, commit.epoch)) continue
      for (const committable of commit.committables) {
        const { file, bytes } = committable as unknown as { file: string; bytes: number }
        if (!this.disk.survives(`${this.directory}/${file}`, bytes)) {
          this.fail('I1', `manifest ${manifest.number} names ${file} of ${commit.sink}, which is not durable`)
        }
      }
    }
  }

  private isApplied(sink: string, epoch: number): boolean {
    const known = this.external.sinks.get(sink)
    if (known !== undefined) return epoch <= known.marker
    // Dead letters: the file that proves the commit.
    return this.disk.exists(`${layout.deadLetters(this.directory)}/epoch-${String(epoch).padStart(12, '0')}.jsonl`)
  }

  private checkNumbers(manifest: Manifest): void {
    const last = this.newest
    if (manifest.number !== (last?.number ?? 0) + 1) {
      this.fail('I2', `manifest ${manifest.number} follows ${last?.number ?? 'none'}`)
    }
    if (manifest.kind === 'takeover') {
      if (last !== null && (manifest.generation <= last.generation || manifest.epoch < last.epoch)) {
        this.fail('I2', `takeover ${manifest.number}: generation ${manifest.generation}, epoch ${manifest.epoch}`)
      }
      return
    }
    if (manifest.attempt <= this.lastAttempt) {
      this.fail('I2', `attempt ${manifest.attempt} after ${this.lastAttempt}`)
    }
    this.lastAttempt = manifest.attempt
    if (last !== null && (manifest.epoch !== last.epoch + 1 || manifest.generation !== last.generation)) {
      this.fail('I11', `manifest ${manifest.number} of generation ${manifest.generation} follows ${last.generation}`)
    }
  }

  /** I7: the subtasks of each keyed operator own every key group once. */
  private checkKeyGroups(manifest: Manifest): void {
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

  /** I9 at the sources: neither positions nor watermarks go back, and no split is lost. */
  private checkSources(before: Manifest, after: Manifest): void {
    for (const source of before.sources) {
      const now = after.sources.find((candidate) => candidate.uid === source.uid)
      for (const split of source.splits) {
        const next = now?.splits.filter((candidate) => candidate.id === split.id) ?? []
        if (next.length !== 1) this.fail('I9', `manifest ${after.number} has split ${split.id} ${next.length} times`)
        else this.checkSplit(after.number, split, next[0]!)
      }
    }
  }

  private checkSplit(number: number, before: Split, after: Split): void {
    const watermark = (split: Split): number =>
      split.watermark === 'end' ? Number.POSITIVE_INFINITY : (split.watermark ?? Number.NEGATIVE_INFINITY)
    if ((after.position as number) < (before.position as number)) {
      this.fail('I9', `split ${before.id} went back from ${before.position} to ${after.position} in manifest ${number}`)
    }
    if (watermark(after) < watermark(before)) {
      this.fail('I9', `the watermark of split ${before.id} went back in manifest ${number}`)
    }
  }

  removed(path: string): void {
    if (path.startsWith(`${layout.shared(this.directory)}/`)) this.checkRemovedState(path)
    if (path.startsWith(`${layout.outbox(this.directory)}/`)) this.checkRemovedOutput(path)
  }

  private checkRemovedState(path: string): void {
    for (const [name, manifest] of this.manifests) {
      if (!this.disk.exists(name)) continue
      for (const file of manifest.stores.flatMap((store) => store.files)) {
        if (path.endsWith(`/${file.sha256}`))
          this.fail('I13', `removed ${path}, which manifest ${manifest.number} names`)
      }
    }
  }

  private checkRemovedOutput(path: string): void {
    const file = path.slice(this.directory.length + 1)
    for (const commit of this.newest?.pending ?? []) {
      const isNamed = commit.committables.some((entry) => (entry as { file?: string }).file === file)
      if (isNamed && !this.isApplied(commit.sink, commit.epoch)) {
        this.fail('I13', `removed ${file} before epoch ${commit.epoch} of ${commit.sink} was applied`)
      }
    }
  }

  /** I3 and I4: epochs that a manifest lists, ascending, none left out. */
  private applied(sink: string, epoch: number, before: number): void {
    const listed = this.listed.get(sink)
    if (listed === undefined || !listed.has(epoch)) this.fail('I4', `${sink} shows epoch ${epoch} without a manifest`)
    if (epoch <= before) this.fail('I3', `the marker of ${sink} went from ${before} to ${epoch}`)
    for (const other of listed ?? []) {
      if (other > before && other < epoch) this.fail('I3', `${sink} applied epoch ${epoch} before ${other}`)
    }
  }

  /** After a stop: everything that manifests list is visible. */
  checkNothingPending(): void {
    for (const [sink, epochs] of this.listed) {
      for (const epoch of epochs) {
        if (!this.isApplied(sink, epoch)) this.fail('I5', `the job ended, but epoch ${epoch} of ${sink} is not visible`)
      }
    }
  }

  /** At the end of the job: sinks and dead letters equal the model (I5, I9). */
  checkResults(): void {
    this.checkNothingPending()
    const rows = this.external.sink('numbers').rows
    this.sameMultiset('dead letters', this.expectedDeadLetters(), this.deadLetters())
    const ids = rows.filter((row) => row['id'] !== -1).map((row) => `${row['key']} ${row['id']}`)
    const good = this.goodRows()
    this.sameMultiset(
      'records',
      good.map((row) => `${row.key} ${row.id}`),
      ids,
    )
    this.checkTotals(rows)
    this.checkNumbering(rows)
    if (this.shape.hasWindows) {
      const windows = this.external.sink('windows').rows.map((row) => `${row['key']} ${row['start']} ${row['count']}`)
      this.sameMultiset('windows', this.expectedWindows(), windows)
    }
  }

  private inputRows() {
    const { splits, rowsPerSplit } = this.shape
    return Array.from({ length: splits * rowsPerSplit }, (_, n) => {
      const split = Math.floor(n / rowsPerSplit)
      return { split, offset: n % rowsPerSplit, row: inputRow(this.shape, split, n % rowsPerSplit) }
    })
  }

  private goodRows() {
    return this.inputRows()
      .map(({ row }) => row)
      .filter((row) => !isBadRow(row))
  }

  private expectedDeadLetters(): string[] {
    return this.inputRows()
      .filter(({ row }) => isBadRow(row))
      .map(({ split, offset }) => `${split}:${offset}`)
  }

  private deadLetters(): string[] {
    const folder = layout.deadLetters(this.directory)
    const lines = this.disk.listNow(folder).flatMap((name) =>
      this.disk
        .readNow(`${folder}/${name}`)
        .toString()
        .split('\n')
        .filter((line) => line !== ''),
    )
    return lines.map((line) => {
      const letter = JSON.parse(line) as { partition: string; offset: number }
      return `${letter.partition}:${letter.offset}`
    })
  }

  private expectedWindows(): string[] {
    const counts = new Map<string, number>()
    for (const { key, time } of this.goodRows()) {
      const window = `${key} ${Math.floor(time / this.shape.windowMs) * this.shape.windowMs}`
      counts.set(window, (counts.get(window) ?? 0) + 1)
    }
    return [...counts].map(([window, count]) => `${window} ${count}`)
  }

  /** One total a key; after a second hop its number is the group's. */
  private checkTotals(rows: readonly SinkRow[]): void {
    const counts = new Map<string, number>()
    for (const { key } of this.goodRows()) counts.set(key, (counts.get(key) ?? 0) + 1)
    const expected = [...counts].map(([key, count]) => (this.shape.hasSecondHop ? key : `${key} ${count}`))
    const totals = rows.filter((row) => row['id'] === -1)
    this.sameMultiset(
      'totals',
      expected,
      totals.map((row) => (this.shape.hasSecondHop ? String(row['key']) : `${row['key']} ${row['number']}`)),
    )
  }

  /** Numbers of a key (or group) are 1 to n, and records of a split keep their order in it. */
  private checkNumbering(rows: readonly SinkRow[]): void {
    const field = this.shape.hasSecondHop ? 'group' : 'key'
    const numbered = rows.filter((row) => this.shape.hasSecondHop || row['id'] !== -1)
    const groups = Map.groupBy(numbered, (row) => String(row[field]))
    for (const [name, members] of groups) {
      const ordered = [...members].sort((a, b) => (a['number'] as number) - (b['number'] as number))
      const last = new Map<string, number>()
      for (const [i, row] of ordered.entries()) {
        if (row['number'] !== i + 1) {
          this.fail('I5', `${name}: number ${row['number']} where ${i + 1} is due`)
          return
        }
        const id = row['id'] as number
        const path = `${row['key']} ${Math.floor(id / 1_000)}`
        if (id !== -1 && id <= (last.get(path) ?? -1)) this.fail('I5', `${name}: record ${id} after ${last.get(path)}`)
        if (id !== -1) last.set(path, id)
      }
    }
  }

  private sameMultiset(what: string, expected: readonly string[], actual: readonly string[]): void {
    const counts = new Map<string, number>()
    for (const entry of actual) counts.set(entry, (counts.get(entry) ?? 0) + 1)
    for (const entry of expected) counts.set(entry, (counts.get(entry) ?? 0) - 1)
    const wrong = [...counts].filter(([, count]) => count !== 0)
    if (wrong.length === 0) return
    const shown = wrong.slice(0, 3).map(([entry, count]) => `${entry} (${count > 0 ? '+' : ''}${count})`)
    this.fail('I5', `${what}: ${wrong.length} differ from the model: ${shown.join(', ')}`)
  }
}

type Split = ManifestSource['splits'][number]
