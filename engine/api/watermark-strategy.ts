/**
 * Where event times come from and how far behind them the watermark stays; given to `env.fromSource` or
 * `stream.assignTimestampsAndWatermarks`.
 *
 * `T` appears in the position of an argument only: a strategy for any row fits every stream, and a
 * strategy that reads a field fits exactly the streams whose rows have it.
 */
import { isPromise } from '../../operators/user-function.ts'
import type { Batch, Float64Column, Int32Column } from '../core/batch.ts'
import { MillraceError } from '../core/errors.ts'
import type { WatermarkGenerator as EngineGenerator, WatermarkAlignment, WatermarkPlan } from '../core/graph.ts'
import { rowReader } from '../core/rows.ts'
import { fieldIndex, type Schema } from '../core/schema.ts'
import { StringInterner } from '../core/strings.ts'
import { type Duration, minutes, toMs } from '../core/time.ts'
import { callingUser } from '../core/user-error.ts'
import {
  BoundedOutOfOrdernessGenerator,
  CustomGenerator,
  NoWatermarksGenerator,
  type WatermarkGenerator,
} from './watermark-generators.ts'

/**
 * Event time of a row in milliseconds since 1970 UTC. `recordTimestamp` is the one that the source
 * gave, NaN without one.
 */
export type TimestampAssigner<T> = (row: T, recordTimestamp: number) => number

/** What a field that holds event times may hold: milliseconds, a date, or ISO 8601 text. */
export type TimestampValue = number | bigint | Date | string | null | undefined

/** A split that is silent for this long does not hold time back. */
const IDLE_AFTER_DEFAULT = minutes(1)

type CreateGenerator = (schema: Schema) => EngineGenerator

type Assigner<T> =
  | { readonly kind: 'field'; readonly name: string }
  | { readonly kind: 'function'; readonly assign: TimestampAssigner<T> }

export class WatermarkStrategy<in T = unknown> {
  private readonly createGenerator: CreateGenerator
  private readonly assigner: Assigner<T> | null
  private readonly idleAfterMs: number | null
  private readonly alignment: WatermarkAlignment | null

  private constructor(
    createGenerator: CreateGenerator,
    assigner: Assigner<T> | null,
    idleAfterMs: number | null,
    alignment: WatermarkAlignment | null = null,
  ) {
    this.createGenerator = createGenerator
    this.assigner = assigner
    this.idleAfterMs = idleAfterMs
    this.alignment = alignment
  }

  /**
   * Records may come up to `bound` after a record with a later event time; later ones are late. A lambda
   * given here has its row type inferred from the stream.
   */
  static forBoundedOutOfOrderness<T = unknown>(
    bound: Duration | number,
    assigner?: TimestampAssigner<T>,
  ): WatermarkStrategy<T> {
    const boundMs = checkDuration('out-of-orderness', toMs(bound))
    return new WatermarkStrategy<T>(
      () => new BoundedOutOfOrdernessGenerator(boundMs),
      assigner === undefined ? null : { kind: 'function', assign: assigner },
      IDLE_AFTER_DEFAULT.ms,
    )
  }

  /** Event times never descend within a split. */
  static forMonotonousTimestamps<T = unknown>(assigner?: TimestampAssigner<T>): WatermarkStrategy<T> {
    return WatermarkStrategy.forBoundedOutOfOrderness<T>(0, assigner)
  }

  /** No event time: windows and timers fire at the end of bounded input only. */
  static noWatermarks(): WatermarkStrategy {
    return new WatermarkStrategy<unknown>(() => new NoWatermarksGenerator(), null, null)
  }

  /** Watermarks of your own: `create` makes a generator for each split. */
  static forGenerator<T = unknown>(create: () => WatermarkGenerator<T>): WatermarkStrategy<T> {
    const createGenerator: CreateGenerator = (schema) =>
      new CustomGenerator(
        callingUser('What makes watermark generators', () => create() as WatermarkGenerator<unknown>),
        schema,
      )
    return new WatermarkStrategy<T>(createGenerator, null, IDLE_AFTER_DEFAULT.ms)
  }

  /** Reads event time from a field, without making rows where the stream has a schema. */
  withTimestampAssigner<F extends string>(field: F): WatermarkStrategy<T & Readonly<Record<F, TimestampValue>>>
  /** Computes event time from a row. */
  withTimestampAssigner<R = T>(assigner: TimestampAssigner<R>): WatermarkStrategy<R>
  withTimestampAssigner<R>(assigner: string | TimestampAssigner<R>): WatermarkStrategy<R> {
    return new WatermarkStrategy<R>(
      this.createGenerator,
      typeof assigner === 'string' ? { kind: 'field', name: assigner } : { kind: 'function', assign: assigner },
      this.idleAfterMs,
      this.alignment,
    )
  }

