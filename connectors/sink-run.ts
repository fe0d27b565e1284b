/**
 * A job around one sink, as far as the sink can tell: writers in several subtasks, barriers, manifests, commits,
 * crashes and recoveries. The conformance kit (sink-conformance.ts) drives it step by step.
 *
 * Rows are numbered; a restart goes back to the number in the last manifest and writes from there again. So what a
 * reader may see is known at each moment, and `check` compares: rows of the committed epochs, each once; for an
 * at-least-once sink at least the rows before the last manifest, and none more often than it was written.
 *
 * A crash is one of this model: objects of the old attempt are left as they are (and closed at the very end), as a
 * process that hangs would leave them; a commit dies at a record or failpoint by an error that nothing survives.
 */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { inspect } from 'node:util'
import type { Sink, SinkCommitter, SinkGuarantee, SinkWriter } from '../engine/contract/sink.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { batchOfRows } from '../engine/core/rows.ts'
import { OPAQUE_SCHEMA, type Schema } from '../engine/core/schema.ts'
import { MemoryOutboxes } from './memory-outbox.ts'

/** One empty place that rows can be written to, and how to look at it from outside. */
export interface SinkTarget<T = unknown> {
  /** The sink as a new process would make it; the same object each time if its memory is the target. */
  sink(): Sink<T>
  /** All rows that a reader may see now, in any order, as `rowOf` made them. */
  visible(): Promise<readonly T[]> | readonly T[]
  /** Releases what `create` took. */
  close?(): Promise<void>
}

/** A sink and how to try it. */
export interface SinkSubject<T = unknown> {
  /** Makes a target with nothing in it. `directory` is empty and removed afterwards. */
  create(directory: string): Promise<SinkTarget<T>> | SinkTarget<T>
  /** Columns of the rows; left out, rows come without a schema. */
  readonly schema?: Schema<T>
  /** Row number `id`, different from every other. */
  rowOf(id: number): T
  /** What the sink declares, exactly-once by default. */
  readonly guarantee?: SinkGuarantee
  /**
   * False when readers may see a part of an epoch whose commit was cut off, which then is completed: large epochs
   * in several transactions, say. True by default.
   */
  readonly commitIsAtomic?: boolean
  /**
   * True when a commit that hangs holds a lock which its successor waits for, as in a database: then the kit
   * leaves out commits that go on after another run has taken over. False by default.
   */
  readonly commitHoldsLock?: boolean
}

export function isExactlyOnce(subject: Pick<SinkSubject, 'guarantee'>): boolean {
  return subject.guarantee !== 'at-least-once'
}

interface Pending {
  readonly epoch: number
  /** Rows below this number are in it or in an epoch before. */
  readonly position: number
  readonly committables: readonly JsonValue[]
}

interface Manifest {
  readonly epoch: number
  readonly position: number
  pending: Pending[]
  /** Of each writer. */
  readonly states: readonly JsonValue[]
}

interface WriterSlot {
  readonly writer: SinkWriter
  /** Resolves at the next `wake`. */
  woke(): Promise<void>
}

class Killed extends Error {}

const SINK_ID = 'sink'
/** Far longer than a busy disk takes. */
const WAKE_MS_MAX = 30_000
/** Small, so that batches of the largest size meet a full outbox. */
const OUTBOX_RECORDS_MAX = 700

/** A committer of one attempt, which can be made to die or to hang. */
class CommitterProbe {
  readonly committer: SinkCommitter
  /** Records and failpoints until it dies; null for never. */
  private stepsLeft: number | null = null
  private gate: Promise<void> | null = null
  private isDead = false

  constructor(sink: Sink, outboxes: MemoryOutboxes) {
    this.committer = sink.createCommitter!(outboxes.committerContext(SINK_ID, (step) => this.onStep(step)))
  }

  dieAfter(steps: number): void {
    this.stepsLeft = steps
  }

  /** Holds the next record back until the result is called. */
  stall(): () => void {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.gate = promise
    return resolve
  }

  private onStep(step: string): void | Promise<void> {
    if (this.isDead) throw new Killed(step)
    if (this.stepsLeft !== null && this.stepsLeft-- === 0) {
      this.isDead = true
      throw new Killed(step)
    }
    if (step === 'record' && this.gate !== null) return this.gate
  }
}

