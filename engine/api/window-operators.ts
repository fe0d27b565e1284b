/**
 * From a windowed stream's settings to its operator. There are three, and this is where one is chosen:
 *
 * 1. Aligned windows in event time under their own trigger, without evictor, time zone or state of the window's
 *    function: a segment of state a window (window-aggregate.ts), no timers.
 * 2. Such windows where they overlap, when their aggregates may be merged in any order: slices that windows
 *    share (window-slices-operator.ts).
 * 3. Everything else: Flink's WindowOperator in full (window-triggered.ts).
 *
 * All give the same results where more than one would do.
 */
import { coGroupContents } from '../../operators/co-group.ts'
import { windowOperator } from '../../operators/window-aggregate.ts'
import { cumulativeWindows, slidingWindows, tumblingWindows } from '../../operators/window-assigner.ts'
import { columnarKernel, type KeyColumnKind } from '../../operators/window-columnar.ts'
import {
  aggregateContents,
  evictableContents,
  listCodec,
  listContents,
  reduceContents,
  timestampedCodec,
} from '../../operators/window-contents.ts'
import { elementsInOne } from '../../operators/window-elements.ts'
import type { KeptContents } from '../../operators/window-keepers.ts'
import { aggregateKernel, processKernel, reduceKernel } from '../../operators/window-kernels.ts'
import { cumulativeSlices, type SliceScheme, slidingSlices } from '../../operators/window-slices.ts'
import { isMerging, slicedWindowOperator } from '../../operators/window-slices-operator.ts'
import { triggeredWindowOperator } from '../../operators/window-triggered.ts'
import { schemaCodec, stateCodec } from '../../state/schema-codec.ts'
import { objectCodec } from '../../state/value-codec.ts'
import type {
  AggregateFunction,
  BuiltInAggregate,
  ProcessWindowCallback,
  ProcessWindowFunction,
  ReduceFunction,
} from '../contract/functions.ts'
import type { EarlierLayout, ValueCodec } from '../contract/keyed-state.ts'
import type { Operator } from '../contract/operator.ts'
import type { Evictor, Trigger, WindowAssigner } from '../contract/windows.ts'
import type { Schema } from '../core/schema.ts'
import { type OperatorFactory, rowCodec } from './operators.ts'
import { ownFunction, perSubtaskOf } from './per-subtask.ts'
import { richFunctionFactory } from './process-functions.ts'
import { aggregateOfColumns, columnResults } from './row-aggregates.ts'
import { CumulativeEventTimeWindows, SlidingEventTimeWindows, TumblingEventTimeWindows } from './window-assigners.ts'

/** A window's function: a plain one, or an object with state. */
export type WindowProcess<In, Out, K> = ProcessWindowCallback<In, Out, K> | ProcessWindowFunction<In, Out, K>
type AnyProcess = WindowProcess<unknown, unknown, unknown>

export interface WindowSettings {
  readonly assigner: WindowAssigner
  /** Null for the assigner's own. */
  readonly trigger: Trigger | null
  readonly evictor: Evictor | null
  readonly allowedLatenessMs: number
  readonly lateTag: string | null
  /** Of the rows that come to the operator. */
  readonly inputSchema: Schema
  /** For elements that are more than rows of that schema. */
  readonly createElementCodec?: () => ValueCodec
}

/** What happens to the elements of a window. */
export type WindowWork =
  | {
      readonly kind: 'aggregate'
      readonly fn: AggregateFunction<unknown, unknown, unknown>
      readonly process: AnyProcess | null
    }
  | { readonly kind: 'reduce'; readonly fn: ReduceFunction<unknown>; readonly process: AnyProcess | null }
  | { readonly kind: 'process'; readonly process: AnyProcess }
  /** The elements of two inputs; settings have their codec. */
  | { readonly kind: 'coGroup'; readonly createEarlier: () => EarlierLayout; readonly process: AnyProcess }
  | {
      readonly kind: 'columnar'
      readonly aggregates: Readonly<Record<string, BuiltInAggregate>>
      readonly keyKind: KeyColumnKind
    }

/** Checks the combination now: an operator that cannot be made fails where the program declares it. */
export function windowOperatorFactory(settings: WindowSettings, work: WindowWork, output: Schema): OperatorFactory {
  const create = alignedFactory(settings, work, output) ?? triggeredFactory(settings, work, output)
  create()
  return create
}

/** Windows that depend on UTC event time alone, and how overlapping ones share state. */
interface Aligned {
  readonly assigner: ReturnType<typeof tumblingWindows>
  readonly slices: SliceScheme | null
}

function alignedOf(assigner: WindowAssigner): Aligned | null {
  if (assigner instanceof TumblingEventTimeWindows && assigner.timeZone === null) {
    return { assigner: tumblingWindows(assigner.sizeMs, assigner.offsetMs), slices: null }
  }
  if (assigner instanceof SlidingEventTimeWindows && assigner.timeZone === null) {
    const { sizeMs, slideMs, offsetMs } = assigner
    return { assigner: slidingWindows(sizeMs, slideMs, offsetMs), slices: slidingSlices(sizeMs, slideMs, offsetMs) }
  }
  if (assigner instanceof CumulativeEventTimeWindows && assigner.timeZone === null) {
    const { maxSizeMs, stepMs, offsetMs } = assigner
    return {
      assigner: cumulativeWindows(maxSizeMs, stepMs, offsetMs),
      slices: cumulativeSlices(maxSizeMs, stepMs, offsetMs),
    }
  }
  return null
}

