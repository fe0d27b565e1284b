/**
 * Aggregates of all rows of a key so far, as a changelog: Flink's GroupAggregate.
 *
 * Takes inserts, or a changelog of mode `all`. The first row of a key emits +I, each change of its result a pair, the
 * last row taken back -D. A result that stays the same emits nothing, unless state has a time to live: then downstream
 * must hear of the key now and again.
 *
 * Invariants:
 * - What is taken back is the row that was emitted, from its bytes in state: results are never computed again for it.
 * - A pair of the input with both rows of one key is one change of its result, not two.
 * - A key whose rows have all gone leaves no state.
 */
import type { StateTable, ValueCodec } from '../engine/contract/keyed-state.ts'
import type { Operator, OperatorContext, Output } from '../engine/contract/operator.ts'
import { assert } from '../engine/core/assert.ts'
import { BATCH_ROWS_MAX, type Batch, type KeyColumn } from '../engine/core/batch.ts'
import { ByteCursor, CellWriter, type OpaqueCodec } from '../engine/core/row-bytes.ts'
import { isPairAt, isRetraction, kindAt, RowKind } from '../engine/core/row-kinds.ts'
import type { Schema } from '../engine/core/schema.ts'
import { ByteArena } from '../engine/core/strings.ts'
import { ChangelogCollector } from './changelog-collector.ts'
import { IdleTtl } from './idle-ttl.ts'
import {
  type AggregateCall,
  aggregateField,
  cellValue,
  type RetractableAggregate,
  retractableAggregate,
} from './retractable-aggregates.ts'
import { numberOf, ValueCounts } from './value-counts.ts'

export interface GroupAggregateOptions {
  readonly inputSchema: Schema
  /** Columns of the key, in the order in which they begin a result. */
  readonly groupFields: readonly number[]
  readonly aggregates: readonly AggregateCall[]
  readonly opaque: OpaqueCodec
  /** Rows may be taken back: false for inputs of inserts only, which need less state. */
  readonly retracts: boolean
  /** False for consumers that go by key: then a change is a +U alone. */
  readonly emitsUpdateBefore: boolean
  /** State that was not written for this long is dropped; null keeps it. */
  readonly timeToLiveMs: number | null
}

/** Results of the operator: the key's columns, then the aggregates'. */
export function groupAggregateSchema({
  inputSchema,
  groupFields,
  aggregates,
}: Pick<GroupAggregateOptions, 'inputSchema' | 'groupFields' | 'aggregates'>): Schema {
  const { fields } = inputSchema
  return {
    isOpaque: false,
    fields: [
      ...groupFields.map((index) => fields[index]!),
      ...aggregates.map((call) => aggregateField(call, call.field === undefined ? null : fields[call.field]!)),
    ],
  }
}

export function groupAggregateOperator(options: GroupAggregateOptions): Operator {
  return new GroupAggregateOperator(options)
}

/** What state has of a key. */
interface Group {
  /** Rows that are in it now. */
  rows: number
  readonly states: unknown[]
  /** The result that downstream has; null before the first. */
  result: Uint8Array | null
  atMs: number
}

class GroupAggregateOperator implements Operator {
  private readonly options: GroupAggregateOptions
  private readonly aggregates: readonly RetractableAggregate[]
  /** Columns of which values are counted, each once. */
  private readonly counted: readonly number[]
  private readonly cells: readonly CellWriter[]
  private readonly collector: ChangelogCollector
  private readonly slots = new Int32Array(BATCH_ROWS_MAX)
  private readonly arena = new ByteArena(1_024)
  private readonly emptied: number[] = []
  private table!: StateTable
  private counts!: readonly ValueCounts[]
  private came!: Int8Array
  private ttl!: IdleTtl

