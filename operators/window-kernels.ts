/**
 * Window kernels that call user functions: aggregate, reduce, and process over all elements.
 *
 * Values are objects, one a key and window; elements beyond the newest of them are in pieces beside it
 * (window-elements.ts). What a function gets is copied when it lives on in state (allowed lateness, windows that overlap),
 * because later rows or the function itself may change it.
 */
import type {
  AggregateFunction,
  OutputTag,
  ProcessWindowCallback,
  ProcessWindowContext,
  ReduceFunction,
} from '../engine/contract/functions.ts'
import type { EarlierLayout, ValueCodec, ValueLayout } from '../engine/contract/keyed-state.ts'
import type { OperatorContext, Output } from '../engine/contract/operator.ts'
import type { WorkerContext } from '../engine/contract/worker-context.ts'
import type { Batch, KeyColumn } from '../engine/core/batch.ts'
import { decodeKey } from '../engine/core/keys.ts'
import { OPAQUE_SCHEMA, type Schema } from '../engine/core/schema.ts'
import { RowCollector, SideCollectors } from './collector.ts'
import { asyncFunctionError, isPromise, RowSource, userFunctionError } from './user-function.ts'
import type { FiringWindow, MutableWindowValues, WindowKernel, WindowValues } from './window-aggregate.ts'
import {
  aggregateContents,
  type ElementContents,
  listContents,
  reduceContents,
  type WindowContents,
} from './window-contents.ts'
import { ElementPieces, WindowElements, windowElementsCodec } from './window-elements.ts'
import { copyOf } from './window-keepers.ts'

type AnyProcess = ProcessWindowCallback<unknown, unknown, unknown>

/** A window's namespace has pieces of that one window only. */
const STREAM = 0
/** Pieces that one call of the operator reads, about: what was read stays in memory until it ends. */
const PIECES_READ_MAX = 1_024

export interface WindowFunctionOptions {
  /** Of the stored values: accumulators or reduced rows. */
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

export interface ElementKernelOptions {
  /** Of an element. */
  readonly codec: ValueCodec
  readonly earlier?: readonly EarlierLayout[]
  readonly outputSchema?: Schema
  readonly contents?: ElementContents
  readonly pieceElements?: number
}

/** A ProcessWindowCallback over all rows of a key and window, kept in arrival order; or over what `contents` makes of them. */
export function processKernel<In, Out, K>(
  process: ProcessWindowCallback<In, Out, K>,
  options: ElementKernelOptions,
): WindowKernel {
  return new ElementsKernel(options, process as AnyProcess)
}

/** Calls a window's function, or takes the contents' results for the window's, and gathers what comes out. */
class Caller {
  private readonly process: AnyProcess | null
  private readonly collector: RowCollector
  private readonly sides = new SideCollectors()
  private name = ''
  private worker!: WorkerContext

  constructor(process: AnyProcess | null, outputSchema: Schema = OPAQUE_SCHEMA) {
    this.process = process
    this.collector = new RowCollector(outputSchema)
  }

  open({ name, worker }: OperatorContext): void {
    this.name = name
    this.worker = worker
  }

