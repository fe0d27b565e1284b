/**
 * From what a user gives to `keyBy` to the engine's key extractor. Used by `DataStream.keyBy`.
 */
import { isPromise } from '../../operators/user-function.ts'
import type { KeySelector } from '../contract/functions.ts'
import type { Batch, KeyColumn } from '../core/batch.ts'
import { MillraceError } from '../core/errors.ts'
import { fieldKeyExtractor, type Key, valueKeyExtractor } from '../core/keys.ts'
import { rowReader } from '../core/rows.ts'
import { fieldIndex, type Schema } from '../core/schema.ts'
import { StringInterner } from '../core/strings.ts'
import { callingUser } from '../core/user-error.ts'
import { ownFunction } from './per-subtask.ts'

/** Names of the fields of `T` whose values may be keys. */
export type KeyField<T> = { [F in keyof T & string]-?: T[F] extends Key ? F : never }[keyof T & string]

/** Makes a fresh extractor for each subtask that sends. Throws `FIELD_UNKNOWN`. */
export function keysFactory<T>(
  schema: Schema,
  selector: string | KeySelector<T, Key>,
): () => (batch: Batch) => KeyColumn {
  if (typeof selector === 'function') return selectorKeys(schema, selector)
  if (schema.isOpaque) {
    return selectorKeys<Readonly<Record<string, Key>>>(schema, (row) => row[selector]!)
  }
  const index = fieldIndex(schema, selector)
  if (schema.fields[index]!.kind === 'opaque') {
    return selectorKeys<Readonly<Record<string, Key>>>(schema, (row) => row[selector]!)
  }
  return () => fieldKeyExtractor(schema, index)
}

function selectorKeys<T>(schema: Schema, selector: KeySelector<T, Key>): () => (batch: Batch) => KeyColumn {
  return () => {
    const read = rowReader(schema, new StringInterner(), 'key selector')
    const select = ownFunction(selector)
    const extract = valueKeyExtractor((batch, i) => {
      const key: unknown = select(read(batch, i) as T)
      if (isPromise(key)) {
        throw new MillraceError('PROMISE_RETURNED', 'A key selector returned a promise.', {
          hint: 'Key selectors are synchronous; compute the key in an earlier step.',
        })
      }
      return key
    })
    return (batch) => callingUser('A key selector', () => extract(batch))
  }
}
