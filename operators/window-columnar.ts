/**
 * The window kernel of built-in aggregates: Float64 columns by slot, no objects, one generated loop.
 *
 * Results have the schema { key, windowStart, windowEnd, ...aggregates }, without a key where there is one for all. State columns are shared: `avg`
 * of a field uses its sum and its count. NULL inputs are skipped; `count` counts rows; `sum`, `min`,
 * `max` and `avg` of nothing but NULLs are NULL.
 *
 * Invariant: the columns of the state follow from the aggregates' text alone, which is the signature.
 */

import type { BuiltInAggregate } from '../engine/contract/functions.ts'
import type { ValueLayout } from '../engine/contract/keyed-state.ts'
import type { OperatorContext, Output } from '../engine/contract/operator.ts'
import { BATCH_ROWS_MAX, type Batch, type Column, type KeyColumn } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { compile, groupsBySource, inFunctions } from '../engine/core/generated-source.ts'
import { decodeKey } from '../engine/core/keys.ts'
import { type ColumnKind, type Field, fieldIndex, type Schema } from '../engine/core/schema.ts'
import { ByteArena } from '../engine/core/strings.ts'
import type { FiringWindow, MutableWindowValues, WindowKernel, WindowValues } from './window-aggregate.ts'

const TAG_STRING = 1
const NUMERIC: ReadonlySet<ColumnKind> = new Set<ColumnKind>(['int32', 'int64', 'float64', 'timestamp'])

export type KeyColumnKind = 'string' | 'opaque' | 'none'

export interface ColumnarWindowOptions {
  readonly aggregates: Readonly<Record<string, BuiltInAggregate>>
  readonly inputSchema: Schema
  /** Name of the key's column in the results; default `key`. */
  readonly keyName?: string
  /** Kind of the key's column; `opaque` (the default) holds any key. Only strings are kept as bytes. `none`: no column. */
  readonly keyKind?: KeyColumnKind
}

/** The schema of results. Throws `SCHEMA_INVALID` when two columns would have one name. */
export function columnarOutputSchema(options: ColumnarWindowOptions): Schema {
  const { inputSchema, aggregates } = options
  const keyKind = options.keyKind ?? 'opaque'
  const fields: Field[] = [
    ...(keyKind === 'none' ? [] : [{ name: options.keyName ?? 'key', kind: keyKind, nullable: keyKind === 'string' }]),
    { name: 'windowStart', kind: 'timestamp', nullable: false },
    { name: 'windowEnd', kind: 'timestamp', nullable: false },
  ]
  for (const [name, aggregate] of Object.entries(aggregates)) {
    const nullable = aggregate.kind !== 'count' && numericField(inputSchema, aggregate.field).nullable
    if (fields.some((field) => field.name === name)) {
      throw new MillraceError('SCHEMA_INVALID', `Two result columns would be named ${JSON.stringify(name)}.`, {
        hint: 'Rename the aggregate.',
      })
    }
    fields.push({ name, kind: 'float64', nullable })
  }
  return { fields, isOpaque: false }
}

function numericField(schema: Schema, name: string): Field {
  const field = schema.fields[fieldIndex(schema, name)]
  if (NUMERIC.has(field.kind)) return field
  throw new MillraceError('AGGREGATE_INVALID', `Field ${JSON.stringify(name)} is ${field.kind}, not a number.`, {
    hint: 'Aggregate int32, int64, float64 or timestamp fields.',
  })
}

/** Throws `FIELD_UNKNOWN` or `AGGREGATE_INVALID` when an aggregate does not fit the input. */
export function columnarKernel(options: ColumnarWindowOptions): WindowKernel {
  return new ColumnarKernel(options)
}

/** One Float64 column of state. `field` is -1 for the count of rows. */
interface StateColumn {
  readonly kind: 'count' | 'sum' | 'min' | 'max'
  readonly field: number
}

