/**
 * Changelogs: streams that stand for a table, whose rows are inserted, replaced and deleted. What
 * `env.fromChangelogStream` and `env.fromDataStream` return, and what streaming SQL plans onto.
 *
 * A changelog knows its mode and its upsert key (the fields that identify a row, where some do). From these it decides
 * what Flink's planner decides: which steps may follow, whether aggregates must bear retractions, and whether a sink
 * whose key is another one needs its changes put in order.
 */

import { changelogNormalizeOperator } from '../../operators/changelog-normalize.ts'
import { type Change, fromChangesOperator, toChangesOperator } from '../../operators/changes.ts'
import { groupAggregateOperator, groupAggregateSchema } from '../../operators/group-aggregate.ts'
import { selectOperator } from '../../operators/select.ts'
import { sinkUpsertMaterializerOperator } from '../../operators/sink-upsert-materializer.ts'
import { type JoinType, streamingJoinOperator } from '../../operators/streaming-join.ts'
import { objectCodec } from '../../state/value-codec.ts'
import type { FilterFunction, MapFunction } from '../contract/functions.ts'
import type { Sink } from '../contract/sink.ts'
import { MillraceError } from '../core/errors.ts'
import type { ChangelogMode } from '../core/row-kinds.ts'
import { fieldIndex, OPAQUE_SCHEMA, type Schema } from '../core/schema.ts'
import type { CountAggregate, FieldAggregate } from './aggregates.ts'
import {
  type AggregateSpec,
  aggregateCalls,
  checkJoinKeys,
  isSameKey,
  joinedKey,
  joinedSchema,
  keyFieldIndices,
  keysOfFields,
  requireColumns,
  type StateRetention,
  timeToLiveMs,
} from './changelog-plan.ts'
import { checkFunction } from './check-function.ts'
import { type DataStream, DataStreamSink, SingleOutputStreamOperator, type StreamHome } from './data-stream.ts'
import { checkParallelism, checkUid, type Transformation, type Upstream } from './graph-builder.ts'
import { makeOperator, type OperatorFactory } from './operators.ts'

/** How changes become a changelog. */
export interface FromChangelogOptions<T> {
  /** Columns of the rows. */
  readonly schema: Schema<T>
  /** Fields that identify a row: of all rows that are there at one time, each has another key. */
  readonly primaryKey?: readonly (keyof T & string)[]
  /** `upsert` for changes without -U, which need a `primaryKey`; `all` unless told. */
  readonly mode?: 'all' | 'upsert'
}

/** Aggregates by the name of their result. */
export type ChangelogAggregates<T> = Readonly<Record<string, CountAggregate | FieldAggregate<keyof T & string>>>

/** Results: counts are `bigint`, the others have the type of their field. */
type ChangelogAggregateRow<T, A> = {
  [N in keyof A]: A[N] extends FieldAggregate<infer F> ? (F extends keyof T ? T[F] : never) : bigint
}

/** What a join gives where a side may have no row. */
type Nullable<T> = { [F in keyof T]: T[F] | null }
type Joined<L, R, Type extends JoinType> = Type extends 'inner'
  ? L & R
  : Type extends 'left'
    ? L & Nullable<R>
    : Type extends 'right'
      ? Nullable<L> & R
      : Type extends 'full'
        ? Nullable<L> & Nullable<R>
        : L

export interface JoinOptions<L, R, Type extends JoinType> extends StateRetention {
  /** `inner`, `left`, `right` or `full`; `semi` and `anti` give left rows that have a match, or none. */
  readonly type: Type
  /** Fields of the left side, and the fields of the right side that must equal them. NULL equals nothing. */
  readonly where: readonly (keyof L & string)[]
  readonly equalTo: readonly (keyof R & string)[]
  /** What else makes two rows a pair; it must give the same answer for the same rows. */
  readonly condition?: (left: L, right: R) => boolean
}

