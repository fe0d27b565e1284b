/**
 * The stream-processing program of the platform's roadmap, line for line in its own names: only its event
 * types, its source and its sink are given here.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type AggregateFunction,
  BoundedOutOfOrdernessTimestampExtractor,
  StreamExecutionEnvironment,
  Time,
  TumblingEventTimeWindows,
} from 'millrace'
import { collectSink } from 'millrace/connectors/collect'
import { collectionSource } from 'millrace/connectors/collection'
import { wilsonLowerBound } from '../jobs/pattern-aggregation.ts'

interface LearningEvent {
  readonly sessionId: string
  readonly timestamp: number
  readonly success: boolean
}

interface DetectedPattern {
  readonly sessionId: string
  readonly samples: number
  readonly confidence: number
}

class PatternAccumulator {
  sessionId = ''
  samples = 0
  successes = 0

  addEvent(event: LearningEvent): void {
    this.sessionId = event.sessionId
    this.samples++
    if (event.success) this.successes++
  }

  detectPattern(): DetectedPattern {
    return {
      sessionId: this.sessionId,
      samples: this.samples,
      confidence: wilsonLowerBound(this.successes, this.samples),
    }
  }

  merge(other: PatternAccumulator): PatternAccumulator {
    this.samples += other.samples
    this.successes += other.successes
    return this
  }
}

class PatternAggregationFunction implements AggregateFunction<LearningEvent, PatternAccumulator, DetectedPattern> {
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

  merge(acc1: PatternAccumulator, acc2: PatternAccumulator): PatternAccumulator {
    return acc1.merge(acc2)
  }
}

const MINUTE_MS = 60_000
const START_MS = Date.UTC(2025, 5, 1)

/** Thirty events for each of four sessions and two windows; session s succeeds in 4 of 5 events, or always. */
function events(): LearningEvent[] {
  const all: LearningEvent[] = []
  for (let window = 0; window < 2; window++) {
    for (let i = 0; i < 30; i++) {
      for (let session = 0; session < 4; session++) {
        const timestamp = START_MS + window * 5 * MINUTE_MS + i * 9_000
        all.push({ sessionId: `session-${session}`, timestamp, success: session % 2 === 0 || i % 5 !== 0 })
      }
    }
  }
  return all
}

class RealTimePatternDetection {
  readonly store = collectSink<DetectedPattern>()

  async setupStreamProcessing(): Promise<void> {
    const env = StreamExecutionEnvironment.getExecutionEnvironment()

    env.setParallelism(16)
    env.enableCheckpointing(60000)

    const eventStream = env
      .addSource(collectionSource<LearningEvent>(events()))
      .assignTimestampsAndWatermarks(new BoundedOutOfOrdernessTimestampExtractor(5000))

    const patterns = eventStream
      .keyBy((event) => event.sessionId)
      .window(TumblingEventTimeWindows.of(Time.minutes(5)))
      .aggregate(new PatternAggregationFunction())
      .filter((pattern) => pattern.confidence > 0.7)

    patterns.addSink(this.store.sink)

    await env.execute('Real-time Pattern Detection')
  }
}

test('the roadmap program runs as it is written', async () => {
  const detection = new RealTimePatternDetection()
  await detection.setupStreamProcessing()
  const found = detection.store.results.map(({ sessionId, samples }) => `${sessionId} ${samples}`).sort()
  assert.deepEqual(found, ['session-0 30', 'session-0 30', 'session-2 30', 'session-2 30'])
  for (const { confidence } of detection.store.results) assert.equal(confidence, wilsonLowerBound(30, 30))
  assert.ok(wilsonLowerBound(24, 30) < 0.7, 'the other sessions are below the threshold')
})
