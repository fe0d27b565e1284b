/**
 * Learning events of marketing campaigns, and the real flights that stand in for them in the demo.
 *
 * A flight becomes a learning event: the session is its origin airport, the client its destination, and
 * it succeeded when it was at most 15 minutes late.
 */
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { MillraceError, type RowOf, schema, t } from 'millrace'

const fields = {
  eventId: t.string(),
  sessionId: t.string(),
  clientId: t.string(),
  eventType: t.string(),
  /** Milliseconds since 1970 UTC. */
  timestamp: t.timestamp(),
  success: t.boolean(),
  /** Minutes, for flights; absent for campaign events. */
  delay: t.nullable(t.float64()),
}

export const learningEventSchema = schema(fields)
export type LearningEvent = RowOf<typeof fields>

interface Flight {
  /** `YYYY/MM/DD HH:MM`, read as UTC. */
  readonly date: string
  /** Minutes; negative when early. */
  readonly delay: number
  readonly origin: string
  readonly destination: string
}

/** Minutes late up to which a flight counts as a success. */
export const SUCCESS_DELAY_MINUTES_MAX = 15

export function learningEventOf(flight: Flight, index: number): LearningEvent {
  return {
    eventId: `flight-${index}`,
    sessionId: flight.origin,
    clientId: flight.destination,
    eventType: 'departure',
    timestamp: Date.parse(`${flight.date.replaceAll('/', '-').replace(' ', 'T')}:00Z`),
    success: flight.delay <= SUCCESS_DELAY_MINUTES_MAX,
    delay: flight.delay,
  }
}

/** The data files are not among the package's exports, so its directory is looked for. */
function findPackage(name: string): string {
  const candidates = createRequire(import.meta.url).resolve.paths(name) ?? []
  const found = candidates.map((path) => join(path, name)).find((path) => existsSync(path))
  if (found !== undefined) return found
  throw new MillraceError('PACKAGE_MISSING', `The package ${name} is not installed.`, {
    hint: `Run npm install ${name}.`,
  })
}

/** Path of the 20,000 flights that the package vega-datasets ships. */
export function flightsPath(): string {
  const directory = findPackage('vega-datasets')
  return join(directory, 'data', 'flights-20k.json')
}

export function flightEvents(path: string = flightsPath()): LearningEvent[] {
  return (JSON.parse(readFileSync(path, 'utf8')) as Flight[]).map(learningEventOf)
}

const CAMPAIGN_SESSIONS = 200

/** Simulated campaign event `index`: a fixed function of the index, its time apart. */
export function campaignEvent(index: number, timestamp: number): LearningEvent {
  // A multiplicative hash spreads sessions; each session has a success rate of its own.
  const mixed = Math.imul(index + 1, 0x9e3779b1) >>> 0
  const session = mixed % CAMPAIGN_SESSIONS
  const rate = 40 + ((session * 37) % 60)
  return {
    eventId: `campaign-${index}`,
    sessionId: `session-${session}`,
    clientId: `client-${(mixed >>> 8) % 50}`,
    eventType: ['impression', 'click', 'signup', 'purchase'][(mixed >>> 16) % 4]!,
    timestamp,
    success: (mixed >>> 4) % 100 < rate,
    delay: null,
  }
}
