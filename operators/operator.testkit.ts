/**
 * Drives an operator in tests as the engine does: rows routed to subtasks by key group, batches consumed
 * row by row when output is blocked, watermarks repeated until done, cuts and restores at any parallelism.
 *
 * Used by the tests of this room only, which is why it may use `state/`.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { KeyedStore } from '../engine/contract/keyed-store.ts'
import type { Operator, OperatorContext, OperatorCounters, Output } from '../engine/contract/operator.ts'
import type { WorkerContext } from '../engine/contract/worker-context.ts'
import { AccumulatorRegistry } from '../engine/core/accumulators.ts'
import {
  BATCH_ROWS_MAX,
  type Batch,
  type KeyColumn,
  type Projection,
  projectBatch,
  withKeys,
} from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import type { Io } from '../engine/core/io.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { keyGroupOf, keyGroupRange, subtaskOfKeyGroup, valueKeyExtractor } from '../engine/core/keys.ts'
import { BatchBuilder, rowReader } from '../engine/core/rows.ts'
import type { Schema } from '../engine/core/schema.ts'
import { StringInterner } from '../engine/core/strings.ts'
import { MetricRegistry } from '../engine/core/user-metrics.ts'
import { KeyedBackend } from '../state/keyed-backend.ts'
import { WriteBatchBuilder } from '../state/keyed-layout.ts'
import { memoryStoreFactory } from '../state/memory-store.ts'

export const KEY_GROUPS = 16

/** A row as it came out, with its event time. */
export interface Emitted {
  readonly row: unknown
  readonly time: number
}

/** Collects output; with `capacityOne` each batch blocks until `drain`. */
export class CollectingOutput implements Output {
  readonly main: Emitted[] = []
  readonly sides = new Map<string, Emitted[]>()
  readonly batches: Batch[] = []
  blocked = false
  private readonly capacityOne: boolean

  constructor(capacityOne: boolean) {
    this.capacityOne = capacityOne
  }

  emit(batch: Batch): void {
    this.batches.push(batch)
    this.take(batch, this.main)
  }

  emitSide(tag: string, batch: Batch): void {
    const rows = this.sides.get(tag) ?? []
    this.sides.set(tag, rows)
    this.take(batch, rows)
  }

  private take(batch: Batch, into: Emitted[]): void {
    assert.ok(batch.length > 0 && batch.length <= BATCH_ROWS_MAX)
    assert.equal(batch.keys, null)
    const read = rowReader(batch.schema, new StringInterner(), 'test')
    // What is emitted must not change later: read now, compare at the end.
    for (let i = 0; i < batch.length; i++) {
      into.push({ row: structuredClone(read(batch, i)), time: batch.eventTime[i] })
    }
    if (this.capacityOne) this.blocked = true
  }

  drain(): void {
    this.blocked = false
  }
}

/** Processing time stands still unless a test gives its own clock. */
export function testWorker(nowMs: () => number = () => 1_000): WorkerContext {
  let ids = 0
  return {
    job: { id: 'test', name: 'test', parameters: {} },
    workerIndex: 0,
    io: null as unknown as Io,
    interner: new StringInterner(),
    nowMs,
    uniqueId: (prefix) => `${prefix}-${ids++}`,
  }
}

export interface RigInput {
  readonly schema: Schema
  /** Null for an input without keys; its rows go to the first subtask, unless it is a broadcast. */
  readonly keyOf?: ((row: unknown) => unknown) | null
  /** Computes the keys as an edge of a graph does, instead of `keyOf`. */
  readonly createKeys?: (() => (batch: Batch) => KeyColumn) | null
  /** The columns that the operator reads of this input. */
  readonly projection?: Projection
  /** Every row goes to every subtask. */
  readonly isBroadcast?: boolean
}

/** The first input is described by the options themselves. */
export interface RigOptions extends RigInput {
  readonly create: () => Operator
  /** The inputs after the first. */
  readonly moreInputs?: readonly RigInput[]
  readonly parallelism?: number
  readonly capacityOne?: boolean
  readonly memoryBudgetBytes?: number
  /** Rows a batch at most. */
  readonly batchRows?: number
}

interface SubtaskRig {
  readonly operator: Operator
  readonly backend: KeyedBackend | null
  readonly store: KeyedStore
  readonly accumulators: AccumulatorRegistry
  /** Processing time at which the operator wants a call. */
  dueAtMs: number
}

/** An operator with all its subtasks. */
export class OperatorRig {
  readonly output: CollectingOutput
  readonly counters: OperatorCounters = { lateDropped: 0, filtered: 0, coldReads: 0 }
  private readonly options: RigOptions
  /** The processing time of all subtasks. */
  nowMs = 1_000
  private readonly worker = testWorker(() => this.nowMs)
  private readonly directory = mkdtempSync(join(tmpdir(), 'operator-rig-'))
  private stores = 0
  subtasks: SubtaskRig[]

