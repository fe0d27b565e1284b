/**
 * The memory behind a queue source: records with sequence numbers, kept until no restart can need them.
 *
 * One producer side (`RecordQueue`'s public methods, called by the user's program) and one reader at a time
 * (queue-source.ts). Records are numbered from 0. [base, next) are kept: those below `read` were given to the
 * job and wait for a checkpoint that covers them, the others wait to be read.
 *
 * Invariants:
 * - At most `capacity` records wait to be read, and at most `retainedMax` are kept in all.
 * - A record is dropped only once a completed checkpoint lies behind it, or at once when there are none.
 * - After `end` or `fail` nothing is taken any more.
 */
import { MillraceError } from '../../engine/core/errors.ts'

/** Dropping from the front of an array costs its length, so it is done in bulk. */
const TRIM_MIN = 4_096

export interface RecordQueueOptions {
  readonly capacity: number
  readonly retainedMax: number
}

export interface QueueReaderHandle {
  wake(): void
  fail(error: unknown): void
}

export class RecordQueue<T> {
  private readonly options: RecordQueueOptions
  private records: T[] = []
  /** Sequence number of records[dropped]. */
  private base = 0
  /** Leading entries of `records` that are dropped already. */
  private dropped = 0
  private read = 0
  private state: 'open' | 'ended' | 'failed' = 'open'
  private failure: unknown = null
  private reader: QueueReaderHandle | null = null
  /** Producers that wait for room, oldest first. */
  private readonly waiters: (() => void)[] = []

  constructor(options: RecordQueueOptions) {
    this.options = options
  }

  private get next(): number {
    return this.base + this.records.length - this.dropped
  }

  private get hasRoom(): boolean {
    return this.next - this.read < this.options.capacity && this.next - this.base < this.options.retainedMax
  }

  // ---- the producer's side ----

  /** Takes a record if there is room; false when there is none. Throws `QUEUE_ENDED` after `end` or `fail`. */
  offer(record: T): boolean {
    if (this.state !== 'open') {
      throw new MillraceError('QUEUE_ENDED', 'The queue was ended: it takes no more records.', {
        hint: 'Make a new queue for a new job.',
      })
    }
    if (!this.hasRoom) return false
    this.records.push(record)
    this.reader?.wake()
    return true
  }

  /** Takes a record, waiting for room: back-pressure to the caller. Throws `QUEUE_ENDED`. */
  async put(record: T): Promise<void> {
    while (!this.offer(record)) await new Promise<void>((resolve) => this.waiters.push(resolve))
  }

  /** There are no more records: the source ends behind the last one. */
  end(): void {
    if (this.state === 'open') this.state = 'ended'
    this.reader?.wake()
    this.releaseWaiters()
  }

  /** Fails the job that reads the queue. */
  fail(error: unknown): void {
    if (this.state === 'failed') return
    this.state = 'failed'
    this.failure = error
    this.reader?.fail(error)
    this.releaseWaiters()
  }

  /** Records that wait to be read. */
  get size(): number {
    return this.next - this.read
  }

  private releaseWaiters(): void {
    if (this.state === 'open' && !this.hasRoom) return
    for (const waiter of this.waiters.splice(0)) waiter()
  }

  // ---- the reader's side ----

  /** Begins to read at record `position`. Throws `QUEUE_IN_USE` and `POSITION_INVALID`. */
  attach(position: number, reader: QueueReaderHandle): void {
    if (this.reader !== null) {
      throw new MillraceError('QUEUE_IN_USE', 'The queue is read by a running job already.', {
        hint: 'Make a queue for each job.',
      })
    }
    const isUntouched = this.next === 0
    // A new process goes on from an old one's checkpoint: its first record takes the next number.
    if (isUntouched) this.base = position
    if (position < this.base || position > this.next) {
      throw new MillraceError(
        'POSITION_INVALID',
        `The checkpoint goes on at record ${position} of the queue, which holds ${this.base} to ${this.next - 1}.`,
        { hint: 'Start the job without the checkpoint, or give it the queue that it had.' },
      )
    }
    this.read = position
    this.reader = reader
    if (this.state === 'failed') reader.fail(this.failure)
  }

  detach(): void {
    this.reader = null
  }

  get position(): number {
    return this.read
  }

  /** Hands up to `max` records to `each`; how many it were. */
  take(max: number, each: (record: T, sequence: number) => void): number {
    const count = Math.min(max, this.next - this.read)
    const at = this.dropped + this.read - this.base
    for (let i = 0; i < count; i++) each(this.records[at + i]!, this.read + i)
    this.read += count
    if (count > 0) this.releaseWaiters()
    return count
  }

  /** No more records will come, and all were taken. */
  get isExhausted(): boolean {
    return this.state === 'ended' && this.read === this.next
  }

  /** Nobody goes back behind `position`. */
  forget(position: number): void {
    const count = Math.min(position, this.read) - this.base
    if (count <= 0) return
    this.base += count
    this.dropped += count
    if (this.dropped >= TRIM_MIN && this.dropped * 2 >= this.records.length) {
      this.records.splice(0, this.dropped)
      this.dropped = 0
    }
    this.releaseWaiters()
  }
}
