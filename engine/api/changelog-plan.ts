/**
 * What a step over changelogs means for schemas, keys and modes: pure decisions, used by changelog-stream.ts.
 */
import type { AggregateCall } from '../../operators/retractable-aggregates.ts'
import type { JoinType } from '../../operators/streaming-join.ts'
import type { Batch, KeyColumn } from '../core/batch.ts'
import { MillraceError } from '../core/errors.ts'
import { fieldKeyExtractor, fieldsKeyExtractor, valueKeyExtractor } from '../core/keys.ts'
import { type ColumnKind, type Field, fieldIndex, type Schema } from '../core/schema.ts'
import { type Duration, toMs } from '../core/time.ts'

/** How long the state of a step keeps what nothing has written; for ever when left out. */
export interface StateRetention {
  readonly timeToLive?: Duration | number
}

export interface AggregateSpec {
  readonly kind: 'count' | 'sum' | 'min' | 'max' | 'avg'
  readonly field?: string
  readonly isDistinct?: boolean
}

/** Throws `TTL_INVALID`. */
export function timeToLiveMs(options: StateRetention | undefined): number | null {
  if (options?.timeToLive === undefined) return null
  const ms = toMs(options.timeToLive)
  if (Number.isFinite(ms) && ms > 0) return ms
  throw new MillraceError('TTL_INVALID', `State cannot live for ${ms} ms.`, { hint: 'Give a duration above 0.' })
}

/** Throws `SCHEMA_MISSING` for streams whose rows have no columns. */
export function requireColumns(step: string, schema: Schema): void {
  if (!schema.isOpaque) return
  throw new MillraceError('SCHEMA_MISSING', `${step} needs rows with declared columns.`, {
    hint: 'Declare them with { schema: schema({ id: t.string(), ... }) } where the rows are made.',
  })
}

/** Positions of fields that make a key. Throws `FIELD_UNKNOWN` or `KEY_INVALID`. */
export function keyFieldIndices(schema: Schema, names: readonly string[]): number[] {
  return names.map((name) => {
    const index = fieldIndex(schema, name)
    if (schema.fields[index]!.kind !== 'opaque') return index
    throw new MillraceError('KEY_INVALID', `Field ${JSON.stringify(name)} has no declared type, so it is no key.`, {
      hint: 'Key by a field of a type other than json.',
    })
  })
}

/** Keys of some fields: the value of one, the array of several, and one key for all rows when there are none. */
export function keysOfFields(schema: Schema, indices: readonly number[]): () => (batch: Batch) => KeyColumn {
  if (indices.length === 0) return () => valueKeyExtractor(() => null)
  const [first] = indices
  return indices.length === 1 ? () => fieldKeyExtractor(schema, first!) : () => fieldsKeyExtractor(schema, indices)
}

const SUMMABLE: ReadonlySet<ColumnKind> = new Set(['int32', 'int64', 'float64'])

/** Throws `FIELD_UNKNOWN`, or `AGGREGATE_INVALID` for a field that the aggregate cannot be of. */
export function aggregateCalls(schema: Schema, specs: Readonly<Record<string, AggregateSpec>>): AggregateCall[] {
  return Object.entries(specs).map(([name, { kind, field, isDistinct = false }]) => {
    const index = field === undefined ? undefined : fieldIndex(schema, field)
    const column = index === undefined ? undefined : schema.fields[index]!.kind
    if (kind === 'count') {
      if (!isDistinct) return index === undefined ? { name, kind } : { name, kind, field: index }
      if (index !== undefined && column !== 'opaque') return { name, kind, field: index, isDistinct }
    } else if (index !== undefined && column !== 'opaque') {
      if (kind === 'min' || kind === 'max' || SUMMABLE.has(column!)) return { name, kind, field: index }
    }
    throw new MillraceError(
      'AGGREGATE_INVALID',
      `There is no ${kind} of ${field ?? 'rows'} for ${JSON.stringify(name)}.`,
      {
        hint: 'sum and avg take a field of numbers; min, max and a distinct count one of any type but json.',
      },
    )
  })
}

/** Throws `JOIN_KEY_INVALID` unless both sides have the same number of keys, of kinds that compare. */
export function checkJoinKeys(left: readonly Field[], right: readonly Field[]): void {
  const problem =
    left.length === 0 || left.length !== right.length
      ? `${left.length} fields cannot be equal to ${right.length}`
      : left.flatMap((field, k) => {
          const other = right[k]!
          const isSame = comparable(field.kind) === comparable(other.kind)
          return isSame ? [] : [`${field.name} (${field.kind}) is never equal to ${other.name} (${other.kind})`]
        })[0]
  if (problem === undefined) return
  throw new MillraceError('JOIN_KEY_INVALID', `That is no key of a join: ${problem}.`, {
    hint: 'Name the same number of fields of the same types on both sides.',
  })
}

/** Kinds whose values have the same keys. */
function comparable(kind: ColumnKind): ColumnKind {
  return kind === 'int32' || kind === 'timestamp' ? 'float64' : kind
}

/** Columns of a join's results. Throws `FIELD_DUPLICATE` for names that both sides have. */
export function joinedSchema(type: JoinType, left: Schema, right: Schema): Schema {
  if (type === 'semi' || type === 'anti') return left
  const known = new Set(left.fields.map(({ name }) => name))
  const twice = right.fields.find(({ name }) => known.has(name))
  if (twice !== undefined) {
    throw new MillraceError('FIELD_DUPLICATE', `Both sides of the join have a field ${JSON.stringify(twice.name)}.`, {
      hint: 'Give one of them another name by select({ otherName: "name", ... }) before the join.',
    })
  }
  const optional = (field: Field, isOptional: boolean): Field => (isOptional ? { ...field, nullable: true } : field)
  return {
    isOpaque: false,
    fields: [
      ...left.fields.map((field) => optional(field, type === 'right' || type === 'full')),
      ...right.fields.map((field) => optional(field, type === 'left' || type === 'full')),
    ],
  }
}

/** One side of a join: what identifies its rows, and the fields by which they are brought together. */
export interface JoinSideKeys {
  readonly upsertKey: readonly string[] | null
  readonly joinKey: readonly string[]
}

/**
 * What identifies a result of a join, so that its changes come in order: what identifies the rows of both sides, together.
 * It has to contain the join key, of whichever side is never NULL: changes of one result that come from several subtasks,
 * as when a row moves to another join key, overtake each other (Flink's upsert keys are lost in the same way).
 */
export function joinedKey(type: JoinType, left: JoinSideKeys, right: JoinSideKeys): readonly string[] | null {
  const places = ({ upsertKey, joinKey }: JoinSideKeys): boolean =>
    upsertKey !== null && joinKey.every((name) => upsertKey.includes(name))
  if (type === 'semi' || type === 'anti') return places(left) ? left.upsertKey : null
  if (left.upsertKey === null || right.upsertKey === null) return null
  const isPlaced =
    type === 'inner'
      ? places(left) || places(right)
      : type === 'full'
        ? places(left) && places(right)
        : places(type === 'left' ? left : right)
  return isPlaced ? [...left.upsertKey, ...right.upsertKey] : null
}

export function isSameKey(a: readonly string[] | null, b: readonly string[]): boolean {
  return a !== null && a.length === b.length && a.every((name) => b.includes(name))
}
