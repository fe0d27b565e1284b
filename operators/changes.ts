/**
 * Between changelogs and rows that say what they do: `{ kind: '+I', row }`.
 *
 * Used by fromChangelogStream and toChangelogStream. Invariant of what comes in: a -U that is not directly before its
 * +U in a batch becomes a -D, and a +U without its -U a +I (row-kinds.ts), so that a program may hand on any cut of a
 * changelog.
 */
import type { Operator, OperatorContext, Output } from '../engine/contract/operator.ts'
import { type Batch, withKinds } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { KIND_TEXTS, type KindText, kindAt, RowKind } from '../engine/core/row-kinds.ts'
import { BatchBuilder } from '../engine/core/rows.ts'
import { OPAQUE_SCHEMA, type Schema } from '../engine/core/schema.ts'
import { RowSource } from './user-function.ts'

/** What a row of a changelog does. */
export interface Change<T> {
  /** Inserts, replaces (what was there, then what is there now), or deletes. */
  readonly kind: KindText
  readonly row: T
}

/** Rows of `schema` with their kinds, of changes as values. `mode` is what the changes are to make. */
export function fromChangesOperator(schema: Schema, mode: 'all' | 'upsert'): Operator {
  return new FromChangesOperator(schema, mode)
}

/** Changes as values, of rows with their kinds. */
export function toChangesOperator(): Operator {
  return new ToChangesOperator()
}

class FromChangesOperator implements Operator {
  private readonly builder: BatchBuilder
  private readonly mode: 'all' | 'upsert'
  private name = ''
  private rows!: RowSource

  constructor(schema: Schema, mode: 'all' | 'upsert') {
    this.builder = new BatchBuilder(schema)
    this.mode = mode
  }

  open(context: OperatorContext): void {
    this.name = context.name
    this.rows = new RowSource(context)
  }

  process(batch: Batch, from: number, output: Output): number {
    if (output.blocked || from === batch.length) return from
    const read = this.rows.readerOf(batch)
    const kinds = new Uint8Array(batch.length - from)
    for (let i = from; i < batch.length; i++) {
      const change = read(batch, i) as Partial<Change<unknown>> | null
      const kind = KIND_TEXTS.indexOf(change?.kind as KindText)
      if (kind < 0) throw this.invalid(`a change cannot be ${JSON.stringify(change?.kind)}`)
      if (kind === RowKind.UPDATE_BEFORE && this.mode === 'upsert') throw this.invalid('an upsert changelog has no -U')
      kinds[i - from] = kind
      this.builder.append(change!.row, batch.eventTime[i]!)
    }
    if (this.mode === 'all') closePairs(kinds)
    const hasChanges = kinds.some((kind) => kind !== RowKind.INSERT)
    output.emit(withKinds(this.builder.build(), hasChanges ? kinds : null))
    return batch.length
  }

  private invalid(problem: string): MillraceError {
    return new MillraceError('CHANGE_INVALID', `Operator ${JSON.stringify(this.name)}: ${problem}.`, {
      hint: `A change is { kind, row }, where kind is one of ${KIND_TEXTS.join(', ')}.`,
    })
  }

  advanceWatermark(): boolean {
    return true
  }
}

/** Makes changes of their own of the halves of pairs. */
function closePairs(kinds: Uint8Array): void {
  let isOpen = false
  for (let i = 0; i < kinds.length; i++) {
    const closes = kinds[i] === RowKind.UPDATE_AFTER && isOpen
    if (kinds[i] === RowKind.UPDATE_AFTER && !closes) kinds[i] = RowKind.INSERT
    if (isOpen && !closes) kinds[i - 1] = RowKind.DELETE
    isOpen = kinds[i] === RowKind.UPDATE_BEFORE
  }
  if (isOpen) kinds[kinds.length - 1] = RowKind.DELETE
}

class ToChangesOperator implements Operator {
  private rows!: RowSource

  open(context: OperatorContext): void {
    this.rows = new RowSource(context)
  }

  process(batch: Batch, from: number, output: Output): number {
    if (output.blocked) return from
    const read = this.rows.readerOf(batch)
    const values: Change<unknown>[] = []
    for (let i = from; i < batch.length; i++) {
      values.push({ kind: KIND_TEXTS[kindAt(batch.kinds, i)]!, row: read(batch, i) })
    }
    output.emit({
      schema: OPAQUE_SCHEMA,
      length: values.length,
      columns: [{ kind: 'opaque', values, nulls: null }],
      eventTime: batch.eventTime.slice(from, batch.length),
      keys: null,
      kinds: null,
    })
    return batch.length
  }

  advanceWatermark(): boolean {
    return true
  }
}
