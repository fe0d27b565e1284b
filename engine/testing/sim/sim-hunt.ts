/**
 * Looks for the first seed that finds a planted bug. Called by mutants.ts and by the tests.
 */
import type { Violation } from './sim-invariants.ts'
import { MUTANTS, type MutantName } from './sim-mutants.ts'
import { runSeed } from './sim-run.ts'

export interface Catch {
  readonly seed: number
  readonly violation: Violation
}

/** Null when none of `seedsMax` seeds finds it. */
export async function huntMutant(name: MutantName, seedsMax: number, from = 1): Promise<Catch | null> {
  for (let seed = from; seed < from + seedsMax; seed++) {
    const { violation } = await runSeed(seed, { plant: MUTANTS[name].plant() })
    if (violation !== null) return { seed, violation }
  }
  return null
}