  constructor(options: GroupAggregateOptions) {
    const { inputSchema, groupFields, aggregates, opaque, retracts } = options
    this.options = options
    this.aggregates = aggregates.map((call) => retractableAggregate(call, inputSchema.fields, retracts))
    this.counted = [...new Set(this.aggregates.flatMap(({ counted }) => (counted === null ? [] : [counted])))]
    const schema = groupAggregateSchema(options)
    this.cells = schema.fields.map((field) => new CellWriter(field, opaque))
    this.collector = new ChangelogCollector(schema, opaque)
    assert(
      groupFields.every((index) => inputSchema.fields[index] !== undefined),
      'a key is of columns that there are',
    )
  }

  open(context: OperatorContext): void {
    const { inputSchema, timeToLiveMs } = this.options
    this.ttl = new IdleTtl(timeToLiveMs, context)
    const layout = { kind: 'object', codec: groupCodec(this.aggregates) } as const
    this.table = context.keyed.table({ name: 'groups', version: 1, layout, ...this.ttl.declaration })
    this.counts = this.counted.map(
      (index) => new ValueCounts(context.keyed, `values:${inputSchema.fields[index]!.name}`, this.ttl),
    )
    this.came = new Int8Array(inputSchema.fields.length)
  }

  process(batch: Batch, from: number, output: Output): number {
    const { keys, length, kinds } = batch
    assert(keys !== null, 'an aggregate of groups gets rows with keys')
    if (output.blocked) return from
    const { slots } = this
    const segment = this.table.segment(0)
    const rows = new Int32Array(length - from)
    for (let j = 0; j < rows.length; j++) rows[j] = from + j
    segment.upsert(keys, rows, rows.length, slots)
    const { objects } = segment
    for (let j = 0; j < rows.length; j++) {
      const i = from + j
      const slot = slots[j]!
      const group = this.groupAt(objects, slot, keys, i)
      this.change(group, batch, keys, i, isRetraction(kindAt(kinds, i)) ? -1 : 1)
      // The other half of the pair is of the same key: one change.
      if (isPairAt(kinds, i) && slots[j + 1] === slot) continue
      if (this.emit(group, batch, keys, i, output)) this.emptied.push(slot)
    }
    // Only now, because later rows of the batch hold slots too.
    for (const slot of this.emptied) {
      const group = objects[slot] as Group | undefined
      if (group === undefined || group.rows > 0) continue
      objects[slot] = undefined
      segment.remove(slot)
    }
    this.emptied.length = 0
    this.collector.flush(output)
    return length
  }

  /** The group of a slot; a fresh one where there is none, or it has expired. */
  private groupAt(objects: unknown[], slot: number, keys: KeyColumn, i: number): Group {
    const found = objects[slot] as Group | undefined
    if (found !== undefined && !this.ttl.hasExpired(found.atMs)) return found
    if (found !== undefined) for (const counts of this.counts) counts.clear(keys, i)
    const states = this.aggregates.map((aggregate) => aggregate.create())
    const group: Group = { rows: 0, states, result: null, atMs: this.ttl.nowMs() }
    objects[slot] = group
    return group
  }

  private change(group: Group, batch: Batch, keys: KeyColumn, i: number, sign: 1 | -1): void {
    // Nothing to take back: what it belongs to was dropped by its time to live.
    if (sign < 0 && group.rows === 0) return
    const { aggregates, counted, came } = this
    for (let c = 0; c < counted.length; c++) {
      const column = batch.columns[counted[c]!]!
      const isNull = column.nulls !== null && column.nulls[i] === 1
      came[counted[c]!] = isNull ? 0 : this.counts[c]!.change(keys, i, cellValue(column, i), sign)
    }
    group.rows += sign
    group.atMs = this.ttl.nowMs()
    for (let k = 0; k < aggregates.length; k++) {
      const aggregate = aggregates[k]!
      const { counted: index } = aggregate
      aggregate.change(group.states[k], batch, i, sign, index === null ? 0 : (came[index] as -1 | 0 | 1))
    }
  }

