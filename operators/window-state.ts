/**
 * Small states that belong to one key and window: what triggers keep, and `windowState()` of window functions.
 *
 * Values live in the window's record (window-records.ts), so a handle is good for any window: it reads whichever
 * record is current when it is used. Lists and maps are kept whole.
 */
import type {
  AggregatingState,
  AggregatingStateDescriptor,
  KeyedStateStore,
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
import type { ValueCodec } from '../engine/contract/keyed-state.ts'
import type { OperatorContext } from '../engine/contract/operator.ts'
import type { MergingStateDescriptor } from '../engine/contract/windows.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { decodeKey, encodeKey, type Key } from '../engine/core/keys.ts'
import { ByteArena } from '../engine/core/strings.ts'
import { asyncFunctionError, isPromise } from './user-function.ts'
import {
  aggregatingView,
  type CodecFactory,
  reducingView,
  type StateSlot,
  type ValueShape,
  valueView,
} from './user-state.ts'
import { listCodec, writeEncoded, writeLength } from './window-contents.ts'
import type { WindowRecord } from './window-records.ts'

export interface WindowStatesOptions {
  /** Keeps states of different owners apart. */
  readonly prefix: string
  readonly record: () => WindowRecord
  readonly codecOf: CodecFactory
  readonly context: OperatorContext
}

interface Named {
  readonly name: string
  readonly version: number
  readonly ttl?: StateTtl | undefined
}

export class WindowStates implements KeyedStateStore {
  private readonly options: WindowStatesOptions
  private readonly codecs = new Map<string, ValueCodec>()
  private readonly handles = new Map<string, unknown>()
  /** By descriptor, which most triggers keep. */
  private readonly known = new WeakMap<object, unknown>()
  private readonly refuse = (value: unknown): void => {
    if (isPromise(value)) throw asyncFunctionError(this.options.context.name)
  }

  constructor(options: WindowStatesOptions) {
    this.options = options
  }

  getState<V>(descriptor: ValueStateDescriptor<V>): ValueState<V> {
    return this.handle(descriptor, (slot) => valueView<V>(slot, this.refuse))
  }

  getReducingState<V>(descriptor: ReducingStateDescriptor<V>): ReducingState<V> {
    return this.handle(descriptor, (slot) => reducingView(slot, descriptor, this.refuse))
  }

  getAggregatingState<In, Acc, Out>(descriptor: AggregatingStateDescriptor<In, Acc, Out>): AggregatingState<In, Out> {
    return this.handle(descriptor, (slot) => aggregatingView(slot, descriptor, this.refuse))
  }

  getListState<V>(descriptor: ListStateDescriptor<V>): ListState<V> {
    return this.handle(descriptor, (slot) => listView<V>(slot, this.refuse))
  }

  getMapState<MK extends Key, V>(descriptor: MapStateDescriptor<MK, V>): MapState<MK, V> {
    return this.handle(descriptor, (slot) => new MapView<MK, V>(slot, this.refuse))
  }

  /** The state of any kind that a descriptor says. */
  of(descriptor: { readonly kind: string }): unknown {
    let handle = this.known.get(descriptor)
    if (handle === undefined) {
      handle = this.made(descriptor)
      this.known.set(descriptor, handle)
    }
    return handle
  }

  private made(descriptor: { readonly kind: string }): unknown {
    switch (descriptor.kind) {
      case 'value':
        return this.getState(descriptor as ValueStateDescriptor<unknown>)
      case 'reducing':
        return this.getReducingState(descriptor as ReducingStateDescriptor<unknown>)
      case 'list':
        return this.getListState(descriptor as ListStateDescriptor<unknown>)
      case 'map':
        return this.getMapState(descriptor as MapStateDescriptor<Key, unknown>)
      default:
        return this.getAggregatingState(descriptor as AggregatingStateDescriptor<unknown, unknown, unknown>)
    }
  }

  /** Merges the states of `from` under a descriptor into the current record's. */
  merge(descriptor: MergingStateDescriptor, from: readonly WindowRecord[]): void {
    const name = this.nameOf(descriptor)
    const codec = this.codecOf(descriptor)
    const target = this.options.record()
    for (const record of from) {
      const theirs = record.state(name, codec)
      if (theirs === undefined) continue
      const ours = target.state(name, codec)
      target.setState(name, codec, ours === undefined ? theirs : merged(descriptor, ours, theirs))
    }
  }

  private nameOf({ name, version }: Named): string {
    return `${this.options.prefix}${name}@${version}`
  }

  private codecOf(descriptor: Named & { readonly kind: string } & ValueShape): ValueCodec {
    const name = this.nameOf(descriptor)
    let codec = this.codecs.get(name)
    if (codec !== undefined) return codec
    const { codecOf, context } = this.options
    const { aggregate } = descriptor as Partial<AggregatingStateDescriptor<never, unknown, unknown>>
    const shape = aggregate === undefined ? descriptor : { template: () => aggregate.createAccumulator() }
    const what = `State ${JSON.stringify(descriptor.name)}`
    const values = codecOf(shape, { what, id: context.worker.uniqueId(descriptor.name) })
    codec = descriptor.kind === 'list' ? listCodec(values) : descriptor.kind === 'map' ? mapCodec(values) : values
    this.codecs.set(name, codec)
    return codec
  }

  private handle<S>(descriptor: Named & { readonly kind: string } & ValueShape, make: (slot: StateSlot) => S): S {
    const name = this.nameOf(descriptor)
    const known = this.handles.get(name)
    if (known !== undefined) return known as S
    if (descriptor.ttl !== undefined) {
      throw new MillraceError(
        'STATE_TTL_INVALID',
        `State ${JSON.stringify(descriptor.name)} of a window has a time to live.`,
        {
          hint: 'State of a window lives as long as the window; leave the time to live out.',
        },
      )
    }
    const codec = this.codecOf(descriptor)
    const { record } = this.options
    const made = make({
      get: () => record().state(name, codec),
      set: (value) => record().setState(name, codec, value),
      clear: () => {
        record().deleteState(name)
      },
    })
    this.handles.set(name, made)
    return made
  }
}

function merged(descriptor: MergingStateDescriptor, a: unknown, b: unknown): unknown {
  switch (descriptor.kind) {
    case 'reducing':
      return descriptor.reduce(a, b)
    case 'list':
      return (a as unknown[]).concat(b)
    case 'aggregating':
      return descriptor.aggregate.merge(a, b)
  }
}

function listView<V>(slot: StateSlot, refuse: (value: unknown) => void): ListState<V> {
  const update = (values: readonly V[]): void => {
    for (const value of values) refuse(value)
    if (values.length === 0) slot.clear()
    else slot.set(values)
  }
  const get = (): V[] => (slot.get() as V[] | undefined) ?? []
  return {
    get: () => [...get()],
    add: (value) => update([...get(), value]),
    addAll: (values) => update([...get(), ...values]),
    update: (values) => update([...values]),
    clear: () => slot.clear(),
  }
}

/** Entries by the encoding of their keys. */
type Entries<MK, V> = Map<string, readonly [MK, V]>

const scratchOf = (key: Key): ByteArena => {
  const arena = new ByteArena(64)
  encodeKey(key, arena)
  return arena
}
const textOf = (key: Key): string => Buffer.from(scratchOf(key).view()).toString('latin1')

class MapView<MK extends Key, V> implements MapState<MK, V> {
  private readonly slot: StateSlot
  private readonly refuse: (value: unknown) => void

  constructor(slot: StateSlot, refuse: (value: unknown) => void) {
    this.slot = slot
    this.refuse = refuse
  }

  private read(): Entries<MK, V> | undefined {
    return this.slot.get() as Entries<MK, V> | undefined
  }

  get(key: MK): V | undefined {
    return this.read()?.get(textOf(key))?.[1]
  }

  put(key: MK, value: V): void {
    this.refuse(value)
    const entries: Entries<MK, V> = this.read() ?? new Map()
    entries.set(textOf(key), [key, value])
    this.slot.set(entries)
  }

  putAll(entries: Iterable<readonly [MK, V]>): void {
    for (const [key, value] of entries) this.put(key, value)
  }

  remove(key: MK): void {
    const entries = this.read()
    if (entries === undefined) return
    entries.delete(textOf(key))
    if (entries.size === 0) this.slot.clear()
  }

  contains(key: MK): boolean {
    return this.read()?.has(textOf(key)) ?? false
  }

  isEmpty(): boolean {
    return this.read() === undefined
  }

  keys(): Iterable<MK> {
    return this.entries().map(([key]) => key)
  }

  values(): Iterable<V> {
    return this.entries().map(([, value]) => value)
  }

  entries(): [MK, V][] {
    return [...(this.read()?.values() ?? [])].map(([key, value]) => [key, value])
  }

  clear(): void {
    this.slot.clear()
  }
}

/** A 32-bit count, then key and value of each entry, each with its 32-bit length before it. */
function mapCodec(values: ValueCodec): ValueCodec {
  const arena = new ByteArena(256)
  return {
    description: `map(${values.description})`,
    encode(map) {
      const entries = map as Entries<Key, unknown>
      arena.clear()
      writeLength(arena, entries.size)
      for (const [key, value] of entries.values()) {
        writeEncoded(arena, scratchOf(key).view())
        writeEncoded(arena, values.encode(value))
      }
      return arena.view()
    },
    decode(bytes, start) {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      const entries: Entries<Key, unknown> = new Map()
      let at = start + 4
      for (let left = view.getUint32(start, true); left > 0; left--) {
        const keyEnd = at + 4 + view.getUint32(at, true)
        const end = keyEnd + 4 + view.getUint32(keyEnd, true)
        const key = decodeKey(bytes, at + 4, keyEnd)
        entries.set(textOf(key), [key, values.decode(bytes, keyEnd + 4, end)])
        at = end
      }
      return entries
    },
  }
}
