/**
 * Calls an asynchronous function for each row, many at once, and emits the results (Flink's AsyncWaitOperator).
 *
 * Results come back in promise reactions, which only note them and wake the engine; they are emitted on the
 * operator's own turns, in `resume`. A batch is taken whole: rows beyond the capacity wait here, un-called, and the
 * operator says that it is full, so that a barrier need not wait for them.
 *
 * Invariants:
 * - At most `capacity` rows are called and not emitted.
 * - A row is in the snapshot until its results are emitted; after a restore it is called again.
 * - A watermark leaves after the results of every row before it. Unordered results stay between the watermarks
 *   that their rows lay between.
 * - A time-out is decided on a turn after the one of its timer: results that arrived while a long turn kept the
 *   event loop busy are taken first.
 */
import type {
  AsyncFunction,
  AsyncRequest,
  AsyncResults,
  AsyncRetryStrategy,
  CheckpointListener,
} from '../engine/contract/functions.ts'
import type { ValueCodec } from '../engine/contract/keyed-state.ts'
import type { AsyncOperator, OperatorContext, Output } from '../engine/contract/operator.ts'
import { BATCH_ROWS_MAX, type Batch } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { OPAQUE_SCHEMA, type Schema } from '../engine/core/schema.ts'
import { OrderedQueue, type RequestQueue, UnorderedQueue } from './async-queue.ts'
import { checkpointListenerOf } from './checkpoint-listener.ts'
import { RowCollector } from './collector.ts'
import { jobFacts } from './runtime-context.ts'
import { isPromise, RowSource, userFunctionError } from './user-function.ts'

/** Rows emitted a turn. */
const EMITTED_MAX = 2 * BATCH_ROWS_MAX

export interface AsyncWaitOptions {
  readonly isOrdered: boolean
  /** Rows that may be under way, at least 1. */
  readonly capacity: number
  /** From the first call of a row to its results, retries included; 0 for none. */
  readonly timeoutMs: number
  readonly retry: AsyncRetryStrategy | null
  /** Of the rows under way, in snapshots. */
  readonly codec: ValueCodec
  readonly outputSchema?: Schema
}

/** `create` makes a fresh function for each subtask. */
export function asyncWaitOperator<In, Out>(
  create: () => AsyncFunction<In, Out>,
  options: AsyncWaitOptions,
): AsyncOperator {
  return new AsyncWaitOperator(create() as AsyncFunction<unknown, unknown>, options)
}

/** One row under way. */
class Request implements AsyncRequest {
  readonly row: unknown
  readonly eventTime: number
  attempt = 0
  deadlineMs = Number.POSITIVE_INFINITY
  /** What came back; null until the request is finished. */
  results: readonly unknown[] | null = null
  /** The answer that counts: an older call that comes back late means nothing. */
  expected = 0
  isTimedOut = false
  private controller: AbortController | null = null

  constructor(row: unknown, eventTime: number) {
    this.row = row
    this.eventTime = eventTime
  }

  get isFinished(): boolean {
    return this.results !== null
  }

  /** Made when it is first asked for: most functions do not. */
  get signal(): AbortSignal {
    this.controller ??= new AbortController()
    return this.controller.signal
  }

  abort(reason: unknown): void {
    this.controller?.abort(reason)
    this.controller = null
  }
}

type Answer = AsyncResults<unknown> | PromiseLike<AsyncResults<unknown>>

class AsyncWaitOperator implements AsyncOperator {
  private readonly fn: AsyncFunction<unknown, unknown>
  private readonly options: AsyncWaitOptions
  private readonly collector: RowCollector
  private readonly queue: RequestQueue<Request>
  /** Not called yet, oldest first. */
  private waiting: Request[] = []
  private nextWaiting = 0
  /** Called and not emitted. */
  private underWay = 0
  /** Called and not finished, in order of their deadlines. */
  private readonly deadlines = new Set<Request>()
  /** Past their deadlines when the timer fired; decided on the next turn. */
  private suspects: Request[] = []
  private cancelTimer: (() => void) | null = null
  private readonly cancelRetries = new Set<() => void>()
  private failure: { readonly error: unknown } | null = null
  private isOpen = false
  private isClosed = false
  private context!: OperatorContext
  private rows!: RowSource
  checkpointListener!: CheckpointListener

  constructor(fn: AsyncFunction<unknown, unknown>, options: AsyncWaitOptions) {
    this.fn = fn
    this.options = options
    this.collector = new RowCollector(options.outputSchema ?? OPAQUE_SCHEMA)
    this.queue = options.isOrdered ? new OrderedQueue() : new UnorderedQueue()
  }

