/**
 * Errors that say whose function failed and where: what the engine throws when something that a user wrote threw.
 *
 * Called by operators (operators/user-function.ts), the API's functions that run outside operators (key selectors,
 * timestamp assigners, ...) and connectors that call functions.
 */
import { MillraceError, messageOf } from './errors.ts'
import { packageFolders } from './own-module.ts'

const ENGINE_ROOMS = packageFolders(['operators', 'engine', 'state', 'connectors'])

/** The first stack line outside the engine and Node itself, without its indentation. */
function firstUserFrame(error: unknown): string | null {
  if (!(error instanceof Error) || error.stack === undefined) return null
  for (const line of error.stack.split('\n')) {
    const frame = line.trim()
    if (!frame.startsWith('at ') || frame.includes('node:') || /<anonymous>\)?$/.test(frame)) continue
    if (!frame.includes('.test.') && ENGINE_ROOMS.some((room) => frame.includes(room))) continue
    return frame
  }
  return null
}

/**
 * `USER_FUNCTION_FAILED`: "`whose` failed", with the message, the user's own stack line, and what was thrown as its cause.
 * Errors that already say what to do pass unchanged.
 */
export function functionFailed(whose: string, thrown: unknown): MillraceError {
  if (thrown instanceof MillraceError) return thrown
  const frame = firstUserFrame(thrown)
  const place = frame === null ? '' : ` (${frame})`
  return new MillraceError('USER_FUNCTION_FAILED', `${whose} failed: ${messageOf(thrown)}${place}.`, { cause: thrown })
}

/** Calls `fn`, whose errors are those of `whose`. */
export function callingUser<R>(whose: string, fn: () => R): R {
  try {
    return fn()
  } catch (thrown) {
    throw functionFailed(whose, thrown)
  }
}
