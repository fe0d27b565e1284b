/**
 * Sources fed by the program that runs the job: a queue, or any async iterable.
 *
 * For jobs inside a service. The queue lives in the caller's memory, so its subtask must run on the calling
 * thread (no worker threads); one subtask reads it.
 *
 * Guarantee: exactly-once over restarts within the process, because records stay in the queue until the
 * checkpoint that covers them is complete. They die with the process: what it must survive belongs into
 * a durable source. Without checkpointing records are dropped when they are read (at most once).
 */
import type { Source, SourcePoll, SourceReader, SourceReaderContext, SplitState } from '../../engine/contract/source.ts'
import { BATCH_ROWS_MAX } from '../../engine/core/batch.ts'
import { MillraceError, messageOf } from '../../engine/core/errors.ts'
import { BatchBuilder } from '../../engine/core/rows.ts'
import { OPAQUE_SCHEMA, type Schema } from '../../engine/core/schema.ts'
import { functionFailed } from '../../engine/core/user-error.ts'
import { RecordQueue } from './record-queue.ts'

const SPLIT = 'queue'
const CAPACITY = 10_000
const RETAINED_MAX = 1_000_000

export interface QueueOptions<T> {
  /** Columns of the records; without it a record is any JavaScript value. */
  readonly schema?: Schema<T>
  /** Records that may wait to be read; `put` waits beyond it. 10,000 by default. */
  readonly capacity?: number
  /** Records kept in all, those included that wait for a checkpoint. A million by default. */
  readonly retainedMax?: number
}

/** A source that the program feeds. */
export interface QueueSource<T> extends Source<T> {
  /** Takes a record if there is room; false when there is none. Throws `QUEUE_ENDED`. */
  offer(record: T): boolean
  /** Takes a record, waiting for room. Throws `QUEUE_ENDED`. */
  put(record: T): Promise<void>
  /** No more records come: the job's input ends. */
  end(): void
  /** Fails the job. */
  fail(error: unknown): void
  /** Records that wait to be read. */
  readonly size: number
}

/** Makes a queue that is a source. Throws `OPTION_INVALID`. */
export function queueSource<T>(options: QueueOptions<T> = {}): QueueSource<T> {
  const capacity = positive('capacity', options.capacity ?? CAPACITY)
  const retainedMax = positive('retainedMax', options.retainedMax ?? Math.max(RETAINED_MAX, capacity))
  const queue = new RecordQueue<T>({ capacity, retainedMax })
  return {
    ...sourceOf(queue, options.schema ?? (OPAQUE_SCHEMA as Schema<T>), null),
    offer: (record) => queue.offer(record),
    put: (record) => queue.put(record),
    end: () => queue.end(),
    fail: (error) => queue.fail(error),
    get size() {
      return queue.size
    },
  }
}

/**
 * A source of what an iterable gives: read only as fast as the job takes it, and closed (`return`) when the
 * job ends early. It is iterated once, from the first start of the job: `ITERABLE_CLOSED` in a later job.
 */
export function fromAsyncIterable<T>(
  iterable: AsyncIterable<T> | Iterable<T>,
  options: QueueOptions<T> = {},
): Source<T> {
  const capacity = positive('capacity', options.capacity ?? BATCH_ROWS_MAX)
  const retainedMax = positive('retainedMax', options.retainedMax ?? Math.max(RETAINED_MAX, capacity))
  const queue = new RecordQueue<T>({ capacity, retainedMax })
  const pump = new Pump<T>(iterable, queue)
  return {
    ...sourceOf(queue, options.schema ?? (OPAQUE_SCHEMA as Schema<T>), () => pump.start()),
    jobEnded: () => pump.stop(),
  }
}

/** Puts what an iterable gives into a queue. */
class Pump<T> {
  private readonly iterable: AsyncIterable<T> | Iterable<T>
  private readonly queue: RecordQueue<T>
  private iterator: AsyncIterator<T> | Iterator<T> | null = null
  private state: 'new' | 'reading' | 'read' | 'stopped' = 'new'

  constructor(iterable: AsyncIterable<T> | Iterable<T>, queue: RecordQueue<T>) {
    this.iterable = iterable
    this.queue = queue
  }

