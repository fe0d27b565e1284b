/**
 * The stream sink: rows one by one into an async iterator of the program that started the job, which holds the job
 * back while it does not ask.
 *
 * Called by `executeAndCollectAsync`. Writer and iterator share memory, so the job must run on the calling thread.
 * Guarantee: at-least-once; rows after the last checkpoint come again when the job restarts.
 *
 * Invariant: at most `capacity` rows wait; beyond, writers are blocked and so is what is before them.
 */
import type { Sink } from '../../engine/contract/sink.ts'
import { rowReader } from '../../engine/core/rows.ts'

const CAPACITY_DEFAULT = 1_024

export interface StreamSink<T> {
  readonly sink: Sink<T>
  /** The next row; `done` after `end`, once every row was taken. Rejects after `fail`, then too after the last row. */
  next(): Promise<IteratorResult<T, undefined>>
  /** No more rows will come. */
  end(): void
  fail(error: unknown): void
  /** Nobody will ask any more: rows are dropped, so that the job is not held back. */
  abandon(): void
}

interface Waiter<T> {
  resolve(result: IteratorResult<T, undefined>): void
  reject(error: unknown): void
}

export function streamSink<T = unknown>(options: { readonly capacity?: number } = {}): StreamSink<T> {
  const stream = new RowStream<T>(options.capacity ?? CAPACITY_DEFAULT)
  const sink: Sink<T> = {
    kind: 'stream',
    guarantee: 'at-least-once',
    createWriter(context) {
      const read = rowReader(context.schema, context.worker.interner, context.worker.uniqueId('stream'))
      stream.wakeWriter = () => context.wake()
      return {
        open: async () => {},
        write(batch, from) {
          let i = from
          while (i < batch.length && stream.offer(read(batch, i) as T)) i++
          return i
        },
        prepareCommit: async () => null,
        close: async () => {},
      }
    },
  }
  return {
    sink,
    next: () => stream.next(),
    end: () => stream.settle(null),
    fail: (error) => stream.settle({ error }),
    abandon: () => stream.abandon(),
  }
}

class RowStream<T> {
  wakeWriter: () => void = () => {}
  private readonly capacity: number
  /** Rows from `head` on wait. */
  private rows: T[] = []
  private head = 0
  private isRefused = false
  private isAbandoned = false
  private end: { readonly error: unknown } | 'ended' | null = null
  /** Calls of `next` that no row was there for, oldest first. */
  private readonly waiters: Waiter<T>[] = []

  constructor(capacity: number) {
    this.capacity = capacity
  }

  offer(row: T): boolean {
    if (this.isAbandoned) return true
    const waiter = this.waiters.shift()
    if (waiter !== undefined) {
      waiter.resolve({ done: false, value: row })
      return true
    }
    if (this.rows.length - this.head >= this.capacity) {
      this.isRefused = true
      return false
    }
    this.rows.push(row)
    return true
  }

  next(): Promise<IteratorResult<T, undefined>> {
    if (this.head < this.rows.length) return Promise.resolve({ done: false, value: this.take() })
    return new Promise((resolve, reject) => {
      this.waiters.push({ resolve, reject })
      this.answerEnd()
    })
  }

  private take(): T {
    const row = this.rows[this.head++]!
    if (this.head === this.rows.length) {
      this.rows = []
      this.head = 0
    }
    // Half empty, so that a writer has something to do when it is woken.
    if (this.isRefused && this.rows.length - this.head <= this.capacity / 2) {
      this.isRefused = false
      this.wakeWriter()
    }
    return row
  }

  settle(failure: { readonly error: unknown } | null): void {
    this.end ??= failure ?? 'ended'
    this.answerEnd()
  }

  private answerEnd(): void {
    if (this.end === null) return
    for (const waiter of this.waiters.splice(0)) {
      if (this.end === 'ended') waiter.resolve({ done: true, value: undefined })
      else waiter.reject(this.end.error)
    }
  }

  abandon(): void {
    this.isAbandoned = true
    this.rows = []
    this.head = 0
    this.settle(null)
    this.wakeWriter()
  }
}
