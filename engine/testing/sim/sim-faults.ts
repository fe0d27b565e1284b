/**
 * Which failures a simulation meets and at which step: decided by the seed before it starts.
 *
 * Called by sim-run.ts. Crashes often come in pairs a few steps apart, because recovery is where a second
 * crash hurts; and bits flip soon after a restore, before the next checkpoint.
 */
import type { SeededRandom } from './seeded-random.ts'

export type FaultKind =
  /** Power is cut; the job starts again. */
  | 'crash'
  /** As `crash`, and the newest manifest is damaged. */
  | 'damage'
  /** As `crash`, and a bit flips in a file that the newest manifest names. */
  | 'rot'
  /** As `rot`, while the job runs on. */
  | 'rot-meanwhile'
  /** The process stops without a word, another one takes over, and then the first goes on. */
  | 'pause'
  | 'reader-fails'
  | 'worker-lost'
  | 'disk-errors'
  | 'disk-stalls'
  | 'sink-outage'
  /** No call of the object store is answered. */
  | 'store-outage'
  | 'clock-jump'
  | 'rescale'
  | 'savepoint'
  | 'stop'
  /** Stops with a savepoint; the job may go on in a new directory. */
  | 'stop-with-savepoint'
  /** Stops, and goes on with other branches. */
  | 'upgrade'
  /** Stops, and is started with another number of key groups first. */
  | 'wrong-key-groups'

export interface Fault {
  readonly kind: FaultKind
  readonly atStep: number
  /** Probability of an error, slowness, new parallelism, or milliseconds. */
  readonly amount: number
  /** How many steps it lasts. */
  readonly steps: number
}

/** How many of each kind at most, and how likely there are any. */
const MOST: readonly (readonly [kind: FaultKind, most: number, chance: number])[] = [
  ['crash', 3, 0.75],
  ['damage', 1, 0.2],
  ['rot', 1, 0.35],
  ['rot-meanwhile', 2, 0.2],
  ['pause', 2, 0.25],
  ['reader-fails', 2, 0.6],
  ['worker-lost', 1, 0.5],
  ['disk-errors', 2, 0.6],
  ['disk-stalls', 1, 0.5],
  ['sink-outage', 1, 0.15],
  ['store-outage', 1, 0.25],
  ['clock-jump', 1, 0.2],
  ['rescale', 2, 0.6],
  ['savepoint', 1, 0.5],
  ['stop', 1, 0.2],
  ['stop-with-savepoint', 1, 0.3],
  ['upgrade', 1, 0.3],
  ['wrong-key-groups', 1, 0.1],
]

const HOUR_MS = 3_600_000

function amountOf(kind: FaultKind, random: SeededRandom): number {
  switch (kind) {
    case 'disk-errors':
      return random.pick([0.01, 0.03, 0.1])
    case 'disk-stalls':
      return random.pick([10, 50, 300])
    case 'clock-jump':
      return random.pick([-HOUR_MS, -1_000, 1_000, HOUR_MS])
    default:
      return random.between(1, 4)
  }
}

/** Ascending by step. */
export function planFaults(random: SeededRandom): Fault[] {
  const horizon = random.pick([150, 500, 1_200])
  const faults: Fault[] = []
  for (const [kind, most, chance] of MOST) {
    const count = random.chance(chance) ? random.between(1, most) : 0
    for (let i = 0; i < count; i++) {
      const atStep = random.between(1, horizon)
      faults.push({ kind, atStep, amount: amountOf(kind, random), steps: random.between(20, 250) })
      if (kind === 'crash' && random.chance(0.4)) {
        faults.push({ kind, atStep: atStep + random.between(1, 60), amount: 0, steps: 0 })
      }
    }
  }
  faults.push(...faults.flatMap((fault) => rotAfter(fault, random)))
  return faults.sort((a, b) => a.atStep - b.atStep)
}

/** Between a restore and the checkpoint that follows it, files are what they were, but of another run. */
function rotAfter({ kind, atStep }: Fault, random: SeededRandom): Fault[] {
  if (!RESTORING.has(kind) || !random.chance(0.2)) return []
  return [{ kind: 'rot-meanwhile', atStep: atStep + random.between(40, 240), amount: 0, steps: 0 }]
}

const RESTORING: ReadonlySet<FaultKind> = new Set(['crash', 'rescale', 'stop', 'stop-with-savepoint', 'upgrade'])