  /** Once, however often the job starts. */
  start(): void {
    if (this.state === 'stopped') {
      throw new MillraceError('ITERABLE_CLOSED', 'The iterable was closed when the job that read it ended.', {
        hint: 'Make a source for each job, of an iterable of its own.',
      })
    }
    if (this.state !== 'new') return
    this.state = 'reading'
    this.read().catch((thrown: unknown) => {
      this.state = 'read'
      this.queue.fail(functionFailed('The iterable of a source', thrown))
    })
  }

  private async read(): Promise<void> {
    const { iterable } = this
    const iterator = Symbol.asyncIterator in iterable ? iterable[Symbol.asyncIterator]() : iterable[Symbol.iterator]()
    this.iterator = iterator
    while (true) {
      const { done, value } = await iterator.next()
      // Whoever stopped it has asked the iterator to return.
      if (this.state === 'stopped') return
      if (done === true) break
      // As `for await` does with the promises of an iterable that is synchronous itself.
      await this.queue.put(await value)
    }
    this.state = 'read'
    this.queue.end()
  }

  /** The job has ended: nobody will take what is still to come. */
  stop(): void {
    if (this.state !== 'reading') return
    this.state = 'stopped'
    // An iterator that fails to close has nobody left to tell.
    Promise.resolve(this.iterator?.return?.()).catch(() => {})
  }
}

function positive(name: string, value: number): number {
  if (Number.isInteger(value) && value >= 1) return value
  throw new MillraceError('OPTION_INVALID', `${name} must be a whole number of at least 1, not ${value}.`)
}

function sourceOf<T>(queue: RecordQueue<T>, schema: Schema<T>, onOpen: (() => void) | null): Source<T> {
  // The coordinator asks for splits on the thread that made the queue; a worker thread has a copy of the queue
  // that nobody ever feeds, and nobody asks it.
  let isHere = false
  return {
    kind: 'queue',
    schema,
    boundedness: 'unbounded',
    async splits() {
      isHere = true
      return [{ id: SPLIT, position: 0 }]
    },
    createReader: (context) => new QueueReader(queue, schema, context, () => openHere(isHere, onOpen)),
  }
}

function openHere(isHere: boolean, onOpen: (() => void) | null): void {
  if (!isHere) {
    throw new MillraceError('QUEUE_NEEDS_CALLING_THREAD', 'A queue lives in the memory of the thread that made it.', {
      hint: 'Run the job on the calling thread: without { module }, or with --workers 0.',
    })
  }
  onOpen?.()
}

class QueueReader<T> implements SourceReader {
  private readonly queue: RecordQueue<T>
  private readonly builder: BatchBuilder
  private readonly context: SourceReaderContext
  private readonly onOpen: () => void
  private attached = false
  private readonly append = (record: T, sequence: number): void => {
    try {
      this.builder.append(record, Number.NaN)
    } catch (error) {
      throw new MillraceError('ROW_INVALID', `Record ${sequence} of the queue: ${messageOf(error)}`, { cause: error })
    }
  }

  constructor(queue: RecordQueue<T>, schema: Schema, context: SourceReaderContext, onOpen: () => void) {
    this.queue = queue
    this.builder = new BatchBuilder(schema)
    this.context = context
    this.onOpen = onOpen
  }

  async open(splits: readonly SplitState[]): Promise<void> {
    const split = splits[0]
    if (split === undefined) return
    this.onOpen()
    this.queue.attach(Number(split.position), this.context)
    this.attached = true
  }

  poll(rowsMax: number): SourcePoll {
    if (!this.attached) return { kind: 'end' }
    const taken = this.queue.take(Math.min(rowsMax, BATCH_ROWS_MAX), this.append)
    if (!this.context.checkpointing) this.queue.forget(this.queue.position)
    if (taken > 0) return { kind: 'batch', split: SPLIT, batch: this.builder.build() }
    return this.queue.isExhausted ? { kind: 'end' } : { kind: 'pending' }
  }

  snapshot(): readonly SplitState[] {
    return this.attached ? [{ id: SPLIT, position: this.queue.position }] : []
  }

  notifyCheckpointComplete(splits: readonly SplitState[]): void {
    for (const { position } of splits) this.queue.forget(Number(position))
  }

  async close(): Promise<void> {
    if (this.attached) this.queue.detach()
    this.attached = false
  }
}
