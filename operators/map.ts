/**
 * One result for each row.
 *
 * Rows keep their event time. The results of a batch fit one batch, so a batch is taken as a whole or, when
 * the output is blocked, not at all. Results of a changelog have the kinds of their rows: then the function must give
 * the same result for the same row, or what was sent could not be taken back.
 */
import type { MapFunction } from '../engine/contract/functions.ts'
import type { Operator, OperatorContext, Output } from '../engine/contract/operator.ts'
import type { Batch } from '../engine/core/batch.ts'
import { OPAQUE_SCHEMA, type Schema } from '../engine/core/schema.ts'
import { RowCollector } from './collector.ts'
import { asyncFunctionError, isPromise, RowSource, userFunctionError } from './user-function.ts'

/** `outputSchema` says what `fn` returns; results are opaque values without one. */
export function mapOperator<T, R>(fn: MapFunction<T, R>, outputSchema: Schema = OPAQUE_SCHEMA): Operator {
  return new MapOperator(fn as MapFunction<unknown, unknown>, outputSchema)
}

class MapOperator implements Operator {
  private readonly fn: MapFunction<unknown, unknown>
  private readonly collector: RowCollector
  private name = ''
  private rows!: RowSource

  constructor(fn: MapFunction<unknown, unknown>, outputSchema: Schema) {
    this.fn = fn
    this.collector = new RowCollector(outputSchema)
  }

  open(context: OperatorContext): void {
    this.name = context.name
    this.rows = new RowSource(context)
  }

  process(batch: Batch, from: number, output: Output): number {
    if (output.blocked) return from
    const read = this.rows.readerOf(batch)
    const { eventTime, kinds } = batch
    this.collector.kinds = kinds === null ? null : kinds.slice(from)
    const fn = this.fn
    try {
      for (let i = from; i < batch.length; i++) {
        const result = fn(read(batch, i))
        if (isPromise(result)) throw asyncFunctionError(this.name)
        this.collector.add(result, eventTime[i], output)
      }
    } catch (error) {
      throw userFunctionError(error, this.name)
    }
    this.collector.flush(output)
    return batch.length
  }

  advanceWatermark(): boolean {
    return true
  }
}
