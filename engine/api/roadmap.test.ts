/**
 * The roadmap's Layer 2 program, with its source and sink constructors changed and nothing else. That this
 * file compiles is half of the test.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { collectionSource } from '../../connectors/collection/collection-source.ts'
import {
  type AggregateFunction,
  BoundedOutOfOrdernessTimestampExtractor,
  type SinkFunction,
  StreamExecutionEnvironment,
  Time,
  TumblingEventTimeWindows,
} from './index.ts'

interface LearningEvent {
  sessionId: string
  timestamp: number
  success: boolean
}

interface DetectedPattern {
  sessionId: string
  confidence: number
  sampleSize: number
}

class PatternAccumulator {
  sessionId = ''
  events = 0
  successes = 0

  addEvent(event: LearningEvent): void {
    this.sessionId = event.sessionId
    this.events++
    if (event.success) this.successes++
  }

  detectPattern(): DetectedPattern {
    return { sessionId: this.sessionId, confidence: this.successes / this.events, sampleSize: this.events }
  }

  merge(other: PatternAccumulator): PatternAccumulator {
    this.events += other.events
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

const stored: DetectedPattern[] = []

class PatternStoreSink {
  invoke(pattern: DetectedPattern): void {
    stored.push(pattern)
  }
}

/** Two windows of five minutes: the first is a success in session `a` and a mixture in `b`. */
const events: LearningEvent[] = [
  { sessionId: 'a', timestamp: 1_000, success: true },
  { sessionId: 'b', timestamp: 2_000, success: true },
  { sessionId: 'b', timestamp: 3_000, success: false },
  { sessionId: 'a', timestamp: 299_999, success: true },
  { sessionId: 'b', timestamp: 302_000, success: true },
  // Four seconds back: within the bound, still in the first window.
  { sessionId: 'a', timestamp: 298_000, success: true },
]

class RealTimePatternDetection {
  async setupStreamProcessing(): Promise<void> {
    const env = StreamExecutionEnvironment.getExecutionEnvironment()

    // Configure for scale
    env.setParallelism(16)
    env.enableCheckpointing(60000) // 1 minute checkpoints

    const eventStream = env
      .addSource(collectionSource(events))
      .assignTimestampsAndWatermarks(new BoundedOutOfOrdernessTimestampExtractor(5000))

    // Real-time pattern detection
    const patterns = eventStream
      .keyBy((event) => event.sessionId)
      .window(TumblingEventTimeWindows.of(Time.minutes(5)))
      .aggregate(new PatternAggregationFunction())
      .filter((pattern) => pattern.confidence > 0.7)

    // Output to pattern store
    patterns.addSink(new PatternStoreSink() satisfies SinkFunction<DetectedPattern>)

    // Start processing
    await env.execute('Real-time Pattern Detection')
  }
}

test('the Layer 2 program finds its patterns', async () => {
  await new RealTimePatternDetection().setupStreamProcessing()
  stored.sort((a, b) => a.sampleSize - b.sampleSize)
  assert.deepEqual(stored, [
    { sessionId: 'b', confidence: 1, sampleSize: 1 },
    { sessionId: 'a', confidence: 1, sampleSize: 3 },
  ])
})
