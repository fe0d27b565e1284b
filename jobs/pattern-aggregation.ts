/**
 * Detects success patterns: how often the events of a session succeed within a window, and how sure one
 * can be of it.
 */
import type { AggregateFunction } from 'millrace'
import type { LearningEvent } from './learning-events.ts'

export interface DetectedPattern {
  readonly patternType: string
  readonly sessionId: string
  readonly sampleSize: number
  /** Share of successful events, 0 to 1. */
  readonly successRate: number
  /** Lower bound of the success rate, see `wilsonLowerBound`. */
  readonly confidence: number
  /** Events of each client. */
  readonly clients: Readonly<Record<string, number>>
}

/**
 * Lower bound of the Wilson score interval for a success rate (E. B. Wilson, 1927).
 * `z` = 1.96 gives 95 % confidence. Zero samples give 0.
 */
export function wilsonLowerBound(successes: number, samples: number, z = 1.96): number {
  if (samples === 0) return 0
  const rate = successes / samples
  const z2 = z * z
  const centre = rate + z2 / (2 * samples)
  const margin = z * Math.sqrt((rate * (1 - rate) + z2 / (4 * samples)) / samples)
  return (centre - margin) / (1 + z2 / samples)
}

export class PatternAccumulator {
  sessionId = ''
  eventType = ''
  samples = 0
  successes = 0
  clients = new Map<string, number>()

  addEvent(event: LearningEvent): void {
    this.sessionId = event.sessionId
    this.eventType = event.eventType
    this.samples++
    if (event.success) this.successes++
    this.clients.set(event.clientId, (this.clients.get(event.clientId) ?? 0) + 1)
  }

  merge(other: PatternAccumulator): PatternAccumulator {
    if (this.samples === 0) return other
    this.samples += other.samples
    this.successes += other.successes
    for (const [client, count] of other.clients) this.clients.set(client, (this.clients.get(client) ?? 0) + count)
    return this
  }

  detectPattern(): DetectedPattern {
    return {
      patternType: `${this.eventType}-success`,
      sessionId: this.sessionId,
      sampleSize: this.samples,
      successRate: this.samples === 0 ? 0 : this.successes / this.samples,
      confidence: wilsonLowerBound(this.successes, this.samples),
      clients: Object.fromEntries([...this.clients].sort(([a], [b]) => (a < b ? -1 : 1))),
    }
  }
}

export class PatternAggregationFunction
  implements AggregateFunction<LearningEvent, PatternAccumulator, DetectedPattern>
{
  createAccumulator(): PatternAccumulator {
    return new PatternAccumulator()
  }

  add(event: LearningEvent, accumulator: PatternAccumulator): PatternAccumulator {
    accumulator.addEvent(event)
    return accumulator
  }

  getResult(accumulator: PatternAccumulator): DetectedPattern {
    return accumulator.detectPattern()
  }

  merge(a: PatternAccumulator, b: PatternAccumulator): PatternAccumulator {
    return a.merge(b)
  }
}
