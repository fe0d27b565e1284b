/**
 * Tells a user's function how checkpoints end. Used by whatever calls functions with a life, sinks included.
 *
 * Invariants: what the function throws carries the operator's name; a promise is refused, because nobody would wait for it.
 */
import type { CheckpointListener } from '../engine/contract/functions.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { isPromise, userFunctionError } from './user-function.ts'

/** `fn` need not listen. Throws `USER_FUNCTION_FAILED` and `ASYNC_FUNCTION`. */
export function checkpointListenerOf(
  fn: Partial<CheckpointListener> | null,
  operatorName: string,
): Required<CheckpointListener> {
  const tell = (method: keyof CheckpointListener, checkpointId: number): void => {
    // Typed as void, which a function that waits may still be given for.
    let returned: unknown
    try {
      returned = fn?.[method]?.(checkpointId)
    } catch (error) {
      throw userFunctionError(error, operatorName)
    }
    if (!isPromise(returned)) return
    throw new MillraceError(
      'ASYNC_FUNCTION',
      `${method} of operator ${JSON.stringify(operatorName)} returned a promise.`,
      { hint: 'Return nothing. Keep the promise of what takes time in a field, and let close wait for it.' },
    )
  }
  return {
    notifyCheckpointComplete: (checkpointId) => tell('notifyCheckpointComplete', checkpointId),
    notifyCheckpointAborted: (checkpointId) => tell('notifyCheckpointAborted', checkpointId),
  }
}
