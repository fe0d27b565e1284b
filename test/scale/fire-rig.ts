/**
 * A keyed operator as a subtask runs it, step by step, while it fires for very many keys: rows, watermarks and barriers
 * come through its channel at every turn, its cuts are encoded piece by piece beside the firing and imaged by its store,
 * and it can be thrown away between any two turns and restored from an image.
 *
 * Used by million-key-fire.test.ts. What the subtask was sent is a log, so that a restored one is sent the same again from
 * its cut on, and the model that results are compared with reads it too. Rows and results are numbers in columns:
 * a million of either is a few arrays.
 */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { KeyedStore, KeyedStoreFactory } from '../../engine/contract/keyed-store.ts'
import type { Operator, OperatorContext, OperatorCounters } from '../../engine/contract/operator.ts'
import { AccumulatorRegistry } from '../../engine/core/accumulators.ts'
import { BATCH_ROWS_MAX, type Batch, withKeys } from '../../engine/core/batch.ts'
import type { JsonValue } from '../../engine/core/json-value.ts'
import { fieldKeyExtractor, keyGroupRange } from '../../engine/core/keys.ts'
import { BatchBuilder, rowReader } from '../../engine/core/rows.ts'
import { schema, t } from '../../engine/core/schema.ts'
import { StringInterner } from '../../engine/core/strings.ts'
import { MetricRegistry } from '../../engine/core/user-metrics.ts'
import { Chain } from '../../engine/runtime/chain.ts'
import { LocalChannel } from '../../engine/runtime/channel.ts'
import { CutPieces } from '../../engine/runtime/cut-pieces.ts'
import { OutputRouter } from '../../engine/runtime/output-router.ts'
import { Subtask } from '../../engine/runtime/subtask.ts'
import { testWorker } from '../../operators/operator.testkit.ts'
import { KeyedBackend, type StateDeclaration } from '../../state/keyed-backend.ts'

export const FIRE_ROWS = schema({ key: t.string(), id: t.int32(), gap: t.float64() })

export interface FireRow {
  readonly key: string
  readonly id: number
  readonly gap: number
}

/** Rows of one input, in their order. */
export interface RowRun {
  readonly kind: 'rows'
  readonly input: number
  readonly keys: Int32Array
  readonly ids: Int32Array
  readonly times: Float64Array
}

export type LogEntry =
  | RowRun
  | { readonly kind: 'watermark'; readonly value: number }
  /** Processing time goes on once all before it is done. */
  | { readonly kind: 'clock'; readonly nowMs: number }
  | { readonly kind: 'barrier'; readonly attempt: number }

export const keyText = (key: number): string => `key-${String(key).padStart(8, '0')}`

export const rowOf = (run: RowRun, i: number): FireRow => ({ key: keyText(run.keys[i]!), id: run.ids[i]!, gap: 100 })

/** What a firing gave for a key: how many rows, and which, in their order where that counts. */
export interface Result {
  readonly key: string
  readonly start: number
  readonly rows: number
  /** Of the ids: a sum, or a number that depends on their order. */
  readonly sum: number
}

/** Results in the order in which they came, in columns that grow. */
export class Results {
  count = 0
  keys = new Int32Array(1_024)
  starts = new Float64Array(1_024)
  rows = new Int32Array(1_024)
  sums = new Float64Array(1_024)

  add({ key, start, rows, sum }: Result): void {
    if (this.count === this.keys.length) this.grow()
    const at = this.count++
    this.keys[at] = Number(key.slice(4))
    this.starts[at] = start
    this.rows[at] = rows
    this.sums[at] = sum
  }

  private grow(): void {
    const size = this.count * 2
    const grown = <A extends Int32Array | Float64Array>(from: A, to: A): A => {
      to.set(from)
      return to
    }
    this.keys = grown(this.keys, new Int32Array(size))
    this.starts = grown(this.starts, new Float64Array(size))
    this.rows = grown(this.rows, new Int32Array(size))
    this.sums = grown(this.sums, new Float64Array(size))
  }
}

/** What came out of a subtask: results, and where among them watermarks and barriers stood. */
export interface Emitted {
  readonly results: Results
  readonly controls: { readonly kind: string; readonly value: number; readonly at: number }[]
}

