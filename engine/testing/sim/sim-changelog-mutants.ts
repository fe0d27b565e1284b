/**
 * Bugs of changelogs that the simulator must find. Part of the list in sim-part-mutants.ts.
 */
import type { Output } from '../../contract/operator.ts'
import { type Batch, gatherBatch, withKinds } from '../../core/batch.ts'
import { RowKind } from '../../core/row-kinds.ts'
import type { SimShape } from './sim-input.ts'
import type { Mutant } from './sim-plant.ts'
import { changeOperators } from './sim-plant-parts.ts'

const onlyTotals = (shape: SimShape): SimShape => ({ ...shape, isAtLeastOnce: false, branches: ['changelogs'] })

/** As if what was there before were computed again, when it has changed already. */
function recomputed(batch: Batch): Batch {
  const { kinds, length } = batch
  if (kinds === null) return batch
  const rows = Int32Array.from({ length }, (_, i) => (kinds[i] === RowKind.UPDATE_BEFORE ? i + 1 : i))
  return withKinds(gatherBatch(withKinds(batch, null), rows, length), kinds)
}

const emitting =
  (change: (batch: Batch) => Batch | null) =>
  (output: Output): Output => ({
    emit(batch) {
      const changed = change(batch)
      if (changed !== null) output.emit(changed)
    },
    emitSide: (tag, batch) => output.emitSide(tag, batch),
    get blocked() {
      return output.blocked
    },
  })

/** Without the rows that say what was there before. */
function upserts(batch: Batch): Batch | null {
  const { kinds, length } = batch
  if (kinds === null) return batch
  const rows = Int32Array.from([...kinds.keys()].filter((i) => kinds[i] !== RowKind.UPDATE_BEFORE))
  return rows.length === length ? batch : gatherBatch(batch, rows, rows.length)
}

export const CHANGELOG_MUTANTS = {
  'recomputed-row-retracted': {
    what: 'a change takes back the row as it is now, not as it was sent',
    plant: () => ({
      shape: onlyTotals,
      graph: (graph) => changeOperators(graph, { of: /^changelogs-by-key$/, output: emitting(recomputed) }),
    }),
  },
  'half-of-a-pair-lost': {
    what: 'of a change only what is there now reaches an aggregate by another key',
    plant: () => ({
      shape: onlyTotals,
      graph: (graph) => changeOperators(graph, { of: /^changelogs-by-key$/, output: emitting(upserts) }),
    }),
  },
} as const satisfies Record<string, Mutant>
