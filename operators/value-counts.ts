/**
 * How often each value of a column is among the rows of a key: a multiset in keyed state.
 *
 * Used by group-aggregate.ts for aggregates that have to know what is left when a row is taken back: min, max and count
 * distinct. One table a column, shared by its aggregates; a value is an entry of its own (core/composite-keys.ts), so
 * that a change costs one entry however many values a key has.
 *
 * Invariant: no count is below 1. Taking back a value that is not there changes nothing: it was dropped by its time to
 * live, or never came.
 */
import type { KeyedState, StateTable, ValueCodec } from '../engine/contract/keyed-state.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import { CompositeKeys, entryStart } from '../engine/core/composite-keys.ts'
import { decodeKey } from '../engine/core/keys.ts'
import type { IdleTtl } from './idle-ttl.ts'

/** Values read at a time. */
const SCAN_VALUES = 256
/** Keys have no NaN; a column of numbers has no texts. */
const NAN_KEY = 'NaN'

interface ValueCount {
  count: number
  atMs: number
}

/** Count f64, stamp f64. */
const COUNT_CODEC: ValueCodec = {
  description: 'count of a value',
  encode(value) {
    const { count, atMs } = value as ValueCount
    return new Uint8Array(Float64Array.of(count, atMs).buffer)
  },
  decode(bytes, start): ValueCount {
    const view = new DataView(bytes.buffer, bytes.byteOffset + start, 16)
    return { count: view.getFloat64(0, true), atMs: view.getFloat64(8, true) }
  },
}

export class ValueCounts {
  private readonly table: StateTable
  private readonly composed: CompositeKeys
  private readonly ttl: IdleTtl
  private readonly slots = new Int32Array(1)

  /** Declares a table. */
  constructor(keyed: KeyedState, name: string, ttl: IdleTtl) {
    const layout = { kind: 'object', codec: COUNT_CODEC } as const
    this.table = keyed.table({ name, version: 1, composite: true, layout, ...ttl.declaration })
    this.composed = new CompositeKeys(keyed.keyGroups.total)
    this.ttl = ttl
  }

  /** Counts a value of key `row` once more, or less; 1 when it is there now and was not before, -1 the other way round. */
  change(keys: KeyColumn, row: number, value: unknown, sign: 1 | -1): -1 | 0 | 1 {
    const { composed, slots, ttl } = this
    composed.begin(keys, row)
    composed.add(Number.isNaN(value) ? NAN_KEY : value)
    const segment = this.table.segment(0)
    if (sign < 0) {
      segment.find(composed.keys, null, 1, slots)
      if (slots[0] < 0) return 0
      const entry = segment.objects[slots[0]] as ValueCount
      if (entry.count === 1 || ttl.hasExpired(entry.atMs)) {
        segment.remove(slots[0])
        return -1
      }
    }
    segment.upsert(composed.keys, null, 1, slots)
    const before = segment.objects[slots[0]] as ValueCount | undefined
    const count = before === undefined || ttl.hasExpired(before.atMs) ? 0 : before.count
    segment.objects[slots[0]] = { count: count + sign, atMs: ttl.nowMs() } satisfies ValueCount
    return count === 0 ? 1 : 0
  }

  /** Calls `visit` for each value of key `row`, in no order. */
  each(keys: KeyColumn, row: number, visit: (value: unknown) => void): void {
    this.composed.begin(keys, row)
    const scan = this.table.segment(0).scanKey(this.composed.prefix, this.composed.ownerHash)
    for (let chunk = scan.next(SCAN_VALUES); chunk !== null; chunk = scan.next(SCAN_VALUES)) {
      const { bytes, starts, ends } = chunk.keys
      for (let i = 0; i < chunk.count; i++) {
        if (this.ttl.hasExpired((chunk.objects[i] as ValueCount).atMs)) continue
        const value = decodeKey(bytes, entryStart(bytes, starts[i]), ends[i])
        visit(value)
      }
    }
    scan.close()
  }

  /** Forgets the values of key `row`. */
  clear(keys: KeyColumn, row: number): void {
    this.composed.begin(keys, row)
    this.table.segment(0).removeKey(this.composed.prefix, this.composed.ownerHash)
  }
}

/** The value of a column of numbers that `each` gave. */
export function numberOf(value: unknown): unknown {
  return value === NAN_KEY ? Number.NaN : value
}
