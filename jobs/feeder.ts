/**
 * Feeds learning events into the log at a steady rate: the ingestion path of the main job.
 *
 * Events go to the partition of their session, in order, so how many records a partition holds says which
 * events are in it: after a crash the feeder skips exactly those and nothing is missing or doubled, even
 * when one partition lost a tail that another kept.
 */
import { type Log, type Producer, partitionOf } from 'millrace/connectors/log'
import type { LearningEvent } from './learning-events.ts'
import { TOPIC } from './pattern-detection.ts'

export const PARTITIONS = 4
const TICK_MS = 10
const EVENTS_PER_CHUNK = 2_000
const PENDING_BYTES_MAX = 4 << 20

export interface FeedOptions {
  /** The event of an index, or null after the last one. Must not depend on when it is called, save for its time. */
  readonly eventAt: (index: number) => LearningEvent | null
  /** Events a second; 0 is as fast as possible. */
  readonly rate: number
  readonly sealAtEnd: boolean
  readonly signal: AbortSignal
}

export interface FeedResult {
  /** Events in the log, those of earlier runs included. */
  readonly events: number
  /** True when there are no more events. */
  readonly complete: boolean
}

/** Makes the topic when it is absent. */
export async function prepareTopic(log: Log): Promise<void> {
  await log.createTopic(TOPIC, { partitions: PARTITIONS })
}

/** Feeds until the events or the signal end, and seals the topic when asked to and the events ended. */
export async function feedEvents(log: Log, options: FeedOptions): Promise<FeedResult> {
  const producer = await log.producer(TOPIC)
  const present = producer.endOffsets()
  let index = 0
  let fed = 0
  const startedMs = performance.now()
  const feedOne = (): boolean => {
    for (;;) {
      const event = options.eventAt(index)
      if (event === null) return false
      index++
      if (skipPresent(event, present)) continue
      append(producer, event)
      fed++
      return true
    }
  }
  try {
    while (!options.signal.aborted) {
      const due = options.rate === 0 ? EVENTS_PER_CHUNK : dueEvents(startedMs, options.rate) - fed
      for (let i = 0; i < due; i++) {
        if (feedOne()) continue
        if (options.sealAtEnd) await producer.seal()
        else await producer.flush()
        return { events: index, complete: true }
      }
      if (options.rate === 0 && producer.pendingBytes < PENDING_BYTES_MAX) await nextTurn(0)
      else {
        await producer.flush()
        if (options.rate > 0) await nextTurn(TICK_MS)
      }
    }
    await producer.flush()
    return { events: index, complete: false }
  } finally {
    await producer.close()
  }
}

function skipPresent(event: LearningEvent, present: number[]): boolean {
  const partition = partitionOf(Buffer.from(event.sessionId), present.length)
  if (present[partition] === 0) return false
  present[partition]!--
  return true
}

function append(producer: Producer, event: LearningEvent): void {
  producer.append(event.sessionId, Buffer.from(JSON.stringify(event)), event.timestamp)
}

function dueEvents(startedMs: number, rate: number): number {
  return Math.floor(((performance.now() - startedMs) / 1_000) * rate)
}

function nextTurn(ms: number): Promise<void> {
  return new Promise((resolve) => {
    if (ms === 0) setImmediate(resolve)
    else setTimeout(resolve, ms)
  })
}
