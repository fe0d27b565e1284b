/**
 * Elements beside broadcast elements: Flink's BroadcastProcessFunction and KeyedBroadcastProcessFunction.
 *
 * Input 0 has the elements, input 1 the broadcast ones, which every subtask gets. Both see the maps of
 * broadcast-state.ts; only the second may change them, which TypeScript checks and nothing else.
 */
import type { OnTimerContext } from '../engine/contract/functions.ts'
import type {
  ApplyToKeyedState,
  BroadcastProcessFunction,
  KeyedBroadcastContext,
  KeyedBroadcastOnTimerContext,
  KeyedBroadcastProcessFunction,
} from '../engine/contract/joint-functions.ts'
import type { Operator } from '../engine/contract/operator.ts'
import type { Key } from '../engine/core/keys.ts'
import { type BroadcastDescriptor, BroadcastStates } from './broadcast-state.ts'
import type { CurrentKey } from './current-key.ts'
import { ProcessOperator, type ProcessOptions } from './process-operator.ts'
import type { UserStates } from './user-state.ts'

export interface BroadcastProcessOptions extends ProcessOptions {
  readonly descriptors: readonly BroadcastDescriptor[]
  /** True when input 0 has keys. */
  readonly isKeyed: boolean
}

type AnyFunction = KeyedBroadcastProcessFunction<unknown, unknown, unknown, unknown>
type WriteContext = KeyedBroadcastContext<unknown>

/** `create` makes a fresh function for each subtask. */
export function broadcastProcessOperator<K, In, B, Out>(
  create: () => KeyedBroadcastProcessFunction<K, In, B, Out> | BroadcastProcessFunction<In, B, Out>,
  options: BroadcastProcessOptions,
): Operator {
  const fn = create() as AnyFunction
  const broadcast = new BroadcastStates(options.descriptors, options.codecOf)
  let states: UserStates
  let current: CurrentKey
  const getBroadcastState = (descriptor: { readonly name: string }) => broadcast.get(descriptor)
  const applyToKeyedState = ((descriptor: { readonly name: string }, apply: (key: Key, state: unknown) => void) => {
    states.forEachKey(descriptor, apply)
    current.clear()
  }) as ApplyToKeyedState<unknown>

  // One object of each for all calls: what changes from call to call is read through the operator's own.
  let reading: KeyedBroadcastOnTimerContext<unknown> | null = null
  let writing: WriteContext | null = null
  const readingOf = (context: OnTimerContext<unknown>) => {
    reading ??= Object.assign(Object.create(context), { getBroadcastState }) as KeyedBroadcastOnTimerContext<unknown>
    return reading
  }
  const writingOf = (context: OnTimerContext<unknown>) => {
    writing ??= Object.assign(Object.create(context), { getBroadcastState, applyToKeyedState }) as WriteContext
    return writing
  }
  return new ProcessOperator(
    {
      fn,
      elements: [
        (value, context, collect) => fn.processElement(value, readingOf(context), collect),
        (value, context, collect) => fn.processBroadcastElement(value, writingOf(context), collect),
      ],
      keyed: [options.isKeyed, false],
      batchInputs: [options.isKeyed ? 'sorted' : 'later', 'first'],
      onTimer: (timeMs, context, collect) => fn.onTimer?.(timeMs, readingOf(context), collect),
      extension: {
        open(context, openedStates, currentKey) {
          states = openedStates
          current = currentKey
          broadcast.open(context)
        },
        snapshot: () => broadcast.snapshot(),
      },
    },
    options,
  )
}
