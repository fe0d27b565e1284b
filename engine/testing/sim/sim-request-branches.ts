/**
 * Part of simulated jobs that asks an outside system which fails, answers nothing, or never answers: requests are made
 * again after a while, and given up after a longer one.
 *
 * How often the system fails is fixed by the row, so a row that is answered says exactly how often it was asked since
 * the request was begun; a restore begins it anew.
 */
import { AsyncDataStream, type AsyncFunction, AsyncRetryStrategies, RetryPredicates } from '../../api/index.ts'
import type { Branch, BranchStreams } from './sim-branch.ts'
import { type InputRow, REQUESTS_DEFAULT, type SimShape } from './sim-input.ts'

interface Asked {
  readonly id: number
  /** 0 for a request that was given up. */
  readonly calls: number
}

const RETRIES_MAX = 3
const BACKOFF_MS = 4

/** Which call of the row's request is answered; null for none. */
function answeredCall({ requestTimeoutMs }: SimShape, id: number): number | null {
  return requestTimeoutMs !== null && id % 13 === 5 ? null : 1 + (id % (RETRIES_MAX + 1))
}

/** Some rows are refused, some get no results; both are asked again. */
const isRefused = (id: number): boolean => id % 2 === 0

function failing({ shape, wait }: BranchStreams): AsyncFunction<InputRow, Asked> {
  return {
    async asyncInvoke({ id }, { attempt, signal }) {
      const answered = answeredCall(shape, id)
      if (answered === null) {
        await new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
      }
      await wait()
      if (attempt === answered) return [{ id, calls: attempt }]
      if (isRefused(id)) throw new Error(`call ${attempt} for row ${id} failed`)
      return []
    },
    async timeout({ id }) {
      await wait()
      return [{ id, calls: 0 }]
    },
  }
}

/** Rows that ask a system which is not always there. */
export const retried: Branch = {
  sources: 1,
  mayRepeat: true,
  build(given) {
    const { shape, streams, sink } = given
    const { isOrdered, capacity } = shape.requests ?? REQUESTS_DEFAULT
    const retry = AsyncRetryStrategies.fixedDelay(RETRIES_MAX, BACKOFF_MS)
      .ifResult(RetryPredicates.EMPTY_RESULT_PREDICATE)
      .ifException(RetryPredicates.HAS_EXCEPTION_PREDICATE)
    const ask = isOrdered ? AsyncDataStream.orderedWaitWithRetry : AsyncDataStream.unorderedWaitWithRetry
    const asked = ask(streams[0]!.rebalance(), failing(given), shape.requestTimeoutMs ?? 0, capacity, retry)
    sink(asked.uid('retried-rows'), 'retried')
  },
  check(results) {
    const { shape } = results
    const rows = results.rows(0)
    results.same(
      'rows',
      rows.map(({ id }) => String(id)),
      results.texts('retried', ['id']),
    )
    for (const { id, calls } of results.sink('retried') as unknown as readonly Asked[]) {
      const due = answeredCall(shape, id)
      if (calls === due || (calls === 0 && shape.requestTimeoutMs !== null)) continue
      results.fail('I5', `row ${id} was answered by call ${calls}, not ${due ?? 'given up'}`)
      return
    }
  },
}
