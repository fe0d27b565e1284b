/**
 * What a user function learns of where it runs, and the states it may ask for: Flink's RuntimeContext.
 *
 * Made by every operator that runs functions with an `open`.
 */
import type { RuntimeContext } from '../engine/contract/functions.ts'
import type { OperatorContext } from '../engine/contract/operator.ts'
import type { UserStates } from './user-state.ts'

export function runtimeContext(context: OperatorContext, states: UserStates): RuntimeContext {
  return {
    taskName: context.name,
    indexOfThisSubtask: context.subtask,
    numberOfParallelSubtasks: context.parallelism,
    getState: (descriptor) => states.value(descriptor),
    getListState: (descriptor) => states.list(descriptor),
    getMapState: (descriptor) => states.map(descriptor),
    getReducingState: (descriptor) => states.reducing(descriptor),
    getAggregatingState: (descriptor) => states.aggregating(descriptor),
  }
}
