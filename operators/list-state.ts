/**
 * List state in pieces: adding a value changes the list's head and its last piece, so that neither the call nor
 * the checkpoint after it depends on the length of the list. Nothing large is read to add to a list: it would be
 * written anew for each value of a key that comes too seldom to stay in memory.
 *
 * Made by user-state.ts. Pieces are entries of a table of composite keys, numbered from 0; the head, in a table
 * of its own, says which numbers there are. With a time to live each value has its stamp; a piece is dropped when
 * all its values have expired, a head when the newest has, so a piece may be missing where a head still names it.
 */
import type { ListState } from '../engine/contract/functions.ts'
import type { KeyedState, StateSegment, StateTable, ValueCodec } from '../engine/contract/keyed-state.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import { CompositeKeys } from '../engine/core/composite-keys.ts'
import { LIST_HEAD, LIST_HEAD_BYTES, LIST_OF, PIECE_VALUES, writeListHead } from '../engine/core/list-layout.ts'
import { ByteArena } from '../engine/core/strings.ts'
import type { CurrentKey } from './current-key.ts'
import type { Stamped, TtlPolicy } from './state-ttl.ts'

/** A piece that is not at hand is fetched to add to it only where pieces are smaller than this; else a new one begins. */
const FETCHED_BYTES_MAX = 1_024
/** Pieces read at a time. */
const PIECES_AHEAD = 8
/** A list of more pieces goes as a whole, not piece by piece. */
const REMOVED_PIECES_MAX = 256

/** Pieces [0, pieces) of a list, the last one holding `lastLength` values. */
export class ListHead {
  pieces: number
  lastLength: number
  /** When the newest value was added or, if reading counts, read. */
  newestAtMs: number

  constructor(pieces: number, lastLength: number, newestAtMs: number) {
    this.pieces = pieces
    this.lastLength = lastLength
    this.newestAtMs = newestAtMs
  }
}

/** Three doubles, little-endian; `values` are the list's elements. */
export function listHeadCodec(values: ValueCodec): ValueCodec {
  const bytes = Buffer.alloc(LIST_HEAD_BYTES)
  return {
    description: LIST_HEAD,
    ...(values.evolution === undefined ? {} : { evolution: values.evolution }),
    encode(value) {
      const head = value as ListHead
      writeListHead(head.pieces, head.lastLength, head.newestAtMs, bytes)
      return bytes
    },
    decode(from, start) {
      const view = new DataView(from.buffer, from.byteOffset + start, LIST_HEAD_BYTES)
      return new ListHead(view.getFloat64(0, true), view.getFloat64(8, true), view.getFloat64(16, true))
    },
  }
}

/** For each value u32 LE length and bytes. */
export function listPieceCodec(values: ValueCodec): ValueCodec {
  const arena = new ByteArena(1_024)
  return {
    description: `${LIST_OF}${values.description}`,
    ...(values.evolution === undefined ? {} : { evolution: values.evolution }),
    encode(piece) {
      arena.clear()
      for (const value of piece as readonly unknown[]) {
        const body = values.encode(value)
        arena.reserve(4)
        arena.length = arena.bytes.writeUInt32LE(body.length, arena.length)
        arena.writeBytes(body, 0, body.length)
      }
      return arena.view()
    },
    decode(bytes, start, end) {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      const piece: unknown[] = []
      for (let at = start; at < end; ) {
        const length = view.getUint32(at, true)
        piece.push(values.decode(bytes, at + 4, at + 4 + length))
        at += 4 + length
      }
      return piece
    },
  }
}

export interface ListParts {
  readonly heads: StateTable
  readonly pieces: StateTable
  readonly keyed: KeyedState
  readonly current: CurrentKey
  readonly ttl: TtlPolicy | null
}

export class KeyedList implements ListState<unknown> {
  private readonly heads: StateTable
  private readonly pieces: StateTable
  private readonly current: CurrentKey
  private readonly ttl: TtlPolicy | null
  private readonly composed: CompositeKeys
  private readonly slots = new Int32Array(PIECES_AHEAD)

  private readonly refuse: (value: unknown) => void

  /** `refuse` throws for values that cannot be kept. */
  constructor(parts: ListParts, refuse: (value: unknown) => void) {
    this.heads = parts.heads
    this.pieces = parts.pieces
    this.current = parts.current
    this.ttl = parts.ttl
    this.composed = new CompositeKeys(parts.keyed.keyGroups.total)
    this.refuse = refuse
  }

  prefetch(keys: KeyColumn, rows: Int32Array, count: number, slots: Int32Array): void {
    this.heads.segment(0).find(keys, rows, count, slots)
  }

  /** The keys of pieces [from, to) of the current key's list. */
  private compose(from: number, to: number): KeyColumn {
    const { composed, current } = this
    composed.begin(current.require(), current.rows[0])
    for (let piece = from; piece < to; piece++) composed.add(piece)
    return composed.keys
  }

