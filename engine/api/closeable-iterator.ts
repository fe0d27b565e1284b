/**
 * A stream's elements as an async iterator, with the job that makes them behind it.
 *
 * Made by the environment for `executeAndCollectAsync`. Invariant: when the iterator has ended, in whatever way,
 * nothing of its job runs any more.
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
  [Symbol.asyncIterator](): CloseableIterator<T>
}

/** The iterator over what `starting` resolves to; a job that fails rejects `next` after its last row. */
export function rowIterator<T>(rows: StreamSink<T>, starting: Promise<RunningJob>): CloseableIterator<T> {
  const ended = starting
    .then((job) => job.done)
    .then(
      () => rows.end(),
      (error: unknown) => rows.fail(error),
    )
  const close = async (): Promise<void> => {
    rows.abandon()
    const job = await starting.catch(() => null)
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
