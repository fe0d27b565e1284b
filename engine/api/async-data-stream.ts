/**
 * Asynchronous requests for the elements of a stream: Flink's AsyncDataStream.
 *
 * Requests under way are part of every checkpoint and are made again after a restore; a watermark waits for the
 * requests before it.
 */
import type { AsyncFunction, AsyncRequest, AsyncResults, AsyncRetryStrategy } from '../contract/functions.ts'
import { MillraceError } from '../core/errors.ts'
import { OPAQUE_SCHEMA, type Schema } from '../core/schema.ts'
import { type Duration, toMs } from '../core/time.ts'
import { checkFunction } from './check-function.ts'
import type { DataStream, SchemaOption, SingleOutputStreamOperator } from './data-stream.ts'
import { makeOperator } from './operators.ts'
import { perSubtaskOf } from './per-subtask.ts'

/** An async function that needs neither `open` nor a time-out handler. */
export type AsyncInvoke<T, R> = (value: T, request: AsyncRequest) => AsyncResults<R> | Promise<AsyncResults<R>>

/** Requests under way at once in a subtask, unless told. */
const CAPACITY_DEFAULT = 100

/**
 * Each function takes the stream; the function (of an object each subtask gets a copy, so keep what `open` makes in
 * its fields); how long an element may take (0: for ever), after which the function's `timeout` says what to emit,
 * or the job fails with `ASYNC_TIMEOUT`; and how many requests a subtask may have under way, beyond which it takes
 * no more input.
 */
export const AsyncDataStream = {
  /** Results in the order of their elements. */
  orderedWait<T, R>(
    stream: DataStream<T>,
    fn: AsyncFunction<T, R> | AsyncInvoke<T, R>,
    timeout: Duration | number,
    capacity: number = CAPACITY_DEFAULT,
    options?: SchemaOption<NoInfer<R>>,
  ): SingleOutputStreamOperator<R> {
    return asyncWait(stream, fn, { isOrdered: true, timeout, capacity, retry: null }, options)
  },

  /** Results as they come. With event time, they keep between the watermarks that their elements lay between. */
  unorderedWait<T, R>(
    stream: DataStream<T>,
    fn: AsyncFunction<T, R> | AsyncInvoke<T, R>,
    timeout: Duration | number,
    capacity: number = CAPACITY_DEFAULT,
    options?: SchemaOption<NoInfer<R>>,
  ): SingleOutputStreamOperator<R> {
    return asyncWait(stream, fn, { isOrdered: false, timeout, capacity, retry: null }, options)
  },

  /** As `orderedWait`; failed requests are made again. The time-out covers all of an element's requests. */
  orderedWaitWithRetry<T, R>(
    stream: DataStream<T>,
    fn: AsyncFunction<T, R> | AsyncInvoke<T, R>,
    timeout: Duration | number,
    capacity: number,
    retry: AsyncRetryStrategy,
    options?: SchemaOption<NoInfer<R>>,
  ): SingleOutputStreamOperator<R> {
    return asyncWait(stream, fn, { isOrdered: true, timeout, capacity, retry }, options)
  },

  /** As `unorderedWait`; failed requests are made again. The time-out covers all of an element's requests. */
  unorderedWaitWithRetry<T, R>(
    stream: DataStream<T>,
    fn: AsyncFunction<T, R> | AsyncInvoke<T, R>,
    timeout: Duration | number,
    capacity: number,
    retry: AsyncRetryStrategy,
    options?: SchemaOption<NoInfer<R>>,
  ): SingleOutputStreamOperator<R> {
    return asyncWait(stream, fn, { isOrdered: false, timeout, capacity, retry }, options)
  },
} as const

interface Settings {
  readonly isOrdered: boolean
  readonly timeout: Duration | number
  readonly capacity: number
  readonly retry: AsyncRetryStrategy | null
}

function asyncWait<T, R>(
  stream: DataStream<T>,
  fn: AsyncFunction<T, R> | AsyncInvoke<T, R>,
  { isOrdered, timeout, capacity, retry }: Settings,
  options: SchemaOption<R> | undefined,
): SingleOutputStreamOperator<R> {
  checkFunction(isOrdered ? 'orderedWait' : 'unorderedWait', fn, 'asyncInvoke')
  const timeoutMs = toMs(timeout)
  if (!(timeoutMs >= 0 && timeoutMs < Number.POSITIVE_INFINITY)) {
    throw new MillraceError('DURATION_INVALID', `A time-out of ${timeoutMs} ms is not possible.`, {
      hint: 'Give a duration above 0, for example seconds(30), or 0 for none.',
    })
  }
  if (!Number.isInteger(capacity) || capacity < 1) {
    throw new MillraceError('CAPACITY_INVALID', `${capacity} requests at once are not possible.`, {
      hint: 'Give a whole number from 1 on.',
    })
  }
  const output = options?.schema ?? (OPAQUE_SCHEMA as Schema<R>)
  const create = makeOperator.asyncWait(() => copyOf(fn), {
    isOrdered,
    timeoutMs,
    capacity,
    retry,
    outputSchema: output,
  })
  return stream.add('Async Wait', output, { role: 'operator', isKeyed: false, create })
}

/** Subtasks of one thread must not share what `open` stores. */
function copyOf<T, R>(fn: AsyncFunction<T, R> | AsyncInvoke<T, R>): AsyncFunction<T, R> {
  const made = perSubtaskOf(fn)?.()
  if (made !== undefined) return typeof made === 'function' ? { asyncInvoke: made } : made
  if (typeof fn === 'function') return { asyncInvoke: fn }
  return Object.assign(Object.create(Object.getPrototypeOf(fn) as object | null) as AsyncFunction<T, R>, fn)
}
