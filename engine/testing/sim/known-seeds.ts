/**
 * Seeds that once failed because of a bug in the engine or in the simulator, with what they found. The tests run them always.
 *
 * Parts that jobs may have since (sim-draws.ts) change nothing of their runs: each names the choice that it failed with.
 * Other changes of the simulator give most seeds another run; one stays in the list, because it costs little.
 */
import type { Draw } from './sim-draws.ts'

export interface KnownSeed {
  readonly seed: number
  readonly draw: Draw
  readonly found: string
}

export const KNOWN_SEEDS: readonly KnownSeed[] = [
  {
    seed: 1,
    draw: 1,
    found: 'an abort was answered while the attempt was still writing: two attempts at once in a worker',
  },
  {
    seed: 10,
    draw: 1,
    found: 'a row in the last millisecond of a processing-time window came after the window had fired',
  },
  { seed: 11, draw: 1, found: 'a transient read error set a good manifest aside, and its number was used again' },
  {
    seed: 23,
    draw: 1,
    found: 'folders of a new checkpoint directory were lost in a crash: their parent was not synced',
  },
  { seed: 25, draw: 1, found: 'a restarting process took the job back from the one that had taken it over' },
  {
    seed: 26,
    draw: 1,
    found: 'dead letters sealed in an attempt whose state image failed were in no later checkpoint',
  },
  { seed: 28, draw: 1, found: 'the number of a manifest that was set aside was used again' },
  { seed: 40, draw: 1, found: 'results sealed in an attempt whose state image failed were in no later checkpoint' },
  { seed: 44, draw: 1, found: 'a job without a sink could not start although the output of that sink was applied' },
  { seed: 128, draw: 1, found: 'a savepoint with dead letters could not be restored into a new directory' },
  { seed: 129, draw: 1, found: 'a manifest named a state file that garbage collection had removed while it was made' },
  { seed: 135, draw: 1, found: 'garbage collection removed a state file that a retained manifest names' },
  { seed: 149, draw: 1, found: 'a transient read error of the first manifest ended the job at its second start' },
  {
    seed: 164,
    draw: 1,
    found: 'a manifest created with an error after it appeared made the job think it was taken over',
  },
  { seed: 389, draw: 1, found: 'the watermark of an interval join went back after a restore' },
  { seed: 631, draw: 1, found: 'a late process created a manifest under a number that the winner had collected' },
  { seed: 650, draw: 1, found: 'a late process swept the sealed output of the one that had taken over' },
  { seed: 958, draw: 1, found: 'the fence of a late process ended the one that owned the job' },
  { seed: 1183, draw: 1, found: 'a takeover passed over a checkpoint that the owner made after the base was chosen' },
  { seed: 1940, draw: 1, found: 'a wall clock set back by an hour held checkpoints up for an hour' },
  { seed: 7684, draw: 1, found: 'the generation of a takeover that was set aside was used again' },
  {
    seed: 8902,
    draw: 1,
    found: 'a bit that flipped in a file restored by a rescale was hashed into the next checkpoint as its content',
  },
  {
    seed: 33311,
    draw: 1,
    found: 'simulator: a delayed request brought a damaged manifest back, whole, after it was set aside',
  },
  {
    seed: 33754,
    draw: 1,
    found: 'simulator: a delayed request removed a manifest that was repaired by hand meanwhile',
  },
  {
    seed: 386,
    draw: 2,
    found:
      'what a process sent before it was taken over fenced the sinks of the one that had the job, whose start ended',
  },
  {
    seed: 34100,
    draw: 1,
    found: 'after a rescale a window that had fired fired anew for rows that had been late before it',
  },
  {
    seed: 1949,
    draw: 3,
    found: 'simulator: a batch job that is stopped begins again, and its at-least-once sinks are given rows again',
  },
  {
    seed: 13993,
    draw: 3,
    found:
      'a file of dead letters whose directory could not be synced counted as written at the next try; its outbox went, and a crash took the file',
  },
]
