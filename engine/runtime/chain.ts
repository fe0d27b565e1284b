/**
 * A chain: operators of one subtask that hand batches on by a plain call.
 *
 * Each link owns the batches that its operator has not consumed yet, so any link can stop in mid-batch
 * when output is blocked and go on later from the same row. `advance` first empties the chain from its
 * end towards its head, then moves a watermark or a processing-time call link by link, emptying what it
 * caused before the next link sees it.
 *
 * Invariants:
 * - A link's operator gets a watermark only after every row that earlier links emitted before it. One that an operator
 *   makes in the midst of a batch goes all the way before the next row of that batch.
 * - When `advance` returns `drained`, no batch, watermark or call is under way anywhere in the chain. Async
 *   operators may then hold rows of their own, which are part of their snapshots.
 */

import type { AsyncOperator, Operator, OperatorCounters, Output, WatermarkingOperator } from '../contract/operator.ts'
import { assert } from '../core/assert.ts'
import { type Batch, type Projection, projectBatch, sliceBatch, withKeys } from '../core/batch.ts'
import type { KeyExtractor } from '../core/keys.ts'
import { WATERMARK_MAX } from '../core/time.ts'
import type { OutputRouter } from './output-router.ts'
import { Overflow, type SpillSpace } from './overflow.ts'
import { TaskTimes } from './task-times.ts'
import { copyBatch } from './wire.ts'

/** `yield`: more to do, but let others run; `blocked`: wait for room. */
export type ChainProgress = 'drained' | 'blocked' | 'yield'

/** Keys that an operator reads from its store in one call, about, which takes some milliseconds at most. */
const READS_MAX = 256
/** However many reads a row means. */
const ROWS_MIN = 16
/** From one call to the next. */
const ROWS_GROWTH = 2

function makesWatermarks(operator: Operator): operator is WatermarkingOperator {
  return typeof (operator as Partial<WatermarkingOperator>).currentWatermark === 'function'
}

function isAsync(operator: Operator): operator is AsyncOperator {
  return typeof (operator as Partial<AsyncOperator>).resume === 'function'
}

class Link implements Output {
  readonly operator: Operator
  /** The operator, when it is async. */
  readonly async: AsyncOperator | null
  /** It asked for a call of `resume`. */
  isWoken = false
  /** Rows that came and went. */
  recordsIn = 0
  recordsOut = 0
  private readonly times: TaskTimes
  private readonly at: number
  private readonly isBatch: boolean
  private readonly keys: KeyExtractor | null
  private readonly projection: Projection | null
  private readonly next: Link | null
  private readonly router: OutputRouter
  /** The operator's, when it keeps keyed state. */
  private readonly counters: OperatorCounters | null
  /** Rows that the operator is given in one call. */
  private rowsMax = Number.POSITIVE_INFINITY
  private current: Batch | null = null
  private from = 0
  /** Which input of the operator `current` came from. */
  private input = 0
  /** What came while `current` was not done. */
  private readonly waiting: Overflow
  /** A watermark of this operator on its way down, and the link that takes it next; null for the router. */
  private sending: { readonly watermark: number; to: Link | null } | null = null
  /** Last watermark that a watermarking operator gave. */
  ownWatermark = Number.NEGATIVE_INFINITY
  /** Processing time at which the operator wants a call, Infinity for never. */
  dueAtMs = Number.POSITIVE_INFINITY

  /** `at`: the operator's place in `times`. */
  constructor(
    options: ChainLinkOptions,
    next: Link | null,
    router: OutputRouter,
    space: SpillSpace | null,
    times: TaskTimes,
    at: number,
    isBatch: boolean,
  ) {
    this.isBatch = isBatch
    this.times = times
    this.at = at
    this.operator = options.operator
    this.async = isAsync(options.operator) ? options.operator : null
    this.keys = options.keys
    this.projection = options.projection ?? null
    this.counters = options.counters ?? null
    this.next = next
    this.router = router
    this.waiting = new Overflow(space)
  }

  get hasWork(): boolean {
    return this.current !== null || this.sending !== null
  }

  get blocked(): boolean {
    const { next } = this
    if (next === null) return this.router.blocked
    return next.hasWork || next.async?.isFull === true || next.blocked
  }

