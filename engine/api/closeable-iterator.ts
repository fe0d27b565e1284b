/**
 * A stream's elements as an async iterator, with the job that makes them behind it.
 *
 * Made by the environment for `executeAndCollectAsync` and `collectAsync`. Invariant: when the iterator has ended, in
 * whatever way, nothing of its job runs any more; one that was closed before its job started lets rows go.
 */
import type { StreamSink } from '../../connectors/collect/stream-sink.ts'
import { MillraceError } from '../core/errors.ts'
import type { RunningJob } from '../runtime/launcher-types.ts'

/** Flink's CloseableIterator as an async iterator. */
export interface CloseableIterator<T> extends AsyncIterableIterator<T, undefined> {
  next(): Promise<IteratorResult<T, undefined>>
  return(): Promise<IteratorResult<T, undefined>>
  /** Cancels the job, if it still runs, and resolves when it has ended. */
  close(): Promise<void>
  /** As `close`: for `await using`. */
  [Symbol.asyncDispose](): Promise<void>
  [Symbol.asyncIterator](): CloseableIterator<T>
}

/** A job that iterators wait for. */
export class AwaitedJob {
  hasStarted = false
  readonly job: Promise<RunningJob>
  private readonly settle: (job: Promise<RunningJob>) => void

  constructor() {
    const { promise, resolve } = Promise.withResolvers<RunningJob>()
    this.job = promise
    this.settle = resolve
  }

  start(job: Promise<RunningJob>): void {
    this.hasStarted = true
    this.settle(job)
  }
}

/** The iterator over the rows of a job; a job that fails rejects `next` after its last row. */
export function rowIterator<T>(rows: StreamSink<T>, awaited: AwaitedJob): CloseableIterator<T> {
  const ended = awaited.job
    .then((job) => job.done)
    .then(
      () => rows.end(),
      (error: unknown) => rows.fail(error),
    )
  const close = async (): Promise<void> => {
    rows.abandon()
    if (!awaited.hasStarted) return
    const job = await awaited.job.catch(() => null)
    await job?.cancel()
    await ended
  }
  const iterator: CloseableIterator<T> = {
    next: () => rows.next(),
    async return() {
      await close()
      return { done: true, value: undefined }
    },
    close,
    [Symbol.asyncDispose]: close,
    [Symbol.asyncIterator]: () => iterator,
  }
  return iterator
}

/** The first `limit` elements; throws `LIMIT_INVALID`. */
export async function firstOf<T>(iterator: CloseableIterator<T>, limit: number): Promise<T[]> {
  try {
    if (!Number.isInteger(limit) || limit < 1) {
      throw new MillraceError('LIMIT_INVALID', `${limit} elements cannot be collected.`, {
        hint: 'Give a whole number from 1 on.',
      })
    }
    const elements: T[] = []
    while (elements.length < limit) {
      const next = await iterator.next()
      if (next.done === true) break
      elements.push(next.value)
    }
    return elements
  } finally {
    await iterator.close()
  }
}
