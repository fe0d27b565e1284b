/**
 * Rows that a predicate keeps, as columns: no row is rebuilt.
 *
 * Removed rows are counted. A batch of which all rows stay passes as it is. Of a changelog, the predicate must give what
 * it gave before for the row that a change takes back; a row that a change moves in or out is inserted or deleted.
 */
import type { FilterFunction } from '../engine/contract/functions.ts'
import type { Operator, OperatorContext, Output } from '../engine/contract/operator.ts'
import { BATCH_ROWS_MAX, type Batch, gatherBatch, sliceBatch, withKeys } from '../engine/core/batch.ts'
import { asyncFunctionError, isPromise, RowSource, userFunctionError } from './user-function.ts'

/** Keeps rows for which `predicate` returns a truthy value. */
export function filterOperator<T>(predicate: FilterFunction<T>): Operator {
  return new FilterOperator(predicate as FilterFunction<unknown>)
}

class FilterOperator implements Operator {
  private readonly predicate: FilterFunction<unknown>
  private readonly kept = new Int32Array(BATCH_ROWS_MAX)
  private context!: OperatorContext
  private rows!: RowSource

  constructor(predicate: FilterFunction<unknown>) {
    this.predicate = predicate
  }

  open(context: OperatorContext): void {
    this.context = context
    this.rows = new RowSource(context)
  }

  process(batch: Batch, from: number, output: Output): number {
    if (output.blocked) return from
    const read = this.rows.readerOf(batch)
    const { kept, predicate } = this
    let count = 0
    try {
      for (let i = from; i < batch.length; i++) {
        const keeps: unknown = predicate(read(batch, i))
        if (isPromise(keeps)) throw asyncFunctionError(this.context.name)
        if (keeps) kept[count++] = i
      }
    } catch (error) {
      throw userFunctionError(error, this.context.name)
    }
    const seen = batch.length - from
    this.context.counters.filtered += seen - count
    if (count === seen && count > 0) output.emit(withKeys(sliceBatch(batch, from, batch.length), null))
    else if (count > 0) output.emit(gatherBatch(withKeys(batch, null), kept, count))
    return batch.length
  }

  advanceWatermark(): boolean {
    return true
  }
}
