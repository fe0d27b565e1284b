/**
 * Sizes of the tests in this folder, and what else they share. `npm test` runs them small, to see that they work;
 * `npm run test:scale` (SCALE=long) with as many keys as the decision in question names.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { RunningJob } from '../../engine/runtime/launcher-types.ts'

export const isLong = process.env['SCALE'] === 'long'

/** The size of this run. */
export const sized = (small: number, long: number): number => (isLong ? long : small)

/** Resolves when `isSo` says so. */
export async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await sleep(isLong ? 50 : 1)
}

/** Takes cuts at positions of the input, so that there are as many of them on a slow machine as on a quick one. */
export class Cuts {
  private readonly positions: number[]

  /** Ascending. */
  constructor(positions: readonly number[]) {
    this.positions = [...positions]
  }

  /** The source has come to this position; one cut at a time is on its way. */
  passed(position: number, job: RunningJob): void {
    if (this.positions.length === 0 || position < this.positions[0]!) return
    this.positions.shift()
    // A crash or the end of the job may overtake it.
    job.savepoint().catch(() => {})
  }
}