  constructor(options: RigOptions) {
    this.options = options
    this.output = new CollectingOutput(options.capacityOne ?? false)
    this.subtasks = this.open(options.parallelism ?? 1, [], [], null)
  }

  private newStore(): KeyedStore {
    return memoryStoreFactory().create(join(this.directory, String(this.stores++)))
  }

  private open(
    parallelism: number,
    snapshots: readonly JsonValue[],
    old: readonly KeyedStore[],
    before: KeyedBackend | null,
  ): SubtaskRig[] {
    return Array.from({ length: parallelism }, (_, subtask) => {
      const store = this.newStore()
      for (const from of old) copyOwned(from, store, keyGroupRange(subtask, parallelism, KEY_GROUPS))
      const isKeyed = Boolean(this.options.keyOf ?? this.options.createKeys)
      const backend = isKeyed ? this.openBackend(subtask, parallelism, store, before) : null
      const operator = this.options.create()
      const rig: SubtaskRig = {
        operator,
        backend,
        store,
        accumulators: new AccumulatorRegistry(),
        dueAtMs: Number.POSITIVE_INFINITY,
      }
      operator.open(this.contextOf(subtask, parallelism, snapshots, rig))
      return rig
    })
  }

  private openBackend(
    subtask: number,
    parallelism: number,
    store: KeyedStore,
    before: KeyedBackend | null,
  ): KeyedBackend {
    const backend = new KeyedBackend({
      operatorId: 1,
      keyGroups: keyGroupRange(subtask, parallelism, KEY_GROUPS),
      store,
      memoryBudgetBytes: this.options.memoryBudgetBytes ?? 1 << 26,
      counters: this.counters,
      ...(before === null ? {} : { restored: before.declarations() }),
    })
    if (before !== null) backend.restore()
    return backend
  }

  private contextOf(
    subtask: number,
    parallelism: number,
    restored: readonly JsonValue[],
    rig: SubtaskRig,
  ): OperatorContext {
    const { backend } = rig
    return {
      name: 'tested',
      uid: 'tested',
      subtask,
      parallelism,
      worker: this.worker,
      counters: this.counters,
      attempt: 0,
      metrics: new MetricRegistry(() => this.nowMs),
      accumulators: rig.accumulators,
      get keyed() {
        if (backend === null) throw new MillraceError('STATE_NOT_KEYED', 'This operator has no keys.')
        return backend
      },
      restored,
      scheduleProcessingTime(timeMs) {
        rig.dueAtMs = Math.min(rig.dueAtMs, timeMs)
      },
      wake() {},
    }
  }

  /** Sends rows of an input through the operator in batches; row i has event time `times[i]`. */
  push(rows: readonly unknown[], times: readonly number[], input = 0): void {
    const from = input === 0 ? this.options : this.options.moreInputs![input - 1]
    const bySubtask: { row: unknown; time: number }[][] = this.subtasks.map(() => [])
    rows.forEach((row, i) => {
      const sent = { row, time: times[i] }
      if (from.isBroadcast) for (const own of bySubtask) own.push(sent)
      else bySubtask[this.subtaskOf(row, from)].push(sent)
    })
    bySubtask.forEach((own, s) => {
      const size = this.options.batchRows ?? BATCH_ROWS_MAX
      for (let at = 0; at < own.length; at += size) {
        this.pushBatch(this.subtasks[s], own.slice(at, at + size), from, input)
      }
    })
  }

  /** Which subtask gets a row of the first input. */
  subtaskWith(row: unknown): number {
    return this.subtaskOf(row, this.options)
  }

  private subtaskOf(row: unknown, from: RigInput): number {
    if (this.subtasks.length === 1) return 0
    const keys = this.keysOf(batchOf(from.schema, [{ row, time: 0 }]), from)
    if (keys === null) return 0
    return subtaskOfKeyGroup(keyGroupOf(keys.hashes[0], KEY_GROUPS), this.subtasks.length, KEY_GROUPS)
  }

  private keysOf(batch: Batch, { keyOf, createKeys }: RigInput): KeyColumn | null {
    if (createKeys) return createKeys()(batch)
    if (!keyOf) return null
    const read = rowReader(batch.schema, this.worker.interner, 'keys')
    return valueKeyExtractor((sent, i) => keyOf(read(sent, i)))(batch)
  }

