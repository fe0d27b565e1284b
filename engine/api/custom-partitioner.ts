/**
 * From what a user gives to `partitionCustom` to the engine's row targets. Used by `DataStream.partitionCustom`.
 */
import { isPromise } from '../../operators/user-function.ts'
import type { Partitioner } from '../contract/functions.ts'
import { MillraceError } from '../core/errors.ts'
import type { RowTargets } from '../core/graph.ts'
import { rowReader } from '../core/rows.ts'
import { fieldIndex, type Schema } from '../core/schema.ts'
import { StringInterner } from '../core/strings.ts'
import { callingUser } from '../core/user-error.ts'
import { ownFunction } from './per-subtask.ts'

function promiseForPartition(): MillraceError {
  return new MillraceError('PROMISE_RETURNED', 'A partitioner returned a promise.', {
    hint: 'Partitioners are synchronous; compute the key in an earlier step.',
  })
}

/** Makes a fresh one for each subtask that sends. Throws `FIELD_UNKNOWN`. */
export function targetsFactory<T, K>(
  schema: Schema,
  partitioner: Partitioner<K>,
  selector: string | ((value: T) => K),
): () => RowTargets {
  if (typeof selector === 'string' && !schema.isOpaque) fieldIndex(schema, selector)
  return () => {
    const keyOf = typeof selector === 'string' ? (row: T) => row[selector as keyof T] as K : ownFunction(selector)
    const own = ownFunction(partitioner)
    const partition = typeof own === 'function' ? own : (key: K, count: number) => own.partition(key, count)
    const read = rowReader(schema, new StringInterner(), 'partitioner')
    const targetsOf: RowTargets = (batch, targets) => {
      const rows: number[] = []
      for (let i = 0; i < batch.length; i++) {
        const target = partition(keyOf(read(batch, i) as T), targets)
        if (isPromise(target)) throw promiseForPartition()
        rows.push(target)
      }
      return rows
    }
    return (batch, targets) => callingUser('A partitioner', () => targetsOf(batch, targets))
  }
}
