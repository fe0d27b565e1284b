/**
 * Load without decoding: rows of a string key, a time and a number, in columns made once and served again and again.
 * Only times are written for each batch. Keys come in a fixed pseudo-random order, each equally often.
 */
import { schema, t } from 'millrace'
import type { Source, SourceReader, SplitState } from '../engine/contract/source.ts'
import { BATCH_ROWS_MAX, type Batch } from '../engine/core/batch.ts'
import { BASE_TIME_MS } from './json-pool-source.ts'

export const COLUMN_ROWS = schema({ key: t.string(), timestamp: t.timestamp(), value: t.float64() })

export interface ColumnRow {
  readonly key: string
  readonly timestamp: number
  readonly value: number
}

export interface ColumnPoolOptions {
  /** Rows of all splits together. */
  readonly events: number
  readonly splits: number
  readonly keys: number
  /** Rows of all splits in a second of event time. */
  readonly eventsPerSecond: number
  /** After this many rows of a split its keys are `keys` other ones; by default they stay. */
  readonly rowsUntilFresh?: number
  /** The share of rows that are of key 0, whose turn the other keys miss; default 0. */
  readonly hotPercent?: number
  /** A split ends after so long, counted from its reader's first poll, whatever `events` says. */
  readonly seconds?: number
}

/** `key-` and eight digits. */
const KEY_BYTES = 12
const KEY_DIGITS = 8
/** Step from a row's key to the next: all keys come before one repeats, unless they share this prime as a factor. */
const KEY_STEP = 7_919

/** Batches of one split, whose columns are overwritten by the next call. */
class BatchMaker {
  private readonly options: ColumnPoolOptions
  private readonly spacingMs: number
  private readonly bytes = Buffer.alloc(BATCH_ROWS_MAX * KEY_BYTES, 'key-00000000')
  private readonly starts = Int32Array.from({ length: BATCH_ROWS_MAX }, (_, i) => i * KEY_BYTES)
  private readonly ends = this.starts.map((start) => start + KEY_BYTES)
  private readonly times = new Float64Array(BATCH_ROWS_MAX)
  private readonly values = new Float64Array(BATCH_ROWS_MAX)

  constructor(options: ColumnPoolOptions) {
    this.options = options
    this.spacingMs = (1_000 * options.splits) / options.eventsPerSecond
  }

  /** Rows [from, from + count) of the split. */
  make(from: number, count: number): Batch {
    const { bytes, times, values, spacingMs } = this
    const { keys, rowsUntilFresh, hotPercent = 0 } = this.options
    const firstKey = rowsUntilFresh === undefined ? 0 : Math.floor(from / rowsUntilFresh) * keys
    const step = KEY_STEP % keys
    let key = (from * KEY_STEP) % keys
    for (let i = 0; i < count; i++) {
      const isHot = (from + i) % 100 < hotPercent
      writeDigits(bytes, (i + 1) * KEY_BYTES, isHot ? 0 : firstKey + key)
      times[i] = BASE_TIME_MS + Math.floor((from + i) * spacingMs)
      values[i] = key & 1_023
      key += step
      if (key >= keys) key -= keys
    }
    return {
      schema: COLUMN_ROWS,
      length: count,
      columns: [
        { kind: 'string', bytes, starts: this.starts, ends: this.ends, nulls: null },
        { kind: 'timestamp', values: times, nulls: null },
        { kind: 'float64', values, nulls: null },
      ],
      eventTime: times,
      keys: null,
      kinds: null,
    }
  }
}

/** Writes a 31-bit number in decimal so that it ends before `end`; digits before it stay 0. */
function writeDigits(bytes: Buffer, end: number, value: number): void {
  let rest = value | 0
  for (let at = end - 1; at >= end - KEY_DIGITS; at--) {
    const tenth = (rest / 10) | 0
    bytes[at] = 48 + (rest - tenth * 10)
    rest = tenth
  }
}

export function columnPoolSource(options: ColumnPoolOptions): Source<ColumnRow> {
  const perSplit = Math.floor(options.events / options.splits)
  const sizeOf = (split: number): number =>
    split === options.splits - 1 ? options.events - perSplit * (options.splits - 1) : perSplit
  return {
    kind: 'column-pool',
    schema: COLUMN_ROWS,
    boundedness: 'bounded',
    splits: async () => Array.from({ length: options.splits }, (_, i) => ({ id: String(i), position: 0 })),
    createReader(): SourceReader {
      const maker = new BatchMaker(options)
      const open: { id: string; next: number; size: number }[] = []
      let turn = 0
      let endsMs = Number.NaN
      return {
        async open(splits: readonly SplitState[]) {
          for (const { id, position } of splits) open.push({ id, next: position as number, size: sizeOf(Number(id)) })
        },
        poll(rowsMax) {
          if (options.seconds !== undefined) {
            if (Number.isNaN(endsMs)) endsMs = performance.now() + options.seconds * 1_000
            if (performance.now() > endsMs) return { kind: 'end' }
          }
          for (let tries = 0; tries < open.length; tries++) {
            const split = open[turn++ % open.length]!
            const count = Math.min(rowsMax, BATCH_ROWS_MAX, split.size - split.next)
            if (count === 0) continue
            const batch = maker.make(split.next, count)
            split.next += count
            return { kind: 'batch', split: split.id, batch }
          }
          return { kind: 'end' }
        },
        snapshot: () => open.map(({ id, next }) => ({ id, position: next })),
        async close() {},
      }
    },
  }
}
