/**
 * Orders the rows of an operator's inputs in batch execution, as the operator asks for it (`Operator.batchInputs`).
 *
 * Made by subtask-builder.ts around the operator; nothing else of the engine knows of it. Rows of `sorted` inputs go
 * through row-sorter.ts. At the end of input the operator gets them key by key, over all sorted inputs in order of event
 * time; after the last row of a key it ends the key, and the key's state is dropped. So state and timers of one key
 * exist at a time, however many keys there are. Rows of `later` inputs wait in an overflow queue until the `first`
 * inputs have ended, which keeps nobody else waiting: an input that had to be left unread could hold back the very
 * source that the other one needs.
 *
 * Invariants:
 * - Rows of a key that say nothing of their order come in the order of the inputs, and within one as they arrived.
 * - What the operator emits for one key leaves with that of other keys, in batches of a useful size.
 * - A call does a bounded share of work, and stops where the output is blocked.
 */
import type { KeyedBackend } from '../../state/keyed-backend.ts'
import type { FunctionSnapshotContext } from '../contract/functions.ts'
import type { BatchInput, Operator, OperatorContext, Output } from '../contract/operator.ts'
import { assert } from '../core/assert.ts'
import { BATCH_ROWS_MAX, type Batch, sliceBatch } from '../core/batch.ts'
import { BatchGatherer } from '../core/batch-gather.ts'
import type { JsonValue } from '../core/json-value.ts'
import { WATERMARK_MAX } from '../core/time.ts'
import { Overflow, type SpillSpace } from './overflow.ts'
import { compareKeys, compareRows, RowSorter, type SortedRows } from './row-sorter.ts'

/** Calls of the operator that one call of this one makes at most, besides that for its last row. */
const STEPS_MAX = 500

export interface BatchInputsOptions {
  /** Of what `sorted` inputs wait in; null: all of it stays in memory. */
  readonly space: SpillSpace | null
  /** The operator's keyed state; null when no input is sorted. */
  readonly keyed: KeyedBackend | null
  /** For all sorted inputs together. */
  readonly memoryBytesMax: number
}

/** The operator itself when it does not care for the order of its inputs. */
export function orderedInputs(operator: Operator, options: BatchInputsOptions): Operator {
  return operator.batchInputs === undefined ? operator : new OrderedInputs(operator, operator.batchInputs, options)
}

/** Whether batch execution sorts an input of the operator. */
export function sortsInputs(operator: Operator): boolean {
  return operator.batchInputs?.includes('sorted') === true
}

class OrderedInputs implements Operator {
  private readonly operator: Operator
  private readonly kinds: readonly BatchInput[]
  private readonly keyed: KeyedBackend | null
  /** One an input; null for those that are not sorted. */
  private readonly sorters: readonly (RowSorter | null)[]
  private readonly waiting: readonly Overflow[]
  private readonly ended: boolean[]
  private readonly gathered = new GatheringOutput()
  /** Every row has come: what is sorted is being given out. */
  private reading: SortedInputs | null = null

  constructor(operator: Operator, kinds: readonly BatchInput[], options: BatchInputsOptions) {
    const sorted = kinds.filter((kind) => kind === 'sorted').length
    assert(sorted === 0 || (operator.endKey !== undefined && options.keyed !== null), 'sorted rows have keys that end')
    this.operator = operator
    this.kinds = kinds
    this.keyed = options.keyed
    const bytesMax = options.memoryBytesMax / Math.max(1, sorted)
    this.sorters = kinds.map((kind) => (kind === 'sorted' ? new RowSorter(options.space, bytesMax) : null))
    this.waiting = kinds.map(() => new Overflow(options.space))
    this.ended = kinds.map(() => false)
  }

  open(context: OperatorContext): void {
    this.operator.open(context)
  }

  get isWaiting(): boolean {
    return this.operator.isWaiting === true
  }

  endInput(input: number): void {
    this.ended[input] = true
    this.operator.endInput?.(input)
  }

  /** True while an input that comes first has not ended. */
  private get isHeld(): boolean {
    return this.kinds.some((kind, input) => kind === 'first' && this.ended[input] !== true)
  }

