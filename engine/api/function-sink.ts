/**
 * A function, or an object with `invoke`, as an at-least-once sink. Used by `DataStream.addSink`.
 *
 * Whose instance a subtask calls: per-subtask.ts. Invariants: `open` has ended before the first call and all calls
 * before `close`; a checkpoint completes only when every call begun before its barrier has ended without an
 * error, also those that returned a promise. Operator state is what `snapshotState` left in it at the barrier, when
 * such calls may still be under way: what they carry need not be in it.
 */
import { checkpointListenerOf } from '../../operators/checkpoint-listener.ts'
import { OperatorState } from '../../operators/operator-state.ts'
import { runtimeContextOver } from '../../operators/runtime-context.ts'
import { isPromise, userFunctionError } from '../../operators/user-function.ts'
import { stateCodec } from '../../state/schema-codec.ts'
import type {
  CheckpointedFunction,
  CheckpointListener,
  FunctionSnapshotContext,
  KeyedStateStore,
  RuntimeContext,
} from '../contract/functions.ts'
import type { Sink, SinkContext, SinkWriter, SinkWriterContext } from '../contract/sink.ts'
import type { Batch } from '../core/batch.ts'
import { MillraceError } from '../core/errors.ts'
import type { JsonValue } from '../core/json-value.ts'
import { type RowReader, rowReader } from '../core/rows.ts'
import { perSubtaskOf } from './per-subtask.ts'
import { hasLife, richFunctionFactory } from './process-functions.ts'

/** Called once for each element, and again after a restart for those since the last checkpoint. */
export type SinkFunction<T> = ((value: T, context: SinkContext) => void | Promise<void>) | SinkObject<T>

/** A sink function with a life, and operator state if it wants; RichSinkFunction is its class. */
export interface SinkObject<T> extends Partial<CheckpointedFunction>, Partial<CheckpointListener> {
  /** Takes an element. At most 1,000 promises of a subtask are waited for at a time. */
  invoke(value: T, context: SinkContext): void | Promise<void>
  /** Once after the last element, before the last checkpoint: write what was held back. */
  finish?(): void | Promise<void>
  /** Once in each subtask before the first element, again after a restart. Elements wait until its promise resolves. */
  open?(context: RuntimeContext): void | Promise<void>
  /** Once after the last call has ended, also when the job fails. */
  close?(): void | Promise<void>
  /** @internal Comes before `open`, for RichSinkFunction. */
  setRuntimeContext?(context: RuntimeContext): void
}

/** Calls under way at most, a subtask; beyond it the sink is blocked. */
const OUTSTANDING_MAX = 1_000

class FunctionSinkWriter<T> implements SinkWriter {
  private readonly fn: SinkFunction<T>
  private readonly context: SinkWriterContext
  private readonly read: RowReader
  private readonly listener: Required<CheckpointListener>
  private readonly outstanding = new Set<Promise<void>>()
  /** Of a function that keeps some. */
  private state: OperatorState | null = null
  private failure: MillraceError | null = null
  private isFull = false

  constructor(fn: SinkFunction<T>, context: SinkWriterContext) {
    this.fn = fn
    this.context = context
    this.listener = checkpointListenerOf(typeof fn === 'function' ? null : fn, context.name)
    this.read = rowReader(context.schema, context.worker.interner, context.worker.uniqueId('function sink'))
  }

  async open(): Promise<void> {
    const { fn } = this
    if (typeof fn === 'function') return
    try {
      await this.openObject(fn)
    } catch (thrown) {
      throw this.failed(thrown)
    }
  }

  private async openObject(fn: SinkObject<T>): Promise<void> {
    const { context } = this
    if (fn.initializeState !== undefined) {
      this.state = new OperatorState(context, stateCodec, NO_STATES)
      await fn.initializeState(this.state)
    }
    const runtime = runtimeContextOver({ ...context, attempt: context.restarts }, NO_STATES)
    fn.setRuntimeContext?.(runtime)
    await fn.open?.(runtime)
    this.state?.endDeclarations()
  }

