/**
 * One side of a join in time: its rows by key and by bucket of time, in keyed state.
 *
 * Used by interval-join.ts. The rows of a bucket [b, b + width) are one namespace, which goes as a whole when no
 * row of the other side can reach it any more. The rows of one key in one bucket are an entry that ends with up
 * to `PIECE_ROWS` rows; a longer one has its earlier rows in pieces, entries of a table of composite keys. So
 * neither adding a row nor the checkpoint after it depends on how many rows a key has.
 *
 * Invariants:
 * - `add` and `prepare` look up state once a bucket for all their rows.
 * - Rows of an entry are read in the order in which they came, a piece at a time.
 */
import type { KeyedState, StateTable, ValueCodec } from '../engine/contract/keyed-state.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import { CompositeKeys } from '../engine/core/composite-keys.ts'
import { ByteArena } from '../engine/core/strings.ts'
import { listPieceCodec } from './list-state.ts'
import { Stamped, stampedCodec } from './state-ttl.ts'
import { addRow, type WindowGroup, WindowGroups } from './window-groups.ts'

const PIECE_ROWS = 128

/** Rows that one `prepare` takes at most. */
export const PROBE_ROWS_MAX = 256

/** The rows of a key in a bucket: `pieces` full pieces, then the rows in `tail`. */
interface BufferEntry {
  pieces: number
  readonly tail: Stamped[]
}

/** u32 pieces, then the tail. */
function entryCodec(rows: ValueCodec): ValueCodec {
  const arena = new ByteArena(1_024)
  return {
    description: `pieces and ${rows.description}`,
    encode(value) {
      const { pieces, tail } = value as BufferEntry
      const body = rows.encode(tail)
      arena.clear()
      arena.reserve(4)
      arena.length = arena.bytes.writeUInt32LE(pieces, 0)
      arena.writeBytes(body, 0, body.length)
      return arena.view()
    },
    decode(bytes, start, end): BufferEntry {
      const pieces = new DataView(bytes.buffer, bytes.byteOffset + start, 4).getUint32(0, true)
      return { pieces, tail: rows.decode(bytes, start + 4, end) as Stamped[] }
    },
  }
}

/** Where a row's matches are: `bucket`, the piece within its entry, the row within the piece. */
export interface BufferCursor {
  bucket: number
  piece: number
  index: number
}

export interface JoinBufferOptions {
  /** Of the tables. */
  readonly name: string
  readonly rows: ValueCodec
  readonly bucketMs: number
}

export class JoinBuffer {
  private readonly entries: StateTable
  private readonly pieces: StateTable
  private readonly bucketMs: number
  /** Those that may hold rows, ascending. */
  private readonly buckets: number[]
  private readonly composed: CompositeKeys
  private readonly groups = new WindowGroups()
  private readonly single = new Int32Array(1)
  private slots = new Int32Array(PROBE_ROWS_MAX)
  /** Row i of the last `prepare` found entries probed[probeStarts[i], probeStarts[i + 1]), in buckets from probeFirst[i]. */
  private readonly probeStarts = new Int32Array(PROBE_ROWS_MAX + 1)
  private readonly probeFirst = new Int32Array(PROBE_ROWS_MAX)
  private probed = new Int32Array(PROBE_ROWS_MAX * 4)

  /** Declares two tables. */
  constructor(keyed: KeyedState, { name, rows, bucketMs }: JoinBufferOptions) {
    const piece = listPieceCodec(stampedCodec(rows))
    this.entries = keyed.table({ name, version: 1, layout: { kind: 'object', codec: entryCodec(piece) } })
    this.pieces = keyed.table({
      name: `${name}$pieces`,
      version: 1,
      composite: true,
      layout: { kind: 'object', codec: piece },
    })
    this.bucketMs = bucketMs
    this.buckets = this.entries.namespaces()
    this.composed = new CompositeKeys(keyed.keyGroups.total)
  }

  private bucketOf(timeMs: number): number {
    return Math.floor(timeMs / this.bucketMs) * this.bucketMs
  }