  emit(batch: Batch): void {
    this.recordsOut += batch.length
    if (this.next === null) this.router.emit(batch)
    else this.next.accept(batch, 0)
  }

  emitSide(tag: string, batch: Batch): void {
    // A node whose side outputs are read ends its chain, so nobody reads those of an earlier link.
    if (this.next === null) this.router.emitSide(tag, batch)
  }

  /**
   * Only the first link has several inputs: an operator that has them is never chained to one of them. A batch that is
   * lent stays as it is until this link is empty.
   */
  accept(batch: Batch, input: number, isLent = false): void {
    if (batch.length === 0) return
    this.recordsIn += batch.length
    if (this.hasWork) {
      assert(input === this.input, 'what waits is of one input')
      this.waiting.pushBatch(batch)
      return
    }
    this.input = input
    const caller = this.enter()
    this.begin(batch)
    this.consume()
    this.leave(caller)
    // What the caller emitted may live in memory that it reuses after this call.
    if (this.current !== null && !isLent) this.retain()
  }

  private begin(batch: Batch): void {
    const keyed = this.keys === null ? batch : withKeys(batch, this.keys(batch))
    this.current = this.projection === null ? keyed : projectBatch(keyed, this.projection)
    this.from = 0
  }

  private retain(): void {
    this.current = copyBatch(sliceBatch(this.current!, this.from, this.current!.length))
    this.from = 0
  }

  /** Processes until out of rows or blocked; true when it moved. */
  private consume(): boolean {
    let moved = false
    while (this.current !== null && this.sending === null && !this.blocked) {
      const end = Math.min(this.current.length, this.from + this.rowsMax)
      const to = this.processUntil(this.current, end)
      assert(to >= this.from && to <= end, 'process returns a row of its batch')
      // One that stopped though there is room has done its share of work for a call, in the midst of a row perhaps.
      moved ||= to > this.from || (!this.blocked && this.operator.isWaiting !== true)
      this.from = to
      const isPunctuated = this.beginSending()
      if (to < this.current.length && !isPunctuated) return moved
      moved = true
      if (to < this.current.length) continue
      this.current = null
      this.takeWaiting()
    }
    return moved
  }

  /** One call for the rows from `from` up to `end`, and how many the next one gets: what has to be read takes long. */
  private processUntil(batch: Batch, end: number): number {
    const { operator, counters, from, input } = this
    if (counters === null) return operator.process(batch, from, this, input)
    const before = counters.coldReads
    const to =
      end === batch.length
        ? operator.process(batch, from, this, input)
        : from + operator.process(sliceBatch(batch, from, end), 0, this, input)
    if (to === from) return to
    const reads = counters.coldReads - before
    const rows = reads === 0 ? Number.POSITIVE_INFINITY : Math.ceil((READS_MAX * (to - from)) / reads)
    // Some batches in between may be in memory by chance.
    this.rowsMax = Math.max(ROWS_MIN, Math.min(rows, this.rowsMax * ROWS_GROWTH))
    return to
  }

  private takeWaiting(): void {
    const waiting = this.waiting.peek()
    if (waiting?.kind !== 'batch') return
    this.waiting.shift()
    this.begin(waiting.batch)
  }

  /** True when the operator stopped for a watermark of its own. */
  private beginSending(): boolean {
    const { operator } = this
    if (!makesWatermarks(operator) || operator.isPunctuated !== true) return false
    const watermark = operator.currentWatermark()
    if (watermark <= this.ownWatermark || this.isBatch) return true
    this.ownWatermark = watermark
    this.sending = { watermark, to: this.next }
    return true
  }

  /** Moves the operator's own watermark to the end of the chain, link by link; true when it moved. */
  private send(): boolean {
    let moved = false
    for (let sending = this.sending; sending !== null; sending = this.sending) {
      if (this.next?.isEmpty === false) {
        moved = this.next.run() || moved
        if (!this.next.isEmpty) return moved
      }
      const link = sending.to
      if (link === null) {
        this.router.control({ kind: 'watermark', value: sending.watermark })
        this.sending = null
        return true
      }
      const caller = link.enter()
      const isDone = link.operator.advanceWatermark(sending.watermark, link)
      link.leave(caller)
      if (!isDone) return moved || !link.blocked
      moved = true
      sending.to = link.next
      if (makesWatermarks(link.operator)) this.sending = null
    }
    return moved
  }

