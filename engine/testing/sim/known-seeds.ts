/**
 * Seeds that once failed because of a bug in the engine, with what they found. The tests run them always.
 *
 * A change of the simulator may give a seed another run; it stays in the list, because it costs little.
 */
export const KNOWN_SEEDS: readonly { readonly seed: number; readonly found: string }[] = [
  { seed: 3, found: 'folders of a new checkpoint directory were lost in a crash: their parent was not synced' },
  { seed: 9, found: 'a worker without subtasks never acked, so no checkpoint completed and the job never ended' },
  { seed: 11, found: 'a transient read error set a good manifest aside, and its number was used again' },
  { seed: 19, found: 'a transient read error of the only manifest ended the job' },
  { seed: 26, found: 'dead letters sealed in an attempt whose state image failed were in no later checkpoint' },
  { seed: 34, found: 'a worker without subtasks never acked; the attempt timed out again and again' },
  { seed: 40, found: 'results sealed in an attempt whose state image failed were in no later checkpoint' },
  { seed: 85, found: 'as 26, with one checkpoint between failure and end' },
  { seed: 135, found: 'garbage collection removed a state file that the final checkpoint was about to name' },
  { seed: 149, found: 'a transient read error of the first manifest ended the job at its second start' },
]
