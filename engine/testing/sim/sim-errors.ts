/**
 * Which failures of the engine a simulation explains; every other one is a violation.
 *
 * Called by sim-run.ts.
 */

/** Failures that injected faults cause. */
const INJECTED =
  /simulated, |planned failure|: lost$|^lost$|transaction was refused|reply to the transaction|no reply to the transaction|An earlier try created manifest/

/** What the loser of a race between two processes may meet: the winner collected what it no longer needs. */
const RIVALRY = /took over the job|Another owner has sink|ENOENT: there is no object|\.seg is gone|already holds epoch/

const LOST_RACE = new Set(['JOB_TAKEN_OVER', 'SINK_FENCED'])

/** Of a manifest that was damaged: it was set aside, or the job refuses to go on without it. */
const DAMAGE = /does not match its checksum|Set .* aside|already holds epoch|No checkpoint in/
const DAMAGE_CODES = new Set(['SINK_AHEAD', 'CHECKPOINT_NOT_FOUND'])

/** Of a file of state or output of which a bit flipped: the job ends, and does not try for ever. */
const ROT = /does not match its checksum|is damaged: it has/
const ROT_CODES = new Set(['SNAPSHOT_CORRUPT', 'STATE_FILE_CORRUPT', 'OUTPUT_LOST'])

/** Empty when it has none. */
export function errorCode(error: unknown): string {
  return (error as { code?: string } | null)?.code ?? ''
}

/** Do the faults of the simulation explain this failure? */
export function explained(message: string, hasRival: boolean): boolean {
  return INJECTED.test(message) || (hasRival && RIVALRY.test(message))
}

/** Another process has the job: final for the one that notices. */
export function isLostRace(code: string): boolean {
  return LOST_RACE.has(code)
}

/** May a job whose newest manifest is damaged end like this? Without a code: may it report this? */
export function mayBeRefused(code: string | null, message: string): boolean {
  return DAMAGE.test(message) && (code === null || DAMAGE_CODES.has(code))
}

/** May a job with a rotten file end like this? Without a code: may it report this? */
export function isRotRefused(code: string | null, message: string): boolean {
  return ROT.test(message) && (code === null || ROT_CODES.has(code))
}