  private pushBatch(
    subtask: SubtaskRig,
    rows: readonly { row: unknown; time: number }[],
    from: RigInput,
    input: number,
  ): void {
    const plain = batchOf(from.schema, rows)
    const keyed = withKeys(plain, this.keysOf(plain, from))
    const batch = from.projection === undefined ? keyed : projectBatch(keyed, from.projection)
    for (let row = 0, stuck = 0; row < batch.length; ) {
      const { length } = this.output.batches
      const next = subtask.operator.process(batch, row, this.output, input)
      // An operator may stop within a row only after it emitted something of it, or worked on it for a while.
      stuck = next > row || this.output.batches.length > length ? 0 : stuck + 1
      assert.ok(stuck < 1_000, 'an operator whose output has room makes progress')
      row = next
      this.output.drain()
      subtask.backend?.maybeEvict()
    }
    poison(batch)
  }

  /** Of all subtasks, or of one: inputs that go idle may bring some of them further than others. */
  watermark(watermark: number, only: number | null = null): void {
    for (const [s, { operator, backend }] of this.subtasks.entries()) {
      if (only !== null && s !== only) continue
      for (let calls = 0; !operator.advanceWatermark(watermark, this.output); calls++) {
        assert.ok(calls < 100_000, 'advanceWatermark ends')
        this.output.drain()
        backend?.maybeEvict()
      }
      this.output.drain()
    }
  }

  /** Moves processing time forward and makes the calls that operators asked for. */
  processingTime(nowMs: number): void {
    this.nowMs = nowMs
    for (const rig of this.subtasks) {
      for (let calls = 0; rig.dueAtMs <= nowMs; ) {
        rig.dueAtMs = Number.POSITIVE_INFINITY
        while (!rig.operator.onProcessingTime!(nowMs, this.output)) {
          assert.ok(++calls < 100_000, 'onProcessingTime ends')
          this.output.drain()
          rig.backend?.maybeEvict()
        }
        assert.ok(++calls < 100_000, 'nothing asks for a call of the past for ever')
        this.output.drain()
      }
    }
  }

  /** What a checkpoint writes of keyed state; the job goes on. */
  checkpoint(): { entries: number; bytes: number } {
    const written = { entries: 0, bytes: 0 }
    for (const { backend, store } of this.subtasks) {
      if (backend === null) continue
      const batch = new WriteBatchBuilder()
      backend.captureDirty(batch)
      store.write(batch.batch())
      backend.checkpointSettled()
      written.entries += batch.count
      written.bytes += batch.byteLength
    }
    return written
  }

  /** Takes a cut and starts afresh from it at another parallelism. */
  restore(parallelism: number): void {
    const cut = { checkpointId: this.stores }
    const snapshots = this.subtasks.map(({ operator }) => structuredClone(operator.snapshot?.(cut) ?? null))
    this.checkpoint()
    const old = this.subtasks
    for (const { operator } of old) operator.close?.()
    this.subtasks = this.open(
      parallelism,
      JSON.parse(JSON.stringify(snapshots)) as JsonValue[],
      old.map((s) => s.store),
      old[0].backend,
    )
  }

  /** Entries of the restored stores: what the last cut held. */
  storedEntries(): number {
    let entries = 0
    for (const { store } of this.subtasks) {
      const scan = store.scan(new Uint8Array(0), null)
      for (let chunk = scan.next(); chunk !== null; chunk = scan.next()) entries += chunk.keys.count
      scan.close()
    }
    return entries
  }

  close(): void {
    for (const { operator } of this.subtasks) operator.close?.()
    rmSync(this.directory, { recursive: true, force: true })
  }
}

/** Copies the key groups of one new subtask, as a restore does. */
function copyOwned(from: KeyedStore, to: KeyedStore, range: { from: number; to: number }): void {
  const scan = from.scan(new Uint8Array(0), null)
  for (let chunk = scan.next(); chunk !== null; chunk = scan.next()) {
    const { keys, values } = chunk
    const batch = new WriteBatchBuilder()
    for (let row = 0; row < keys.count; row++) {
      const group = (keys.bytes[keys.offsets[row] + 2] << 8) | keys.bytes[keys.offsets[row] + 3]
      if (group < range.from || group >= range.to) continue
      batch.keys.add(keys.bytes, keys.offsets[row], keys.offsets[row + 1])
      batch.values.add(values.bytes, values.offsets[row], values.offsets[row + 1])
      batch.endPut()
    }
    to.write(batch.batch())
  }
  scan.close()
}

function batchOf(schema: Schema, rows: readonly { row: unknown; time: number }[]): Batch {
  const builder = new BatchBuilder(schema)
  for (const { row, time } of rows) builder.append(row, time)
  return builder.build()
}

/** Overwrites a consumed batch's buffers: whoever kept a view sees it. */
function poison(batch: Batch): void {
  for (const column of batch.columns) {
    if (column.kind === 'string') column.bytes.fill(0xee)
    else if (column.kind === 'int64') column.values.fill(-1n)
    else if (column.kind !== 'opaque') column.values.fill(77)
  }
  batch.keys?.bytes.fill(0xee)
  batch.eventTime.fill(Number.NaN)
}