interface Place {
  readonly home: StreamHome
  readonly upstreams: readonly Upstream[]
  readonly mode: ChangelogMode
  readonly upsertKey: readonly string[] | null
}

/** The opaque columns of rows in state. */
const opaqueCodec = () => objectCodec(undefined, { what: 'a column of type json' })

export class ChangelogStream<T> {
  /** Columns of the rows. */
  readonly schema: Schema<T>
  private readonly place: Place
  private readonly node: Transformation | null

  /** @internal `node` is what made it, for its settings. */
  constructor(place: Place, schema: Schema<T>, node: Transformation | null) {
    this.place = place
    this.schema = schema
    this.node = node
  }

  /** @internal */
  static ofChanges<T>(stream: DataStream<Change<T>>, options: FromChangelogOptions<T>): ChangelogStream<T> {
    const { schema, mode = 'all', primaryKey } = options
    requireColumns('fromChangelogStream', schema)
    const upsertKey = primaryKey ?? null
    if (upsertKey !== null) keyFieldIndices(schema, upsertKey)
    if (mode === 'upsert' && upsertKey === null) {
      throw new MillraceError('CHANGELOG_KEY_MISSING', 'Changes without -U need a primary key to go by.', {
        hint: 'Name the fields that identify a row: primaryKey: ["id"].',
      })
    }
    const node = stream.home.builder.add({
      name: 'From Changelog',
      outputSchema: schema,
      inputs: stream.upstreams.map(inOrder),
      body: { role: 'operator', isKeyed: false, create: () => fromChangesOperator(schema, mode) },
      changelogMode: mode,
    })
    node.parallelism = sharedParallelism(stream.upstreams)
    return made(stream.home, node, schema, mode, upsertKey)
  }

  /** @internal A stream of inserts. */
  static ofInserts<T>(stream: DataStream<T>): ChangelogStream<T> {
    requireColumns('fromDataStream', stream.schema)
    const { home, upstreams, schema } = stream
    return new ChangelogStream<T>({ home, upstreams, mode: 'insert-only', upsertKey: null }, schema, null)
  }

  /** What it may hold: inserts only, changes without -U (`upsert`), or all kinds. */
  get changelogMode(): ChangelogMode {
    return this.place.mode
  }

  /** Fields that identify a row; null when none are known. */
  get upsertKey(): readonly string[] | null {
    return this.place.upsertKey
  }

  /** Shown in the graph, metrics and messages. */
  name(name: string): this {
    if (this.node !== null) this.node.name = name
    return this
  }

  /** Identity of the state of the step that made it, over versions of the job. Throws `UID_INVALID`. */
  uid(uid: string): this {
    if (this.node !== null) this.node.uid = checkUid(uid)
    return this
  }

  /** Subtasks of the step that made it. Set it before further steps: those without keys take it over. */
  setParallelism(parallelism: number): this {
    if (this.node !== null) this.node.parallelism = checkParallelism(parallelism)
    return this
  }

  /** Keeps rows for which `predicate` is true. It must give the same answer for the same row, whenever it is asked. */
  filter(predicate: FilterFunction<T>): ChangelogStream<T> {
    checkFunction('filter', predicate, null)
    // Without -U a row that passes no more would not be taken back.
    return this.step('Filter', this.schema, makeOperator.filter(predicate), this.upsertKey, 'all')
  }

  /** One result for each row. It must be the same for the same row: what is taken back is mapped again. */
  map<R>(fn: MapFunction<T, R>, options: { readonly schema: Schema<R> }): ChangelogStream<R> {
    checkFunction('map', fn, null)
    requireColumns('map', options.schema)
    return this.step('Map', options.schema, makeOperator.map(fn, options.schema), null)
  }

