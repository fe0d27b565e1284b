/**
 * Makes a changelog of mode `all` of one of mode `upsert`: adds what was there before, and leaves out what changes nothing.
 *
 * Flink's ChangelogNormalize: rows are keyed by what identifies them. A delete may hold the key alone: what is deleted is
 * the row that was there, as it was sent.
 */
import type { Operator, Output } from '../engine/contract/operator.ts'
import { isRetraction, RowKind } from '../engine/core/row-kinds.ts'
import { KeyedRows, type KeyedRowsOptions } from './keyed-rows.ts'
import { equalBytes } from './row-list.ts'

export function changelogNormalizeOperator(options: KeyedRowsOptions): Operator {
  return new ChangelogNormalizeOperator('normalized', options)
}

class ChangelogNormalizeOperator extends KeyedRows implements Operator {
  protected change(rows: Uint8Array[], kind: number, row: Uint8Array): void {
    rows.length = 0
    if (!isRetraction(kind)) rows.push(row)
  }

  protected emit(before: Uint8Array | null, rows: readonly Uint8Array[], timeMs: number, output: Output): void {
    const { collector } = this
    const after = rows[0]
    if (after === undefined) {
      if (before !== null) collector.addCopy(RowKind.DELETE, timeMs, before, output)
      return
    }
    if (before === null) {
      collector.addCopy(RowKind.INSERT, timeMs, after, output)
      return
    }
    if (!this.ttl.isLimited && equalBytes(before, after)) return
    collector.addCopy(RowKind.UPDATE_BEFORE, timeMs, before, output)
    collector.addCopy(RowKind.UPDATE_AFTER, timeMs, after, output)
  }
}
