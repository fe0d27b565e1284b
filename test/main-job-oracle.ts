/**
 * What the main job must find, computed by DuckDB from the same file, and what it did find.
 */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { flightsPath } from '../jobs/learning-events.ts'
import { queryDuckDb } from './duckdb.testkit.ts'

/** One pattern, reduced to what both sides can say. Numbers are rounded to 9 digits. */
export interface PatternRow {
  readonly sessionId: string
  readonly windowStart: number
  readonly windowEnd: number
  readonly sampleSize: number
  readonly successRate: string
  readonly confidence: string
}

const DAY_MS = 86_400_000
const PATTERNS = `
  with events as (
    select origin as session,
           epoch_ms(strptime("date", '%Y/%m/%d %H:%M')) as event_ms,
           delay <= 15 as success
    from read_json('$FILE', columns = {date: 'VARCHAR', delay: 'DOUBLE', origin: 'VARCHAR'})
  ), windows as (
    select session, event_ms // ${DAY_MS} as day, count(*)::double as n, count(*) filter (success)::double as s
    from events group by all
  ), scored as (
    select *, s / n as p, 1.96::double as z from windows
  )
  select session, day, n, p,
         (p + z * z / (2 * n) - z * sqrt((p * (1 - p) + z * z / (4 * n)) / n)) / (1 + z * z / n) as confidence
  from scored`

/** A row of `PATTERNS`. */
interface Scored {
  readonly session: string
  readonly day: bigint
  readonly n: number
  readonly p: number
  readonly confidence: number
}

export async function expectedPatterns(): Promise<{ patterns: PatternRow[]; windows: number }> {
  const rows = (await queryDuckDb(
    PATTERNS.replace('$FILE', flightsPath().replaceAll("'", "''")),
  )) as unknown as Scored[]
  const patterns = rows
    .filter(({ confidence }) => confidence > 0.7)
    .map(({ session, day, n, p, confidence }) => ({
      sessionId: session,
      windowStart: Number(day) * DAY_MS,
      windowEnd: (Number(day) + 1) * DAY_MS,
      sampleSize: n,
      successRate: p.toFixed(9),
      confidence: confidence.toFixed(9),
    }))
  return { patterns: sorted(patterns), windows: rows.length }
}

export function sorted(rows: readonly PatternRow[]): PatternRow[] {
  const key = (row: PatternRow): string => `${row.sessionId} ${row.windowStart}`
  return [...rows].sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0))
}

interface StoredPattern {
  readonly session_id: string
  readonly window_start: string | number | Date
  readonly window_end: string | number | Date
  readonly sample_size: number
  readonly success_rate: string | number
  readonly confidence_score: string | number
}

export function patternOf(row: StoredPattern): PatternRow {
  return {
    sessionId: row.session_id,
    windowStart: new Date(row.window_start).getTime(),
    windowEnd: new Date(row.window_end).getTime(),
    sampleSize: Number(row.sample_size),
    successRate: Number(row.success_rate).toFixed(9),
    confidence: Number(row.confidence_score).toFixed(9),
  }
}

/** Rows of every committed part file of the job's file sink. */
export async function patternsInFiles(directory: string): Promise<PatternRow[]> {
  const rows: PatternRow[] = []
  for (const name of await readdir(directory)) {
    if (!name.endsWith('.jsonl')) continue
    const text = await readFile(join(directory, name), 'utf8')
    for (const line of text.split('\n')) if (line !== '') rows.push(patternOf(JSON.parse(line) as StoredPattern))
  }
  return sorted(rows)
}
