/**
 * Names of side outputs.
 */
import type { OutputTag } from '../contract/functions.ts'
import { MillraceError } from '../core/errors.ts'

/** `const late = outputTag<Flight>('late')`: rows of type `T` under a name that is unique in its operator. */
export function outputTag<T>(id: string): OutputTag<T> {
  if (id === '') throw new MillraceError('OUTPUT_TAG_INVALID', 'An output tag needs a name.')
  return { id }
}