  /** Emits what has become of a group's result; true when the group is empty. */
  private emit(group: Group, batch: Batch, keys: KeyColumn, i: number, output: Output): boolean {
    const { collector } = this
    const time = batch.eventTime[i]!
    const before = group.result
    if (group.rows === 0) {
      if (before !== null) collector.addCopy(RowKind.DELETE, time, before, output)
      group.result = null
      for (const counts of this.counts) counts.clear(keys, i)
      return true
    }
    this.writeResult(group, batch, keys, i)
    const { bytes, length } = this.arena
    if (before === null) {
      collector.add(RowKind.INSERT, time, bytes, 0, output)
    } else {
      if (!this.ttl.isLimited && startsWith(bytes, length, before)) return false
      if (this.options.emitsUpdateBefore) collector.addCopy(RowKind.UPDATE_BEFORE, time, before, output)
      collector.add(RowKind.UPDATE_AFTER, time, bytes, 0, output)
    }
    // Written over where it fits: a row a change is too much for the garbage collector.
    if (before?.length !== length) group.result = new Uint8Array(length)
    for (let b = 0; b < length; b++) group.result![b] = bytes[b]!
    return false
  }

  /** Leaves the bytes of a group's result in the arena. */
  private writeResult(group: Group, batch: Batch, keys: KeyColumn, i: number): void {
    const { aggregates, cells, arena } = this
    const { groupFields } = this.options
    arena.clear()
    for (let k = 0; k < groupFields.length; k++) cells[k]!.writeCell(batch.columns[groupFields[k]!]!, i, arena)
    for (let k = 0; k < aggregates.length; k++) {
      const aggregate = aggregates[k]!
      if (aggregate.isStale?.(group.states[k]) === true) {
        const counts = this.counts[this.counted.indexOf(aggregate.counted!)]!
        counts.each(keys, i, (value) => aggregate.visit!(group.states[k], this.valueOf(aggregate, value)))
      }
      cells[groupFields.length + k]!.writeValue(aggregate.result(group.states[k]), arena)
    }
  }

  private valueOf(aggregate: RetractableAggregate, value: unknown): unknown {
    return aggregate.output.kind === 'string' ? value : numberOf(value)
  }

  advanceWatermark(): boolean {
    return true
  }
}

/** Whether bytes[0, length) are `all`. */
function startsWith(bytes: Uint8Array, length: number, all: Uint8Array): boolean {
  if (length !== all.length) return false
  for (let i = 0; i < length; i++) if (bytes[i] !== all[i]) return false
  return true
}

/** Rows f64, stamp f64, result u32 length (all ones for none) and bytes, then the states. */
function groupCodec(aggregates: readonly RetractableAggregate[]): ValueCodec {
  const arena = new ByteArena(1_024)
  const cursor = new ByteCursor()
  const none = 0xffff_ffff
  return {
    description: `group(${aggregates.map(({ output }) => `${output.name}:${output.kind}`).join(',')})`,
    encode(value) {
      const { rows, states, result, atMs } = value as Group
      arena.clear()
      arena.reserve(20)
      arena.bytes.writeDoubleLE(rows, 0)
      arena.bytes.writeDoubleLE(atMs, 8)
      arena.length = arena.bytes.writeUInt32LE(result === null ? none : result.length, 16)
      if (result !== null) arena.writeBytes(result, 0, result.length)
      for (let k = 0; k < aggregates.length; k++) aggregates[k]!.encode(states[k], arena)
      return arena.view()
    },
    decode(bytes, start): Group {
      cursor.set(bytes, start)
      const rows = cursor.view.getFloat64(start, true)
      const atMs = cursor.view.getFloat64(start + 8, true)
      const length = cursor.view.getUint32(start + 16, true)
      cursor.at = start + 20
      const result = length === none ? null : new Uint8Array(bytes.subarray(cursor.at, cursor.at + length))
      if (result !== null) cursor.at += length
      return { rows, atMs, result, states: aggregates.map((aggregate) => aggregate.decode(cursor)) }
    },
  }
}
