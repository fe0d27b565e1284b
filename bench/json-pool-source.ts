/**
 * Load for the benchmarks: JSON records of about 220 bytes, served from memory.
 *
 * A pool of records is made once, before the job starts to count. Serving it again from the start moves
 * every record's timestamp on in place, so event time keeps advancing while decoding sees plain bytes.
 * Keys are spread evenly over `keys` values in a fixed pseudo-random order.
 */
import { schema, t } from 'millrace'
import type { Source, SourceReader, SplitState } from '../engine/contract/source.ts'
import { createJsonDecoder, JSON_PADDING_BYTES } from '../engine/core/json/json-decoder.ts'
import type { Schema } from '../engine/core/schema.ts'

const POOL_RECORDS = 100_000
const TIMESTAMP_DIGITS = 13
export const BASE_TIME_MS = Date.UTC(2025, 0, 1)

/** What the jobs decode of a record's nine fields. */
export const CLICK = schema({ sessionId: t.string(), timestamp: t.timestamp(), value: t.float64() })
export interface Click {
  readonly sessionId: string
  readonly timestamp: number
  readonly value: number
}

export interface JsonPoolOptions<T> {
  readonly schema: Schema<T>
  /** Records of all splits together. */
  readonly events: number
  readonly splits: number
  readonly keys: number
  /** Event time from the first record to the last, milliseconds. */
  readonly lengthMs: number
}

interface Pool {
  readonly bytes: Buffer
  readonly starts: Int32Array
  /** Where record i's timestamp digits begin. */
  readonly timestampAt: Int32Array
}

/** Longer than any record. */
const RECORD_BYTES_MAX = 256

/** Records go straight into the block: a heap full of their strings would be collected while the job is measured. */
function makePool(split: number, keys: number): Pool {
  const starts = new Int32Array(POOL_RECORDS + 1)
  const timestampAt = new Int32Array(POOL_RECORDS)
  const block = Buffer.alloc(POOL_RECORDS * RECORD_BYTES_MAX, ' ')
  let at = 0
  for (let i = 0; i < POOL_RECORDS; i++) {
    const mixed = Math.imul(i * 2 + split + 1, 0x9e3779b1) >>> 0
    const session = `session-${String((i * 7_919 + split * 31) % keys).padStart(8, '0')}`
    const head = `{"sessionId":"${session}","clientId":"client-${String(mixed % 1_000).padStart(6, '0')}","timestamp":`
    const tail = `,"eventType":"click","value":${(mixed % 10_000) / 100},"success":${mixed % 3 !== 0},"page":"/campaigns/${String(mixed % 100_000).padStart(6, '0')}/landing/index","referrer":"https://ads.example.com/c"}\n`
    starts[i] = at
    timestampAt[i] = at + head.length
    at += block.latin1Write(`${head}${BASE_TIME_MS}${tail}`, at)
  }
  starts[POOL_RECORDS] = at
  return { bytes: block.subarray(0, at + JSON_PADDING_BYTES), starts, timestampAt }
}

/** Bytes of an average record, newline included. */
export function recordBytesMean(keys: number): number {
  const pool = makePool(0, keys)
  return pool.starts[POOL_RECORDS]! / POOL_RECORDS
}

/** Writes the timestamps of records [from, to) of the pool's current round. */
function stamp(pool: Pool, from: number, to: number, firstIndex: number, spacingMs: number): void {
  const bytes = pool.bytes
  for (let i = from; i < to; i++) {
    let value = BASE_TIME_MS + Math.floor((firstIndex + i - from) * spacingMs)
    for (let digit = pool.timestampAt[i]! + TIMESTAMP_DIGITS - 1; digit >= pool.timestampAt[i]!; digit--) {
      const rest = Math.floor(value / 10)
      bytes[digit] = 48 + (value - rest * 10)
      value = rest
    }
  }
}

export function clicks<T>(options: JsonPoolOptions<T>): Source<T> {
  const perSplit = Math.floor(options.events / options.splits)
  const spacingMs = options.lengthMs / Math.max(1, perSplit)
  const sizeOf = (split: number): number =>
    split === options.splits - 1 ? options.events - perSplit * (options.splits - 1) : perSplit
  return {
    kind: 'json-pool',
    schema: options.schema,
    boundedness: 'bounded',
    splits: async () => Array.from({ length: options.splits }, (_, i) => ({ id: String(i), position: 0 })),
    createReader(context): SourceReader {
      const decoder = createJsonDecoder(options.schema, { id: context.worker.uniqueId('json-pool') })
      const open: { id: string; next: number; size: number; pool: Pool }[] = []
      let turn = 0
      return {
        async open(splits: readonly SplitState[]) {
          for (const { id, position } of splits) {
            const split = Number(id)
            open.push({ id, next: position as number, size: sizeOf(split), pool: makePool(split, options.keys) })
          }
        },
        poll(rowsMax) {
          for (let tries = 0; tries < open.length; tries++) {
            const split = open[turn++ % open.length]!
            if (split.next >= split.size) continue
            const from = split.next % POOL_RECORDS
            const to = Math.min(POOL_RECORDS, from + Math.min(rowsMax, split.size - split.next))
            stamp(split.pool, from, to, split.next, spacingMs)
            const { bytes, starts } = split.pool
            const batch = decoder.decodeLines(bytes, starts[from]!, starts[to]!, rowsMax, (reason) => {
              throw new Error(`the benchmark's record is rejected: ${reason}`)
            })
            split.next += to - from
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
