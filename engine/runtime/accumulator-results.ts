/**
 * The part of a job's result that user functions accumulated; made by the job master when the job ends.
 */
import { type AccumulatorValue, mergeAccumulators } from '../core/accumulators.ts'
import { MillraceError } from '../core/errors.ts'
import type { JobExecutionResult } from './launcher-types.ts'

/** From the local values of all subtasks. Accumulators that cannot be merged are left out of the record. */
export function accumulatorResults(
  locals: ReadonlyMap<string, readonly AccumulatorValue[]>,
): Pick<JobExecutionResult, 'accumulators' | 'getAccumulatorResult'> {
  const accumulators: Record<string, unknown> = {}
  const errors = new Map<string, unknown>()
  for (const [name, values] of locals) {
    try {
      accumulators[name] = mergeAccumulators(name, values)
    } catch (error) {
      errors.set(name, error)
    }
  }
  return {
    accumulators,
    getAccumulatorResult<R>(name: string): R {
      if (errors.has(name)) throw errors.get(name)
      if (Object.hasOwn(accumulators, name)) return accumulators[name] as R
      throw new MillraceError('ACCUMULATOR_UNKNOWN', `The job has no accumulator ${JSON.stringify(name)}.`, {
        hint: `Known: ${[...locals.keys()].join(', ') || 'none'}.`,
      })
    },
  }
}
