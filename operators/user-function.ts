/**
 * What every operator over lambdas needs to call them: rows to pass in, and errors that say whose
 * function failed and where.
 */
import type { OperatorContext } from '../engine/contract/operator.ts'
import type { Batch } from '../engine/core/batch.ts'
import { MillraceError, messageOf } from '../engine/core/errors.ts'
import { type RowReader, rowReader } from '../engine/core/rows.ts'
import type { Schema } from '../engine/core/schema.ts'

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

const ENGINE_ROOMS = ['operators/', 'engine/', 'state/'].map((room) => new URL(`../${room}`, import.meta.url).pathname)

/** The first stack line outside the engine and Node itself, without its indentation. */
function firstUserFrame(error: unknown): string | null {
  if (!(error instanceof Error) || error.stack === undefined) return null
  for (const line of error.stack.split('\n')) {
    const frame = line.trim()
    if (!frame.startsWith('at ') || frame.includes('node:') || frame.includes('<anonymous>')) continue
    if (!frame.includes('.test.') && ENGINE_ROOMS.some((room) => frame.includes(room))) continue
    return frame
  }
  return null
}

/**
 * What to throw when a user's function threw: `USER_FUNCTION_FAILED` with the operator, the message and
 * the user's own stack line. Errors that already say what to do pass unchanged.
 */
export function userFunctionError(error: unknown, operatorName: string): MillraceError {
  if (error instanceof MillraceError) return error
  const frame = firstUserFrame(error)
  return new MillraceError(
    'USER_FUNCTION_FAILED',
    `The function of operator ${JSON.stringify(operatorName)} failed: ${messageOf(error)}${frame === null ? '' : ` (${frame})`}.`,
    { cause: error },
  )
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
