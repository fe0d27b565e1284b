/**
 * Takes an operator with all of its state out of one checkpoint into the stores of another. Used by
 * savepoint-writer.ts for operators whose state a bootstrap job made.
 *
 * Invariant: bytes of keys and values stay as they are, but for the operator's id: what is adopted is what the engine wrote.
 */
import { setImmediate as turn } from 'node:timers/promises'
import { keyGroupPrefix, prefixEnd, WriteBatchBuilder } from '../../state/keyed-layout.ts'
import type { ManifestOperator } from '../checkpoint/manifest.ts'
import type { KeyedStore } from '../contract/keyed-store.ts'

export interface Adoption {
  readonly from: readonly KeyedStore[]
  /** As the checkpoint that it comes from has it. */
  readonly operator: ManifestOperator
  /** Its id in the stores that take it. */
  readonly operatorId: number
  readonly keyGroups: number
  /** The store that takes a key group. */
  readonly storeOf: (keyGroup: number) => KeyedStore
}

/** Copies the operator's rows, a few turns of the event loop for many of them. */
export async function adoptRows({ from, operator, operatorId, keyGroups, storeOf }: Adoption): Promise<void> {
  const batch = new WriteBatchBuilder()
  for (let group = 0; group < keyGroups; group++) {
    const prefix = keyGroupPrefix(operator.operatorId, group)
    const renamed = keyGroupPrefix(operatorId, group)
    for (const store of from) {
      const scan = store.scan(prefix, prefixEnd(prefix))
      try {
        for (let chunk = scan.next(); chunk !== null; chunk = scan.next()) {
          const { keys, values } = chunk
          for (let row = 0; row < keys.count; row++) {
            const start = keys.offsets[row]! + prefix.length
            batch.keys.add(renamed, 0, renamed.length)
            batch.keys.add(keys.bytes, start, keys.offsets[row + 1]!)
            batch.values.add(values.bytes, values.offsets[row]!, values.offsets[row + 1]!)
            batch.endPut()
          }
          storeOf(group).write(batch.batch())
          batch.clear()
          await turn()
        }
      } finally {
        scan.close()
      }
    }
  }
}
