/**
 * Runs an asynchronous step for each item, a few at a time.
 */

/** Results in the order of `items`. After a failure no further step begins; it rejects once all begun have ended. */
export async function mapBounded<T, R>(
  items: readonly T[],
  concurrency: number,
  step: (item: T) => Promise<R>,
): Promise<R[]> {
  const results = new Array<R>(items.length)
  let next = 0
  let failed = false
  const lane = async (): Promise<void> => {
    while (!failed && next < items.length) {
      const at = next++
      try {
        results[at] = await step(items[at])
      } catch (error) {
        failed = true
        throw error
      }
    }
  }
  const lanes = await Promise.allSettled(Array.from({ length: Math.min(concurrency, items.length) }, lane))
  for (const result of lanes) if (result.status === 'rejected') throw result.reason
  return results
}
