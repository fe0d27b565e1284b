/**
 * Regular join of two keyed inputs without bounds in time, as a changelog: Flink's StreamingJoin.
 *
 * Takes inserts or changelogs of mode `all`; keeps every row that is there (join-rows.ts). A row that comes or is taken
 * back does the same to its pairs with all rows of the other side. In outer joins a row without a match is emitted with
 * NULLs in place of the other side, which is deleted when its first match comes and inserted when its last one goes;
 * semi and anti joins emit left rows alone, while they have a match or while they have none.
 *
 * Invariants:
 * - A row that has NULL in its key matches nobody.
 * - What is taken back is made of the very bytes that were sent. A row that is taken back and is not there changes
 *   nothing: it was dropped by its time to live.
 * - All that one row does leaves in one call, in full batches; what has no room waits in the bounded overflow.
 */
import type { Operator, OperatorContext, Output } from '../engine/contract/operator.ts'
import { assert } from '../engine/core/assert.ts'
import type { Batch, KeyColumn } from '../engine/core/batch.ts'
import { type OpaqueCodec, RowWriter, rowBytesReader } from '../engine/core/row-bytes.ts'
import { isRetraction, kindAt, RowKind } from '../engine/core/row-kinds.ts'
import type { Field, Schema } from '../engine/core/schema.ts'
import { ByteArena } from '../engine/core/strings.ts'
import { ChangelogCollector } from './changelog-collector.ts'
import { IdleTtl } from './idle-ttl.ts'
import { type JoinRow, JoinRows } from './join-rows.ts'

export type JoinType = 'inner' | 'left' | 'right' | 'full' | 'semi' | 'anti'

export interface StreamingJoinOptions {
  readonly type: JoinType
  readonly leftSchema: Schema
  readonly rightSchema: Schema
  /** Columns of the left key; those of the right one in the same order. */
  readonly leftKey: readonly number[]
  readonly rightKey: readonly number[]
  /** What besides the keys makes two rows a pair. It must give the same answer for the same rows. */
  readonly condition?: ((left: unknown, right: unknown) => boolean) | null
  /** Of results: the left columns, then the right ones (not for semi and anti joins). */
  readonly outputSchema: Schema
  readonly opaque: OpaqueCodec
  /** State that was not written for this long is dropped; null keeps it. */
  readonly timeToLiveMs: number | null
}

export function streamingJoinOperator(options: StreamingJoinOptions): Operator {
  return new StreamingJoinOperator(options)
}

interface Side {
  readonly isLeft: boolean
  readonly fields: readonly Field[]
  readonly key: readonly number[]
  readonly writer: RowWriter
  readonly toRow: (bytes: Uint8Array, start: number) => unknown
  rows: JoinRows
  /** Where its columns begin in a result. */
  readonly offset: number
  /** Its rows are emitted alone while they have no match. */
  readonly isOuter: boolean
  /** Its rows know how many matches they have. */
  readonly countsMatches: boolean
  /** Also rows that can match nobody are emitted. */
  readonly isKeptUnmatched: boolean
}

function hasNullKey(batch: Batch, i: number, key: readonly number[]): boolean {
  for (const index of key) {
    const { nulls } = batch.columns[index]!
    if (nulls !== null && nulls[i] === 1) return true
  }
  return false
}

class StreamingJoinOperator implements Operator {
  private readonly options: StreamingJoinOptions
  private readonly collector: ChangelogCollector
  private readonly sides: readonly [Side, Side]
  private readonly arena = new ByteArena(1_024)
  private ttl!: IdleTtl

  constructor(options: StreamingJoinOptions) {
    const { type, leftSchema, rightSchema, leftKey, rightKey, outputSchema, opaque } = options
    assert(leftKey.length === rightKey.length, 'both sides of a join have as many keys')
    this.options = options
    this.collector = new ChangelogCollector(outputSchema, opaque)
    const side = (isLeft: boolean, schema: Schema, key: readonly number[]): Side => {
      const isOuter = type === 'full' || type === (isLeft ? 'left' : 'right')
      return {
        isLeft,
        fields: schema.fields,
        key,
        writer: new RowWriter(schema, opaque),
        toRow: rowBytesReader(schema, opaque),
        rows: null as unknown as JoinRows,
        offset: isLeft ? 0 : leftSchema.fields.length,
        isOuter,
        countsMatches: isOuter || (isLeft && this.isExistence),
        isKeptUnmatched: isOuter || (isLeft && type === 'anti'),
      }
    }
    this.sides = [side(true, leftSchema, leftKey), side(false, rightSchema, rightKey)]
  }

  /** Semi and anti joins. */
  private get isExistence(): boolean {
    return this.options.type === 'semi' || this.options.type === 'anti'
  }

  open(context: OperatorContext): void {
    this.ttl = new IdleTtl(this.options.timeToLiveMs, context)
    for (const side of this.sides) side.rows = new JoinRows(context.keyed, side.isLeft ? 'left' : 'right', this.ttl)
  }