export class SinkRun<T> {
  private readonly subject: SinkSubject<T>
  private readonly target: SinkTarget<T>
  private readonly directory: string
  private readonly schema: Schema
  private readonly outboxes = new MemoryOutboxes(OUTBOX_RECORDS_MAX)
  /** Numbers of rows by their text. */
  private readonly idsOf = new Map<string, number>()
  private sink!: Sink<T>
  private attempt = 0
  private writers: WriterSlot[] = []
  private probe: CommitterProbe | null = null
  private oldWriters: WriterSlot[] = []
  private oldProbe: CommitterProbe | null = null
  private readonly leftOpen: { close(): Promise<void> }[] = []
  private failure: { readonly error: unknown } | null = null
  /** The next row's number, and how often each was written. */
  private position = 0
  private readonly timesWritten: number[] = []
  /** Output of barriers that have no manifest yet. */
  private sealed: {
    readonly position: number
    readonly committables: JsonValue[]
    readonly states: readonly JsonValue[]
  } | null = null
  private cancelled: JsonValue[] = []
  private manifest: Manifest = { epoch: 0, position: 0, pending: [], states: [] }
  private committed = { epoch: 0, position: 0 }
  private last: Pending | null = null

  constructor(subject: SinkSubject<T>, target: SinkTarget<T>, directory: string) {
    this.subject = subject
    this.target = target
    this.directory = directory
    this.schema = subject.schema ?? OPAQUE_SCHEMA
  }

  private get isExactlyOnce(): boolean {
    return isExactlyOnce(this.subject)
  }

  get pendingEpochs(): number {
    return this.manifest.pending.length
  }

  /** The first start, or one after a crash: fences, applies what is pending, then opens writers. */
  async start(parallelism: number, dieAfter?: number): Promise<void> {
    this.attempt++
    this.sink = this.target.sink()
    assert.equal(this.sink.guarantee, this.subject.guarantee ?? 'exactly-once')
    assert.equal(this.sink.createCommitter !== undefined, this.isExactlyOnce, 'a committer, exactly when exactly-once')
    if (this.isExactlyOnce) await this.takeOver(dieAfter)
    this.position = this.manifest.position
    this.writers = await Promise.all(Array.from({ length: parallelism }, (_, k) => this.openWriter(k, parallelism)))
    await this.check()
  }

  private async takeOver(dieAfter?: number): Promise<void> {
    this.probe = new CommitterProbe(this.sink, this.outboxes)
    this.leftOpen.push(this.probe.committer)
    const { committer } = this.probe
    if (this.attempt > 1) await this.checkPeek(committer)
    await committer.open()
    const marker = await committer.readMarker()
    if (marker !== this.committed.epoch) {
      // A commit that was cut off may have had its effect; then it has all of it.
      const applied = this.manifest.pending.find(({ epoch }) => epoch === marker)
      assert.ok(applied, `The marker is ${marker} after epoch ${this.committed.epoch} was committed.`)
      assert.equal(applied, this.manifest.pending[0], 'epochs are applied in order')
      this.applied(applied)
    }
    if (dieAfter !== undefined) this.probe.dieAfter(dieAfter)
    while (this.manifest.pending.length > 0) await this.commit()
    this.probe.dieAfter(Number.POSITIVE_INFINITY)
  }

  private async checkPeek(committer: SinkCommitter): Promise<void> {
    const peeked = await committer.peekMarker?.()
    if (peeked == null) return
    const known = [this.committed.epoch, this.manifest.pending[0]?.epoch]
    assert.ok(known.includes(peeked), `peekMarker says ${peeked}, known are ${known.join(' and ')}`)
  }

  private async openWriter(subtask: number, parallelism: number): Promise<WriterSlot> {
    let signal = Promise.withResolvers<void>()
    const context = this.outboxes.writerContext(this.schema, {
      sinkId: SINK_ID,
      subtask,
      parallelism,
      attempt: this.attempt,
      scratchDirectory: join(this.directory, `scratch-${this.attempt}-${subtask}`),
      restored: this.manifest.states,
      wake: () => {
        signal.resolve()
        signal = Promise.withResolvers()
      },
      fail: (error) => {
        this.failure ??= { error }
        signal.resolve()
      },
      post: (message) => this.sink.onMessage!(structuredClone(message)),
    })
    const writer = this.sink.createWriter(context)
    this.leftOpen.push(writer)
    await writer.open()
    return { writer, woke: () => signal.promise }
  }

  /** Writes the next `rows` rows in one batch to a subtask. */
  async write(subtask: number, rows: number): Promise<void> {
    const { writer, woke } = this.writers[subtask % this.writers.length]!
    const batch = batchOfRows(this.schema, this.nextRows(rows))
    for (let from = 0; from < batch.length; ) {
      const awake = woke()
      const next = writer.write(batch, from)
      assert.ok(next >= from && next <= batch.length, `write returned ${next} for rows ${from} to ${batch.length}`)
      from = next
      if (from < batch.length) await within(awake, 'The writer took too few rows and never called wake().')
      this.throwFailure()
    }
  }

  private nextRows(count: number): T[] {
    const ids = Array.from({ length: count }, (_, i) => this.position + i)
    for (const id of ids) this.timesWritten[id] = (this.timesWritten[id] ?? 0) + 1
    this.position += count
    return ids.map((id) => this.subject.rowOf(id))
  }

