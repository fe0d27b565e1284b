/**
 * The keyed states of one user function: from descriptors to handles over tables.
 *
 * Made by operators that run user code. Every state is a table declared in the function's `open`; an entry belongs
 * to the key of the element or timer that is being processed. Invariants:
 * - State is looked up by the current key at each use, so no slot outlives a call.
 * - `prefetch` looks the keys of a batch up in every state that has one entry a key, so cold entries cost one read
 *   of the store a batch and state. Map entries and pieces of lists are read when they are used.
 */
import type {
  AggregatingState,
  AggregatingStateDescriptor,
  ListState,
  ListStateDescriptor,
  MapState,
  MapStateDescriptor,
  ReducingState,
  ReducingStateDescriptor,
  StateTtl,
  ValueState,
  ValueStateDescriptor,
} from '../engine/contract/functions.ts'
import type { StateMigrations, StateTable, ValueCodec } from '../engine/contract/keyed-state.ts'
import type { OperatorContext } from '../engine/contract/operator.ts'
import { BATCH_ROWS_MAX, type KeyColumn } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import type { Key } from '../engine/core/keys.ts'
import { LIST_PIECES } from '../engine/core/list-layout.ts'
import type { Schema } from '../engine/core/schema.ts'
import { copyOfKeys } from './copy-of-keys.ts'
import type { CurrentKey } from './current-key.ts'
import { KeyedList, type ListHead, listHeadCodec, listPieceCodec } from './list-state.ts'
import { KeyedMap } from './map-state.ts'
import { type Stamped, stampedCodec, TtlPolicy, usedValue } from './state-ttl.ts'
import { asyncFunctionError, isPromise } from './user-function.ts'

/** What a descriptor says of its values. */
export interface ValueShape {
  readonly version?: number | undefined
  readonly migrations?: StateMigrations | undefined
  readonly template?: (() => unknown) | undefined
  readonly schema?: Schema | undefined
}

/** Makes the codec of a state's values; `what` names the state in errors, `id` is unique in the process. */
export type CodecFactory = (shape: ValueShape, options: { what: string; id: string }) => ValueCodec

/** Where one value is kept; undefined when there is none. */
export interface StateSlot {
  get(): unknown
  set(value: unknown): void
  clear(): void
}

/** `refuse` throws for what cannot be kept. */
export function valueView<V>(slot: StateSlot, refuse: (value: unknown) => void): ValueState<V> {
  return {
    value: () => slot.get() as V | undefined,
    update: (value) => {
      refuse(value)
      slot.set(value)
    },
    clear: () => slot.clear(),
  }
}

export function reducingView<V>(
  slot: StateSlot,
  { reduce }: ReducingStateDescriptor<V>,
  refuse: (value: unknown) => void,
): ReducingState<V> {
  return {
    add: (value) => {
      const reduced = slot.get() as V | undefined
      const next = reduced === undefined ? value : reduce(reduced, value)
      refuse(next)
      slot.set(next)
    },
    get: () => slot.get() as V | undefined,
    clear: () => slot.clear(),
  }
}

export function aggregatingView<In, Acc, Out>(
  slot: StateSlot,
  { aggregate }: AggregatingStateDescriptor<In, Acc, Out>,
  refuse: (value: unknown) => void,
): AggregatingState<In, Out> {
  return {
    add: (value) => {
      const accumulated = (slot.get() as Acc | undefined) ?? aggregate.createAccumulator()
      const next = aggregate.add(value, accumulated)
      refuse(next)
      slot.set(next)
    },
    get: () => {
      const accumulated = slot.get() as Acc | undefined
      return accumulated === undefined ? undefined : aggregate.getResult(accumulated)
    },
    clear: () => slot.clear(),
  }
}

/** One object a key. */
class KeyedValue implements StateSlot {
  readonly table: StateTable
  private readonly current: CurrentKey
  private readonly ttl: TtlPolicy | null
  private readonly slots = new Int32Array(1)