  process(batch: Batch, from: number, output: Output, input: number): number {
    const sorter = this.sorters[input] ?? null
    if (sorter !== null) {
      if (!sorter.settle()) return from
      sorter.add(batch, from)
      return batch.length
    }
    if (this.kinds[input] === 'later') {
      if (this.isHeld) {
        this.waiting[input]!.pushBatch(sliceBatch(batch, from, batch.length))
        return batch.length
      }
      if (!this.giveWaiting(output)) return from
    }
    return this.operator.process(batch, from, output, input)
  }

  /** Hands on what waited for other inputs; true when nothing is left. */
  private giveWaiting(output: Output): boolean {
    for (let left = STEPS_MAX, input = 0; input < this.waiting.length; ) {
      const message = this.waiting[input]!.peek()
      if (message?.kind !== 'batch') {
        input++
        continue
      }
      if (left-- === 0 || !this.giveRows(message.batch, message.batch.length, input, output)) return false
      this.waiting[input]!.shift()
    }
    return true
  }

  /** The batch under way, and how far the operator is with it. */
  private given: { readonly source: Batch; readonly view: Batch; from: number } | null = null

  /** Gives the rows before `to` that it was not given yet; false when some are left. */
  private giveRows(source: Batch, to: number, input: number, output: Output, from = 0): boolean {
    if (this.given?.source !== source || this.given.view.length !== to) {
      this.given = { source, view: source.length === to ? source : { ...source, length: to }, from }
    }
    const { given } = this
    given.from = this.operator.process(given.view, given.from, output, input)
    if (given.from < to) return false
    this.given = null
    return true
  }

  advanceWatermark(watermark: number, output: Output): boolean {
    assert(watermark === WATERMARK_MAX, 'the only watermark of batch execution is the last')
    if (output.blocked || !this.giveWaiting(output)) return false
    if (this.keyed !== null && !this.giveSorted(this.keyed, output)) return false
    return this.operator.advanceWatermark(watermark, output)
  }

  private giveSorted(keyed: KeyedBackend, output: Output): boolean {
    for (const sorter of this.sorters) if (sorter !== null && !sorter.settle()) return false
    this.reading ??= new SortedInputs(this.sorters.map((sorter) => sorter?.finish() ?? null))
    this.gathered.output = output
    const isDone = this.giveKeys(this.reading, keyed, output)
    this.gathered.flush()
    return isDone
  }

  private giveKeys(reading: SortedInputs, keyed: KeyedBackend, output: Output): boolean {
    for (let left = STEPS_MAX; left > 0; left--) {
      if (output.blocked) return false
      if (reading.isKeyOver) {
        if (!this.operator.endKey!(this.gathered)) continue
        keyed.clear()
        reading.beginKey()
      }
      if (reading.run === null && !reading.findRun()) return true
      const { batch, from, to, input } = reading.run!
      if (this.giveRows(batch, to, input, this.gathered, from)) reading.take()
    }
    return false
  }

  onProcessingTime(nowMs: number, output: Output): boolean {
    return this.operator.onProcessingTime?.(nowMs, output) ?? true
  }

  /** Batch jobs are cut at their end only. */
  snapshot(context: FunctionSnapshotContext): JsonValue {
    assert(
      this.sorters.every((sorter) => sorter?.isEmpty !== false) && this.reading?.isDone !== false,
      'all rows were given out',
    )
    return this.operator.snapshot?.(context) ?? null
  }

  get checkpointListener(): Operator['checkpointListener'] {
    return this.operator.checkpointListener
  }

  close(): void | Promise<void> {
    for (const sorter of this.sorters) sorter?.close()
    for (const queue of this.waiting) queue.close()
    this.reading?.close()
    return this.operator.close?.()
  }
}

/** Rows [from, to) of a batch of one input: of one key, and none of another input comes before their last. */
interface KeyRun {
  readonly batch: Batch
  readonly from: number
  readonly to: number
  readonly input: number
}

