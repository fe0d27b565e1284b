/**
 * Aggregates whose rows can be taken back: what group-aggregate.ts keeps for a key, one state an aggregate.
 *
 * Results are Flink SQL's: COUNT is int64; SUM, MIN, MAX and AVG have the kind of their field; the average of integers
 * truncates, sums of integers wrap; NULL does not count, and is the result where nothing does. Sums of floating-point
 * numbers are exact and rounded once (exact-sum.ts), so that what is taken back leaves no trace.
 *
 * MIN, MAX and COUNT DISTINCT over changes know which values are left by `ValueCounts`; MIN and MAX keep the best few
 * with the key, and look through the others only when those have all gone.
 *
 * Invariant: the state after any changes is that of the rows that are left, encoded in the same bytes.
 */
import type { Batch, Column } from '../engine/core/batch.ts'
import { type ByteCursor, CellWriter, type OpaqueCodec, readCell } from '../engine/core/row-bytes.ts'
import type { Field } from '../engine/core/schema.ts'
import { asBuffer, type ByteArena } from '../engine/core/strings.ts'
import { addExactly, type ExactSum, exactSum, exactValue } from './exact-sum.ts'

/** An aggregate as a plan has it; `name` is its column, `field` the column that it reads. */
export type AggregateCall =
  | { readonly name: string; readonly kind: 'count'; readonly field?: number; readonly isDistinct?: boolean }
  | { readonly name: string; readonly kind: 'sum' | 'avg' | 'min' | 'max'; readonly field: number }

/** How the rows of a key change what `call` knows of them; made once a subtask. */
export interface RetractableAggregate<S = unknown> {
  readonly output: Field
  create(): S
  /** Row `i` comes, or is taken back with `sign` -1. `came` as `ValueCounts.change` gave it, for those that ask. */
  change(state: S, batch: Batch, i: number, sign: 1 | -1, came: -1 | 0 | 1): void
  /** As rows have it. */
  result(state: S): unknown
  encode(state: S, arena: ByteArena): void
  decode(cursor: ByteCursor): S
  /** The column of which it needs `ValueCounts`; null for none. */
  readonly counted: number | null
  /** True when the state does not know the result until it has seen each value that is left, by `visit`. */
  isStale?(state: S): boolean
  visit?(state: S, value: unknown): void
}

const NO_OPAQUE: OpaqueCodec = {
  encode: () => new Uint8Array(0),
  decode: () => null,
}

/** Column of an aggregate's result. `field` is null for COUNT(*). */
export function aggregateField(call: AggregateCall, field: Field | null): Field {
  if (call.kind === 'count') return { name: call.name, kind: 'int64', nullable: false }
  return { name: call.name, kind: field!.kind, nullable: field!.nullable }
}

/** `retracts`: rows may be taken back. */
export function retractableAggregate(
  call: AggregateCall,
  fields: readonly Field[],
  retracts: boolean,
): RetractableAggregate {
  const field = call.field === undefined ? null : fields[call.field]!
  const output = aggregateField(call, field)
  switch (call.kind) {
    case 'count':
      return new Count(output, call.field ?? null, call.isDistinct === true)
    case 'min':
    case 'max':
      return new Extreme(output, call.field, call.kind === 'min' ? 1 : -1, retracts)
    default:
      if (field!.kind === 'float64') return new DoubleSum(output, call.field, call.kind === 'avg')
      return new IntegerSum(output, call.field, call.kind === 'avg')
  }
}

function isNull(column: Column, i: number): boolean {
  return column.nulls !== null && column.nulls[i] === 1
}

/** A value that is not NULL, as rows have it. */
export function cellValue(column: Column, i: number): unknown {
  if (column.kind === 'string') return asBuffer(column.bytes).utf8Slice(column.starts[i]!, column.ends[i]!)
  return column.kind === 'boolean' ? column.values[i] === 1 : column.values[i]
}

class Count implements RetractableAggregate<{ count: number }> {
  readonly output: Field
  readonly counted: number | null
  private readonly field: number | null