  /** Empties this link and those after it; true when it moved. */
  run(): boolean {
    let moved = this.next === null ? false : this.next.run()
    if (this.sending !== null) {
      moved = this.send() || moved
      if (this.sending !== null) return moved
      if (this.current === null) this.takeWaiting()
    }
    if (this.current === null) return moved
    const caller = this.enter()
    moved = this.consume() || moved
    this.leave(caller)
    return moved
  }

  /** From here to `leave` time is this operator's, but for what it calls. */
  enter(): number {
    return this.times.enter(this.at)
  }

  leave(caller: number): void {
    this.times.leave(caller)
  }

  close(): void {
    this.waiting.close()
  }

  /** True when neither this link nor one after it holds a batch. */
  get isEmpty(): boolean {
    return !this.hasWork && (this.next === null || this.next.isEmpty)
  }
}

export interface ChainLinkOptions {
  readonly operator: Operator
  /** Computes keys on the way into the operator, when a keyBy was chained. */
  readonly keys: KeyExtractor | null
  /** The columns that the operator reads, when it says so. */
  readonly projection?: Projection | null
  /** Where it counts the keys that it had to read from its store. */
  readonly counters?: OperatorCounters | null
}

export class Chain {
  private readonly links: readonly Link[]
  /** Those of async operators, the last first: what one emits finds room in those after it. */
  private readonly asyncLinks: readonly Link[]
  private readonly assignerLink: (Link & { readonly operator: WatermarkingOperator }) | null
  private readonly router: OutputRouter
  /** Link that takes the watermark under way next; -1 when none is. */
  private watermarkAt = -1
  private watermark = Number.NEGATIVE_INFINITY
  /** Link in the middle of a processing-time call; -1 when none is. */
  private timeAt = -1

  /** In batch execution no watermark but the last one is sent on. */
  private readonly isBatch: boolean

  /**
   * Batches that wait within the chain spill to `space`; without one they stay in memory. The last of the operators
   * in `times` are those of this chain; a source comes before them.
   */
  constructor(
    operators: readonly ChainLinkOptions[],
    router: OutputRouter,
    isBatch = false,
    space: SpillSpace | null = null,
    times = new TaskTimes(operators.length, () => 0),
  ) {
    this.isBatch = isBatch
    const first = times.operators - operators.length
    const links: Link[] = []
    for (let i = operators.length - 1; i >= 0; i--) {
      links.unshift(new Link(operators[i]!, links[0] ?? null, router, space, times, first + i, isBatch))
    }
    this.links = links
    this.asyncLinks = links.filter((link) => link.async !== null).reverse()
    const last = links.findLast(({ operator }) => makesWatermarks(operator) && !isAsync(operator))
    this.assignerLink = (last as Chain['assignerLink'] | undefined) ?? null
    this.router = router
  }

  /** Lets go of what waits. */
  close(): void {
    for (const link of this.links) link.close()
  }

  get operators(): readonly Operator[] {
    return this.links.map((link) => link.operator)
  }

  /**
   * Takes a batch of one of the first operator's inputs; the chain must be drained. The batch is borrowed until
   * it is drained again.
   */
  push(batch: Batch, input: number): void {
    const head = this.links[0]
    if (head === undefined) this.router.emit(batch)
    else head.accept(batch, input, true)
  }

  /** Every batch of an input has come; the chain must be drained. */
  endInput(input: number): void {
    this.links[0]?.operator.endInput?.(input)
  }

  /** Starts a watermark on its way; the chain must be drained. */
  pushWatermark(watermark: number): void {
    assert(this.watermarkAt < 0, 'one watermark at a time')
    this.watermark = watermark
    this.watermarkAt = 0
  }

  /** Operator `index` asks for a processing-time call. */
  schedule(index: number, timeMs: number): void {
    const link = this.links[index]!
    link.dueAtMs = Math.min(link.dueAtMs, timeMs)
  }

  /** Operator `index` asks for a call of `resume`. */
  wake(index: number): void {
    this.links[index]!.isWoken = true
  }

  /** True while an async operator holds enough rows: no batch may be pushed. */
  get isFull(): boolean {
    return this.asyncLinks.some((link) => link.async!.isFull)
  }