/** Sorted inputs side by side: the runs of each key in order. */
class SortedInputs {
  /** What comes next. */
  run: KeyRun | null = null
  private readonly inputs: readonly (SortedRows | null)[]
  private readonly heads: (Batch | null)[]
  private readonly rows: number[]
  /** A row of the key under way. */
  private key: { readonly batch: Batch; readonly row: number } | null = null

  constructor(inputs: readonly (SortedRows | null)[]) {
    this.inputs = inputs
    this.heads = inputs.map((input) => input?.next() ?? null)
    this.rows = inputs.map(() => 0)
  }

  get isDone(): boolean {
    return this.run === null && this.key === null && this.heads.every((head) => head === null)
  }

  /** The key under way has no rows left. */
  get isKeyOver(): boolean {
    const { key } = this
    if (key === null || this.run !== null) return false
    return this.heads.every(
      (head, input) => head === null || compareKeys(key.batch, key.row, head, this.rows[input]!) !== 0,
    )
  }

  beginKey(): void {
    this.key = null
  }

  /** Sets `run` to what comes next; false at the end. */
  findRun(): boolean {
    const input = this.firstInput()
    const batch = this.heads[input] ?? null
    if (batch === null) return false
    const from = this.rows[input]!
    let to = from + 1
    while (to < batch.length && compareKeys(batch, from, batch, to) === 0 && !this.isPassed(input, batch, to)) to++
    this.run = { batch, from, to, input }
    this.key ??= { batch, row: from }
    return true
  }

  /** The input whose next row comes first; of equal ones the first. */
  private firstInput(): number {
    let first = -1
    for (let input = 0; input < this.heads.length; input++) {
      const head = this.heads[input]
      if (head === null || head === undefined) continue
      if (first < 0 || compareRows(head, this.rows[input]!, this.heads[first]!, this.rows[first]!) < 0) first = input
    }
    return first
  }

  /** A row of another input comes before row `row` of `batch`. */
  private isPassed(input: number, batch: Batch, row: number): boolean {
    for (let other = 0; other < this.heads.length; other++) {
      const head = this.heads[other]
      if (other === input || head === null || head === undefined) continue
      const order = compareRows(head, this.rows[other]!, batch, row)
      if (order < 0 || (order === 0 && other < input)) return true
    }
    return false
  }

  /** The run was taken. */
  take(): void {
    const { batch, to, input } = this.run!
    this.run = null
    this.rows[input] = to
    if (to < batch.length) return
    this.heads[input] = this.inputs[input]!.next()
    this.rows[input] = 0
  }

  close(): void {
    for (const input of this.inputs) input?.close()
  }
}

/** Puts small batches together; what it is given must stay as it is until `flush`. */
class GatheringOutput implements Output {
  output!: Output
  private readonly main = new BatchGatherer()
  private readonly sides = new Map<string, BatchGatherer>()

  get blocked(): boolean {
    return this.output.blocked
  }

  emit(batch: Batch): void {
    this.gather(this.main, batch, null)
  }

  emitSide(tag: string, batch: Batch): void {
    let gatherer = this.sides.get(tag)
    if (gatherer === undefined) {
      gatherer = new BatchGatherer()
      this.sides.set(tag, gatherer)
    }
    this.gather(gatherer, batch, tag)
  }

  private gather(gatherer: BatchGatherer, batch: Batch, tag: string | null): void {
    if (gatherer.length + batch.length > BATCH_ROWS_MAX) this.send(gatherer, tag)
    if (batch.length === BATCH_ROWS_MAX) this.sendBatch(batch, tag)
    else for (let row = 0; row < batch.length; row++) gatherer.add(batch, row)
  }

  private send(gatherer: BatchGatherer, tag: string | null): void {
    if (gatherer.length > 0) this.sendBatch(gatherer.build(), tag)
  }

  private sendBatch(batch: Batch, tag: string | null): void {
    if (tag === null) this.output.emit(batch)
    else this.output.emitSide(tag, batch)
  }

  flush(): void {
    this.send(this.main, null)
    for (const [tag, gatherer] of this.sides) this.send(gatherer, tag)
  }
}
