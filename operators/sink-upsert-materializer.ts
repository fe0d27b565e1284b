/**
 * Puts changes in order for a sink whose key is not what identifies the rows: Flink's SinkUpsertMaterializer.
 *
 * Rows are keyed by the sink's key. Several rows of the stream may have one key there, and a change that moves a row from
 * one key to another comes as a delete and an insert by two ways, the insert perhaps first. So the rows of a key are
 * kept in the order in which they came, and the last of them is what the sink shows.
 *
 * Emits mode `upsert`: +I for a key's first row, +U when another one is shown, -D when there is none. Invariant: a
 * row that is taken back and is not there changes nothing. Looking for a row takes as long as a key has rows.
 */
import type { Operator, Output } from '../engine/contract/operator.ts'
import { isRetraction, RowKind } from '../engine/core/row-kinds.ts'
import { KeyedRows, type KeyedRowsOptions } from './keyed-rows.ts'
import { equalBytes } from './row-list.ts'

export function sinkUpsertMaterializerOperator(options: KeyedRowsOptions): Operator {
  return new SinkUpsertMaterializerOperator('materialized', options)
}

class SinkUpsertMaterializerOperator extends KeyedRows implements Operator {
  protected change(rows: Uint8Array[], kind: number, row: Uint8Array): void {
    if (!isRetraction(kind)) {
      rows.push(row)
      return
    }
    const at = rows.findLastIndex((known) => equalBytes(known, row))
    if (at >= 0) rows.splice(at, 1)
  }

  protected emit(before: Uint8Array | null, rows: readonly Uint8Array[], timeMs: number, output: Output): void {
    const after = rows.at(-1)
    if (after === undefined) {
      if (before !== null) this.collector.addCopy(RowKind.DELETE, timeMs, before, output)
      return
    }
    if (before !== null && !this.ttl.isLimited && equalBytes(before, after)) return
    this.collector.addCopy(before === null ? RowKind.INSERT : RowKind.UPDATE_AFTER, timeMs, after, output)
  }
}
