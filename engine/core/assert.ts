/**
 * Invariant checks that stay on in production.
 *
 * An assertion states what the engine itself guarantees. It is never used on input from users or
 * from outside systems: those get a `MillraceError` that says what to do.
 */
import { MillraceError } from './errors.ts'

/** Throws an internal `MillraceError` when `condition` does not hold. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) {
    throw new MillraceError('INVARIANT_VIOLATED', `Invariant violated: ${message}.`, { domain: 'internal' })
  }
}
