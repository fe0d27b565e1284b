/**
 * Any number of results for each row, returned or pushed.
 *
 * Rows keep their event time. Resumable between rows; what one row produces beyond a batch leaves in
 * further full batches at once, since an output always accepts.
 */
import type { FlatMapFunction } from '../engine/contract/functions.ts'
import type { Operator, OperatorContext, Output } from '../engine/contract/operator.ts'
import type { Batch } from '../engine/core/batch.ts'
import { OPAQUE_SCHEMA, type Schema } from '../engine/core/schema.ts'
import { RowCollector } from './collector.ts'
import { asyncFunctionError, isPromise, RowSource, userFunctionError } from './user-function.ts'

/** `outputSchema` says what `fn` produces; results are opaque values without one. */
export function flatMapOperator<T, R>(fn: FlatMapFunction<T, R>, outputSchema: Schema = OPAQUE_SCHEMA): Operator {
  return new FlatMapOperator(fn as FlatMapFunction<unknown, unknown>, outputSchema)
}

class FlatMapOperator implements Operator {
  private readonly fn: FlatMapFunction<unknown, unknown>
  private readonly collector: RowCollector
  private name = ''
  private rows!: RowSource

  constructor(fn: FlatMapFunction<unknown, unknown>, outputSchema: Schema) {
    this.fn = fn
    this.collector = new RowCollector(outputSchema)
  }

  open(context: OperatorContext): void {
    this.name = context.name
    this.rows = new RowSource(context)
  }

  process(batch: Batch, from: number, output: Output): number {
    const read = this.rows.readerOf(batch)
    const { collector, fn, name } = this
    let time = Number.NaN
    let emitted = true
    const collect = (result: unknown): void => {
      if (isPromise(result)) throw asyncFunctionError(name)
      if (collector.add(result, time, output)) emitted = true
    }
    let i = from
    try {
      for (; i < batch.length; i++) {
        // The output can only become blocked by a batch that left.
        if (emitted && output.blocked) break
        emitted = false
        time = batch.eventTime[i]
        const results: unknown = fn(read(batch, i), collect)
        if (results === undefined) continue
        if (isPromise(results)) throw asyncFunctionError(name)
        for (const result of results as Iterable<unknown>) collect(result)
      }
    } catch (error) {
      throw userFunctionError(error, name)
    }
    collector.flush(output)
    return i
  }

  advanceWatermark(): boolean {
    return true
  }
}