  private failed(thrown: unknown): MillraceError {
    return userFunctionError(thrown, this.context.name)
  }

  write(batch: Batch, from: number): number {
    try {
      return this.invokeAll(batch, from)
    } catch (thrown) {
      throw this.failed(thrown)
    }
  }

  private invokeAll(batch: Batch, from: number): number {
    const { fn } = this
    const currentWatermark = this.context.currentWatermark()
    const currentProcessingTime = this.context.worker.nowMs()
    for (let i = from; i < batch.length; i++) {
      if (this.outstanding.size >= OUTSTANDING_MAX) {
        this.isFull = true
        return i
      }
      const value = this.read(batch, i) as T
      // One for each call, because a call may read it after it has waited.
      const context: SinkContext = { timestamp: batch.eventTime[i]!, currentWatermark, currentProcessingTime }
      const result = typeof fn === 'function' ? fn(value, context) : fn.invoke(value, context)
      if (isPromise(result)) this.track(Promise.resolve(result))
    }
    return batch.length
  }

  endInput(): void {
    const { fn } = this
    if (typeof fn === 'function') return
    try {
      const result = fn.finish?.()
      if (isPromise(result)) this.track(Promise.resolve(result))
    } catch (thrown) {
      throw this.failed(thrown)
    }
  }

  snapshotState(context: FunctionSnapshotContext): JsonValue {
    const { fn, state } = this
    if (typeof fn === 'function') return null
    // Typed as void, which a function that waits may still be given for.
    const returned: unknown = fn.snapshotState?.(context)
    if (isPromise(returned)) {
      throw new MillraceError('ASYNC_FUNCTION', `snapshotState of sink "${this.context.name}" returned a promise.`, {
        hint: 'Put what is to be kept into the state at once: the checkpoint is cut at this call.',
      })
    }
    return state === null ? null : { lists: state.snapshot() }
  }

  notifyCheckpointComplete(checkpointId: number): void {
    this.listener.notifyCheckpointComplete(checkpointId)
  }

  notifyCheckpointAborted(checkpointId: number): void {
    this.listener.notifyCheckpointAborted(checkpointId)
  }

  private track(call: Promise<void>): void {
    const settled = call
      .catch((thrown: unknown) => {
        this.failure ??= this.failed(thrown)
        this.context.fail(this.failure)
      })
      .then(() => {
        this.outstanding.delete(settled)
        if (!this.isFull) return
        this.isFull = false
        this.context.wake()
      })
    this.outstanding.add(settled)
  }

  async prepareCommit(): Promise<JsonValue | null> {
    await Promise.all(this.outstanding)
    if (this.failure !== null) throw this.failure
    return null
  }

  async close(): Promise<void> {
    await Promise.all(this.outstanding)
    if (typeof this.fn === 'object') await this.fn.close?.()
  }
}

/** Throws `PROCESS_FUNCTION_SHARED` for an object with `open` or state that cannot be copied for each subtask. */
export function functionSink<T>(fn: SinkFunction<T>): Sink {
  const create = perSubtaskOf(fn) ?? instancesOf(fn)
  return {
    kind: 'function',
    guarantee: 'at-least-once',
    createWriter: (context) => new FunctionSinkWriter(create(), context),
  }
}

function instancesOf<T>(fn: SinkFunction<T>): () => SinkFunction<T> {
  if (typeof fn === 'function') return () => fn
  return hasLife(fn) || fn.finish !== undefined ? richFunctionFactory(fn, 'RichSinkFunction') : () => fn
}

/** A sink has no keys, and so no keyed state; state of its subtask comes with `initializeState`. */
function noState(): never {
  throw new MillraceError('STATE_NOT_KEYED', 'A sink function has no keyed state.', {
    hint: 'Keep the state in a process function after keyBy, before the sink.',
  })
}

const NO_STATES: KeyedStateStore = {
  getState: noState,
  getListState: noState,
  getMapState: noState,
  getReducingState: noState,
  getAggregatingState: noState,
}
