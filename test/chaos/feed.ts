/**
 * Feeds events to the log at a steady rate, in the background of a chaos run.
 */
import { join } from 'node:path'
import { openLog, type Producer } from '../../connectors/log/index.ts'
import { chaosEvent, PARTITIONS, TOPIC } from './events.ts'

const TICK_MS = 10
/** After a pause of the machine the feed catches up at most this much at once. */
const BURST_EVENTS_MAX = 5_000

export interface Feed {
  /** Events fed so far. */
  readonly fed: number
  /** Ends the feed for good: sources end there. Resolves to the number of events fed. */
  seal(): Promise<number>
  /** Rejects when the log cannot be written. */
  readonly failed: Promise<never>
}

/** `rate` is in events a second. */
export async function startFeed(directory: string, rate: number): Promise<Feed> {
  const log = await openLog(join(directory, 'log'))
  await log.createTopic(TOPIC, { partitions: PARTITIONS })
  const producer = await log.producer(TOPIC)
  const state = { fed: 0, stopped: false }
  const feeding = feedUntilStopped(producer, rate, state)
  const failed = new Promise<never>((_, reject) => feeding.catch(reject))
  failed.catch(() => {})
  return {
    get fed() {
      return state.fed
    },
    failed,
    async seal() {
      state.stopped = true
      await feeding
      await producer.seal()
      await log.close()
      return state.fed
    },
  }
}

async function feedUntilStopped(
  producer: Producer,
  rate: number,
  state: { fed: number; readonly stopped: boolean },
): Promise<void> {
  let lastMs = performance.now()
  let owed = 0
  while (!state.stopped) {
    const nowMs = performance.now()
    owed = Math.min(BURST_EVENTS_MAX, owed + ((nowMs - lastMs) / 1_000) * rate)
    lastMs = nowMs
    for (; owed >= 1; owed--) {
      const event = chaosEvent(state.fed++)
      producer.append(event.key, Buffer.from(JSON.stringify(event)), event.at)
    }
    await producer.flush()
    await new Promise((resolve) => setTimeout(resolve, TICK_MS))
  }
}