  /** Place in the chain of the operator that waits for the world outside, when it is blocked with room downstream. */
  get waitingAt(): number {
    return Math.max(
      0,
      this.links.findLastIndex((link) => link.hasWork || link.async?.isFull === true),
    )
  }

  /** Rows that went into and out of each operator. */
  get records(): readonly { readonly recordsIn: number; readonly recordsOut: number }[] {
    return this.links
  }

  /** True while an async operator holds rows or watermarks. */
  get isPending(): boolean {
    return this.asyncLinks.some((link) => link.async!.isPending)
  }

  /** The last operator that makes its watermarks from rows: it decides whether what comes out is idle. */
  get assigner(): { readonly operator: WatermarkingOperator; readonly recordsIn: number } | null {
    return this.assignerLink
  }

  /** Earliest processing time asked for. */
  get dueAtMs(): number {
    let due = Number.POSITIVE_INFINITY
    for (const link of this.links) due = Math.min(due, link.dueAtMs)
    return due
  }

  advance(nowMs: number): ChainProgress {
    // Rows may still come in the millisecond that it is.
    const passedMs = nowMs - 1
    for (;;) {
      if (!this.router.flush()) return 'blocked'
      this.resumeWoken()
      const head = this.links[0]
      if (head !== undefined) {
        const moved = head.run()
        if (!head.isEmpty || this.router.blocked) return moved ? 'yield' : 'blocked'
      }
      if (this.watermarkAt >= 0) {
        if (!this.moveWatermark()) return this.router.blocked ? 'blocked' : 'yield'
        continue
      }
      if (!this.startOwnWatermark() && !this.startDueCall(passedMs)) {
        if (this.router.blocked) return 'blocked'
        return this.asyncLinks.some((link) => link.isWoken) ? 'yield' : 'drained'
      }
      if (this.timeAt >= 0 && !this.moveTime(passedMs)) return this.router.blocked ? 'blocked' : 'yield'
    }
  }

  /** What an async operator emits follows its watermark: it waits while an operator behind it fires. */
  private resumeWoken(): void {
    const firing = Math.max(this.watermarkAt, this.timeAt)
    for (const link of this.asyncLinks) {
      if (!link.isWoken || link.blocked || this.links.indexOf(link) < firing) continue
      link.isWoken = false
      const caller = link.enter()
      if (!link.async!.resume(link)) link.isWoken = true
      link.leave(caller)
    }
  }

  /** One link further; false when the link has more to emit. */
  private moveWatermark(): boolean {
    const link = this.links[this.watermarkAt]
    if (link === undefined) {
      this.router.control({ kind: 'watermark', value: this.watermark })
      this.watermarkAt = -1
      return true
    }
    const caller = link.enter()
    const isDone = link.operator.advanceWatermark(this.watermark, link)
    link.leave(caller)
    if (!isDone) return false
    const isLast = this.watermark === WATERMARK_MAX
    const endsHere = link.async !== null || (makesWatermarks(link.operator) && !isLast)
    // The last one goes on from here: the operator's own must neither repeat it nor fall behind it.
    if (isLast && !endsHere) link.ownWatermark = WATERMARK_MAX
    this.watermarkAt = endsHere ? -1 : this.watermarkAt + 1
    return true
  }

  private startOwnWatermark(): boolean {
    for (let i = 0; i < this.links.length; i++) {
      const link = this.links[i]!
      if (!makesWatermarks(link.operator)) continue
      const watermark = link.operator.currentWatermark()
      if (watermark <= link.ownWatermark || (this.isBatch && watermark !== WATERMARK_MAX)) continue
      link.ownWatermark = watermark
      this.watermark = watermark
      this.watermarkAt = i + 1
      return true
    }
    return false
  }

  private startDueCall(passedMs: number): boolean {
    if (this.timeAt >= 0) return true
    this.timeAt = this.links.findIndex((link) => link.dueAtMs <= passedMs)
    if (this.timeAt >= 0) this.links[this.timeAt]!.dueAtMs = Number.POSITIVE_INFINITY
    return this.timeAt >= 0
  }

  private moveTime(passedMs: number): boolean {
    const link = this.links[this.timeAt]!
    const caller = link.enter()
    const isDone = link.operator.onProcessingTime?.(passedMs, link) ?? true
    link.leave(caller)
    if (isDone) this.timeAt = -1
    return isDone
  }
}
