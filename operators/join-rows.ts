/**
 * One side of a regular join: the rows that are there now, by key, as a multiset.
 *
 * Used by streaming-join.ts. A row is an entry of its own under its join key (core/composite-keys.ts): its bytes are the
 * entry's key, so that it is found again by what it is, and what goes out later is what came in. Equal rows are one
 * entry with a count. A side whose rows are emitted alone while they have no match keeps how many they have.
 *
 * Invariant: no count is below 1; a row that is taken back and not there changes nothing.
 */
import type { KeyedState, StateSegment, StateTable, ValueCodec } from '../engine/contract/keyed-state.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import { CompositeKeys, entryStart } from '../engine/core/composite-keys.ts'
import type { IdleTtl } from './idle-ttl.ts'

/** Rows read at a time. */
const SCAN_ROWS = 256

/** Equal rows of a key. */
export interface JoinRow {
  /** How many there are. */
  count: number
  /** Rows of the other side that each of them matches; kept where it is asked for. */
  matches: number
  atMs: number
}

/** Count, matches and stamp, f64 each. */
const ROW_CODEC: ValueCodec = {
  description: 'row of a join: count, matches, stamp',
  encode(value) {
    const { count, matches, atMs } = value as JoinRow
    return new Uint8Array(Float64Array.of(count, matches, atMs).buffer)
  },
  decode(bytes, start): JoinRow {
    const view = new DataView(bytes.buffer, bytes.byteOffset + start, 24)
    return { count: view.getFloat64(0, true), matches: view.getFloat64(8, true), atMs: view.getFloat64(16, true) }
  },
}

export class JoinRows {
  private readonly table: StateTable
  private readonly composed: CompositeKeys
  private readonly ttl: IdleTtl
  private readonly slots = new Int32Array(SCAN_ROWS)

  /** Declares a table. */
  constructor(keyed: KeyedState, name: string, ttl: IdleTtl) {
    const layout = { kind: 'object', codec: ROW_CODEC } as const
    this.table = keyed.table({ name, version: 1, composite: true, layout, ...ttl.declaration })
    this.composed = new CompositeKeys(keyed.keyGroups.total)
    this.ttl = ttl
  }

  /** One more row of key `row` of `keys`: bytes[start, end). */
  add(keys: KeyColumn, row: number, bytes: Uint8Array, start: number, end: number, matches: number): void {
    const segment = this.compose(keys, row, bytes, start, end)
    segment.upsert(this.composed.keys, null, 1, this.slots)
    const before = segment.objects[this.slots[0]!] as JoinRow | undefined
    const count = before === undefined || this.ttl.hasExpired(before.atMs) ? 0 : before.count
    segment.objects[this.slots[0]!] = { count: count + 1, matches, atMs: this.ttl.nowMs() } satisfies JoinRow
  }

  /** One row less; false when there is none. */
  remove(keys: KeyColumn, row: number, bytes: Uint8Array, start: number, end: number): boolean {
    const segment = this.compose(keys, row, bytes, start, end)
    segment.find(this.composed.keys, null, 1, this.slots)
    const slot = this.slots[0]!
    if (slot < 0) return false
    const found = segment.objects[slot] as JoinRow
    if (found.count === 1 || this.ttl.hasExpired(found.atMs)) {
      segment.remove(slot)
      return !this.ttl.hasExpired(found.atMs)
    }
    found.count--
    segment.markDirty(slot)
    return true
  }

  private compose(keys: KeyColumn, row: number, bytes: Uint8Array, start: number, end: number): StateSegment {
    this.composed.begin(keys, row)
    this.composed.addBytes(bytes, start, end)
    return this.table.segment(0)
  }

  /**
   * Calls `visit` for all rows of key `row` of `keys`, equal ones once, in no order. With `changes` a visit may change
   * `matches`. The bytes are valid during the call.
   */
  each(
    keys: KeyColumn,
    row: number,
    changes: boolean,
    visit: (found: JoinRow, bytes: Uint8Array, start: number) => void,
  ): void {
    this.composed.begin(keys, row)
    const segment = this.table.segment(0)
    const scan = segment.scanKey(this.composed.prefix, this.composed.ownerHash)
    for (let chunk = scan.next(SCAN_ROWS); chunk !== null; chunk = scan.next(SCAN_ROWS)) {
      const { bytes, starts } = chunk.keys
      if (changes) segment.upsert(chunk.keys, null, chunk.count, this.slots)
      for (let i = 0; i < chunk.count; i++) {
        const found = (changes ? segment.objects[this.slots[i]!] : chunk.objects[i]) as JoinRow
        // Behind the byte that says what kind of key it is.
        if (!this.ttl.hasExpired(found.atMs)) visit(found, bytes, entryStart(bytes, starts[i]!) + 1)
      }
    }
    scan.close()
  }
}