  /** Some fields, by their new names: `select({ customer: 'id', name: 'name' })`. Throws `FIELD_UNKNOWN`. */
  select<const F extends Readonly<Record<string, keyof T & string>>>(
    fields: F,
  ): ChangelogStream<{ -readonly [N in keyof F]: T[F[N]] }> {
    type Row = { -readonly [N in keyof F]: T[F[N]] }
    const indices = Object.values(fields).map((name) => fieldIndex(this.schema, name))
    const output: Schema<Row> = {
      isOpaque: false,
      fields: Object.keys(fields).map((name, k) => ({ ...this.schema.fields[indices[k]!]!, name })),
    }
    const names = new Map(Object.entries(fields).map(([name, old]) => [old as string, name]))
    const key = this.upsertKey?.map((name) => names.get(name)) ?? [undefined]
    const upsertKey = key.every((name) => name !== undefined) ? key : null
    return this.step('Select', output, () => selectOperator(indices, output), upsertKey)
  }

  /** Groups rows by the values of fields, NULL being a value like any other; by none, all rows are one group. */
  groupBy<F extends keyof T & string>(...fields: readonly F[]): GroupedChangelog<T, F> {
    const indices = keyFieldIndices(this.schema, fields)
    return new GroupedChangelog<T, F>(
      (specs, options) => this.aggregated(fields, indices, specs, options) as ChangelogStream<never>,
    )
  }

  private aggregated(
    fields: readonly string[],
    groupFields: readonly number[],
    specs: Readonly<Record<string, AggregateSpec>>,
    options: StateRetention | undefined,
  ): ChangelogStream<unknown> {
    const { schema: inputSchema } = this
    const aggregates = aggregateCalls(inputSchema, specs)
    const settings = {
      inputSchema,
      groupFields,
      aggregates,
      retracts: this.changelogMode !== 'insert-only',
      emitsUpdateBefore: true,
      timeToLiveMs: timeToLiveMs(options),
    }
    const create = () => groupAggregateOperator({ ...settings, opaque: opaqueCodec() })
    return this.keyed('Group Aggregate', groupFields, groupAggregateSchema(settings), create, 'all', fields)
  }

  /**
   * Rows of both sides that match, as long as both are there. Names of fields must differ; see `select`. Throws
   * `FIELD_DUPLICATE`, `JOIN_KEY_INVALID`, and `STREAMS_UNRELATED` for streams of different environments.
   */
  join<R, Type extends JoinType>(
    right: ChangelogStream<R>,
    options: JoinOptions<T, R, Type>,
  ): ChangelogStream<Joined<T, R, Type>> {
    const { type, where, equalTo, condition } = options
    if (right.place.home.builder !== this.place.home.builder) {
      throw new MillraceError('STREAMS_UNRELATED', 'Streams of different environments cannot meet in one operator.', {
        hint: 'Make both from the same StreamExecutionEnvironment.',
      })
    }
    const leftKey = keyFieldIndices(this.schema, where)
    const rightKey = keyFieldIndices(right.schema, equalTo)
    checkJoinKeys(
      leftKey.map((index) => this.schema.fields[index]!),
      rightKey.map((index) => right.schema.fields[index]!),
    )
    const outputSchema = joinedSchema(type, this.schema, right.schema) as Schema<Joined<T, R, Type>>
    const settings = {
      type,
      leftSchema: this.schema,
      rightSchema: right.schema,
      leftKey,
      rightKey,
      condition: (condition as ((left: unknown, right: unknown) => boolean) | undefined) ?? null,
      outputSchema,
      timeToLiveMs: timeToLiveMs(options),
    }
    const isInsertOnly =
      type === 'inner' && this.changelogMode === 'insert-only' && right.changelogMode === 'insert-only'
    const mode = isInsertOnly ? 'insert-only' : 'all'
    const { home } = this.place
    const node = home.builder.add({
      name: 'Join',
      outputSchema,
      inputs: [...this.through(leftKey), ...right.through(rightKey).map((upstream) => ({ ...upstream, input: 1 }))],
      body: {
        role: 'operator',
        isKeyed: true,
        create: () => streamingJoinOperator({ ...settings, opaque: opaqueCodec() }),
        consumes: 'all',
      },
      changelogMode: mode,
    })
    const leftKeys = { upsertKey: this.upsertKey, joinKey: where }
    return made(
      home,
      node,
      outputSchema,
      mode,
      joinedKey(type, leftKeys, { upsertKey: right.upsertKey, joinKey: equalTo }),
    )
  }

