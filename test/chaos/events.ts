/**
 * The events that the chaos job is fed: a function of their number, so that what must come out can be
 * computed without remembering what went in.
 */

export const TOPIC = 'chaos'
export const PARTITIONS = 4
export const KEYS = 97
/** Event time between one event and the next. */
export const SPACING_MS = 2
/** Events are at most this much older than one before them. */
export const DISORDER_MS = 200
export const WINDOW_MS = 1_000
const BASE_MS = Date.UTC(2025, 0, 1)

export interface ChaosEvent {
  readonly id: number
  readonly key: string
  /** Milliseconds since 1970 UTC. */
  readonly at: number
  readonly amount: number
}

/** A well-mixed 32-bit number (the finaliser of murmur3). */
function mix(value: number): number {
  let h = value | 0
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}

/** Every fifth event belongs to one of five keys, so that load is skewed. */
export function keyNumberOf(id: number): number {
  const mixed = mix(id)
  return mixed % 5 === 0 ? mixed % 4 : mixed % KEYS
}

export function chaosEvent(id: number): ChaosEvent {
  const at = BASE_MS + id * SPACING_MS - (mix(id ^ 0x5bd1e995) % DISORDER_MS)
  return { id, key: `key-${keyNumberOf(id)}`, at, amount: mix(id + 7) % 1_000 }
}
