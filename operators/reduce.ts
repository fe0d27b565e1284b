/**
 * Keyed rolling reduce: each row updates its key's value, and every update is emitted; in batch execution only the
 * last value of each key, at the end of input, without an event time.
 *
 * Results carry the event time of the row that made them. State is one object a key. An emitted row
 * without a schema is the very object that state holds, so it is copied where a reduce function may
 * change it: the first of a key, and whenever the function returned the object it was given.
 */
import type {
  CheckpointListener,
  FunctionSnapshotContext,
  ReduceFunction,
  ReduceObject,
} from '../engine/contract/functions.ts'
import type { SegmentScan, StateTable, ValueCodec } from '../engine/contract/keyed-state.ts'
import type { Operator, OperatorContext, Output } from '../engine/contract/operator.ts'
import { assert } from '../engine/core/assert.ts'
import { BATCH_ROWS_MAX, type Batch, type KeyColumn } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { OPAQUE_SCHEMA, type Schema } from '../engine/core/schema.ts'
import { WATERMARK_MAX } from '../engine/core/time.ts'
import { RowCollector } from './collector.ts'
import { CurrentKey } from './current-key.ts'
import { FunctionLife } from './function-life.ts'
import { asyncFunctionError, isPromise, RowSource, userFunctionError } from './user-function.ts'
import type { CodecFactory } from './user-state.ts'

export interface ReduceOptions {
  /** Of the reduced rows. */
  readonly codec: ValueCodec
  /** Schema of rows and results alike; opaque values without one. */
  readonly outputSchema?: Schema
  /** For states of a function with a life. */
  readonly codecOf?: CodecFactory
  /** The function never changes what it is given, so that no result needs to be copied. */
  readonly isPure?: boolean
}

export function reduceOperator<T>(fn: ReduceFunction<T> | ReduceObject<T>, options: ReduceOptions): Operator {
  if (typeof fn === 'function') return new ReduceOperator(fn as ReduceFunction<unknown>, options, null)
  const object = fn as ReduceObject<unknown>
  return new ReduceOperator((accumulated, value) => object.reduce(accumulated, value), options, object)
}

class ReduceOperator implements Operator {
  readonly batchInputs = ['sorted'] as const
  private readonly reduce: ReduceFunction<unknown>
  private readonly codec: ValueCodec
  private readonly collector: RowCollector
  private readonly copies: boolean
  private readonly slots = new Int32Array(BATCH_ROWS_MAX)
  private name = ''
  /** Final values are still to be emitted. */
  private isBatch = false
  private scan: SegmentScan | null = null
  private rows!: RowSource
  private table!: StateTable
  private readonly object: ReduceObject<unknown> | null
  private readonly codecOf: CodecFactory | undefined
  private readonly current = new CurrentKey()
  private life: FunctionLife | null = null

  constructor(reduce: ReduceFunction<unknown>, options: ReduceOptions, object: ReduceObject<unknown> | null) {
    this.reduce = reduce
    this.object = object
    this.codecOf = options.codecOf
    this.codec = options.codec
    this.collector = new RowCollector(options.outputSchema ?? OPAQUE_SCHEMA)
    this.copies = (options.outputSchema ?? OPAQUE_SCHEMA).isOpaque && options.isPure !== true
  }

  open(context: OperatorContext): void {
    this.name = context.name
    this.isBatch = context.isBatch === true
    this.rows = new RowSource(context)
    this.table = context.keyed.table({ name: 'reduced', version: 1, layout: { kind: 'object', codec: this.codec } })
    if (this.object === null) return
    assert(this.codecOf !== undefined, 'a function with a life has codecs for its states')
    this.life = new FunctionLife(this.object, context, this.current, this.codecOf)
    this.life.open()
  }

  process(batch: Batch, from: number, output: Output): number {
    const { keys, length } = batch
    if (keys === null) {
      throw new MillraceError('STATE_NOT_KEYED', 'A reduce operator got rows without keys.', { domain: 'internal' })
    }
    if (output.blocked) return from
    if (this.life !== null) return this.processRich(this.life, batch, keys, from, output)
    const read = this.rows.readerOf(batch)
    const { reduce, collector, slots } = this
    const segment = this.table.segment(0)
    const rows = new Int32Array(length - from)
    for (let j = 0; j < rows.length; j++) rows[j] = from + j
    segment.upsert(keys, rows, rows.length, slots)
    const { objects } = segment
    const emitsUpdates = !this.isBatch
    try {
      for (let j = 0; j < rows.length; j++) {
        const before = objects[slots[j]]
        const row = read(batch, from + j)
        const after = before === undefined ? row : reduce(before, row)
        if (isPromise(after)) throw asyncFunctionError(this.name)
        objects[slots[j]] = after
        if (!emitsUpdates) continue
        const isShared = this.copies && (before === undefined || after === before)
        collector.add(isShared ? this.copyOf(after) : after, batch.eventTime[from + j], output)
      }
    } catch (error) {
      throw userFunctionError(error, this.name)
    }
    collector.flush(output)
    return length
  }

  /** The function may use states of its own meanwhile, so no slot is kept over its call. */
  private processRich(life: FunctionLife, batch: Batch, keys: KeyColumn, from: number, output: Output): number {
    life.states.prefetch(keys, from, batch.length)
    const read = this.rows.readerOf(batch)
    const { current, collector, slots } = this
    const segment = this.table.segment(0)
    try {
      for (let i = from; i < batch.length; i++) {
        current.set(keys, i)
        const row = read(batch, i)
        segment.find(keys, current.rows, 1, slots)
        const before = slots[0] < 0 ? undefined : segment.objects[slots[0]]
        const after = before === undefined ? row : this.reduce(before, row)
        if (isPromise(after)) throw asyncFunctionError(this.name)
        segment.overwrite(keys, current.rows, 1, slots)
        segment.objects[slots[0]] = after
        if (this.isBatch) continue
        const isShared = this.copies && (before === undefined || after === before)
        collector.add(isShared ? this.copyOf(after) : after, batch.eventTime[i], output)
      }
    } catch (error) {
      throw userFunctionError(error, this.name)
    }
    current.clear()
    collector.flush(output)
    return batch.length
  }

  snapshot(context: FunctionSnapshotContext): JsonValue {
    return this.life === null ? null : { lists: this.life.snapshot(context) }
  }

  get checkpointListener(): CheckpointListener | undefined {
    return this.life?.listener
  }

  private copyOf(value: unknown): unknown {
    if (value === null || typeof value !== 'object') return value
    const encoded = this.codec.encode(value)
    return this.codec.decode(encoded, 0, encoded.length)
  }

  advanceWatermark(watermark: number, output: Output): boolean {
    if (!this.isBatch || watermark !== WATERMARK_MAX) return true
    if (!this.emitValues(output)) return false
    this.isBatch = false
    return true
  }

  endKey(output: Output): boolean {
    return this.emitValues(output)
  }

  private emitValues(output: Output): boolean {
    this.scan ??= this.table.existing(0)?.scan() ?? null
    while (this.scan !== null) {
      if (output.blocked) return false
      const chunk = this.scan.next(BATCH_ROWS_MAX)
      if (chunk === null) {
        this.scan.close()
        this.scan = null
        break
      }
      for (let i = 0; i < chunk.count; i++) this.collector.add(chunk.objects[i], Number.NaN, output)
      this.collector.flush(output)
    }
    return true
  }

  close(): Promise<void> | undefined {
    this.scan?.close()
    return this.life?.close()
  }
}