export interface RigPlan {
  readonly create: () => Operator
  readonly inputs: number
  readonly resultOf: (row: unknown) => Result
  /** Keyed state in memory, bytes; what does not fit is in the store. */
  readonly memoryBytes: number
  readonly stores: KeyedStoreFactory
  /** Entries that are encoded in a cut itself, and between two turns; as many as a worker encodes when left out. */
  readonly captureEntries?: number
}

/** A durable cut. */
export interface FireImage {
  readonly directory: string
  readonly snapshot: JsonValue
  readonly tables: readonly StateDeclaration[]
}

interface OpenCut {
  readonly attempt: number
  readonly snapshot: JsonValue
  readonly tables: readonly StateDeclaration[]
}

const KEY_GROUPS = 128
const PIECE_BYTES = 4 << 20
/** As in a worker: entries encoded in the cut itself, and between two turns. */
const CAPTURE_AT_ONCE = 4_096
const CAPTURE_ENTRIES = 8_192
const STEPS_MAX = 1_000_000
const TICK_MS = 4

/** One life of the subtask. */
export class FireSubtask {
  readonly emitted: Emitted = { results: new Results(), controls: [] }
  readonly counters: OperatorCounters = { lateDropped: 0, filtered: 0, coldReads: 0 }
  readonly backend: KeyedBackend
  /** How long each step took, ms. */
  readonly stepsMs: number[] = []
  nowMs = 1_000
  private readonly plan: RigPlan
  private readonly directory: string
  private readonly store: KeyedStore
  private readonly pieces: CutPieces
  private readonly operator: Operator
  private readonly subtask: Subtask
  private readonly inputs: readonly LocalChannel[]
  private readonly output = new LocalChannel(
    64,
    () => {},
    () => {},
  )
  private readonly keysOf = fieldKeyExtractor(FIRE_ROWS, 0)
  private readonly readers = new Map<Batch['schema'], ReturnType<typeof rowReader>>()
  private cut: OpenCut | null = null
  /** Barriers that were cut, in their order. */
  readonly cuts: number[] = []

  /** `directory` is for this life alone. */
  constructor(plan: RigPlan, directory: string, from: FireImage | null) {
    this.plan = plan
    this.directory = directory
    const live = join(directory, 'store')
    this.store = from === null ? plan.stores.create(live) : plan.stores.restore(from.directory, live)
    this.pieces = new CutPieces(this.store, PIECE_BYTES)
    this.backend = new KeyedBackend({
      operatorId: 1,
      keyGroups: keyGroupRange(0, 1, KEY_GROUPS),
      store: this.store,
      memoryBudgetBytes: plan.memoryBytes,
      counters: this.counters,
      ...(from === null ? {} : { restored: from.tables }),
    })
    if (from !== null) this.backend.restore()
    this.operator = plan.create()
    const router = new OutputRouter([
      { partitioning: 'forward', keys: null, sideTag: null, writers: [this.output], keyGroups: KEY_GROUPS, subtask: 0 },
    ])
    const chain = new Chain([{ operator: this.operator, keys: null }], router)
    this.inputs = Array.from(
      { length: plan.inputs },
      () =>
        new LocalChannel(
          Number.POSITIVE_INFINITY,
          () => {},
          () => {},
        ),
    )
    this.subtask = new Subtask({
      chain,
      router,
      source: null,
      inputs: this.inputs.map((reader, input) => ({ reader, input })),
      alignsBarriers: true,
      monotonicMs: () => 0,
      hooks: { capture: (attempt) => this.capture(attempt), ended: () => {} },
    })
    this.operator.open(this.contextOf(chain, from))
  }

  private contextOf(chain: Chain, from: FireImage | null): OperatorContext {
    return {
      name: 'firing',
      uid: 'firing',
      subtask: 0,
      parallelism: 1,
      worker: testWorker(() => this.nowMs),
      counters: this.counters,
      attempt: 0,
      metrics: new MetricRegistry(() => this.nowMs),
      accumulators: new AccumulatorRegistry(),
      keyed: this.backend,
      restored: from === null ? [] : [from.snapshot],
      scheduleProcessingTime: (timeMs) => chain.schedule(0, timeMs),
      wake() {},
    }
  }

