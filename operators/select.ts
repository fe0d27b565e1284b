/**
 * Some columns of each row, under other names: nothing is computed or copied, so a changelog stays what it is.
 */
import type { Operator, Output } from '../engine/contract/operator.ts'
import { type Batch, projectBatch, sliceBatch, withKeys } from '../engine/core/batch.ts'
import type { Schema } from '../engine/core/schema.ts'

/** Column k of a result is column `indices[k]`, as field k of `outputSchema`. */
export function selectOperator(indices: readonly number[], outputSchema: Schema): Operator {
  return new SelectOperator(indices, outputSchema)
}

class SelectOperator implements Operator {
  private readonly indices: readonly number[]
  private readonly schema: Schema

  constructor(indices: readonly number[], schema: Schema) {
    this.indices = indices
    this.schema = schema
  }

  open(): void {}

  process(batch: Batch, from: number, output: Output): number {
    if (output.blocked) return from
    const { indices, schema } = this
    output.emit(withKeys(projectBatch(sliceBatch(batch, from, batch.length), { indices, schema }), null))
    return batch.length
  }

  advanceWatermark(): boolean {
    return true
  }
}