function alignedFactory(settings: WindowSettings, work: WindowWork, output: Schema): OperatorFactory | null {
  const { allowedLatenessMs, lateTag } = settings
  const process = work.kind === 'columnar' ? null : work.process
  const isStateful = process !== null && (typeof process !== 'function' || perSubtaskOf(process) !== null)
  const aligned = alignedOf(settings.assigner)
  if (aligned === null || isStateful || settings.trigger !== null || settings.evictor !== null) return null
  const { assigner, slices } = aligned
  return (): Operator => {
    const kernel = kernelOf(ownWork(work), process as AnyCallback | null, settings, output)
    return slices !== null && isMerging(kernel)
      ? slicedWindowOperator({ slices, kernel, allowedLatenessMs, lateTag })
      : windowOperator({ assigner, kernel, allowedLatenessMs, lateTag })
  }
}

type AnyCallback = ProcessWindowCallback<unknown, unknown, unknown>

function kernelOf(work: WindowWork, process: AnyCallback | null, settings: WindowSettings, outputSchema: Schema) {
  const { inputSchema } = settings
  switch (work.kind) {
    case 'aggregate':
      return aggregateKernel(work.fn, { codec: accumulatorCodec(work.fn), outputSchema }, process)
    case 'reduce':
      return reduceKernel(work.fn, { codec: rowCodec(inputSchema), outputSchema }, process)
    case 'process':
      return processKernel(process as AnyCallback, {
        codec: rowCodec(inputSchema),
        earlier: [arraysOfRows()],
        outputSchema,
      })
    case 'coGroup': {
      const earlier = [work.createEarlier()]
      const contents = coGroupContents()
      return processKernel(process as AnyCallback, { codec: elementCodecOf(settings), earlier, contents, outputSchema })
    }
    case 'columnar':
      return columnarKernel({ aggregates: work.aggregates, keyKind: work.keyKind, inputSchema })
  }
}

function triggeredFactory(settings: WindowSettings, work: WindowWork, outputSchema: Schema): OperatorFactory {
  const { assigner, evictor, allowedLatenessMs, lateTag } = settings
  const trigger = settings.trigger ?? assigner.getDefaultTrigger()
  const process = work.kind === 'columnar' ? columnResults(work.aggregates, work.keyKind !== 'none') : work.process
  const createFunction = process === null ? null : processFactory(process)
  return () => {
    const elementCodec = elementCodecOf(settings)
    const kept = contentsOf(ownWork(work), settings.inputSchema, elementCodec)
    return triggeredWindowOperator({
      assigner,
      trigger,
      evictor,
      kept: evictor === null ? kept : evictable(kept.contents, elementCodec),
      elementCodec,
      createFunction,
      outputSchema,
      codecOf: stateCodec,
      allowedLatenessMs,
      lateTag,
    })
  }
}

function elementCodecOf({ createElementCodec, inputSchema }: WindowSettings): ValueCodec {
  return createElementCodec?.() ?? schemaCodec(inputSchema, { what: 'An element' })
}

/** How the first operator above once stored the rows of a window: as one value of any kind. */
function arraysOfRows(): EarlierLayout {
  const codec = objectCodec()
  return elementsInOne(codec.description, (bytes, start, end) => codec.decode(bytes, start, end) as unknown[])
}

/** How the third once did it. */
function listsOf(element: ValueCodec): EarlierLayout {
  const codec = listCodec(element)
  return elementsInOne(codec.description, (bytes, start, end) => codec.decode(bytes, start, end) as unknown[])
}

function evictable(finish: KeptContents['contents'], elementCodec: ValueCodec): KeptContents {
  const codec = timestampedCodec(elementCodec)
  return { kind: 'elements', contents: evictableContents(finish), codec, earlier: [listsOf(codec)] }
}

function contentsOf(work: WindowWork, inputSchema: Schema, elementCodec: ValueCodec): KeptContents {
  switch (work.kind) {
    case 'aggregate':
      return { kind: 'accumulated', contents: aggregateContents(work.fn), codec: accumulatorCodec(work.fn) }
    case 'reduce':
      return { kind: 'accumulated', contents: reduceContents(work.fn), codec: rowCodec(inputSchema) }
    case 'process':
      return { kind: 'elements', contents: listContents(), codec: elementCodec, earlier: [listsOf(elementCodec)] }
    case 'coGroup': {
      const earlier = [work.createEarlier()]
      return { kind: 'elements', contents: coGroupContents(), codec: elementCodec, earlier }
    }
    case 'columnar': {
      const fn = aggregateOfColumns(work.aggregates)
      return { kind: 'accumulated', contents: aggregateContents(fn), codec: accumulatorCodec(fn) }
    }
  }
}

function accumulatorCodec<Acc>(fn: AggregateFunction<never, Acc, unknown>): ValueCodec {
  const { version = 1, migrations } = fn
  return objectCodec(() => fn.createAccumulator(), { what: 'the accumulator', version, migrations })
}

/** With the subtask's own function in place of one that `perSubtask` makes. */
function ownWork(work: WindowWork): WindowWork {
  switch (work.kind) {
    case 'aggregate':
      return { ...work, fn: ownFunction(work.fn) }
    case 'reduce':
      return { ...work, fn: ownFunction(work.fn) }
    case 'process':
    case 'coGroup':
    case 'columnar':
      return work
  }
}

type AnyWindowFunction = ProcessWindowFunction<unknown, unknown, unknown>

function processFactory(process: AnyProcess): () => AnyWindowFunction {
  const asObject = (own: AnyProcess): AnyWindowFunction => (typeof own === 'function' ? { process: own } : own)
  const create = perSubtaskOf(process)
  if (create !== null) return () => asObject(create())
  return typeof process === 'function' ? () => ({ process }) : richFunctionFactory(process)
}
