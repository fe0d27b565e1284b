/**
 * Keyed states that a function may ask for at any time, each declared when it is first asked for: Flink's
 * `globalState()` of window functions.
 *
 * Asking again under the same name gives the same handle.
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
  ValueState,
  ValueStateDescriptor,
} from '../engine/contract/functions.ts'
import type { Key } from '../engine/core/keys.ts'
import type { UserStates } from './user-state.ts'

export class LazyStates implements KeyedStateStore {
  private readonly states: UserStates
  private readonly handles = new Map<string, unknown>()

  /** `states` never ends its declarations. */
  constructor(states: UserStates) {
    this.states = states
  }

  getState<V>(descriptor: ValueStateDescriptor<V>): ValueState<V> {
    return this.once(descriptor, () => this.states.value(descriptor))
  }

  getListState<V>(descriptor: ListStateDescriptor<V>): ListState<V> {
    return this.once(descriptor, () => this.states.list(descriptor))
  }

  getMapState<MK extends Key, V>(descriptor: MapStateDescriptor<MK, V>): MapState<MK, V> {
    return this.once(descriptor, () => this.states.map(descriptor))
  }

  getReducingState<V>(descriptor: ReducingStateDescriptor<V>): ReducingState<V> {
    return this.once(descriptor, () => this.states.reducing(descriptor))
  }

  getAggregatingState<In, Acc, Out>(descriptor: AggregatingStateDescriptor<In, Acc, Out>): AggregatingState<In, Out> {
    return this.once(descriptor, () => this.states.aggregating(descriptor))
  }

  private once<S>({ kind, name }: { readonly kind: string; readonly name: string }, declare: () => S): S {
    // Of another kind under a known name: the state itself refuses to be declared twice.
    const known = this.handles.get(`${kind} ${name}`)
    if (known !== undefined) return known as S
    const made = declare()
    this.handles.set(`${kind} ${name}`, made)
    return made
  }
}