  /** Index of the first bucket at or after `bucket`. */
  private positionOf(bucket: number): number {
    let low = 0
    let high = this.buckets.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.buckets[middle] < bucket) low = middle + 1
      else high = middle
    }
    return low
  }

  /** Adds `values[k]`, with time `times[k]`, for key `rows[k]` of `keys`, for k < count. */
  add(keys: KeyColumn, rows: Int32Array, times: Float64Array, values: readonly unknown[], count: number): void {
    const { groups } = this
    groups.clear()
    for (let k = 0; k < count; k++) addRow(groups.group(this.bucketOf(times[k])), k)
    for (let g = 0; g < groups.count; g++) {
      const group = groups.groups[g]
      this.noteBucket(group.window)
      const segment = this.entries.segment(group.window)
      const slots = this.slotsFor(group.count)
      const own = group.rows.slice(0, group.count)
      for (let k = 0; k < group.count; k++) own[k] = rows[group.rows[k]]
      segment.upsert(keys, own, group.count, slots)
      for (let k = 0; k < group.count; k++) {
        const at = group.rows[k]
        const entry = (segment.objects[slots[k]] as BufferEntry | undefined) ?? { pieces: 0, tail: [] }
        segment.objects[slots[k]] = entry
        if (entry.tail.length === PIECE_ROWS) {
          this.writePiece(group.window, keys, rows[at], entry.pieces++, entry.tail.splice(0))
        }
        entry.tail.push(new Stamped(values[at], times[at]))
      }
    }
  }

  private noteBucket(bucket: number): void {
    const at = this.positionOf(bucket)
    if (this.buckets[at] !== bucket) this.buckets.splice(at, 0, bucket)
  }

  private slotsFor(count: number): Int32Array {
    if (this.slots.length < count) this.slots = new Int32Array(count * 2)
    return this.slots
  }

  private writePiece(bucket: number, keys: KeyColumn, row: number, number: number, rows: Stamped[]): void {
    const segment = this.pieces.segment(bucket)
    this.composed.begin(keys, row)
    this.composed.add(number)
    segment.overwrite(this.composed.keys, null, 1, this.single)
    segment.objects[this.single[0]] = rows
  }

  /**
   * Looks up what rows [from, to) of `keys` may match: of each the entries between times[i] + lowMs and
   * times[i] + highMs. What `read` then finds is valid until the state changes or the operator's call ends.
   */
  prepare(keys: KeyColumn, times: Float64Array, from: number, to: number, lowMs: number, highMs: number): void {
    const { groups, buckets, probeStarts, probeFirst } = this
    groups.clear()
    let total = 0
    for (let row = from; row < to; row++) {
      const first = this.positionOf(this.bucketOf(times[row] + lowMs))
      probeFirst[row - from] = first
      probeStarts[row - from] = total
      const high = times[row] + highMs
      for (let b = first; b < buckets.length && buckets[b] <= high; b++, total++) addRow(groups.group(b), row)
    }
    probeStarts[to - from] = total
    if (this.probed.length < total) this.probed = new Int32Array(total * 2)
    for (let g = 0; g < groups.count; g++) this.findGroup(groups.groups[g], keys, from)
  }

  private findGroup(group: WindowGroup, keys: KeyColumn, from: number): void {
    const slots = this.slotsFor(group.count)
    this.entries.segment(this.buckets[group.window]).find(keys, group.rows, group.count, slots)
    for (let k = 0; k < group.count; k++) {
      const row = group.rows[k] - from
      this.probed[this.probeStarts[row] + group.window - this.probeFirst[row]] = slots[k]
    }
  }

  /**
   * The next piece of what row `at` of the last `prepare` may match, from `cursor` on, which is moved to it; null at
   * the end. `row` is the row's number in `keys`.
   */
  read(keys: KeyColumn, row: number, at: number, cursor: BufferCursor): readonly Stamped[] | null {
    const start = this.probeStarts[at]
    const end = this.probeStarts[at + 1]
    for (let k = start; k < end; k++) {
      const bucket = this.buckets[this.probeFirst[at] + k - start]
      const slot = this.probed[k]
      if (slot < 0 || bucket < cursor.bucket) continue
      if (bucket > cursor.bucket) {
        cursor.bucket = bucket
        cursor.piece = 0
        cursor.index = 0
      }
      const entry = this.entries.segment(bucket).objects[slot] as BufferEntry
      if (cursor.piece < entry.pieces) return this.readPiece(bucket, keys, row, cursor.piece)
      if (cursor.piece === entry.pieces) return entry.tail
    }
    return null
  }

  private readPiece(bucket: number, keys: KeyColumn, row: number, number: number): readonly Stamped[] {
    const segment = this.pieces.segment(bucket)
    this.composed.begin(keys, row)
    this.composed.add(number)
    segment.find(this.composed.keys, null, 1, this.single)
    return segment.objects[this.single[0]] as Stamped[]
  }

  /** Forgets buckets that end at or before `endMs`. */
  dropUpTo(endMs: number): void {
    let count = 0
    while (count < this.buckets.length && this.buckets[count] + this.bucketMs <= endMs) {
      const bucket = this.buckets[count++]
      this.entries.drop(bucket)
      this.pieces.drop(bucket)
    }
    if (count > 0) this.buckets.splice(0, count)
  }
}
