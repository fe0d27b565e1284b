/**
 * What operators over the rows of a key have in common: rows looked up a batch at a time, their bytes, what is emitted.
 *
 * Base of sink-upsert-materializer.ts and changelog-normalize.ts, which say what a change does to the rows of its key.
 * Invariant: a key without rows leaves no state.
 */
import type { StateTable } from '../engine/contract/keyed-state.ts'
import type { Operator, OperatorContext, Output } from '../engine/contract/operator.ts'
import { assert } from '../engine/core/assert.ts'
import { BATCH_ROWS_MAX, type Batch } from '../engine/core/batch.ts'
import { type OpaqueCodec, RowWriter } from '../engine/core/row-bytes.ts'
import { isPairAt, kindAt } from '../engine/core/row-kinds.ts'
import type { Schema } from '../engine/core/schema.ts'
import { ByteArena } from '../engine/core/strings.ts'
import { ChangelogCollector } from './changelog-collector.ts'
import { IdleTtl } from './idle-ttl.ts'
import { type RowList, rowListCodec } from './row-list.ts'

export interface KeyedRowsOptions {
  readonly schema: Schema
  readonly opaque: OpaqueCodec
  /** State that was not written for this long is dropped; null keeps it. */
  readonly timeToLiveMs: number | null
}

export abstract class KeyedRows implements Operator {
  protected readonly collector: ChangelogCollector
  protected ttl!: IdleTtl
  private readonly options: KeyedRowsOptions
  private readonly name: string
  private readonly writer: RowWriter
  private readonly arena = new ByteArena(1_024)
  private readonly slots = new Int32Array(BATCH_ROWS_MAX)
  private table!: StateTable

  /** `name` is the table's. */
  constructor(name: string, options: KeyedRowsOptions) {
    this.name = name
    this.options = options
    this.writer = new RowWriter(options.schema, options.opaque)
    this.collector = new ChangelogCollector(options.schema, options.opaque)
  }

  open(context: OperatorContext): void {
    this.ttl = new IdleTtl(this.options.timeToLiveMs, context)
    const codec = rowListCodec(this.name)
    this.table = context.keyed.table({
      name: this.name,
      version: 1,
      layout: { kind: 'object', codec },
      ...this.ttl.declaration,
    })
  }

  /** A row of kind `kind` comes for the key that has `rows`, which it changes. The bytes are the operator's to keep. */
  protected abstract change(rows: Uint8Array[], kind: number, row: Uint8Array): void
  /** Emits what has become of a key since `before` was its last row (null for none). */
  protected abstract emit(before: Uint8Array | null, rows: readonly Uint8Array[], timeMs: number, output: Output): void

  process(batch: Batch, from: number, output: Output): number {
    const { keys, length, kinds } = batch
    assert(keys !== null, 'rows of keys have keys')
    if (output.blocked) return from
    const { slots } = this
    const segment = this.table.segment(0)
    const selected = new Int32Array(length - from)
    for (let j = 0; j < selected.length; j++) selected[j] = from + j
    segment.upsert(keys, selected, selected.length, slots)
    const { objects } = segment
    const emptied: number[] = []
    let before: Uint8Array | null = null
    for (let j = 0, isSecond = false; j < selected.length; j++) {
      const i = from + j
      const slot = slots[j]!
      const found = objects[slot] as RowList | undefined
      const isKept = found !== undefined && !this.ttl.hasExpired(found.atMs)
      const list: RowList = isKept ? found : { rows: [], atMs: 0 }
      if (!isSecond) before = list.rows.at(-1) ?? null
      this.arena.clear()
      this.writer.write(batch, i, this.arena)
      this.change(list.rows, kindAt(kinds, i), new Uint8Array(this.arena.view()))
      list.atMs = this.ttl.nowMs()
      objects[slot] = list
      // Both rows of a pair are one change.
      isSecond = isPairAt(kinds, i) && slots[j + 1] === slot
      if (isSecond) continue
      this.emit(before, list.rows, batch.eventTime[i]!, output)
      if (list.rows.length === 0) emptied.push(slot)
    }
    for (const slot of emptied) {
      const list = objects[slot] as RowList | undefined
      if (list === undefined || list.rows.length > 0) continue
      objects[slot] = undefined
      segment.remove(slot)
    }
    this.collector.flush(output)
    return length
  }

  advanceWatermark(): boolean {
    return true
  }
}