/** NaN is greater than every number, as in Flink: `min` begins with it, and `max` never leaves it. */
const INITIAL = { count: 0, sum: 0, min: Number.NaN, max: Number.NEGATIVE_INFINITY } as const

/** A result column: state[value], over state[divisor] when that is not -1; NULL when state[guard] is 0. */
interface ResultColumn {
  readonly value: number
  readonly divisor: number
  readonly guard: number
}

interface Plan {
  readonly state: readonly StateColumn[]
  readonly results: readonly ResultColumn[]
}

function planOf(options: ColumnarWindowOptions): Plan {
  const state: StateColumn[] = []
  const places = new Map<string, number>()
  const column = (kind: StateColumn['kind'], field: number): number => {
    const name = `${kind} ${field}`
    const known = places.get(name)
    if (known !== undefined) return known
    places.set(name, state.length)
    return state.push({ kind, field }) - 1
  }
  const results = Object.values(options.aggregates).map((aggregate): ResultColumn => {
    if (aggregate.kind === 'count') return { value: column('count', -1), divisor: -1, guard: -1 }
    const { nullable } = numericField(options.inputSchema, aggregate.field)
    const field = fieldIndex(options.inputSchema, aggregate.field)
    const value = column(aggregate.kind === 'avg' ? 'sum' : aggregate.kind, field)
    const counts = nullable || aggregate.kind === 'avg' ? column('count', nullable ? field : -1) : -1
    return { value, divisor: aggregate.kind === 'avg' ? counts : -1, guard: nullable ? counts : -1 }
  })
  return { state, results }
}

type Accumulate = (
  columns: readonly Column[],
  rows: Int32Array,
  count: number,
  slots: Int32Array,
  doubles: readonly Float64Array[],
) => void

/** One loop over the rows that updates all state columns, or a few such loops one after the other. */
function compileAccumulate(plan: Plan, schema: Schema, id: string): Accumulate {
  const params = 'columns, rows, count, slots, doubles'
  const columns = Map.groupBy(
    plan.state.map(({ kind, field }, k) => ({ kind, field, k })),
    ({ field }) => field,
  )
  const groups = groupsBySource(
    [...columns].map(([field, own]) => fieldUpdates(own, schema, field)),
    ({ binds, update }) => binds + update,
  )
  const loops = groups.map((group, i) => ({
    name: `loop${i}`,
    params,
    body: `${group.map(({ binds }) => binds).join('\n')}
for (let j = 0; j < count; j++) {
  const i = rows[j], s = slots[j];
  ${group.map(({ update }) => update).join('\n  ')}
}`,
  }))
  const all = inFunctions({ name: 'loops', params, steps: loops.map(({ name }) => `${name}(${params})`) })
  return compile<Accumulate>({
    what: 'window aggregates',
    id,
    functions: [...loops, ...all.functions, { name: 'accumulate', params, body: all.body }],
    result: loops.length === 1 ? 'loop0' : 'accumulate',
  })
}

/** What happens to a field's (-1: no field's, the count of rows) state columns for row `i` and slot `s`. */
function fieldUpdates(
  own: readonly { readonly kind: StateColumn['kind']; readonly k: number }[],
  schema: Schema,
  field: number,
): { readonly binds: string; readonly update: string } {
  const doubles = own.map(({ k }) => `const d${k} = doubles[${k}];`).join(' ')
  const updates = own.map(({ kind, k }) => updateOf(kind, k)).join(' ')
  if (field < 0) return { binds: doubles, update: updates }
  const { kind, nullable } = schema.fields[field]
  const read = `{ const v = ${kind === 'int64' ? `Number(c${field}[i])` : `c${field}[i]`}; ${updates} }`
  const values = `const c${field} = columns[${field}].values; ${doubles}`
  if (!nullable) return { binds: values, update: read }
  return {
    binds: `${values} const n${field} = columns[${field}].nulls;`,
    update: `if (n${field} === null || n${field}[i] === 0) ${read}`,
  }
}