  /**
   * Adds what was there before each change of a changelog of mode `upsert`, and drops changes that change nothing. Throws
   * `CHANGELOG_KEY_MISSING` when no fields are known that identify a row.
   */
  normalize(options?: StateRetention): ChangelogStream<T> {
    const { schema, upsertKey } = this
    if (upsertKey === null) {
      throw new MillraceError(
        'CHANGELOG_KEY_MISSING',
        'Only rows that have a key can be compared with what was there.',
        {
          hint: 'Name the primaryKey where the changelog begins.',
        },
      )
    }
    const ttl = timeToLiveMs(options)
    const create = () => changelogNormalizeOperator({ schema, opaque: opaqueCodec(), timeToLiveMs: ttl })
    const indices = keyFieldIndices(schema, upsertKey)
    return this.keyed('Changelog Normalize', indices, schema, create, 'all', upsertKey, 'upsert')
  }

  /** Rows that say what they do: `{ kind: '+U', row }`. */
  toChangelogStream(): SingleOutputStreamOperator<Change<T>> {
    const { home, upstreams } = this.place
    const node = home.builder.add({
      name: 'To Changelog',
      outputSchema: OPAQUE_SCHEMA,
      inputs: upstreams,
      body: { role: 'operator', isKeyed: false, create: toChangesOperator, consumes: 'upsert' },
    })
    this.keepOrder(node)
    return new SingleOutputStreamOperator<Change<T>>(home, node, OPAQUE_SCHEMA as Schema<Change<T>>)
  }

  /**
   * Ends the changelog in a sink that takes it: one that goes by a key gets what its key's row is now, put in order first
   * where its key is not what identifies the rows. Throws `CHANGELOG_UNSUPPORTED` for a sink of inserts only.
   */
  sinkTo(sink: Sink<T>): DataStreamSink {
    const { primaryKey } = sink
    if (primaryKey === undefined || primaryKey.length === 0 || sink.changelogMode === undefined) return this.endIn(sink)
    const isOrdered = this.changelogMode === 'insert-only' || isSameKey(this.upsertKey, primaryKey)
    return (isOrdered ? this : this.materialized(primaryKey)).endIn(sink, keyFieldIndices(this.schema, primaryKey))
  }

  /** What Flink's planner adds where a sink's key is not the upsert key. */
  private materialized(key: readonly string[]): ChangelogStream<T> {
    if (this.changelogMode === 'upsert') return this.normalize().materialized(key)
    const { schema } = this
    const create = () => sinkUpsertMaterializerOperator({ schema, opaque: opaqueCodec(), timeToLiveMs: null })
    return this.keyed('Sink Materializer', keyFieldIndices(schema, key), schema, create, 'upsert', key)
  }

  private endIn(sink: Sink<T>, key: readonly number[] | null = null): DataStreamSink {
    const { home, upstreams } = this.place
    const node = home.builder.add({
      name: `Sink: ${sink.kind}`,
      outputSchema: this.schema,
      inputs: key === null ? upstreams : this.through(key),
      body: { role: 'sink', sink: sink as Sink },
    })
    if (key === null) this.keepOrder(node)
    return new DataStreamSink(node)
  }

  /** Prints each change as a line: its kind, then the row. */
  print(prefix?: string): DataStreamSink {
    return this.endIn(this.place.home.printSink(prefix, false) as Sink<T>).name('Print to Std. Out')
  }

