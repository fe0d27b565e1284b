/**
 * Sizes of the tests in this folder, and what else they share. `npm test` runs them small, to see that they work;
 * `npm run test:scale` (SCALE=long) with as many keys as the decision in question names.
 */
import { setTimeout as sleep } from 'node:timers/promises'

export const isLong = process.env['SCALE'] === 'long'

/** The size of this run. */
export const sized = (small: number, long: number): number => (isLong ? long : small)

/** Resolves when `isSo` says so. */
export async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await sleep(isLong ? 50 : 1)
}
