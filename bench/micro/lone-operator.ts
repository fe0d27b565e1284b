/**
 * An operator without an engine around it, as the micro-benchmarks drive it: all state in memory, rows out counted.
 */
import type { KeyedStore } from '../../engine/contract/keyed-store.ts'
import type { Operator, OperatorContext, OperatorCounters, Output } from '../../engine/contract/operator.ts'
import { AccumulatorRegistry } from '../../engine/core/accumulators.ts'
import { keyGroupRange } from '../../engine/core/keys.ts'
import { MetricRegistry } from '../../engine/core/user-metrics.ts'
import { testWorker } from '../../operators/operator.testkit.ts'
import { KeyedBackend } from '../../state/keyed-backend.ts'

export interface LoneOperator {
  readonly backend: KeyedBackend
  readonly output: Output
  readonly rowsOut: () => number
}

const counters = (): OperatorCounters => ({ lateDropped: 0, filtered: 0, coldReads: 0 })

/** Everything fits the budget; what is written is not read again. */
export function backendInMemory(): KeyedBackend {
  return new KeyedBackend({
    operatorId: 0,
    keyGroups: keyGroupRange(0, 1, 128),
    store: { write() {}, deleteRange() {} } as unknown as KeyedStore,
    memoryBudgetBytes: Number.POSITIVE_INFINITY,
    counters: counters(),
  })
}

/** Opens the operator. */
export function openAlone(operator: Operator): LoneOperator {
  let rows = 0
  const backend = backendInMemory()
  const context: OperatorContext = {
    name: 'window',
    uid: 'window',
    subtask: 0,
    parallelism: 1,
    worker: testWorker(() => 0),
    counters: counters(),
    keyed: backend,
    attempt: 0,
    metrics: new MetricRegistry(() => 0),
    accumulators: new AccumulatorRegistry(),
    restored: [],
    scheduleProcessingTime() {},
    wake() {},
  }
  operator.open(context)
  const output: Output = {
    blocked: false,
    emit(batch) {
      rows += batch.length
    },
    emitSide() {},
  }
  return { backend, output, rowsOut: () => rows }
}
