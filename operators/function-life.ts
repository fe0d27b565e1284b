/**
 * The life of a user's function object in one subtask: its state, `open`, snapshots and `close`.
 *
 * Used by operators that call functions with a life. Invariants: states are declared before `open` returns;
 * `initializeState` comes before `open`; what the function throws carries the operator's name.
 */
import type {
  CheckpointListener,
  FunctionSnapshotContext,
  KeyedStateStore,
  RichFunction,
} from '../engine/contract/functions.ts'
import type { OperatorContext } from '../engine/contract/operator.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { checkpointListenerOf } from './checkpoint-listener.ts'
import type { CurrentKey } from './current-key.ts'
import { OperatorState } from './operator-state.ts'
import { keyedStates, runtimeContextOver } from './runtime-context.ts'
import { asyncFunctionError, isPromise, userFunctionError } from './user-function.ts'
import { type CodecFactory, UserStates } from './user-state.ts'

export class FunctionLife {
  readonly states: UserStates
  readonly listener: CheckpointListener
  private readonly fn: RichFunction
  private readonly context: OperatorContext
  private readonly keyedStates: KeyedStateStore
  private readonly operatorState: OperatorState

  constructor(fn: RichFunction, context: OperatorContext, current: CurrentKey, codecOf: CodecFactory) {
    this.fn = fn
    this.context = context
    this.listener = checkpointListenerOf(fn, context.name)
    this.states = new UserStates(context, current, codecOf)
    this.keyedStates = keyedStates(this.states)
    this.operatorState = new OperatorState(context, codecOf, this.keyedStates)
  }

  /** To be called in the operator's `open`. */
  open(): void {
    const { fn, context, states, operatorState } = this
    this.guard(() => fn.initializeState?.(operatorState))
    const runtime = runtimeContextOver(context, this.keyedStates)
    fn.setRuntimeContext?.(runtime)
    this.guard(() => fn.open?.(runtime))
    states.endDeclarations()
    operatorState.endDeclarations()
  }

  /** Calls user code outside a hot loop. */
  guard(call: () => unknown): void {
    let returned: unknown
    try {
      returned = call()
    } catch (error) {
      throw userFunctionError(error, this.context.name)
    }
    if (isPromise(returned)) throw asyncFunctionError(this.context.name)
  }

  /** `lists` of the operator's snapshot. */
  snapshot(context: FunctionSnapshotContext): JsonValue {
    this.guard(() => this.fn.snapshotState?.(context))
    return this.operatorState.snapshot()
  }

  /** The one call that may take its time: the subtask's end waits for its promise. */
  async close(): Promise<void> {
    try {
      await this.fn.close?.()
    } catch (error) {
      throw userFunctionError(error, this.context.name)
    }
  }
}
