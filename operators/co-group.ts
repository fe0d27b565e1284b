/**
 * Two inputs in one window operator: Flink's coGroup and window join.
 *
 * Rows of both inputs become elements of one stream that know which input they come from, and a window keeps them all. So every assigner, trigger and evictor that windows have works for joins, and rows travel in
 * the columns of their own schema until they are here.
 */
import type { FunctionSnapshotContext } from '../engine/contract/functions.ts'
import type { CoGroupFunction, TaggedUnion } from '../engine/contract/joint-functions.ts'
import type { EarlierLayout, ValueCodec } from '../engine/contract/keyed-state.ts'
import type { BatchInput, Operator, OperatorContext, Output } from '../engine/contract/operator.ts'
import { type Batch, sliceBatch } from '../engine/core/batch.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { OPAQUE_SCHEMA } from '../engine/core/schema.ts'
import { ByteArena } from '../engine/core/strings.ts'
import { isPromise, RowSource } from './user-function.ts'
import { type ElementContents, listCodec } from './window-contents.ts'
import { elementsInOne } from './window-elements.ts'

/** What a window's function gets of one key. */
export interface CoGroup {
  readonly one: unknown[]
  readonly two: unknown[]
}

type Element = TaggedUnion<unknown, unknown>

/** Keeps the elements of both inputs as they come; the window's function gets one `CoGroup` of them. */
export function coGroupContents(): ElementContents {
  return {
    // As it was when a window kept a group of two lists.
    signature: 'aggregate',
    keep: (element) => element,
    results(elements) {
      const group: CoGroup = { one: [], two: [] }
      for (const element of elements as readonly Element[]) {
        if (element.isOne) group.one.push(element.one)
        else group.two.push(element.two)
      }
      return [group]
    },
  }
}

/** Passes each pair of a group to `fn`. A promise is returned, for the caller to refuse. */
export function innerJoin<L, R, Out>(
  fn: (left: L, right: R, collect: (result: Out) => void) => unknown,
): CoGroupFunction<L, R, Out> {
  return (left, right, collect) => {
    for (const l of left) {
      for (const r of right) {
        const returned = fn(l, r, collect)
        if (isPromise(returned)) return returned as never
      }
    }
  }
}

/** A byte that says which input, then the row. */
export function taggedCodec(one: ValueCodec, two: ValueCodec): ValueCodec {
  const arena = new ByteArena(256)
  return {
    description: `either(${one.description}, ${two.description})`,
    encode(value) {
      const element = value as Element
      const body = element.isOne ? one.encode(element.one) : two.encode(element.two)
      arena.clear()
      arena.writeByte(element.isOne ? 1 : 2)
      arena.writeBytes(body, 0, body.length)
      return arena.view()
    },
    decode(bytes, start, end): Element {
      return bytes[start] === 1
        ? { isOne: true, one: one.decode(bytes, start + 1, end) }
        : { isOne: false, two: two.decode(bytes, start + 1, end) }
    },
  }
}

/** How windows were stored once: the rows of the first input with their length, then those of the second. */
export function groupInOne(one: ValueCodec, two: ValueCodec): EarlierLayout {
  const ones = listCodec(one)
  const twos = listCodec(two)
  return elementsInOne(`group(${one.description}, ${two.description})`, (bytes, start, end) => {
    const at = start + 4 + new DataView(bytes.buffer, bytes.byteOffset + start, 4).getUint32(0, true)
    return [
      ...(ones.decode(bytes, start + 4, at) as unknown[]).map((row): Element => ({ isOne: true, one: row })),
      ...(twos.decode(bytes, at, end) as unknown[]).map((row): Element => ({ isOne: false, two: row })),
    ]
  })
}

/** Gives `operator`, which has one input of opaque rows, the rows of two inputs as `TaggedUnion`s. */
export function taggedInputs(operator: Operator): Operator {
  return new TaggedInputs(operator)
}

class TaggedInputs implements Operator {
  readonly batchInputs: readonly BatchInput[] | undefined
  private readonly operator: Operator
  private rows!: readonly [RowSource, RowSource]
  /** The batch under way, and from which of its rows on it was turned into elements. */
  private batch: Batch | null = null
  private start = 0
  private elements: Batch | null = null

  constructor(operator: Operator) {
    this.operator = operator
    const [kind] = operator.batchInputs ?? []
    this.batchInputs = kind === undefined ? undefined : [kind, kind]
  }

  open(context: OperatorContext): void {
    this.rows = [new RowSource(context), new RowSource(context)]
    this.operator.open(context)
  }

  process(batch: Batch, from: number, output: Output, input: number): number {
    if (this.batch !== batch || this.elements === null) {
      this.batch = batch
      this.start = from
      this.elements = this.tag(sliceBatch(batch, from, batch.length), input)
    }
    const { start, elements } = this
    const done = start + this.operator.process(elements, from - start, output, 0)
    // A batch that comes again starts afresh, because its memory may have been used again.
    if (done === batch.length) {
      this.batch = null
      this.elements = null
    }
    return done
  }

  private tag(batch: Batch, input: number): Batch {
    const read = this.rows[input === 0 ? 0 : 1].readerOf(batch)
    const values = new Array<Element>(batch.length)
    for (let i = 0; i < batch.length; i++) {
      const row = read(batch, i)
      values[i] = input === 0 ? { isOne: true, one: row } : { isOne: false, two: row }
    }
    const columns = [{ kind: 'opaque', values, nulls: null }] as const
    return { ...batch, schema: OPAQUE_SCHEMA, columns }
  }

  advanceWatermark(watermark: number, output: Output): boolean {
    return this.operator.advanceWatermark(watermark, output)
  }

  endKey(output: Output): boolean {
    return this.operator.endKey!(output)
  }

  onProcessingTime(nowMs: number, output: Output): boolean {
    return this.operator.onProcessingTime?.(nowMs, output) ?? true
  }

  snapshot(context: FunctionSnapshotContext): JsonValue {
    return this.operator.snapshot?.(context) ?? null
  }

  get checkpointListener(): Operator['checkpointListener'] {
    return this.operator.checkpointListener
  }

  close(): void | Promise<void> {
    return this.operator.close?.()
  }
}