  /** Puts an entry of the log into the channels; a clock is for `run` to move. */
  send(entry: LogEntry): void {
    switch (entry.kind) {
      case 'rows':
        this.sendRows(entry)
        break
      case 'watermark':
        for (const input of this.inputs) input.writeControl({ kind: 'watermark', value: entry.value })
        break
      case 'barrier':
        for (const input of this.inputs) input.writeControl({ kind: 'barrier', attempt: entry.attempt })
        break
      case 'clock':
        this.run()
        this.nowMs = entry.nowMs
    }
  }

  private sendRows(run: RowRun): void {
    const builder = new BatchBuilder(FIRE_ROWS)
    for (let i = 0; i < run.keys.length; i++) {
      builder.append(rowOf(run, i), run.times[i]!)
      if (builder.length < BATCH_ROWS_MAX && i + 1 < run.keys.length) continue
      const batch = builder.build()
      assert.ok(this.inputs[run.input]!.writeBatch(withKeys(batch, this.keysOf(batch)), null, batch.length))
    }
  }

  /** Gives a barrier up, as a coordinator does before it sends the next. */
  abort(attempt: number): void {
    this.subtask.abort(attempt)
  }

  get recordsIn(): number {
    return this.subtask.recordsIn
  }

  /** One turn of the smallest kind; false when there was nothing to do. */
  step(): boolean {
    const began = performance.now()
    const { user, system } = process.threadCpuUsage()
    const progressed = this.subtask.step(this.nowMs)
    const after = process.threadCpuUsage()
    const cpuMs = (after.user - user + after.system - system) / 1_000
    // The clock counts the time of others, and the kernel may count processor time in ticks.
    this.stepsMs.push(Math.min(performance.now() - began, cpuMs + TICK_MS))
    this.takeOutput()
    this.backend.maybeEvict()
    return progressed
  }

  /** Steps until it rests. */
  run(): void {
    for (let steps = 0; this.step(); steps++) assert.ok(steps < STEPS_MAX, 'comes to rest')
  }

  private takeOutput(): void {
    const { results, controls } = this.emitted
    for (let message = this.output.peek(); message !== null; message = this.output.peek()) {
      if (message.kind === 'batch') {
        const read = this.readerOf(message.batch)
        for (let i = 0; i < message.batch.length; i++) results.add(this.plan.resultOf(read(message.batch, i)))
      } else if (message.kind === 'watermark' || message.kind === 'barrier') {
        const value = message.kind === 'watermark' ? message.value : message.attempt
        controls.push({ kind: message.kind, value, at: results.count })
      }
      this.output.pop()
    }
  }

  private readerOf(batch: Batch): ReturnType<typeof rowReader> {
    const known = this.readers.get(batch.schema)
    if (known !== undefined) return known
    const reader = rowReader(batch.schema, new StringInterner(), 'results')
    this.readers.set(batch.schema, reader)
    return reader
  }

  private capture(attempt: number): void {
    assert.equal(this.cut, null, 'one cut at a time')
    const snapshot = structuredClone(this.operator.snapshot?.({ checkpointId: attempt }) ?? null)
    this.backend.beginCut(this.pieces.builder)
    this.backend.captureMore(this.plan.captureEntries ?? CAPTURE_AT_ONCE)
    this.cut = { attempt, snapshot, tables: this.backend.declarations() }
    this.cuts.push(attempt)
  }

  /** Encodes some more of the open cut, as a worker does between turns. */
  async encodeSome(): Promise<void> {
    if (this.cut === null) return
    this.backend.captureMore(this.plan.captureEntries ?? CAPTURE_ENTRIES)
    this.pieces.send()
    await (this.pieces.room() ?? nextTurn())
  }

  /** Makes the open cut durable. */
  async settle(): Promise<FireImage> {
    const { cut } = this
    assert.ok(cut !== null, 'there is a cut')
    while (!this.backend.captureMore(CAPTURE_ENTRIES)) {
      this.pieces.send()
      await this.pieces.room()
    }
    const directory = join(this.directory, `image-${cut.attempt}`)
    const imaging = this.store.writeAndCheckpoint(await this.pieces.close(), directory)
    this.backend.imagingStarted()
    await imaging
    this.pieces.end()
    this.backend.checkpointSettled()
    this.cut = null
    return { directory, snapshot: cut.snapshot, tables: cut.tables }
  }

  /** Everything but its images is lost. */
  async kill(): Promise<void> {
    await this.pieces.settled()
    this.subtask.close()
    await this.operator.close?.()
    this.store.close()
  }
}
