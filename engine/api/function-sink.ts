/**
 * A function, or an object with `invoke`, as an at-least-once sink. Used by `DataStream.addSink`.
 *
 * Invariant: a checkpoint completes only when every call begun before its barrier has ended without an
 * error, also those that returned a promise.
 */
import type { Sink, SinkWriter, SinkWriterContext } from '../contract/sink.ts'
import type { Batch } from '../core/batch.ts'
import type { JsonValue } from '../core/json-value.ts'
import { type RowReader, rowReader } from '../core/rows.ts'

/** Called once for each element, and again after a restart for those since the last checkpoint. */
export type SinkFunction<T> =
  | ((value: T) => void | Promise<void>)
  | {
      invoke(value: T): void | Promise<void>
      open?(): void | Promise<void>
      close?(): void | Promise<void>
    }

/** Calls under way at most, a subtask; beyond it the sink is blocked. */
const OUTSTANDING_MAX = 1_000

class FunctionSinkWriter<T> implements SinkWriter {
  private readonly fn: SinkFunction<T>
  private readonly context: SinkWriterContext
  private readonly read: RowReader
  private readonly outstanding = new Set<Promise<void>>()
  private failure: { readonly cause: unknown } | null = null
  private isFull = false

  constructor(fn: SinkFunction<T>, context: SinkWriterContext) {
    this.fn = fn
    this.context = context
    this.read = rowReader(context.schema, context.worker.interner, context.worker.uniqueId('function sink'))
  }

  async open(): Promise<void> {
    if (typeof this.fn === 'object') await this.fn.open?.()
  }

  write(batch: Batch, from: number): number {
    for (let i = from; i < batch.length; i++) {
      if (this.outstanding.size >= OUTSTANDING_MAX) {
        this.isFull = true
        return i
      }
      const value = this.read(batch, i) as T
      const result = typeof this.fn === 'function' ? this.fn(value) : this.fn.invoke(value)
      if (result instanceof Promise) this.track(result)
    }
    return batch.length
  }

  private track(call: Promise<void>): void {
    const settled = call
      .catch((cause: unknown) => {
        this.failure ??= { cause }
        this.context.fail(cause)
      })
      .then(() => {
        this.outstanding.delete(settled)
        if (!this.isFull) return
        this.isFull = false
        this.context.wake()
      })
    this.outstanding.add(settled)
  }

  async prepareCommit(): Promise<JsonValue | null> {
    await Promise.all(this.outstanding)
    if (this.failure !== null) throw this.failure.cause
    return null
  }

  async close(): Promise<void> {
    await Promise.all(this.outstanding)
    if (typeof this.fn === 'object') await this.fn.close?.()
  }
}

export function functionSink<T>(fn: SinkFunction<T>): Sink {
  return {
    kind: 'function',
    guarantee: 'at-least-once',
    createWriter: (context) => new FunctionSinkWriter(fn, context),
  }
}