  get isFull(): boolean {
    return this.nextWaiting < this.waiting.length || this.underWay >= this.options.capacity
  }

  get isPending(): boolean {
    return !this.queue.isEmpty
  }

  open(context: OperatorContext): void {
    this.context = context
    this.rows = new RowSource(context)
    this.checkpointListener = checkpointListenerOf(this.fn, context.name)
    this.restore(context)
    const opened = (): void => {
      this.isOpen = true
      this.call()
    }
    const failed = (error: unknown): void => this.fail(error)
    const { name: taskName, subtask: indexOfThisSubtask, parallelism: numberOfParallelSubtasks } = context
    try {
      const opening = this.fn.open?.({
        taskName,
        indexOfThisSubtask,
        numberOfParallelSubtasks,
        ...jobFacts(context.worker),
      })
      if (isPromise(opening)) (opening as PromiseLike<void>).then(opened, failed)
      else opened()
    } catch (error) {
      throw userFunctionError(error, context.name)
    }
  }

  /** Rows that were under way, each to one subtask: in order at the same parallelism, dealt out at another. */
  private restore({ restored, subtask, parallelism }: OperatorContext): void {
    const { codec } = this.options
    let dealt = 0
    restored.forEach((state, old) => {
      for (const [row, eventTime] of (state as { requests: [string, number | null][] } | null)?.requests ?? []) {
        const owner = restored.length === parallelism ? old : dealt++ % parallelism
        if (owner !== subtask) continue
        const bytes = Buffer.from(row, 'base64')
        this.add(codec.decode(bytes, 0, bytes.length), eventTime ?? Number.NaN)
      }
    })
  }

  snapshot(): JsonValue {
    const { codec } = this.options
    const requests = Array.from(this.queue.requests(), ({ row, eventTime }): JsonValue => {
      const time = Number.isNaN(eventTime) ? null : eventTime
      return [Buffer.from(codec.encode(row)).toString('base64'), time]
    })
    return { requests }
  }

  private add(row: unknown, eventTime: number): void {
    const request = new Request(row, eventTime)
    this.queue.add(request)
    this.waiting.push(request)
  }

  process(batch: Batch, from: number): number {
    const read = this.rows.readerOf(batch)
    for (let i = from; i < batch.length; i++) this.add(read(batch, i), batch.eventTime[i])
    this.call()
    return batch.length
  }

  advanceWatermark(watermark: number): boolean {
    this.queue.addWatermark(watermark)
    return true
  }

  currentWatermark(): number {
    return this.queue.watermark
  }

  /** Calls the function for waiting rows as far as there is capacity. */
  private call(): void {
    while (
      this.isOpen &&
      this.failure === null &&
      this.underWay < this.options.capacity &&
      this.nextWaiting < this.waiting.length
    ) {
      const request = this.waiting[this.nextWaiting++]
      this.underWay++
      this.setDeadline(request)
      this.attempt(request)
    }
    if (this.nextWaiting < this.waiting.length) return
    this.waiting = []
    this.nextWaiting = 0
  }

  private attempt(request: Request): void {
    request.attempt++
    this.listen(request, () => this.fn.asyncInvoke(request.row, request))
  }

  /** Runs user code and takes its answer, now or later, unless another one is expected by then. */
  private listen(request: Request, invoke: () => Answer): void {
    const ticket = ++request.expected
    const isStale = (): boolean => this.isClosed || request.expected !== ticket || request.isFinished
    const answered = (results: AsyncResults<unknown>): void => {
      if (!isStale()) this.guard(() => this.answered(request, results))
    }
    const failed = (error: unknown): void => {
      if (!isStale()) this.guard(() => this.rejected(request, error))
    }
    try {
      const answer = invoke()
      if (isPromise(answer)) (answer as PromiseLike<AsyncResults<unknown>>).then(answered, failed)
      else answered(answer as AsyncResults<unknown>)
    } catch (error) {
      failed(error)
    }
  }

  /** What user predicates throw fails the job: nobody else would see it in a promise reaction. */
  private guard(run: () => void): void {
    try {
      run()
    } catch (error) {
      this.fail(error)
    }
  }

  private answered(request: Request, answer: AsyncResults<unknown>): void {
    const results = resultsOf(answer, this.context.name)
    const { retry } = this.options
    if (!request.isTimedOut && retry !== null && retry.shouldRetryResult(results) && this.retry(request, retry)) return
    this.finish(request, results)
  }

