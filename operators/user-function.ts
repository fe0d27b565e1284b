/**
 * What every operator over lambdas needs to call them: rows to pass in, and errors that say whose
 * function failed and where.
 */
import type { OperatorContext } from '../engine/contract/operator.ts'
import type { Batch } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { type RowReader, rowReader } from '../engine/core/rows.ts'
import type { Schema } from '../engine/core/schema.ts'
import { functionFailed } from '../engine/core/user-error.ts'

/** Makes the row reader of whatever schema arrives; an operator's input has one schema. */
export class RowSource {
  private readonly context: OperatorContext
  private schema: Schema | null = null
  private reader: RowReader = () => undefined

  constructor(context: OperatorContext) {
    this.context = context
  }

  readerOf(batch: Batch): RowReader {
    if (batch.schema !== this.schema) {
      this.schema = batch.schema
      const { interner } = this.context.worker
      this.reader = rowReader(batch.schema, interner, this.context.worker.uniqueId(this.context.name))
    }
    return this.reader
  }
}

/**
 * What to throw when a user's function threw: `USER_FUNCTION_FAILED` with the operator, the message and
 * the user's own stack line. Errors that already say what to do pass unchanged.
 */
export function userFunctionError(error: unknown, operatorName: string): MillraceError {
  return functionFailed(`The function of operator ${JSON.stringify(operatorName)}`, error)
}

/**
 * True for promises, at the cost of a type test for anything that is not an object. Whoever asks refuses a promise, or
 * listens to it by itself: one that is refused and rejects afterwards must not end the process as unhandled.
 */
export function isPromise(value: unknown): boolean {
  if (typeof value !== 'object' || value === null || typeof (value as { then?: unknown }).then !== 'function')
    return false
  if (value instanceof Promise) value.catch(() => {})
  return true
}

/** `ASYNC_FUNCTION`: a synchronous operator got a promise. */
export function asyncFunctionError(operatorName: string): MillraceError {
  return new MillraceError(
    'ASYNC_FUNCTION',
    `The function of operator ${JSON.stringify(operatorName)} returned a promise.`,
    {
      hint: 'Use the async operator (AsyncDataStream) for functions that wait, or return the value itself.',
    },
  )
}