  process(batch: Batch, from: number, output: Output, input: number): number {
    const { keys, kinds } = batch
    assert(keys !== null, 'a join gets rows with keys')
    if (output.blocked) return from
    const own = this.sides[input]!
    const other = this.sides[1 - input]!
    let i = from
    // Looked at between rows: one row may mean very many.
    for (; i < batch.length && !output.blocked; i++) {
      this.arena.clear()
      own.writer.write(batch, i, this.arena)
      const isRetracted = isRetraction(kindAt(kinds, i))
      const isUnmatched = hasNullKey(batch, i, own.key)
      if (isUnmatched && !own.isKeptUnmatched) continue
      if (isRetracted && !own.rows.remove(keys, i, this.arena.bytes, 0, this.arena.length)) continue
      const matches = this.isExistence
        ? this.changeExistence(own, other, batch, isUnmatched ? null : keys, i, isRetracted, output)
        : this.changePairs(own, other, batch, isUnmatched ? null : keys, i, isRetracted, output)
      if (!isRetracted) own.rows.add(keys, i, this.arena.bytes, 0, this.arena.length, matches)
    }
    this.collector.flush(output)
    return i
  }

  /** Emits what row `i` does to its pairs and to who was alone; returns how many rows it matches. */
  private changePairs(
    own: Side,
    other: Side,
    batch: Batch,
    keys: KeyColumn | null,
    i: number,
    isRetracted: boolean,
    output: Output,
  ): number {
    const time = batch.eventTime[i]!
    const kind = isRetracted ? RowKind.DELETE : RowKind.INSERT
    const step = isRetracted ? -1 : 1
    const matches = this.eachMatch(own, other, keys, i, (found, bytes, start) => {
      const wasAlone = other.isOuter && found.matches === 0
      if (other.isOuter) this.addMatch(found, step)
      const isAlone = other.isOuter && found.matches === 0
      for (let n = 0; n < found.count; n++) {
        if (wasAlone) this.emitAlone(RowKind.DELETE, other, bytes, start, time, output)
        this.collector.begin(kind, time, output).appendRow(own.offset, batch, i)
        this.collector.rows.appendBytes(other.offset, other.fields, bytes, start)
        if (isAlone) this.emitAlone(RowKind.INSERT, other, bytes, start, time, output)
      }
    })
    if (matches === 0 && own.isOuter) {
      this.collector.begin(kind, time, output).appendRow(own.offset, batch, i)
      this.collector.rows.appendNulls(other.offset, other.fields.length)
    }
    return matches
  }

  private addMatch(found: JoinRow, step: 1 | -1): void {
    found.matches += step
    found.atMs = this.ttl.nowMs()
  }

  private emitAlone(kind: RowKind, side: Side, bytes: Uint8Array, start: number, time: number, output: Output): void {
    const nulls = this.sides[side.isLeft ? 1 : 0]
    this.collector.begin(kind, time, output).appendBytes(side.offset, side.fields, bytes, start)
    this.collector.rows.appendNulls(nulls.offset, nulls.fields.length)
  }

  /** The same for semi and anti joins, whose results are left rows. */
  private changeExistence(
    own: Side,
    other: Side,
    batch: Batch,
    keys: KeyColumn | null,
    i: number,
    isRetracted: boolean,
    output: Output,
  ): number {
    const time = batch.eventTime[i]!
    const isSemi = this.options.type === 'semi'
    const step = isRetracted ? -1 : 1
    if (own.isLeft) {
      const matches = this.eachMatch(own, other, keys, i, () => {})
      if (matches > 0 === isSemi) {
        const kind = isRetracted ? RowKind.DELETE : RowKind.INSERT
        this.collector.begin(kind, time, output).appendRow(0, batch, i)
      }
      return matches
    }
    return this.eachMatch(own, other, keys, i, (found, bytes, start) => {
      const had = found.matches > 0
      this.addMatch(found, step)
      const has = found.matches > 0
      if (had === has) return
      const kind = has === isSemi ? RowKind.INSERT : RowKind.DELETE
      for (let n = 0; n < found.count; n++) this.collector.add(kind, time, bytes, start, output)
    })
  }

  /** Calls `visit` for the rows of the other side that row `i` matches, equal ones once; returns how many there are. Without `keys` none. */
  private eachMatch(
    own: Side,
    other: Side,
    keys: KeyColumn | null,
    i: number,
    visit: (found: JoinRow, bytes: Uint8Array, start: number) => void,
  ): number {
    if (keys === null) return 0
    const { condition } = this.options
    const row = condition ? own.toRow(this.arena.bytes, 0) : null
    let matches = 0
    other.rows.each(keys, i, other.countsMatches, (found, bytes, start) => {
      if (condition) {
        const met = other.toRow(bytes, start)
        if (!condition(own.isLeft ? row : met, own.isLeft ? met : row)) return
      }
      matches += found.count
      visit(found, bytes, start)
    })
    return matches
  }

  advanceWatermark(): boolean {
    return true
  }
}