function updateOf(kind: StateColumn['kind'], k: number): string {
  switch (kind) {
    case 'count':
      return `d${k}[s] += 1;`
    case 'sum':
      return `d${k}[s] += v;`
    case 'min':
      return `if (v < d${k}[s] || d${k}[s] !== d${k}[s]) d${k}[s] = v;`
    case 'max':
      return `if (v > d${k}[s] || v !== v) d${k}[s] = v;`
  }
}

/** Merges one state column; each kind's loop stays a loop of its own. */
function mergeColumn(
  kind: StateColumn['kind'],
  from: Float64Array,
  fromRows: Int32Array | null,
  count: number,
  slots: Int32Array,
  into: Float64Array,
): void {
  const at = (j: number): number => (fromRows === null ? j : fromRows[j])
  switch (kind) {
    case 'count':
    case 'sum':
      for (let j = 0; j < count; j++) into[slots[j]] += from[at(j)]
      return
    case 'min':
      for (let j = 0; j < count; j++) {
        const slot = slots[j]
        if (from[at(j)] < into[slot] || Number.isNaN(into[slot])) into[slot] = from[at(j)]
      }
      return
    case 'max':
      for (let j = 0; j < count; j++) {
        const value = from[at(j)]
        if (value > into[slots[j]] || Number.isNaN(value)) into[slots[j]] = value
      }
  }
}

class ColumnarKernel implements WindowKernel {
  readonly signature: string
  readonly layout: ValueLayout
  private readonly options: ColumnarWindowOptions
  private readonly plan: Plan
  private readonly results: ResultBuilder
  private accumulateRows!: Accumulate

  constructor(options: ColumnarWindowOptions) {
    this.options = options
    this.plan = planOf(options)
    this.results = new ResultBuilder(columnarOutputSchema(options), options.keyKind ?? 'opaque', this.plan.results)
    this.layout = { kind: 'doubles', initial: this.plan.state.map((c) => INITIAL[c.kind]) }
    const { fields } = options.inputSchema
    const names = this.plan.state.map((c) => (c.field < 0 ? c.kind : `${c.kind}(${fields[c.field].name})`))
    this.signature = `columns ${names.join(',')}`
  }

  open(context: OperatorContext): void {
    const id = context.worker.uniqueId(context.name)
    this.accumulateRows = compileAccumulate(this.plan, this.options.inputSchema, id)
  }

  accumulate(batch: Batch, rows: Int32Array, count: number, slots: Int32Array, values: MutableWindowValues): void {
    this.accumulateRows(batch.columns, rows, count, slots, values.doubles)
  }

  merge(
    from: WindowValues,
    fromRows: Int32Array | null,
    count: number,
    slots: Int32Array,
    into: MutableWindowValues,
  ): void {
    const { state } = this.plan
    for (let k = 0; k < state.length; k++) {
      mergeColumn(state[k].kind, from.doubles[k], fromRows, count, slots, into.doubles[k])
    }
  }

  fire(
    keys: KeyColumn,
    keyRow: number,
    values: WindowValues,
    at: number,
    window: FiringWindow,
    _watermark: number,
    output: Output,
  ): void {
    this.results.add(keys, keyRow, values.doubles, at, window)
    if (this.results.isFull) this.results.flush(output)
  }

  flush(output: Output): void {
    this.results.flush(output)
  }
}

/** Result rows in columns; key bytes are copied, so a batch stays valid as long as anyone keeps it. */
class ResultBuilder {
  private readonly schema: Schema
  private readonly columns: readonly ResultColumn[]
  private readonly keyKind: KeyColumnKind
  private readonly keysAreStrings: boolean
  private count = 0
  private keyBytes = new ByteArena()
  private keyStarts = new Int32Array(0)
  private keyEnds = new Int32Array(0)
  private keyNulls: Uint8Array | null = null
  private keyValues: unknown[] = []
  private starts = new Float64Array(0)
  private ends = new Float64Array(0)
  private eventTime = new Float64Array(0)
  private values: Float64Array[] = []
  private nulls: (Uint8Array | null)[] = []