  private step<R>(
    name: string,
    outputSchema: Schema<R>,
    create: OperatorFactory,
    upsertKey: readonly string[] | null,
    consumes: ChangelogMode = 'upsert',
  ): ChangelogStream<R> {
    const { home, upstreams, mode } = this.place
    const body = { role: 'operator', isKeyed: false, create, consumes } as const
    const node = home.builder.add({ name, outputSchema, inputs: upstreams, body, changelogMode: mode })
    this.keepOrder(node)
    return made(home, node, outputSchema, mode, upsertKey)
  }

  /** Unless told, a step without keys has as many subtasks as the step before it, so that changes stay in order. */
  private keepOrder(next: Transformation): void {
    if (this.changelogMode !== 'insert-only') next.parallelism = sharedParallelism(this.place.upstreams)
  }

  private keyed<R>(
    name: string,
    key: readonly number[],
    outputSchema: Schema<R>,
    create: OperatorFactory,
    mode: ChangelogMode,
    upsertKey: readonly string[],
    consumes: ChangelogMode = 'all',
  ): ChangelogStream<R> {
    const { home } = this.place
    const body = { role: 'operator', isKeyed: true, create, consumes } as const
    const node = home.builder.add({ name, outputSchema, inputs: this.through(key), body, changelogMode: mode })
    return made(home, node, outputSchema, mode, upsertKey)
  }

  /** Edges by the values of fields. */
  private through(key: readonly number[]): Upstream[] {
    const createKeys = keysOfFields(this.schema, key)
    return this.place.upstreams.map(({ from, sideTag }) => ({ from, sideTag, partitioning: 'hash', createKeys }))
  }
}

/** Rows in groups, before it is said what of them. */
export class GroupedChangelog<T, F extends keyof T & string> {
  private readonly make: (
    specs: Readonly<Record<string, AggregateSpec>>,
    options: StateRetention | undefined,
  ) => ChangelogStream<never>

  /** @internal */
  constructor(
    make: (
      specs: Readonly<Record<string, AggregateSpec>>,
      options: StateRetention | undefined,
    ) => ChangelogStream<never>,
  ) {
    this.make = make
  }

  /**
   * The fields of the group and these aggregates of its rows: `aggregate({ orders: count(), total: sum('price') })`. As in
   * Flink SQL, NULL does not count, and averages of integers truncate. Sums of float64 are exact before they are rounded.
   * Throws `AGGREGATE_INVALID`.
   */
  aggregate<const A extends ChangelogAggregates<T>>(
    aggregates: A,
    options?: StateRetention,
  ): ChangelogStream<Pick<T, F> & { -readonly [N in keyof A]: ChangelogAggregateRow<T, A>[N] }> {
    return this.make(aggregates, options)
  }
}

/** What reads these edges has as many subtasks as what they come from; 0 is the job's default. */
function sharedParallelism(upstreams: readonly Upstream[]): number {
  const [first] = upstreams
  return first?.partitioning === 'forward' ? first.from.parallelism : 0
}

/** Throws `CHANGELOG_UNORDERED` for an edge on which changes of one row would overtake each other. */
function inOrder(upstream: Upstream): Upstream {
  if (upstream.partitioning === 'forward') return { ...upstream, mustForward: true }
  if (!['rebalance', 'rescale', 'shuffle'].includes(upstream.partitioning)) return upstream
  throw new MillraceError(
    'CHANGELOG_UNORDERED',
    `Changes from "${upstream.from.name}" would go to any subtask, so that they lose their order.`,
    { hint: 'Key the stream by what identifies a row before fromChangelogStream.' },
  )
}

function made<T>(
  home: StreamHome,
  node: Transformation,
  schema: Schema<T>,
  mode: ChangelogMode,
  upsertKey: readonly string[] | null,
): ChangelogStream<T> {
  const upstreams: Upstream[] = [{ from: node, partitioning: 'forward', createKeys: null, sideTag: null }]
  return new ChangelogStream<T>({ home, upstreams, mode, upsertKey }, schema, node)
}
