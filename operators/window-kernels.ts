/**
 * Window kernels that call user functions: aggregate, reduce, and process over all elements.
 *
 * Values are objects, one a key and window. Results that are the accumulator itself are copied when the
 * accumulator lives on (allowed lateness), because later rows may change it.
 */
import type {
  AggregateFunction,
  OutputTag,
  ProcessWindowCallback,
  ProcessWindowContext,
  ReduceFunction,
} from '../engine/contract/functions.ts'
import type { ValueCodec, ValueLayout } from '../engine/contract/keyed-state.ts'
import type { OperatorContext, Output } from '../engine/contract/operator.ts'
import type { WorkerContext } from '../engine/contract/worker-context.ts'
import type { Batch, KeyColumn } from '../engine/core/batch.ts'
import { decodeKey } from '../engine/core/keys.ts'
import { OPAQUE_SCHEMA, type Schema } from '../engine/core/schema.ts'
import { RowCollector, SideCollectors } from './collector.ts'
import { asyncFunctionError, isPromise, RowSource, userFunctionError } from './user-function.ts'
import type { FiringWindow, MutableWindowValues, WindowKernel, WindowValues } from './window-aggregate.ts'
import { aggregateContents, listContents, reduceContents, type WindowContents } from './window-contents.ts'

type AnyProcess = ProcessWindowCallback<unknown, unknown, unknown>

export interface WindowFunctionOptions {
  /** Of the stored values: accumulators, reduced rows, or arrays of rows. */
  readonly codec: ValueCodec
  /** What the last function returns; opaque values without one. */
  readonly outputSchema?: Schema
}

/** An AggregateFunction, its result passed to `process` when given. */
export function aggregateKernel<In, Acc, Mid, Out, K>(
  aggregate: AggregateFunction<In, Acc, Mid>,
  options: WindowFunctionOptions,
  process: ProcessWindowCallback<Mid, Out, K> | null = null,
): WindowKernel {
  return new FunctionKernel(aggregateContents(aggregate), options, process as AnyProcess | null)
}

/** A ReduceFunction over rows, its result passed to `process` when given. */
export function reduceKernel<T, Out = T, K = unknown>(
  reduce: ReduceFunction<T>,
  options: WindowFunctionOptions,
  process: ProcessWindowCallback<T, Out, K> | null = null,
): WindowKernel {
  return new FunctionKernel(reduceContents(reduce), options, process as AnyProcess | null)
}

/** A ProcessWindowCallback over all rows of a key and window, kept in arrival order. */
export function processKernel<In, Out, K>(
  process: ProcessWindowCallback<In, Out, K>,
  options: WindowFunctionOptions,
): WindowKernel {
  return new FunctionKernel(listContents(), options, process as AnyProcess)
}

class FunctionKernel implements WindowKernel {
  readonly signature: string
  readonly layout: ValueLayout
  readonly merge: WindowKernel['merge']
  private readonly contents: WindowContents
  private readonly process: AnyProcess | null
  private readonly codec: ValueCodec
  private readonly collector: RowCollector
  private readonly sides = new SideCollectors()
  private rows!: RowSource
  private name = ''
  private worker!: WorkerContext
  private valuesLiveOn = false

  constructor(contents: WindowContents, options: WindowFunctionOptions, process: AnyProcess | null) {
    this.contents = contents
    this.merge = contents.mergesInAnyOrder ? (...args) => this.mergeObjects(...args) : undefined
    this.signature = contents.signature
    this.codec = options.codec
    this.layout = { kind: 'object', codec: options.codec }
    this.process = process
    this.collector = new RowCollector(options.outputSchema ?? OPAQUE_SCHEMA)
  }

  open(context: OperatorContext, valuesLiveOn: boolean): void {
    this.rows = new RowSource(context)
    this.name = context.name
    this.worker = context.worker
    this.valuesLiveOn = valuesLiveOn
  }

  accumulate(batch: Batch, rows: Int32Array, count: number, slots: Int32Array, values: MutableWindowValues): void {
    const read = this.rows.readerOf(batch)
    const { objects } = values
    const { contents } = this
    const { eventTime } = batch
    // Several windows must not keep the same object, which a reduce function may change.
    const keepsFirstRow = contents.keepsFirstRow && this.valuesLiveOn && batch.schema.isOpaque
    try {
      for (let j = 0; j < count; j++) {
        const slot = slots[j]
        const row = read(batch, rows[j])
        const isKept = keepsFirstRow && objects[slot] === undefined
        const accumulated = contents.add(isKept ? this.copyOf(row) : row, objects[slot], eventTime[rows[j]])
        if (isPromise(accumulated)) throw asyncFunctionError(this.name)
        objects[slot] = accumulated
      }
    } catch (error) {
      throw userFunctionError(error, this.name)
    }
  }

  private mergeObjects(
    from: WindowValues,
    fromRows: Int32Array | null,
    count: number,
    slots: Int32Array,
    into: MutableWindowValues,
  ): void {
    const { objects } = into
    try {
      for (let j = 0; j < count; j++) {
        // A copy, because `merge` may keep or change either of its arguments.
        const value = this.copyOf(from.objects[fromRows === null ? j : fromRows[j]])
        const slot = slots[j]
        const merged = objects[slot] === undefined ? value : this.contents.merge(objects[slot], value)
        if (isPromise(merged)) throw asyncFunctionError(this.name)
        objects[slot] = merged
      }
    } catch (error) {
      throw userFunctionError(error, this.name)
    }
  }

  fire(
    keys: KeyColumn,
    keyRow: number,
    values: WindowValues,
    at: number,
    window: FiringWindow,
    watermark: number,
    output: Output,
  ): void {
    try {
      const elements = this.contents.results(this.valuesLiveOn ? this.copyOf(values.objects[at]) : values.objects[at])
      if (this.process === null) {
        for (const result of elements) {
          if (isPromise(result)) throw asyncFunctionError(this.name)
          this.collector.add(result, window.maxTimestamp, output)
        }
        return
      }
      const key = decodeKey(keys.bytes, keys.starts[keyRow], keys.ends[keyRow])
      const context = this.contextOf(key, window, watermark, output)
      const returned: unknown = this.process(context, elements, (result) => {
        if (isPromise(result)) throw asyncFunctionError(this.name)
        this.collector.add(result, window.maxTimestamp, output)
      })
      if (isPromise(returned)) throw asyncFunctionError(this.name)
    } catch (error) {
      throw userFunctionError(error, this.name)
    }
  }

  /** A value of its own for a result that may be, or hold, the accumulator. */
  private copyOf(value: unknown): unknown {
    if (value === null || typeof value !== 'object') return value
    const encoded = this.codec.encode(value)
    return this.codec.decode(encoded, 0, encoded.length)
  }

  private contextOf(
    key: unknown,
    window: FiringWindow,
    watermark: number,
    output: Output,
  ): ProcessWindowContext<unknown> {
    return {
      key,
      window,
      currentWatermark: watermark,
      currentProcessingTime: this.worker.nowMs(),
      output: <X>(tag: OutputTag<X>, value: X) => this.sides.add(tag.id, value, window.maxTimestamp, output),
    }
  }

  flush(output: Output): void {
    this.collector.flush(output)
    this.sides.flush(output)
  }
}
