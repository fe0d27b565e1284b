/**
 * Calls a window's function and gathers its results; without a function the contents' result is the window's.
 *
 * Used by window-triggered.ts, which selects key and window. Results carry the window's last millisecond as event
 * time.
 */
import type {
  CheckpointListener,
  FunctionSnapshotContext,
  KeyedStateStore,
  OutputTag,
  ProcessWindowFunction,
  StatefulProcessWindowContext,
} from '../engine/contract/functions.ts'
import type { OperatorContext, Output } from '../engine/contract/operator.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { OPAQUE_SCHEMA, type Schema } from '../engine/core/schema.ts'
import { checkpointListenerOf } from './checkpoint-listener.ts'
import { RowCollector, SideCollectors } from './collector.ts'
import type { CurrentKey } from './current-key.ts'
import { LazyStates } from './lazy-states.ts'
import { OperatorState } from './operator-state.ts'
import { runtimeContextOver } from './runtime-context.ts'
import { asyncFunctionError, isPromise } from './user-function.ts'
import { type CodecFactory, UserStates } from './user-state.ts'
import { WindowStates } from './window-state.ts'
import type { WindowTriggerContext } from './window-trigger-context.ts'

type AnyFunction = ProcessWindowFunction<unknown, unknown, unknown>

export interface WindowFunctionOptions {
  /** Makes a fresh function for each subtask; null without one. */
  readonly createFunction: (() => AnyFunction) | null
  /** Of results; opaque values without one. */
  readonly outputSchema?: Schema
  readonly codecOf: CodecFactory
}

export interface FunctionSurroundings {
  readonly context: OperatorContext
  readonly watermark: () => number
  /** Knows the key and window that the function is called for. */
  readonly current: WindowTriggerContext
  readonly key: CurrentKey
  readonly windowsMerge: boolean
}

export class WindowFunctionRunner {
  /** Set when a call put out a batch: the output may be blocked. */
  emitted = false
  readonly listener: CheckpointListener
  private readonly fn: AnyFunction | null
  private readonly around: FunctionSurroundings
  private readonly collector: RowCollector
  private readonly sides = new SideCollectors()
  private readonly windowStates: WindowStates
  private readonly userStates: UserStates
  private readonly globalStates: LazyStates
  private readonly operatorState: OperatorState
  private readonly userContext: StatefulProcessWindowContext<unknown>
  private output!: Output
  private readonly collect = (result: unknown): void => {
    if (isPromise(result)) throw asyncFunctionError(this.around.context.name)
    const { maxTimestamp } = this.around.current.record.window
    if (this.collector.add(result, maxTimestamp, this.output)) this.emitted = true
  }

  constructor(options: WindowFunctionOptions, around: FunctionSurroundings) {
    this.fn = options.createFunction === null ? null : options.createFunction()
    this.around = around
    this.collector = new RowCollector(options.outputSchema ?? OPAQUE_SCHEMA)
    const { context, current, key } = around
    const { codecOf } = options
    this.listener = checkpointListenerOf(this.fn, context.name)
    this.windowStates = new WindowStates({ prefix: 'window.', record: () => current.record, codecOf, context })
    this.userStates = new UserStates(context, key, codecOf)
    this.globalStates = new LazyStates(this.userStates)
    this.operatorState = new OperatorState(context, codecOf, this.globalStates)
    this.userContext = this.makeUserContext()
  }

  private makeUserContext(): StatefulProcessWindowContext<unknown> {
    const { current } = this.around
    return {
      get key() {
        return current.key
      },
      get window() {
        return current.record.window
      },
      get currentWatermark() {
        return current.currentWatermark
      },
      get currentProcessingTime() {
        return current.currentProcessingTime
      },
      windowState: () => this.windowState(),
      globalState: () => this.globalStates,
      output: <X>(tag: OutputTag<X>, value: X) => {
        this.sides.add(tag.id, value, current.record.window.maxTimestamp, this.output)
        this.emitted = true
      },
    }
  }

  private windowState(): KeyedStateStore {
    if (!this.around.windowsMerge) return this.windowStates
    throw new MillraceError('WINDOW_STATE_MERGING', 'Windows that merge have no state of their own.', {
      hint: 'Use globalState(), or keep what you need in the accumulator.',
    })
  }

  open(): void {
    if (this.fn === null) return
    const runtime = runtimeContextOver(this.around.context, this.globalStates)
    this.refusePromise(this.fn.initializeState?.(this.operatorState))
    this.fn.setRuntimeContext?.(runtime)
    this.refusePromise(this.fn.open?.(runtime))
    this.operatorState.endDeclarations()
  }

  snapshot(context: FunctionSnapshotContext): JsonValue {
    this.refusePromise(this.fn?.snapshotState?.(context))
    return this.operatorState.snapshot()
  }

  /** Rows [from, to) come next: their keys are looked up in the function's states. */
  prefetch(keys: KeyColumn, from: number, to: number): void {
    this.userStates.prefetch(keys, from, to)
  }

  /** Where results go until `flush`. */
  begin(output: Output): void {
    this.output = output
    this.emitted = false
  }

  /** Calls the function for the selected window, or emits its result. */
  call(elements: Iterable<unknown>): void {
    if (this.fn === null) for (const result of elements) this.collect(result)
    else this.refusePromise(this.fn.process(this.userContext, elements, this.collect))
    if (this.output.blocked) this.emitted = true
  }

  /** The selected window is over. */
  clear(): void {
    this.refusePromise(this.fn?.clear?.(this.userContext))
  }

  private refusePromise(returned: unknown): void {
    if (isPromise(returned)) throw asyncFunctionError(this.around.context.name)
  }

  flush(output: Output): void {
    this.collector.flush(output)
    this.sides.flush(output)
  }

  /** The subtask's end waits for what the function's own returns. */
  async close(): Promise<void> {
    await this.fn?.close?.()
  }
}
