/**
 * An operator of simulated jobs, made of the bare contracts so that it tests the engine alone.
 *
 * `Numbering` gives each record the next number of its key, so that a lost or doubled record, or state
 * that does not fit the output, leaves a gap or a repetition in the sink. At the end of input it emits
 * each key's total and deletes it: a total that was emitted before a checkpoint is not emitted again
 * after it.
 */
import type { StateTable } from '../../contract/keyed-state.ts'
import type { Operator, OperatorContext, Output } from '../../contract/operator.ts'
import type { Batch, Column, Float64Column, KeyColumn, StringColumn } from '../../core/batch.ts'
import { decodeKey } from '../../core/keys.ts'
import { BatchBuilder } from '../../core/rows.ts'
import { schema, t } from '../../core/schema.ts'
import { WATERMARK_MAX } from '../../core/time.ts'

/** `id` is -1 in a total, and `number` then the key's count. */
export const NUMBERED = schema({ key: t.string(), id: t.float64(), number: t.float64(), group: t.string() })

function text(column: Column, row: number): string {
  const { bytes, starts, ends } = column as StringColumn
  return Buffer.from(bytes.subarray(starts[row], ends[row])).toString()
}

function float(column: Column, row: number): number {
  return (column as Float64Column).values[row]!
}

/** Numbers records by key; `keyField` says which column of its input the key is. */
export class Numbering implements Operator {
  private table!: StateTable
  private readonly slots = new Int32Array(4_096)
  private readonly hop: 1 | 2

  constructor(hop: 1 | 2) {
    this.hop = hop
  }

  open(context: OperatorContext): void {
    this.table = context.keyed.table({ name: 'numbers', version: 1, layout: { kind: 'doubles', initial: [0] } })
  }

  process(batch: Batch, from: number, output: Output): number {
    const segment = this.table.segment(0)
    segment.upsert(batch.keys!, null, batch.length, this.slots)
    const [numbers] = segment.doubles
    const builder = new BatchBuilder(NUMBERED)
    const group = batch.columns[3]!
    for (let i = from; i < batch.length; i++) {
      const number = ++numbers![this.slots[i]!]!
      // Totals of the first hop are numbered by the second as records of their group.
      builder.append(
        { key: text(batch.columns[0]!, i), id: float(batch.columns[1]!, i), number, group: text(group, i) },
        0,
      )
    }
    output.emit(builder.build())
    return batch.length
  }

  advanceWatermark(watermark: number, output: Output): boolean {
    if (watermark !== WATERMARK_MAX || this.hop === 2) return true
    const scan = this.table.existing(0)?.scan()
    if (scan === undefined) return true
    const builder = new BatchBuilder(NUMBERED)
    for (let chunk = scan.next(100); chunk !== null; chunk = scan.next(100)) {
      for (let i = 0; i < chunk.count; i++) {
        const key = keyText(chunk.keys, i)
        builder.append({ key, id: -1, number: chunk.doubles[0]![i], group: 'totals' }, 0)
      }
    }
    scan.close()
    this.table.drop(0)
    if (builder.length > 0) output.emit(builder.build())
    return true
  }
}

function keyText(keys: KeyColumn, row: number): string {
  return String(decodeKey(keys.bytes, keys.starts[row]!, keys.ends[row]!))
}
