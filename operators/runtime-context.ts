/**
 * What a user function learns of where it runs, and what it may ask for: Flink's RuntimeContext.
 *
 * Made by every operator that runs functions with an `open`, and for sink functions by engine/api/function-sink.ts.
 */
import type { KeyedStateStore, RuntimeContext } from '../engine/contract/functions.ts'
import type { OperatorContext } from '../engine/contract/operator.ts'
import type { WorkerContext } from '../engine/contract/worker-context.ts'
import {
  type Accumulator,
  DoubleCounter,
  HistogramAccumulator,
  IntCounter,
  LongCounter,
} from '../engine/core/accumulators.ts'
import { MillraceError } from '../engine/core/errors.ts'
import type { MetricGroup } from '../engine/core/user-metrics.ts'
import type { UserStates } from './user-state.ts'

/** States that are declared as they are asked for. */
export function keyedStates(states: UserStates): KeyedStateStore {
  return {
    getState: (descriptor) => states.value(descriptor),
    getListState: (descriptor) => states.list(descriptor),
    getMapState: (descriptor) => states.map(descriptor),
    getReducingState: (descriptor) => states.reducing(descriptor),
    getAggregatingState: (descriptor) => states.aggregating(descriptor),
  }
}

/** What functions learn of their job. */
export function jobFacts({ job }: WorkerContext): Pick<RuntimeContext, 'jobInfo' | 'globalJobParameters'> {
  return { jobInfo: { jobId: job.id, jobName: job.name }, globalJobParameters: job.parameters }
}

/** The part of an operator's context that it takes. */
export type RuntimePlace = Pick<
  OperatorContext,
  'name' | 'subtask' | 'parallelism' | 'attempt' | 'accumulators' | 'worker'
> & {
  readonly metrics: MetricGroup
}

export function runtimeContextOver(context: RuntimePlace, states: KeyedStateStore): RuntimeContext {
  const { accumulators, metrics } = context
  const known = <A extends Accumulator>(name: string, made: new () => A): A => {
    const found = accumulators.get(name) ?? new made()
    if (!(found instanceof made)) {
      throw new MillraceError('ACCUMULATOR_EXISTS', `Accumulator ${JSON.stringify(name)} is no ${made.name}.`, {
        hint: 'Give each accumulator of an operator its own name.',
      })
    }
    if (accumulators.get(name) === undefined) accumulators.add(name, found)
    return found
  }
  return {
    taskName: context.name,
    indexOfThisSubtask: context.subtask,
    numberOfParallelSubtasks: context.parallelism,
    attemptNumber: context.attempt,
    ...jobFacts(context.worker),
    metricGroup: metrics,
    addAccumulator: (name, accumulator) => accumulators.add(name, accumulator),
    getAccumulator: (name) => accumulators.get(name),
    getIntCounter: (name) => known(name, IntCounter),
    getLongCounter: (name) => known(name, LongCounter),
    getDoubleCounter: (name) => known(name, DoubleCounter),
    getHistogram: (name) => known(name, HistogramAccumulator),
    getState: (descriptor) => states.getState(descriptor),
    getListState: (descriptor) => states.getListState(descriptor),
    getMapState: (descriptor) => states.getMapState(descriptor),
    getReducingState: (descriptor) => states.getReducingState(descriptor),
    getAggregatingState: (descriptor) => states.getAggregatingState(descriptor),
  }
}