  private head(): ListHead | null {
    const segment = this.heads.segment(0)
    segment.find(this.current.require(), this.current.rows, 1, this.slots)
    return this.slots[0] < 0 ? null : (segment.objects[this.slots[0]] as ListHead)
  }

  add(value: unknown): void {
    this.refuse(value)
    const segment = this.heads.segment(0)
    segment.upsert(this.current.require(), this.current.rows, 1, this.slots)
    const slot = this.slots[0]
    let head = segment.objects[slot] as ListHead | undefined
    if (head === undefined) {
      head = new ListHead(0, 0, 0)
      segment.objects[slot] = head
    }
    this.append(head, value)
  }

  private append(head: ListHead, value: unknown): void {
    const { ttl } = this
    if (ttl !== null) head.newestAtMs = ttl.nowMs()
    const kept = ttl === null ? value : ttl.stamp(value)
    if (head.pieces === 0 || head.lastLength >= PIECE_VALUES) {
      this.writePiece(head.pieces++, [kept])
      head.lastLength = 1
      return
    }
    const segment = this.pieces.segment(0)
    segment.findAtHand(this.compose(head.pieces - 1, head.pieces), FETCHED_BYTES_MAX, this.slots)
    const slot = this.slots[0]
    if (slot < 0) {
      this.writePiece(head.pieces++, [kept])
      head.lastLength = 1
      return
    }
    const piece = segment.objects[slot] as unknown[]
    piece.push(kept)
    segment.markDirty(slot)
    head.lastLength++
  }

  private writePiece(number: number, piece: unknown[]): void {
    const segment = this.pieces.segment(0)
    segment.overwrite(this.compose(number, number + 1), null, 1, this.slots)
    segment.objects[this.slots[0]] = piece
  }

  addAll(values: Iterable<unknown>): void {
    for (const value of values) this.add(value)
  }

  update(values: Iterable<unknown>): void {
    // They may be read from this very list.
    const all = Array.from(values)
    this.clear()
    this.addAll(all)
  }

  clear(): void {
    const head = this.head()
    if (head === null) return
    this.heads.segment(0).remove(this.slots[0])
    const segment = this.pieces.segment(0)
    if (head.pieces > REMOVED_PIECES_MAX) {
      this.compose(0, 0)
      segment.removeKey(this.composed.prefix, this.composed.ownerHash)
      return
    }
    for (let from = 0; from < head.pieces; from += PIECES_AHEAD) {
      const to = Math.min(head.pieces, from + PIECES_AHEAD)
      segment.overwrite(this.compose(from, to), null, to - from, this.slots)
      for (let i = 0; i < to - from; i++) segment.remove(this.slots[i])
    }
  }

  get(): Iterable<unknown> {
    const { version } = this.current
    return { [Symbol.iterator]: () => this.read(version) }
  }

  private *read(version: number): Generator<unknown> {
    this.current.requireSame(version)
    const head = this.head()
    if (head === null) return
    if (this.ttl?.updateOnRead) this.touchHead()
    const { pieces, lastLength } = head
    for (let from = 0; from < pieces; from += PIECES_AHEAD) {
      const to = Math.min(pieces, from + PIECES_AHEAD)
      const segment = this.pieces.segment(0)
      segment.find(this.compose(from, to), null, to - from, this.slots)
      const found: unknown[][] = []
      for (let i = 0; i < to - from; i++) {
        const slot = this.slots[i]
        if (slot >= 0) found.push(this.valuesOf(segment, slot, from + i === pieces - 1 ? lastLength : PIECE_VALUES))
      }
      for (const values of found) {
        for (const value of values) {
          yield value
          this.current.requireSame(version)
        }
      }
    }
  }

  /** Values of a piece that may be seen, of the first `length`: others were added while the list was read. */
  private valuesOf(segment: StateSegment, slot: number, length: number): unknown[] {
    const { ttl } = this
    const piece = (segment.objects[slot] as unknown[]).slice(0, length)
    if (ttl === null) return piece
    const seen: unknown[] = []
    for (const stamped of piece as Stamped[]) {
      const hasExpired = ttl.hasExpired(stamped.atMs)
      if (hasExpired && !ttl.returnExpired) continue
      if (!hasExpired && ttl.updateOnRead) stamped.atMs = ttl.nowMs()
      seen.push(stamped.value)
    }
    if (ttl.updateOnRead) segment.markDirty(slot)
    return seen
  }

  private touchHead(): void {
    const segment = this.heads.segment(0)
    const head = segment.objects[this.slots[0]] as ListHead
    head.newestAtMs = this.ttl!.nowMs()
    segment.markDirty(this.slots[0])
  }
}