  constructor(output: Field, field: number | null, isDistinct: boolean) {
    this.output = output
    this.field = field
    this.counted = isDistinct ? field : null
  }

  create(): { count: number } {
    return { count: 0 }
  }

  change(state: { count: number }, batch: Batch, i: number, sign: 1 | -1, came: -1 | 0 | 1): void {
    if (this.counted !== null) state.count += came
    else if (this.field === null || !isNull(batch.columns[this.field]!, i)) state.count += sign
  }

  result({ count }: { count: number }): bigint {
    return BigInt(count)
  }

  encode({ count }: { count: number }, arena: ByteArena): void {
    writeDouble(count, arena)
  }

  decode(cursor: ByteCursor): { count: number } {
    return { count: readDouble(cursor) }
  }
}

interface Integers {
  count: number
  sum: bigint
}

/** Of int32 and int64. */
class IntegerSum implements RetractableAggregate<Integers> {
  readonly output: Field
  readonly counted = null
  private readonly field: number
  private readonly isAverage: boolean

  constructor(output: Field, field: number, isAverage: boolean) {
    this.output = output
    this.field = field
    this.isAverage = isAverage
  }

  create(): Integers {
    return { count: 0, sum: 0n }
  }

  change(state: Integers, batch: Batch, i: number, sign: 1 | -1): void {
    const column = batch.columns[this.field]!
    if (isNull(column, i)) return
    const value = BigInt(cellValue(column, i) as number | bigint)
    state.count += sign
    state.sum = sign > 0 ? state.sum + value : state.sum - value
  }

  result({ count, sum }: Integers): unknown {
    if (count === 0) return null
    const value = this.isAverage ? sum / BigInt(count) : sum
    return this.output.kind === 'int32' ? Number(BigInt.asIntN(32, value)) : BigInt.asIntN(64, value)
  }

  encode({ count, sum }: Integers, arena: ByteArena): void {
    writeDouble(count, arena)
    arena.reserve(16)
    arena.length = arena.bytes.writeBigInt64LE(BigInt.asIntN(64, sum), arena.length)
    arena.length = arena.bytes.writeBigInt64LE(BigInt.asIntN(64, sum >> 64n), arena.length)
  }

  decode(cursor: ByteCursor): Integers {
    const count = readDouble(cursor)
    const low = cursor.view.getBigUint64(cursor.at, true)
    const high = cursor.view.getBigInt64(cursor.at + 8, true)
    cursor.at += 16
    return { count, sum: (high << 64n) | low }
  }
}

interface Doubles extends ExactSum {
  count: number
}

class DoubleSum implements RetractableAggregate<Doubles> {
  readonly output: Field
  readonly counted = null
  private readonly field: number
  private readonly isAverage: boolean

  constructor(output: Field, field: number, isAverage: boolean) {
    this.output = output
    this.field = field
    this.isAverage = isAverage
  }

  create(): Doubles {
    return { count: 0, ...exactSum() }
  }

  change(state: Doubles, batch: Batch, i: number, sign: 1 | -1): void {
    const column = batch.columns[this.field]!
    if (isNull(column, i)) return
    state.count += sign
    addExactly(state, cellValue(column, i) as number, sign)
  }

  result(state: Doubles): number | null {
    if (state.count === 0) return null
    return this.isAverage ? exactValue(state) / state.count : exactValue(state)
  }

  encode(state: Doubles, arena: ByteArena): void {
    const { count, infinities, negativeInfinities, nans, parts } = state
    for (const value of [count, infinities, negativeInfinities, nans, parts.length, ...parts]) writeDouble(value, arena)
  }

  decode(cursor: ByteCursor): Doubles {
    const count = readDouble(cursor)
    const infinities = readDouble(cursor)
    const negativeInfinities = readDouble(cursor)
    const nans = readDouble(cursor)
    const parts = Array.from({ length: readDouble(cursor) }, () => readDouble(cursor))
    return { count, infinities, negativeInfinities, nans, parts }
  }
}

/** Values kept with the key, of those that can be taken back. */
const BEST_MAX = 16

interface Best {
  /** Different values, the best first: all, or the best of them. */
  values: unknown[]
  isAll: boolean
}