  private rejected(request: Request, error: unknown): void {
    const { retry } = this.options
    if (!request.isTimedOut && retry !== null && retry.shouldRetryException(error) && this.retry(request, retry)) return
    this.fail(error)
  }

  private retry(request: Request, retry: AsyncRetryStrategy): boolean {
    if (request.attempt > retry.maxAttempts) return false
    // Until the next call nothing is expected.
    const ticket = ++request.expected
    const cancel = this.context.worker.io.timers.schedule(retry.backoffMs(request.attempt), () => {
      this.cancelRetries.delete(cancel)
      if (!this.isClosed && request.expected === ticket) this.attempt(request)
    })
    this.cancelRetries.add(cancel)
    return true
  }

  private finish(request: Request, results: readonly unknown[]): void {
    request.results = results
    this.deadlines.delete(request)
    this.queue.finished(request)
    this.context.wake()
  }

  private fail(error: unknown): void {
    if (this.isClosed) return
    this.failure ??= { error }
    this.context.wake()
  }

  // ---- time-outs ----

  private setDeadline(request: Request): void {
    const { timeoutMs } = this.options
    if (timeoutMs === 0) return
    request.deadlineMs = this.context.worker.io.clock.monotonicMs() + timeoutMs
    this.deadlines.add(request)
    if (this.cancelTimer === null) this.watch(timeoutMs)
  }

  private watch(delayMs: number): void {
    this.cancelTimer = this.context.worker.io.timers.schedule(delayMs, () => this.deadlinePassed())
  }

  private deadlinePassed(): void {
    this.cancelTimer = null
    if (this.isClosed) return
    const now = this.context.worker.io.clock.monotonicMs()
    for (const request of this.deadlines) {
      if (request.deadlineMs > now) {
        this.watch(Math.ceil(request.deadlineMs - now))
        break
      }
      this.deadlines.delete(request)
      this.suspects.push(request)
    }
    if (this.suspects.length > 0) this.context.wake()
  }

  private decideSuspects(): void {
    if (this.suspects.length === 0) return
    for (const request of this.suspects) {
      if (request.isFinished) continue
      request.isTimedOut = true
      const error = timeoutError(this.context.name, this.options.timeoutMs)
      request.abort(error)
      if (this.fn.timeout === undefined) throw error
      this.listen(request, () => this.fn.timeout!(request.row))
    }
    this.suspects = []
  }

  // ---- the operator's turn ----

  resume(output: Output): boolean {
    this.decideSuspects()
    if (this.failure !== null) throw userFunctionError(this.failure.error, this.context.name)
    const hasMore = this.emit(output)
    this.collector.flush(output)
    this.call()
    return !hasMore
  }

  /** Emits up to the next watermark; true when more may follow, after that watermark or when there is room. */
  private emit(output: Output): boolean {
    for (let emitted = 0; emitted < EMITTED_MAX; ) {
      const request = this.queue.take()
      if (request === null) return this.queue.passWatermark()
      this.underWay--
      for (const result of request.results!) this.collector.add(result, request.eventTime, output)
      emitted += request.results!.length
      if (output.blocked) return true
    }
    return true
  }

  /** Requests under way are given up; whoever listens to their signals may stop. */
  close(): void | Promise<void> {
    if (this.isClosed) return
    this.isClosed = true
    this.cancelTimer?.()
    for (const cancel of this.cancelRetries) cancel()
    const reason = new MillraceError('OPERATOR_CLOSED', `Operator ${JSON.stringify(this.context.name)} has ended.`)
    for (const request of this.queue.requests()) request.abort(reason)
    return this.fn.close?.()
  }
}

function resultsOf(answer: AsyncResults<unknown>, name: string): readonly unknown[] {
  if (Array.isArray(answer)) return answer
  if (answer === undefined || answer === null) return []
  // A text can be iterated too, but hardly anybody means its characters.
  if (typeof answer === 'object' && Symbol.iterator in answer) return Array.from(answer)
  throw new MillraceError(
    'ASYNC_RESULT_INVALID',
    `The function of operator ${JSON.stringify(name)} resolved to ${typeof answer}.`,
    { hint: 'Resolve to an array of results: [value], or [] for none.' },
  )
}

function timeoutError(name: string, timeoutMs: number): MillraceError {
  return new MillraceError(
    'ASYNC_TIMEOUT',
    `A request of operator ${JSON.stringify(name)} took longer than ${timeoutMs} ms.`,
    {
      domain: 'external',
      retryable: true,
      hint: 'Raise the time-out, or give the async function a `timeout` method that says what to emit instead.',
    },
  )
}
