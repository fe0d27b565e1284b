/**
 * Lists that belong to a subtask, not to a key: Flink's operator state, for functions that are
 * `CheckpointedFunction`s.
 *
 * Made by operators that run user code, and for sink functions by engine/api/function-sink.ts. Elements are encoded into the operator's own snapshot, so they should be
 * few. Invariants: after a restore every element of a list is in exactly one subtask, and with the parallelism
 * unchanged in the one that had it; of a union list every subtask has them all.
 */
import type {
  FunctionInitializationContext,
  KeyedStateStore,
  ListState,
  ListStateDescriptor,
  OperatorStateStore,
} from '../engine/contract/functions.ts'
import type { ValueCodec } from '../engine/contract/keyed-state.ts'
import type { OperatorContext } from '../engine/contract/operator.ts'
import { MillraceError } from '../engine/core/errors.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import type { CodecFactory } from './user-state.ts'

/** The part of an operator's context that it takes. */
export type StatePlace = Pick<OperatorContext, 'worker' | 'subtask' | 'parallelism' | 'restored'>

/** One list in a subtask's snapshot; the values are encoded and in base64. */
interface StoredList {
  readonly version: number
  readonly layout: string
  readonly values: readonly string[]
}

class PlainList implements ListState<unknown> {
  values: unknown[]
  readonly version: number
  readonly codec: ValueCodec

  constructor(values: unknown[], version: number, codec: ValueCodec) {
    this.values = values
    this.version = version
    this.codec = codec
  }

  get(): Iterable<unknown> {
    return this.values.slice()
  }
  add(value: unknown): void {
    this.values.push(value)
  }
  addAll(values: Iterable<unknown>): void {
    for (const value of values) this.values.push(value)
  }
  update(values: Iterable<unknown>): void {
    this.values = Array.from(values)
  }
  clear(): void {
    this.values = []
  }

  snapshot(): StoredList {
    const { version, codec } = this
    const values = this.values.map((value) => Buffer.from(codec.encode(value)).toString('base64'))
    return { version, layout: codec.description, values }
  }
}

export class OperatorState implements FunctionInitializationContext {
  readonly isRestored: boolean
  readonly operatorStateStore: OperatorStateStore
  readonly keyedStateStore: KeyedStateStore
  private readonly context: StatePlace
  private readonly codecOf: CodecFactory
  private readonly lists = new Map<string, PlainList>()
  private declared = false

  /** `keyedStates` is what functions get for state by key. */
  constructor(context: StatePlace, codecOf: CodecFactory, keyedStates: KeyedStateStore) {
    this.context = context
    this.keyedStateStore = keyedStates
    this.codecOf = codecOf
    this.isRestored = context.restored.length > 0
    this.operatorStateStore = {
      getListState: <V>(descriptor: ListStateDescriptor<V>) => this.list(descriptor, false) as unknown as ListState<V>,
      getUnionListState: <V>(descriptor: ListStateDescriptor<V>) =>
        this.list(descriptor, true) as unknown as ListState<V>,
    }
  }

  endDeclarations(): void {
    this.declared = true
  }

  private list(descriptor: ListStateDescriptor<unknown>, isUnion: boolean): PlainList {
    const { name, version, ttl } = descriptor
    const shown = JSON.stringify(name)
    if (this.declared) {
      throw new MillraceError('STATE_DECLARED_LATE', `Operator state ${shown} is declared after initializeState.`, {
        hint: 'Get it in initializeState and keep it in a property.',
      })
    }
    if (this.lists.has(name)) {
      throw new MillraceError('STATE_DECLARED_TWICE', `Operator state ${shown} is declared twice.`, {
        hint: 'Give each state of an operator its own name.',
      })
    }
    if (ttl !== undefined) {
      throw new MillraceError('TTL_INVALID', `Operator state ${shown} cannot have a time to live.`, {
        hint: 'Only keyed state can.',
      })
    }
    const id = this.context.worker.uniqueId(name)
    const codec = this.codecOf(descriptor, { what: `Operator state ${shown}`, id })
    const values = this.restored(name, version, codec, isUnion).map((text) => {
      const bytes = Buffer.from(text, 'base64')
      return codec.decode(bytes, 0, bytes.length)
    })
    const list = new PlainList(values, version, codec)
    this.lists.set(name, list)
    return list
  }

  /** The encoded elements that this subtask begins with. */
  private restored(name: string, version: number, codec: ValueCodec, isUnion: boolean): readonly string[] {
    const { restored, subtask, parallelism } = this.context
    const perSubtask = restored.map((state) => {
      const stored = (state as { lists?: Record<string, StoredList> } | null)?.lists?.[name]
      if (stored === undefined) return []
      if (stored.version === version && stored.layout === codec.description) return stored.values
      throw new MillraceError(
        'STATE_INCOMPATIBLE',
        `Operator state ${JSON.stringify(name)} was saved as version ${stored.version} ${stored.layout}, but is declared as version ${version} ${codec.description}.`,
        { hint: 'Keep the shape of the value, or give the changed state a new name.' },
      )
    })
    if (isUnion) return perSubtask.flat()
    if (perSubtask.length === parallelism) return perSubtask[subtask]!
    return perSubtask.flat().filter((_, i) => i % parallelism === subtask)
  }

  snapshot(): JsonValue {
    return Object.fromEntries([...this.lists].map(([name, list]) => [name, list.snapshot() as unknown as JsonValue]))
  }
}