  /** A barrier: every writer is cut. `rowsDuring` rows are written before the cut is durable; they are not in it. */
  async seal(rowsDuring = 0): Promise<void> {
    if (this.sealed !== null) this.cancel()
    const { position } = this
    const states = this.writers.map(({ writer }) => writer.snapshotState?.({ checkpointId: position }) ?? null)
    const sealing = this.writers.map(({ writer }) => writer.prepareCommit())
    const written = rowsDuring > 0 ? this.write(0, rowsDuring) : Promise.resolve()
    const committables = (await Promise.all(sealing)).filter((committable) => committable !== null)
    await written
    this.throwFailure()
    const stored = JSON.parse(JSON.stringify(committables)) as JsonValue[]
    assert.deepEqual(stored, committables, 'committables survive JSON')
    const storedStates = JSON.parse(JSON.stringify(states)) as JsonValue[]
    assert.deepEqual(storedStates, states, 'states survive JSON')
    this.sealed = { position, committables: stored, states: storedStates }
    if (!this.isExactlyOnce) await this.checkAtLeast(position)
  }

  /** The barrier came to nothing: its output belongs to the next one. */
  cancel(): void {
    this.cancelled.push(...(this.sealed?.committables ?? []))
    this.sealed = null
  }

  /** The manifest of the last barrier exists. */
  async complete(): Promise<void> {
    if (this.sealed === null) return
    const { position, states } = this.sealed
    const committables = [...this.cancelled, ...this.sealed.committables]
    this.cancelled = []
    this.sealed = null
    const epoch = this.manifest.epoch + 1
    const pending = this.isExactlyOnce ? [...this.manifest.pending, { epoch, position, committables }] : []
    this.manifest = { epoch, position, pending, states }
    await this.check()
  }

  /** Commits the oldest pending epoch. `lost` does not tell the job, which then has to find out. */
  async commit(lost = false): Promise<void> {
    const next = this.manifest.pending[0]
    if (next === undefined) return
    await this.probe!.committer.commit(next.epoch, next.committables)
    if (lost) return
    this.applied(next)
    await this.check()
  }

  private applied(pending: Pending): void {
    this.committed = pending
    this.last = pending
    this.manifest.pending = this.manifest.pending.filter((other) => other !== pending)
  }

  /** Commits again what is committed: nothing changes. */
  async commitAgain(): Promise<void> {
    if (this.last === null) return
    await this.probe!.committer.commit(this.last.epoch, this.last.committables)
    await this.check()
  }

  /** The commit of the oldest pending epoch dies after some records and failpoints; true when it came so far. */
  async commitKilled(steps: number): Promise<boolean> {
    const next = this.manifest.pending[0]
    if (next === undefined) return false
    this.probe!.dieAfter(steps)
    const outcome = await this.probe!.committer.commit(next.epoch, next.committables).then(
      () => null,
      (error: unknown) => ({ error }),
    )
    await this.checkCutOff(next)
    if (outcome !== null && !isOf(Killed, outcome.error)) throw outcome.error
    return outcome !== null
  }

  /**
   * The commit of the oldest pending epoch finds the last of its segments gone, and has to say so; then it is back. False
   * when the sink does not keep its output in segments of the outbox.
   */
  async commitWithoutOutput(): Promise<boolean> {
    const next = this.manifest.pending[0]
    const file = next?.committables.flatMap(segmentsIn).at(-1)
    if (next === undefined || file === undefined) return false
    this.outboxes.lost.add(file)
    const commit = this.probe!.committer.commit(next.epoch, next.committables)
    await assert.rejects(commit, { code: 'OUTPUT_LOST' }, 'output that is gone ends the job by its own code')
    await this.checkCutOff(next)
    this.outboxes.lost.delete(file)
    return true
  }

  /** Everything of this attempt is gone, or hangs; the next one starts with another parallelism. */
  async crash(parallelism: number, dieAfter?: number): Promise<void> {
    this.oldWriters = this.writers
    this.oldProbe = this.probe
    this.sealed = null
    this.cancelled = []
    this.failure = null
    try {
      await this.start(parallelism, dieAfter)
    } catch (error) {
      if (dieAfter === undefined || !isOf(Killed, error)) throw error
      await this.start(parallelism)
    }
  }

  /** As a crash, while a commit hangs that goes on after the next attempt has taken over. */
  async crashInStalledCommit(parallelism: number): Promise<void> {
    const next = this.manifest.pending[0]
    if (next === undefined) return
    const release = this.probe!.stall()
    const stalled = this.probe!.committer.commit(next.epoch, next.committables).catch(() => {})
    await new Promise(setImmediate)
    await this.crash(parallelism)
    await this.write(0, 1)
    await this.seal()
    await this.complete()
    await this.commit()
    release()
    await stalled
    await this.check()
  }

