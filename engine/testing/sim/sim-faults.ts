/**
 * Which failures a simulation meets and at which step: decided by the seed before it starts.
 *
 * Called by sim-run.ts. Crashes often come in pairs a few steps apart, because recovery is where a second
 * crash hurts.
 */
import type { SeededRandom } from './seeded-random.ts'

export type FaultKind =
  | 'crash'
  | 'reader-fails'
  | 'worker-lost'
  | 'disk-errors'
  | 'disk-stalls'
  | 'rescale'
  | 'savepoint'
  | 'stop'

export interface Fault {
  readonly kind: FaultKind
  readonly atStep: number
  /** Probability of an error, slowness, or the new parallelism. */
  readonly amount: number
  /** How many steps it lasts. */
  readonly steps: number
}

/** How many of each kind at most. */
const MOST: readonly (readonly [FaultKind, number])[] = [
  ['crash', 3],
  ['reader-fails', 2],
  ['worker-lost', 1],
  ['disk-errors', 2],
  ['disk-stalls', 1],
  ['rescale', 2],
  ['savepoint', 1],
  ['stop', 1],
]

function amountOf(kind: FaultKind, random: SeededRandom): number {
  if (kind === 'disk-errors') return random.pick([0.01, 0.03, 0.1])
  if (kind === 'disk-stalls') return random.pick([10, 50, 300])
  return random.between(1, 4)
}

/** Ascending by step. */
export function planFaults(random: SeededRandom): Fault[] {
  const horizon = random.pick([150, 500, 1_200])
  const faults: Fault[] = []
  for (const [kind, most] of MOST) {
    const count = random.between(0, most)
    for (let i = 0; i < count; i++) {
      const atStep = random.between(1, horizon)
      faults.push({ kind, atStep, amount: amountOf(kind, random), steps: random.between(20, 250) })
      if (kind === 'crash' && random.chance(0.4)) {
        faults.push({ kind, atStep: atStep + random.between(1, 60), amount: 0, steps: 0 })
      }
    }
  }
  return faults.sort((a, b) => a.atStep - b.atStep)
}