  constructor(schema: Schema, keyKind: KeyColumnKind, columns: readonly ResultColumn[]) {
    this.schema = schema
    this.columns = columns
    this.keyKind = keyKind
    this.keysAreStrings = keyKind === 'string'
  }

  get isFull(): boolean {
    return this.count === BATCH_ROWS_MAX
  }

  private begin(): void {
    this.keyBytes = new ByteArena(this.keysAreStrings ? BATCH_ROWS_MAX * 16 : 0)
    this.keyStarts = new Int32Array(this.keysAreStrings ? BATCH_ROWS_MAX : 0)
    this.keyEnds = new Int32Array(this.keyStarts.length)
    this.keyNulls = null
    this.keyValues = []
    this.starts = new Float64Array(BATCH_ROWS_MAX)
    this.ends = new Float64Array(BATCH_ROWS_MAX)
    this.eventTime = new Float64Array(BATCH_ROWS_MAX)
    this.values = this.columns.map(() => new Float64Array(BATCH_ROWS_MAX))
    this.nulls = this.columns.map(() => null)
  }

  add(keys: KeyColumn, keyRow: number, doubles: readonly Float64Array[], at: number, window: FiringWindow): void {
    if (this.count === 0) this.begin()
    const row = this.count++
    if (this.keyKind !== 'none') this.addKey(keys, keyRow, row)
    this.starts[row] = window.start
    this.ends[row] = window.end
    this.eventTime[row] = window.maxTimestamp
    for (let k = 0; k < this.columns.length; k++) {
      const { value, divisor, guard } = this.columns[k]
      if (guard >= 0 && doubles[guard][at] === 0) {
        let nulls = this.nulls[k]
        if (nulls === null) {
          nulls = new Uint8Array(BATCH_ROWS_MAX)
          this.nulls[k] = nulls
        }
        nulls[row] = 1
      } else this.values[k][row] = divisor < 0 ? doubles[value][at] : doubles[value][at] / doubles[divisor][at]
    }
  }

  private addKey(keys: KeyColumn, keyRow: number, row: number): void {
    const { bytes, starts, ends } = keys
    const start = starts[keyRow]
    if (!this.keysAreStrings) {
      this.keyValues.push(decodeKey(bytes, start, ends[keyRow]))
      return
    }
    if (bytes[start] === TAG_STRING) {
      this.keyStarts[row] = this.keyBytes.writeBytes(bytes, start + 1, ends[keyRow])
    } else if (decodeKey(bytes, start, ends[keyRow]) === null) {
      this.keyNulls ??= new Uint8Array(BATCH_ROWS_MAX)
      this.keyNulls[row] = 1
      this.keyStarts[row] = this.keyBytes.length
    } else {
      throw new MillraceError('KEY_INVALID', 'A key of another type came where strings were declared.', {
        hint: 'Leave out keyKind for keys of other types.',
      })
    }
    this.keyEnds[row] = this.keyBytes.length
  }

  flush(output: Output): void {
    const count = this.count
    if (count === 0) return
    this.count = 0
    const columns: Column[] = [
      ...this.keyColumn(),
      { kind: 'timestamp', values: this.starts, nulls: null },
      { kind: 'timestamp', values: this.ends, nulls: null },
      ...this.values.map((values, k): Column => ({ kind: 'float64', values, nulls: this.nulls[k] })),
    ]
    output.emit({ schema: this.schema, length: count, columns, eventTime: this.eventTime, keys: null, kinds: null })
  }

  private keyColumn(): Column[] {
    switch (this.keyKind) {
      case 'none':
        return []
      case 'opaque':
        return [{ kind: 'opaque', values: this.keyValues, nulls: null }]
      case 'string': {
        const { keyStarts: starts, keyEnds: ends, keyNulls: nulls } = this
        return [{ kind: 'string', bytes: this.keyBytes.view(), starts, ends, nulls }]
      }
    }
  }
}