  /** The attempt before seals what it has and commits it as the next epoch: it is refused and nothing changes. */
  async zombieCommits(): Promise<void> {
    if (this.oldProbe === null) return
    const sealing = this.oldWriters.map(({ writer }) => writer.prepareCommit().catch(() => null))
    const committables = (await Promise.all(sealing)).filter((committable) => committable !== null)
    const commit = this.oldProbe.committer.commit(this.manifest.epoch + 1, committables)
    await assert.rejects(commit, { code: 'SINK_FENCED' }, 'a committer was not fenced off by its successor')
    this.oldProbe = null
    await this.check()
  }

  async close(): Promise<void> {
    for (const each of this.leftOpen.reverse()) await each.close()
    await this.target.close?.()
  }

  /** Exactly-once: the committed rows are visible, each once, and the marker says so. */
  async check(): Promise<void> {
    this.throwFailure()
    if (!this.isExactlyOnce) return this.checkAtLeast(this.manifest.position)
    compareRows(await this.countVisible(), this.committed.position, this.committed.position)
    assert.equal(await this.probe!.committer.readMarker(), this.committed.epoch, 'the marker is the last epoch')
  }

  private async checkAtLeast(position: number): Promise<void> {
    const counts = await this.countVisible()
    compareRows(counts, position, Number.POSITIVE_INFINITY)
    for (const [id, count] of counts) {
      const most = this.timesWritten[id] ?? 0
      assert.ok(count <= most, `row ${id} was written ${most} times and is visible ${count} times`)
    }
  }

  /** After a commit with an unknown outcome: all of the epoch or nothing, or a part where that is allowed. */
  private async checkCutOff(cut: Pending): Promise<void> {
    const counts = await this.countVisible()
    const isPartAllowed = this.subject.commitIsAtomic === false
    const visible = isPartAllowed || counts.size <= this.committed.position ? this.committed.position : cut.position
    compareRows(counts, visible, isPartAllowed ? cut.position : visible)
  }

  /** How often each row is visible. */
  private async countVisible(): Promise<Map<number, number>> {
    for (let id = this.idsOf.size; id < this.timesWritten.length; id++) {
      const text = textOf(this.subject.rowOf(id))
      assert.ok(!this.idsOf.has(text), `rowOf makes the same row twice: ${text}`)
      this.idsOf.set(text, id)
    }
    const counts = new Map<number, number>()
    for (const row of await this.target.visible()) {
      const id = this.idsOf.get(textOf(row))
      assert.ok(id !== undefined, `a row is visible that was not written: ${textOf(row)}`)
      counts.set(id, (counts.get(id) ?? 0) + 1)
    }
    if (this.isExactlyOnce) {
      const doubled = [...counts].filter(([, count]) => count > 1).map(([id]) => id)
      assert.deepEqual(doubled, [], 'rows visible more than once')
    }
    return counts
  }

  private throwFailure(): void {
    if (this.failure !== null) throw this.failure.error
  }
}

function segmentsIn(committable: JsonValue): string[] {
  const { file } = (committable ?? {}) as { file?: JsonValue }
  return typeof file === 'string' ? [file] : []
}

/** Rows below `least` must be there, rows from `most` on must not. */
function compareRows(counts: ReadonlyMap<number, number>, least: number, most: number): void {
  const missing = Array.from({ length: least }, (_, id) => id).filter((id) => !counts.has(id))
  assert.deepEqual(missing, [], 'rows of committed epochs that are not visible')
  const early = [...counts.keys()].filter((id) => id >= most)
  assert.deepEqual(early, [], 'rows visible that no committed epoch holds')
}

/** A row as text, equal for equal rows. Written out because `inspect` takes most of a check's time for plain rows. */
function textOf(row: unknown): string {
  if (typeof row === 'string') return JSON.stringify(row)
  if (typeof row === 'bigint') return `${row}n`
  if (typeof row !== 'object' || row === null) return Object.is(row, -0) ? '-0' : String(row)
  if (Array.isArray(row)) return `[${row.map(textOf).join()}]`
  if (Object.getPrototypeOf(row) !== Object.prototype) return inspect(row, { depth: 9, sorted: true })
  const fields = Object.entries(row).map(([name, value]) => `${name}:${textOf(value)}`)
  return `{${fields.sort().join()}}`
}

/** Is the error, or one of its causes, of this class? */
function isOf(kind: typeof Killed, error: unknown): boolean {
  for (let each = error; each instanceof Error; each = each.cause) if (each instanceof kind) return true
  return false
}

async function within(promise: Promise<void>, message: string): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(message)), WAKE_MS_MAX)
  })
  try {
    await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
