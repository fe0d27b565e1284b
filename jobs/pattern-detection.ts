/**
 * Real-time pattern detection: the main job. Learning events come from the log, are counted by session in
 * event-time windows, and windows that succeed reliably become patterns in the pattern store.
 *
 * `npm start` feeds and runs it; `millrace run jobs/pattern-detection.ts` runs it on a log that something
 * else fills. Its settings come through `--set` (all optional):
 *   dir          state directory, default .millrace/pattern-detection
 *   window-ms    window size in milliseconds, default a day
 *   until-sealed `true` ends the job where the log was sealed
 *   postgres     URL of a Postgres server; default is PGlite in DIR/store
 */
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { job, seconds, TumblingEventTimeWindows, WatermarkStrategy } from 'millrace'
import { filesSink } from 'millrace/connectors/files'
import { logSource } from 'millrace/connectors/log'
import { postgresSink } from 'millrace/connectors/postgres'
import { printSink } from 'millrace/connectors/print'
import { type LearningEvent, learningEventSchema } from './learning-events.ts'
import { type DetectedPattern, PatternAggregationFunction } from './pattern-aggregation.ts'

export const TOPIC = 'learning-events'
export const DEFAULT_DIRECTORY = '.millrace/pattern-detection'
const DAY_MS = 86_400_000
const CONFIDENCE_MIN = 0.7

/** A row of the pattern store; times are milliseconds since 1970 UTC. */
export interface SuccessPattern {
  readonly pattern_hash: string
  readonly pattern_type: string
  readonly session_id: string
  readonly window_start: number
  readonly window_end: number
  readonly sample_size: number
  readonly success_rate: number
  readonly confidence_score: number
  readonly pattern_data: { readonly clients: Readonly<Record<string, number>> }
}

function successPattern(pattern: DetectedPattern, windowStart: number, windowEnd: number): SuccessPattern {
  const identity = JSON.stringify([pattern.patternType, pattern.sessionId, windowStart, windowEnd])
  return {
    pattern_hash: createHash('sha256').update(identity).digest('hex'),
    pattern_type: pattern.patternType,
    session_id: pattern.sessionId,
    window_start: windowStart,
    window_end: windowEnd,
    sample_size: pattern.sampleSize,
    success_rate: pattern.successRate,
    confidence_score: pattern.confidence,
    pattern_data: { clients: pattern.clients },
  }
}

const iso = (ms: number): string => `${new Date(ms).toISOString().slice(0, 16)}Z`

/** A pattern as a line for people. */
export function patternLine(row: SuccessPattern): string {
  const span = `${iso(row.window_start)} to ${iso(row.window_end)}`
  const rate = `${(row.success_rate * 100).toFixed(1)} %`
  return `pattern ${row.session_id.padEnd(12)} ${span}  ${String(row.sample_size).padStart(6)} events  success ${rate.padStart(7)}  confidence ${row.confidence_score.toFixed(4)}`
}

/** A duplicate would break the primary key, so the store itself checks exactly-once. */
const PATTERN_STORE_DDL = `CREATE TABLE IF NOT EXISTS success_patterns (
  pattern_hash varchar(64) PRIMARY KEY,
  pattern_type varchar(50) NOT NULL,
  session_id varchar(100) NOT NULL,
  window_start timestamptz NOT NULL,
  window_end timestamptz NOT NULL,
  sample_size integer NOT NULL,
  success_rate double precision NOT NULL CHECK (success_rate >= 0 AND success_rate <= 1),
  confidence_score double precision NOT NULL CHECK (confidence_score >= 0 AND confidence_score <= 1),
  pattern_data jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
)`

export default job('pattern-detection', (env) => {
  const { config } = env
  const directory = config['dir'] ?? DEFAULT_DIRECTORY
  const windowMs = Number(config['window-ms'] ?? DAY_MS)
  const postgres = config['postgres']
  env.enableCheckpointing(1_000)

  const patterns = env
    .fromSource(
      logSource({
        directory: join(directory, 'log'),
        topic: TOPIC,
        schema: learningEventSchema,
        untilSealed: config['until-sealed'] === 'true',
      }),
      WatermarkStrategy.forBoundedOutOfOrderness<LearningEvent>(seconds(5)).withTimestampAssigner('timestamp'),
      'Learning events',
    )
    .uid('learning-events')
    .keyBy('sessionId')
    .window(TumblingEventTimeWindows.of(windowMs))
    .aggregate(new PatternAggregationFunction(), ({ window }, [pattern], collect: (row: SuccessPattern) => void) => {
      collect(successPattern(pattern!, window.start, window.end))
    })
    .name('Detect patterns')
    .uid('detect-patterns')
    .filter((row) => row.confidence_score > CONFIDENCE_MIN)
    .name('Confident patterns')
    .uid('confident-patterns')

  patterns
    .sinkTo(
      postgresSink<SuccessPattern>({
        table: 'success_patterns',
        columns: {
          pattern_hash: 'varchar(64) not null',
          pattern_type: 'varchar(50) not null',
          session_id: 'varchar(100) not null',
          window_start: 'timestamptz not null',
          window_end: 'timestamptz not null',
          sample_size: 'integer not null',
          success_rate: 'double precision not null',
          confidence_score: 'double precision not null',
          pattern_data: 'jsonb not null',
        },
        createTable: [PATTERN_STORE_DDL],
        connection:
          postgres === undefined
            ? { kind: 'pglite', directory: join(directory, 'store') }
            : { kind: 'url', url: postgres },
      }),
    )
    .name('Pattern store')
    .uid('pattern-store')
  patterns
    .sinkTo(filesSink<SuccessPattern>({ path: join(directory, 'patterns') }))
    .name('Pattern files')
    .uid('pattern-files')
  patterns
    .sinkTo(printSink({ format: patternLine }))
    .name('Print')
    .uid('print')
})