  /**
   * A split without records for this long does not hold time back, nor does a subtask whose watermarks are assigned in the
   * midst of a stream. Time in which there is no room for records does not count. One minute unless told.
   */
  withIdleness(after: Duration | number): WatermarkStrategy<T> {
    const idleAfterMs = checkDuration('idleness', toMs(after))
    return new WatermarkStrategy<T>(this.createGenerator, this.assigner, idleAfterMs, this.alignment)
  }

  /** A silent split holds time back for ever. */
  withoutIdleness(): WatermarkStrategy<T> {
    return new WatermarkStrategy<T>(this.createGenerator, this.assigner, null, this.alignment)
  }

  /**
   * Sources of the same group wait for each other: none reads further than `maxDrift` of event time ahead of the
   * slowest one that is not idle, so that joins and windows behind them keep little. Looked at every
   * `updateInterval`, 1 s unless told. For sources only: `ALIGNMENT_NOT_AT_SOURCE`.
   */
  withWatermarkAlignment(
    group: string,
    maxDrift: Duration | number,
    updateInterval: Duration | number = 1_000,
  ): WatermarkStrategy<T> {
    const maxDriftMs = checkDuration('drift', toMs(maxDrift))
    const updateIntervalMs = checkDuration('update interval', toMs(updateInterval))
    const alignment = { group, maxDriftMs, updateIntervalMs }
    return new WatermarkStrategy<T>(this.createGenerator, this.assigner, this.idleAfterMs, alignment)
  }

  /** For the engine: the plan for rows of `schema`. Throws `FIELD_UNKNOWN`. */
  toPlan(schema: Schema): WatermarkPlan {
    const assigner = this.assigner
    const createAssigner =
      assigner === null
        ? null
        : assigner.kind === 'field'
          ? fieldAssigner(schema, assigner.name)
          : functionAssigner(schema, assigner.assign)
    const { idleAfterMs, alignment } = this
    return { createGenerator: () => this.createGenerator(schema), createAssigner, idleAfterMs, alignment }
  }
}

function checkDuration(what: string, ms: number): number {
  if (!(ms >= 0 && ms < Number.POSITIVE_INFINITY)) {
    throw new MillraceError('DURATION_INVALID', `An ${what} of ${ms} ms is not possible.`, {
      hint: 'Give a duration of 0 or more, for example seconds(5).',
    })
  }
  return ms
}

/** Milliseconds of a field's value; NaN, which the engine refuses, when it holds no time. */
export function timestampOf(value: unknown): number {
  switch (typeof value) {
    case 'number':
      return value
    case 'bigint':
      return Number(value)
    case 'string':
      return Date.parse(value)
    default:
      return value instanceof Date ? value.getTime() : Number.NaN
  }
}

type CreateAssigner = () => (batch: Batch) => Float64Array

function fieldAssigner(schema: Schema, name: string): CreateAssigner {
  if (schema.isOpaque) {
    return functionAssigner<Readonly<Record<string, unknown>> | null>(schema, (row) => timestampOf(row?.[name]))
  }
  const index = fieldIndex(schema, name)
  const { kind } = schema.fields[index]!
  if (kind === 'boolean') {
    throw new MillraceError('FIELD_NOT_TIME', `The field ${JSON.stringify(name)} is boolean and holds no time.`, {
      hint: 'Event time is milliseconds since 1970 UTC; declare such a field with t.timestamp().',
    })
  }
  if (kind === 'string' || kind === 'opaque' || kind === 'int64') {
    return functionAssigner<Readonly<Record<string, unknown>>>(schema, (row) => timestampOf(row[name]))
  }
  return () => (batch) => columnTimes(batch, index)
}

function columnTimes(batch: Batch, index: number): Float64Array {
  const { values, nulls } = batch.columns[index] as Float64Column | Int32Column
  const times = new Float64Array(batch.length)
  times.set(values.subarray(0, batch.length))
  if (nulls !== null) for (let i = 0; i < batch.length; i++) if (nulls[i] === 1) times[i] = Number.NaN
  return times
}

function promiseForTime(): MillraceError {
  return new MillraceError('PROMISE_RETURNED', 'A timestamp assigner returned a promise.', {
    hint: 'Timestamp assigners are synchronous; look event times up in an earlier step.',
  })
}

function functionAssigner<T>(schema: Schema, assign: TimestampAssigner<T>): CreateAssigner {
  return () => {
    const read = rowReader(schema, new StringInterner(), 'timestamp assigner')
    const timesOf = (batch: Batch): Float64Array => {
      const times = new Float64Array(batch.length)
      for (let i = 0; i < batch.length; i++) {
        const timeMs = assign(read(batch, i) as T, batch.eventTime[i]!)
        if (isPromise(timeMs)) throw promiseForTime()
        times[i] = timeMs
      }
      return times
    }
    return (batch) => callingUser('A timestamp assigner', () => timesOf(batch))
  }
}