  constructor(table: StateTable, current: CurrentKey, ttl: TtlPolicy | null) {
    this.table = table
    this.current = current
    this.ttl = ttl
  }

  get(): unknown {
    const segment = this.table.segment(0)
    segment.find(this.current.require(), this.current.rows, 1, this.slots)
    return usedValue(segment, this.slots[0], this.ttl)
  }

  set(value: unknown): void {
    const segment = this.table.segment(0)
    segment.overwrite(this.current.require(), this.current.rows, 1, this.slots)
    segment.objects[this.slots[0]] = this.ttl === null ? value : this.ttl.stamp(value)
  }

  clear(): void {
    const segment = this.table.segment(0)
    segment.find(this.current.require(), this.current.rows, 1, this.slots)
    if (this.slots[0] >= 0) segment.remove(this.slots[0])
  }

  prefetch(keys: KeyColumn, rows: Int32Array, count: number, slots: Int32Array): void {
    this.table.segment(0).find(keys, rows, count, slots)
  }
}

interface Named extends ValueShape {
  readonly name: string
  readonly version: number
  readonly ttl?: StateTtl | undefined
}

export class UserStates {
  private readonly context: OperatorContext
  private readonly current: CurrentKey
  private readonly codecOf: CodecFactory
  private readonly states: { prefetch: KeyedValue['prefetch'] }[] = []
  private readonly rowsAhead = new Int32Array(BATCH_ROWS_MAX)
  private readonly slotsAhead = new Int32Array(BATCH_ROWS_MAX)
  private declared = false
  private readonly refusePromise = (value: unknown): void => {
    if (isPromise(value)) throw asyncFunctionError(this.context.name)
  }
  /** What `forEachKey` needs of each state: its handle, and the table that has an entry for each key. */
  private readonly byName = new Map<string, { readonly handle: unknown; readonly table: StateTable }>()

  constructor(context: OperatorContext, current: CurrentKey, codecOf: CodecFactory) {
    this.context = context
    this.current = current
    this.codecOf = codecOf
  }

  /** From now on no state may be declared. */
  endDeclarations(): void {
    this.declared = true
  }

  /** Looks up rows [from, to) in every state with one entry a key. */
  prefetch(keys: KeyColumn, from: number, to: number): void {
    if (this.states.length === 0) return
    for (let i = from; i < to; i++) this.rowsAhead[i - from] = i
    for (const state of this.states) state.prefetch(keys, this.rowsAhead, to - from, this.slotsAhead)
  }

  private check(name: string): void {
    if (this.declared) {
      throw new MillraceError('STATE_DECLARED_LATE', `State ${JSON.stringify(name)} is declared after open.`, {
        hint: 'Get every state in the open method and keep it in a property.',
      })
    }
    if (typeof name === 'string' && name !== '' && !name.includes('$')) return
    throw new MillraceError('STATE_NAME_INVALID', `A state cannot be named ${JSON.stringify(name)}.`, {
      hint: 'Use a name that is not empty and has no $.',
    })
  }

  private valuesOf(descriptor: Named): ValueCodec {
    const { name, ttl } = descriptor
    const values = this.codecOf(descriptor, {
      what: `State ${JSON.stringify(name)}`,
      id: this.context.worker.uniqueId(name),
    })
    return ttl === undefined ? values : stampedCodec(values)
  }

  private policyOf({ ttl }: Named): TtlPolicy | null {
    return ttl === undefined ? null : new TtlPolicy(ttl, () => this.context.worker.nowMs())
  }

  /** Notes a state for `forEachKey`, and returns its handle. */
  private note<S>(name: string, table: StateTable, handle: S): S {
    this.byName.set(name, { handle, table })
    return handle
  }

