/**
 * Changes that an operator makes, gathered into full batches.
 *
 * Used by every operator that emits a changelog. Invariants:
 * - The two rows of a pair are in one batch, one after the other: who emits a -U fills its +U next.
 * - A batch leaves as soon as it is full; what is left over leaves by `flush`, which operators call before they return.
 */
import type { Output } from '../engine/contract/operator.ts'
import { assert } from '../engine/core/assert.ts'
import { BATCH_ROWS_MAX } from '../engine/core/batch.ts'
import { type OpaqueCodec, RowBuffer } from '../engine/core/row-bytes.ts'
import { RowKind } from '../engine/core/row-kinds.ts'
import type { Field, Schema } from '../engine/core/schema.ts'
import { ByteArena } from '../engine/core/strings.ts'

export class ChangelogCollector {
  /** Rows under way: `begin` a row, then fill its cells. */
  readonly rows: RowBuffer
  private readonly fields: readonly Field[]
  private readonly kinds = new Uint8Array(BATCH_ROWS_MAX)
  private readonly scratch = new ByteArena(256)
  private isPairOpen = false
  /** Some row under way is no insert. */
  private hasChanges = false

  constructor(schema: Schema, opaque: OpaqueCodec) {
    this.rows = new RowBuffer(schema, opaque)
    this.fields = schema.fields
  }

  /** Begins a row, whose cells the caller fills. */
  begin(kind: RowKind, eventTime: number, output: Output): RowBuffer {
    const { rows } = this
    // The first row of a pair finds room for both.
    if (rows.length + (kind === RowKind.UPDATE_BEFORE ? 2 : 1) > BATCH_ROWS_MAX) this.flush(output)
    assert(!this.isPairOpen || kind === RowKind.UPDATE_AFTER, 'a +U follows its -U')
    this.isPairOpen = kind === RowKind.UPDATE_BEFORE
    this.hasChanges ||= kind !== RowKind.INSERT
    this.kinds[rows.length] = kind
    rows.begin(eventTime)
    return rows
  }

  /** A whole row, as a writer of the output's schema wrote it. */
  add(kind: RowKind, eventTime: number, bytes: Uint8Array, start: number, output: Output): void {
    this.begin(kind, eventTime, output).appendBytes(0, this.fields, bytes, start)
  }

  /** The same of a row that has an array of its own: it is read in memory that stays, where that is cheaper. */
  addCopy(kind: RowKind, eventTime: number, row: Uint8Array, output: Output): void {
    const { scratch } = this
    scratch.clear()
    scratch.writeBytes(row, 0, row.length)
    this.add(kind, eventTime, scratch.bytes, 0, output)
  }

  flush(output: Output): void {
    const { rows } = this
    if (rows.length === 0) return
    assert(!this.isPairOpen, 'a +U follows its -U')
    output.emit(rows.build(this.hasChanges ? this.kinds.slice(0, rows.length) : null))
    this.hasChanges = false
  }
}
