/**
 * What `import ... from 'millrace/state'` offers: reading and rewriting savepoints from a program. A reviewed list;
 * test/api-surface.txt must agree with it.
 */

export type { NewSavepointOptions } from '../runtime/savepoint-draft.ts'
export {
  type KeyedStateEntry,
  type SavepointOperator,
  SavepointReader,
  type StateOf,
  type WindowStateEntry,
} from '../runtime/savepoint-reader.ts'
export type { BootstrapEntry, WritableState } from '../runtime/savepoint-states.ts'
export { type BootstrapTarget, type OperatorBootstrap, SavepointWriter } from '../runtime/savepoint-writer.ts'
export { bootstrapWith } from './bootstrap.ts'