  private valueOf(descriptor: Named): KeyedValue {
    const { name, version } = descriptor
    this.check(name)
    const ttl = this.policyOf(descriptor)
    const table = this.context.keyed.table({
      name,
      version,
      layout: { kind: 'object', codec: this.valuesOf(descriptor) },
      ...(ttl === null ? {} : { isExpired: (stamped) => ttl.hasExpired((stamped as Stamped).atMs) }),
    })
    const state = new KeyedValue(table, this.current, ttl)
    this.states.push(state)
    return state
  }

  value<V>(descriptor: ValueStateDescriptor<V>): ValueState<V> {
    const state = this.valueOf(descriptor)
    return this.note(descriptor.name, state.table, valueView<V>(state, this.refusePromise))
  }

  reducing<V>(descriptor: ReducingStateDescriptor<V>): ReducingState<V> {
    const state = this.valueOf(descriptor)
    return this.note(descriptor.name, state.table, reducingView(state, descriptor, this.refusePromise))
  }

  aggregating<In, Acc, Out>(descriptor: AggregatingStateDescriptor<In, Acc, Out>): AggregatingState<In, Out> {
    const { aggregate } = descriptor
    const state = this.valueOf({ ...descriptor, template: () => aggregate.createAccumulator() })
    return this.note(descriptor.name, state.table, aggregatingView(state, descriptor, this.refusePromise))
  }

  map<MK extends Key, V>(descriptor: MapStateDescriptor<MK, V>): MapState<MK, V> {
    const { name, version } = descriptor
    this.check(name)
    const { keyed } = this.context
    const ttl = this.policyOf(descriptor)
    const table = keyed.table({
      name,
      version,
      composite: true,
      layout: { kind: 'object', codec: this.valuesOf(descriptor) },
      ...(ttl === null ? {} : { isExpired: (stamped) => ttl.hasExpired((stamped as Stamped).atMs) }),
    })
    const state = new KeyedMap(table, keyed, this.current, ttl, this.refusePromise) as unknown as MapState<MK, V>
    return this.note(name, table, state)
  }

  list<V>(descriptor: ListStateDescriptor<V>): ListState<V> {
    const { name, version } = descriptor
    this.check(name)
    const { keyed } = this.context
    const ttl = this.policyOf(descriptor)
    const values = this.valuesOf(descriptor)
    const heads = keyed.table({
      name,
      version,
      layout: { kind: 'object', codec: listHeadCodec(values) },
      ...(ttl === null ? {} : { isExpired: (head) => ttl.hasExpired((head as ListHead).newestAtMs) }),
    })
    const hasExpired = (stamped: Stamped): boolean => ttl?.hasExpired(stamped.atMs) ?? false
    const pieces = keyed.table({
      name: `${name}${LIST_PIECES}`,
      version,
      composite: true,
      layout: { kind: 'object', codec: listPieceCodec(values) },
      ...(ttl === null ? {} : { isExpired: (piece) => (piece as Stamped[]).every(hasExpired) }),
    })
    const state = new KeyedList({ heads, pieces, keyed, current: this.current, ttl }, this.refusePromise)
    this.states.push(state)
    return this.note(name, heads, state as ListState<unknown> as ListState<V>)
  }

  /**
   * Calls `visit` once for each key of this subtask that has an entry in a state, with the key current; it may change
   * the state, so the keys are copied first. Throws `STATE_UNKNOWN`.
   */
  forEachKey({ name }: { readonly name: string }, visit: (key: Key, state: unknown) => void): void {
    const state = this.byName.get(name)
    if (state === undefined) {
      throw new MillraceError('STATE_UNKNOWN', `There is no state ${JSON.stringify(name)}.`, {
        hint: 'Get it from the runtime context in open first.',
      })
    }
    const { keys, count } = copyOfKeys(state.table, state.handle instanceof KeyedMap)
    for (let row = 0; row < count; row++) {
      this.current.set(keys, row)
      visit(this.current.get(), state.handle)
    }
  }
}
