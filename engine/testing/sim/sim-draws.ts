/**
 * Which parts jobs are made of, as it was at one time: a seed gives the run that it once gave only from the same choice.
 *
 * Used by sim-input.ts and sim-versions.ts. When parts are added, the choice until then becomes an entry here with a
 * number of its own, and known-seeds.ts goes on naming it for the seeds that failed with it.
 */
import { BRANCHES, type BranchName } from './sim-branches.ts'

/** 3 is the newest: every part there is. */
export type Draw = 1 | 2 | 3
export const DRAW_NEWEST: Draw = 3

export function isDraw(draw: number): draw is Draw {
  return draw >= 1 && draw <= DRAW_NEWEST
}

const FIRST: readonly BranchName[] = [
  'stateless',
  'numbers',
  'reduced',
  'timers',
  'behind',
  'windows',
  'sessions',
  'counts',
  'asking',
  'joined',
  'intervals',
  'matched',
  'grouped',
  'connected',
  'ruled',
  'arrivals',
  'alarms',
  'forgotten',
]

const SECOND: readonly BranchName[] = [
  ...FIRST,
  'mapped',
  'listed',
  'fired',
  'gathered',
  'rolling',
  'met',
  'retried',
  'held',
  'portioned',
]

/** In this order. */
export function branchNames(draw: Draw): readonly BranchName[] {
  return draw === 1 ? FIRST : draw === 2 ? SECOND : (Object.keys(BRANCHES) as BranchName[])
}
