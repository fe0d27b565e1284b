/**
 * Seeds that once failed because of a bug in the engine, with what they found. The tests run them always.
 *
 * A change of the simulator may give a seed another run; it stays in the list, because it costs little.
 */
export const KNOWN_SEEDS: readonly { readonly seed: number; readonly found: string }[] = [
  { seed: 1, found: 'an abort was answered while the attempt was still writing: two attempts at once in a worker' },
  { seed: 11, found: 'a transient read error set a good manifest aside, and its number was used again' },
  { seed: 23, found: 'folders of a new checkpoint directory were lost in a crash: their parent was not synced' },
  { seed: 25, found: 'a worker without subtasks never acked, so no checkpoint completed and the job never ended' },
  { seed: 26, found: 'dead letters sealed in an attempt whose state image failed were in no later checkpoint' },
  { seed: 40, found: 'results sealed in an attempt whose state image failed were in no later checkpoint' },
  { seed: 129, found: 'a manifest named a state file that garbage collection had removed while it was made' },
  { seed: 135, found: 'garbage collection removed a state file that a retained manifest names' },
  { seed: 149, found: 'a transient read error of the first manifest ended the job at its second start' },
  { seed: 164, found: 'a manifest created with an error after it appeared made the job think it was taken over' },
]