  call(
    elements: Iterable<unknown>,
    keys: KeyColumn,
    keyRow: number,
    window: FiringWindow,
    watermark: number,
    output: Output,
  ): void {
    const collect = (result: unknown): void => {
      if (isPromise(result)) throw asyncFunctionError(this.name)
      this.collector.add(result, window.maxTimestamp, output)
    }
    if (this.process === null) {
      for (const result of elements) collect(result)
      return
    }
    const key = decodeKey(keys.bytes, keys.starts[keyRow], keys.ends[keyRow])
    const returned: unknown = this.process(this.contextOf(key, window, watermark, output), elements, collect)
    if (isPromise(returned)) throw asyncFunctionError(this.name)
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

class FunctionKernel implements WindowKernel {
  readonly signature: string
  readonly layout: ValueLayout
  readonly merge: WindowKernel['merge']
  private readonly contents: WindowContents
  private readonly caller: Caller
  private readonly codec: ValueCodec
  private rows!: RowSource
  private name = ''
  private valuesLiveOn = false

  constructor(contents: WindowContents, options: WindowFunctionOptions, process: AnyProcess | null) {
    this.contents = contents
    this.merge = contents.mergesInAnyOrder ? (...args) => this.mergeObjects(...args) : undefined
    this.signature = contents.signature
    this.codec = options.codec
    this.layout = { kind: 'object', codec: options.codec }
    this.caller = new Caller(process, options.outputSchema)
  }

  open(context: OperatorContext, valuesLiveOn: boolean): void {
    this.rows = new RowSource(context)
    this.name = context.name
    this.caller.open(context)
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
        const accumulated = contents.add(isKept ? copyOf(this.codec, row) : row, objects[slot], eventTime[rows[j]])
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
        const value = copyOf(this.codec, from.objects[fromRows === null ? j : fromRows[j]])
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
      const value = values.objects[at]
      const elements = this.contents.results(this.valuesLiveOn ? copyOf(this.codec, value) : value)
      this.caller.call(elements, keys, keyRow, window, watermark, output)
    } catch (error) {
      throw userFunctionError(error, this.name)
    }
  }

  flush(output: Output): void {
    this.caller.flush(output)
  }
}

/** Keeps the elements of a window, the older ones in pieces in the window's own namespace. */
class ElementsKernel implements WindowKernel {
  readonly signature: string
  readonly layout: ValueLayout
  private readonly options: ElementKernelOptions
  private readonly contents: ElementContents
  private readonly caller: Caller
  private pieces!: ElementPieces
  private rows!: RowSource
  private name = ''
  private valuesLiveOn = false

  constructor(options: ElementKernelOptions, process: AnyProcess) {
    this.options = options
    this.contents = options.contents ?? listContents()
    this.signature = this.contents.signature
    this.layout = { kind: 'object', codec: windowElementsCodec(options.codec, options.earlier) }
    this.caller = new Caller(process, options.outputSchema)
  }

  open(context: OperatorContext, valuesLiveOn: boolean): void {
    const { codec, pieceElements } = this.options
    this.pieces = new ElementPieces(context.keyed, { name: 'windows$pieces', codec, pieceElements })
    this.rows = new RowSource(context)
    this.name = context.name
    this.caller.open(context)
    this.valuesLiveOn = valuesLiveOn
  }

  accumulate(
    batch: Batch,
    rows: Int32Array,
    count: number,
    slots: Int32Array,
    { objects }: MutableWindowValues,
    namespace: number,
  ): void {
    const read = this.rows.readerOf(batch)
    const { contents, pieces } = this
    for (let j = 0; j < count; j++) {
      const row = rows[j]
      let elements = objects[slots[j]] as WindowElements | undefined
      if (elements === undefined) {
        elements = new WindowElements()
        objects[slots[j]] = elements
      } else if (pieces.isFull(elements)) {
        pieces.select(namespace, batch.keys!, row)
        pieces.spill(elements, STREAM)
      }
      elements.tail.push(contents.keep(read(batch, row), batch.eventTime[row]))
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
    namespace: number,
  ): void {
    try {
      const { pieces, contents } = this
      pieces.select(namespace, keys, keyRow)
      const kept = pieces.read(values.objects[at] as WindowElements)
      const own = this.valuesLiveOn ? kept.map((element) => copyOf(this.options.codec, element)) : kept
      this.caller.call(contents.results(own), keys, keyRow, window, watermark, output)
    } catch (error) {
      throw userFunctionError(error, this.name)
    }
  }

  get isTired(): boolean {
    return this.pieces.piecesRead >= PIECES_READ_MAX
  }

  drop(namespace: number): void {
    this.pieces.drop(namespace)
  }

  flush(output: Output): void {
    this.pieces.piecesRead = 0
    this.caller.flush(output)
  }
}
