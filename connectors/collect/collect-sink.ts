/**
 * The collect sink: rows into an array of the program that started the job.
 *
 * Called by `executeAndCollect` and by tests. Rows arrive in the coordinator's thread, so they must survive
 * a structured clone (no functions, no class identity).
 *
 * Guarantee: at-least-once by default, each row as soon as it is written. With `exactlyOnce`, rows go
 * through the outbox and appear when their checkpoint completes; the marker lives in memory, with the
 * rows, so the promise holds over restarts of the job within the process, not over a new process.
 */
import { deserialize, serialize } from 'node:v8'
import type { OutboxSegment, OutboxWriter, Sink, SinkCommitter, SinkWriterContext } from '../../engine/contract/sink.ts'
import { MillraceError } from '../../engine/core/errors.ts'
import { rowReader } from '../../engine/core/rows.ts'

/** Above this the writer of the exactly-once form waits for the disk. */
const BUFFERED_BYTES_MAX = 4 * 1024 * 1024

export interface CollectSinkOptions {
  readonly exactlyOnce?: boolean
}

export interface CollectSink<T> extends Sink<T> {
  /** The rows so far, in order of arrival; the same array for ever. */
  readonly results: readonly T[]
  /** This object, for callers who hold it as `collected` and hand on `collected.sink`. */
  readonly sink: Sink<T>
  /** A copy of the rows so far. */
  rows(): T[]
}

/** Makes the sink. The array grows without bound: meant for results that fit memory. */
export function collectSink<T = unknown>(options: CollectSinkOptions = {}): CollectSink<T> {
  const results: T[] = []
  const sink = options.exactlyOnce === true ? exactlyOnceSink(results) : postingSink(results)
  const collected: Omit<CollectSink<T>, 'sink'> = { ...sink, results, rows: () => [...results] }
  return Object.assign(collected, { sink })
}

function postingSink<T>(results: T[]): Sink<T> {
  return {
    kind: 'collect',
    guarantee: 'at-least-once',
    createWriter(context) {
      const read = rowReader(context.schema, context.worker.interner, context.worker.uniqueId('collect'))
      return {
        open: async () => {},
        write(batch, from) {
          const rows: unknown[] = []
          for (let i = from; i < batch.length; i++) rows.push(read(batch, i))
          if (rows.length > 0) context.post(rows)
          return batch.length
        },
        // What was written is posted already.
        prepareCommit: async () => null,
        close: async () => {},
      }
    },
    onMessage: (message) => {
      for (const row of message as T[]) results.push(row)
    },
  }
}

function exactlyOnceSink<T>(results: T[]): Sink<T> {
  let marker = 0
  let owner: SinkCommitter | null = null
  return {
    kind: 'collect',
    guarantee: 'exactly-once',
    createWriter: outboxWriter,
    createCommitter(context) {
      const committer: SinkCommitter = {
        async open() {
          owner = committer
        },
        readMarker: async () => marker,
        async commit(epoch, committables) {
          if (epoch <= marker) return
          const rows: T[] = []
          for (const segment of committables) {
            const records = context.readOutbox(segment as unknown as OutboxSegment)
            for await (const record of records) rows.push(deserialize(record) as T)
          }
          // Checked last: the reading above let others run.
          if (owner !== committer) {
            throw new MillraceError('SINK_FENCED', 'Another run of the job has taken over the collect sink.')
          }
          if (epoch <= marker) return
          for (const row of rows) results.push(row)
          marker = epoch
        },
        close: async () => {},
      }
      return committer
    },
  }
}

function outboxWriter(context: SinkWriterContext) {
  const read = rowReader(context.schema, context.worker.interner, context.worker.uniqueId('collect'))
  let outbox: OutboxWriter | null = null
  let flushing: Promise<void> | null = null
  let failure: { readonly error: unknown } | null = null
  const flush = (): void => {
    flushing ??= outbox!.flush().then(
      () => {
        flushing = null
        context.wake()
      },
      (error: unknown) => {
        flushing = null
        failure = { error }
        context.fail(error)
      },
    )
  }
  return {
    async open(): Promise<void> {
      outbox = context.createOutbox()
    },
    write(batch: Parameters<typeof read>[0], from: number): number {
      for (let i = from; i < batch.length; i++) {
        if (outbox!.bufferedBytes > BUFFERED_BYTES_MAX) {
          flush()
          return i
        }
        // Node's serialisation rather than JSON: NaN, bigint, Date, Map and undefined stay what they are.
        outbox!.append(serialize(read(batch, i)))
      }
      return batch.length
    },
    async prepareCommit() {
      // Called before anything is awaited: this is where the output is cut.
      const sealed = outbox!.seal()
      const [segment] = await Promise.all([sealed, flushing])
      if (failure !== null) throw failure.error
      return segment === null ? null : { ...segment }
    },
    async close(): Promise<void> {
      await outbox?.close()
    },
  }
}
