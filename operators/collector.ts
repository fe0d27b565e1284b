/**
 * Rows that user functions produce, gathered into full batches.
 *
 * Used by every operator over lambdas. Invariants: a batch leaves as soon as it is full, so a function
 * may produce any number of rows for one input row; what is left over leaves by `flush`, which operators
 * call before they return.
 */
import type { Output } from '../engine/contract/operator.ts'
import { withKinds } from '../engine/core/batch.ts'
import type { RowKinds } from '../engine/core/row-kinds.ts'
import { BatchBuilder } from '../engine/core/rows.ts'
import { OPAQUE_SCHEMA, type Schema } from '../engine/core/schema.ts'

/** Collects rows for the main output, or for the side output `tag`. */
export class RowCollector {
  private readonly builder: BatchBuilder
  private readonly tag: string | null
  /** Of the rows of the batch that leaves next, where they are changes: one for each, in one batch. */
  kinds: RowKinds = null

  constructor(schema: Schema, tag: string | null = null) {
    this.builder = new BatchBuilder(schema)
    this.tag = tag
  }

  /**
   * Appends a row and returns whether a full batch left, so that the output may be blocked now. Throws
   * `ROW_INVALID` when the row does not fit the schema.
   */
  add(row: unknown, eventTime: number, output: Output): boolean {
    this.builder.append(row, eventTime)
    if (!this.builder.isFull) return false
    this.flush(output)
    return true
  }

  flush(output: Output): void {
    if (this.builder.length === 0) return
    const built = this.builder.build()
    const batch = this.kinds === null ? built : withKinds(built, this.kinds)
    if (this.tag === null) output.emit(batch)
    else output.emitSide(this.tag, batch)
  }
}

/** The side outputs of one operator, made as they are first used. */
export class SideCollectors {
  private readonly byTag = new Map<string, RowCollector>()

  add(tag: string, row: unknown, eventTime: number, output: Output): void {
    let collector = this.byTag.get(tag)
    if (collector === undefined) {
      collector = new RowCollector(OPAQUE_SCHEMA, tag)
      this.byTag.set(tag, collector)
    }
    collector.add(row, eventTime, output)
  }

  flush(output: Output): void {
    for (const collector of this.byTag.values()) collector.flush(output)
  }
}