class Extreme implements RetractableAggregate<Best> {
  readonly output: Field
  readonly counted: number | null
  private readonly field: number
  /** 1 for the least, -1 for the greatest. */
  private readonly direction: 1 | -1
  private readonly bestMax: number
  private readonly cell: CellWriter

  constructor(output: Field, field: number, direction: 1 | -1, retracts: boolean) {
    this.output = output
    this.counted = retracts ? field : null
    this.field = field
    this.direction = direction
    this.bestMax = retracts ? BEST_MAX : 1
    this.cell = new CellWriter({ ...output, nullable: false }, NO_OPAQUE)
  }

  create(): Best {
    return { values: [], isAll: true }
  }

  change(state: Best, batch: Batch, i: number, _sign: 1 | -1, came: -1 | 0 | 1): void {
    const column = batch.columns[this.field]!
    if (isNull(column, i)) return
    if (this.counted === null || came > 0) this.visit(state, cellValue(column, i))
    else if (came < 0) this.remove(state, cellValue(column, i))
  }

  /** Where `value` is, or would be. */
  private placeOf({ values }: Best, value: unknown): number {
    let low = 0
    let high = values.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (compareValues(values[middle], value) * this.direction < 0) low = middle + 1
      else high = middle
    }
    return low
  }

  visit(state: Best, value: unknown): void {
    const { values } = state
    const at = this.placeOf(state, value)
    if (at === values.length ? !state.isAll : compareValues(values[at], value) === 0) return
    values.splice(at, 0, value)
    if (values.length <= this.bestMax) return
    values.pop()
    state.isAll = false
  }

  private remove(state: Best, value: unknown): void {
    const at = this.placeOf(state, value)
    if (at < state.values.length && compareValues(state.values[at], value) === 0) state.values.splice(at, 1)
  }

  isStale(state: Best): boolean {
    if (state.values.length > 0 || state.isAll) return false
    state.isAll = true
    return true
  }

  result({ values }: Best): unknown {
    return values[0] ?? null
  }

  encode({ values, isAll }: Best, arena: ByteArena): void {
    arena.writeByte(isAll ? 1 : 0)
    arena.writeByte(values.length)
    for (const value of values) this.cell.writeValue(value, arena)
  }

  decode(cursor: ByteCursor): Best {
    const isAll = cursor.view.getUint8(cursor.at++) === 1
    const length = cursor.view.getUint8(cursor.at++)
    return { isAll, values: Array.from({ length }, () => readCell(cursor, this.cell.field, NO_OPAQUE)) }
  }
}

/** Total order: numbers by value with NaN last, texts by their UTF-8 bytes, false before true. */
export function compareValues(a: unknown, b: unknown): number {
  if (typeof a === 'string') return compareTexts(a, b as string)
  if (Number.isNaN(a)) return Number.isNaN(b) ? 0 : 1
  if (Number.isNaN(b)) return -1
  return (a as number) < (b as number) ? -1 : (a as number) > (b as number) ? 1 : 0
}

const SURROGATES = 0xd800

/** UTF-16 code units differ from UTF-8 in their order where one side has a surrogate and the other what lies above. */
function compareTexts(a: string, b: string): number {
  const length = Math.min(a.length, b.length)
  for (let i = 0; i < length; i++) {
    const x = a.charCodeAt(i)
    const y = b.charCodeAt(i)
    if (x === y) continue
    if (x < SURROGATES || y < SURROGATES) return x - y
    return asCodePoint(x) - asCodePoint(y)
  }
  return a.length - b.length
}

/** Code units in the order of the code points that they begin: surrogates after all others. */
function asCodePoint(unit: number): number {
  return unit >= 0xe000 ? unit - 0x800 : unit + 0x2000
}

function writeDouble(value: number, arena: ByteArena): void {
  arena.reserve(8)
  arena.length = arena.bytes.writeDoubleLE(value, arena.length)
}

function readDouble(cursor: ByteCursor): number {
  const value = cursor.view.getFloat64(cursor.at, true)
  cursor.at += 8
  return value
}
