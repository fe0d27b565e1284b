/**
 * Descriptors of keyed state, with Flink's names: what `open` hands to the runtime context.
 *
 * A plain object of the same shape serves as well (contract/functions.ts); these save the constant parts.
 */
import type {
  AggregateFunction,
  AggregatingStateDescriptor as AggregatingShape,
  ListStateDescriptor as ListShape,
  MapStateDescriptor as MapShape,
  ReduceFunction,
  ReducingStateDescriptor as ReducingShape,
  StateTtl,
  ValueStateDescriptor as ValueShape,
} from '../contract/functions.ts'
import type { StateMigrations } from '../contract/keyed-state.ts'
import type { Key } from '../core/keys.ts'
import type { Schema } from '../core/schema.ts'
import type { StateTtlConfig } from './state-ttl-config.ts'

export interface StateOptions<V> {
  /** Of the shape of the values, 1 by default. Count it up when the shape changes. */
  readonly version?: number
  /** What each version changed: `{ 2: { rename: { sum: 'total' } }, 3: (before) => ({ ...before, mean: 0 }) }`. */
  readonly migrations?: StateMigrations
  /** Makes a fresh value: class instances come back on its prototype, flat objects get a compact encoding. */
  readonly template?: () => V
  /** Values are rows of this schema: the fastest encoding, checked as it is written. */
  readonly schema?: Schema<V>
}

/** What all descriptors have. `name` is unique in its operator and stays the same over versions of the job. */
abstract class StateDescriptor<V> {
  readonly name: string
  readonly version: number
  readonly migrations: StateMigrations | undefined
  readonly template: (() => V) | undefined
  readonly schema: Schema<V> | undefined
  ttl: StateTtl | undefined = undefined

  constructor(name: string, options: StateOptions<V>) {
    this.name = name
    this.version = options.version ?? 1
    this.migrations = options.migrations
    this.template = options.template
    this.schema = options.schema
  }

  /** Entries are forgotten when they have not been used for a time. */
  enableTimeToLive(ttl: StateTtlConfig): this {
    this.ttl = ttl
    return this
  }
}

/** One value a key: `new ValueStateDescriptor<number>('seen')`. */
export class ValueStateDescriptor<V> extends StateDescriptor<V> implements ValueShape<V> {
  readonly kind = 'value'

  constructor(name: string, options: StateOptions<V> = {}) {
    super(name, options)
  }
}

/** A list a key; the options describe one element. */
export class ListStateDescriptor<V> extends StateDescriptor<V> implements ListShape<V> {
  readonly kind = 'list'

  constructor(name: string, options: StateOptions<V> = {}) {
    super(name, options)
  }
}

/** A map a key, `MK` to `V`; the options describe one value. */
export class MapStateDescriptor<MK extends Key, V> extends StateDescriptor<V> implements MapShape<MK, V> {
  readonly kind = 'map'
  /** Type only; never set. */
  declare readonly key?: MK

  constructor(name: string, options: StateOptions<V> = {}) {
    super(name, options)
  }
}

/** Values reduced to one a key. */
export class ReducingStateDescriptor<V> extends StateDescriptor<V> implements ReducingShape<V> {
  readonly kind = 'reducing'
  readonly reduce: ReduceFunction<V>

  constructor(name: string, reduce: ReduceFunction<V>, options: StateOptions<V> = {}) {
    super(name, options)
    this.reduce = reduce
  }
}

/** Values aggregated a key; the accumulator is its own template. */
export class AggregatingStateDescriptor<In, Acc, Out> implements AggregatingShape<In, Acc, Out> {
  readonly kind = 'aggregating'
  readonly name: string
  readonly version: number
  readonly migrations: StateMigrations | undefined
  readonly aggregate: AggregateFunction<In, Acc, Out>
  ttl: StateTtl | undefined = undefined

  constructor(
    name: string,
    aggregate: AggregateFunction<In, Acc, Out>,
    options: Pick<StateOptions<Acc>, 'version' | 'migrations'> = {},
  ) {
    this.name = name
    this.version = options.version ?? aggregate.version ?? 1
    this.migrations = options.migrations ?? aggregate.migrations
    this.aggregate = aggregate
  }

  /** Entries are forgotten when they have not been used for a time. */
  enableTimeToLive(ttl: StateTtlConfig): this {
    this.ttl = ttl
    return this
  }
}
