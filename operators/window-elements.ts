/**
 * The elements of a window that keeps them all: the newest in the window's own entry, the others in pieces. So neither
 * adding an element nor the checkpoint after it depends on how many the window has.
 *
 * Used by window-kernels.ts and window-keepers.ts, whose entries hold `WindowElements`. Pieces are entries of a table of
 * composite keys beside that of the windows; a piece is written once, when it is full, and read when its window fires.
 * Pieces of a key and namespace are numbered in streams, one or more a window, so that windows of one key neither share
 * pieces nor have to move them when they merge.
 *
 * Invariants:
 * - A piece is there exactly as long as a window names it.
 * - Elements are read in the order in which they came.
 */
import type { EarlierLayout, KeyedState, StateSegment, StateTable, ValueCodec } from '../engine/contract/keyed-state.ts'
import { assert } from '../engine/core/assert.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import { CompositeKeys } from '../engine/core/composite-keys.ts'
import { ByteArena } from '../engine/core/strings.ts'
import { listPieceCodec } from './list-state.ts'

/** Elements a piece. */
const PIECE_ELEMENTS = 64
/** Pieces looked up at a time. */
const PIECES_AHEAD = 8

/** Pieces [from, to) of a stream. */
export interface PieceRun {
  readonly stream: number
  readonly from: number
  to: number
}

/** In order: the elements of the pieces of `runs`, then `tail`. */
export class WindowElements {
  runs: PieceRun[]
  tail: unknown[]

  constructor(tail: unknown[] = [], runs: PieceRun[] = []) {
    this.runs = runs
    this.tail = tail
  }
}

const RUN_BYTES = 24

/** u32 runs, each of them three doubles, then the tail as a piece is stored; little-endian. */
export function windowElementsCodec(element: ValueCodec, earlier: readonly EarlierLayout[] = []): ValueCodec {
  const arena = new ByteArena(1_024)
  const tails = listPieceCodec(element)
  return {
    description: `elements of ${element.description}`,
    earlier,
    encode(value) {
      const { runs, tail } = value as WindowElements
      const body = tails.encode(tail)
      arena.clear()
      arena.reserve(4 + runs.length * RUN_BYTES)
      arena.length = arena.bytes.writeUInt32LE(runs.length, 0)
      for (const { stream, from, to } of runs) {
        for (const number of [stream, from, to]) arena.length = arena.bytes.writeDoubleLE(number, arena.length)
      }
      arena.writeBytes(body, 0, body.length)
      return arena.view()
    },
    decode(bytes, start, end): WindowElements {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      const runs: PieceRun[] = []
      let at = start + 4
      for (let left = view.getUint32(start, true); left > 0; left--, at += RUN_BYTES) {
        const [stream, from, to] = [0, 8, 16].map((offset) => view.getFloat64(at + offset, true))
        runs.push({ stream: stream!, from: from!, to: to! })
      }
      return new WindowElements(tails.decode(bytes, at, end) as unknown[], runs)
    },
  }
}

/** What earlier releases stored as one array: `decode` reads it. */
export function elementsInOne(
  description: string,
  decode: (bytes: Uint8Array, start: number, end: number) => unknown[],
): EarlierLayout {
  return { description, decode: (bytes, start, end) => new WindowElements(decode(bytes, start, end)) }
}

export interface ElementPiecesOptions {
  /** Of the table of pieces. */
  readonly name: string
  /** Of an element. */
  readonly codec: ValueCodec
  /** Elements a piece; another number than the usual one is for tests. */
  readonly pieceElements?: number | undefined
}

interface Piece {
  readonly stream: number
  readonly number: number
  readonly elements: unknown[]
}

export class ElementPieces {
  /** Pieces read since somebody set it to 0. */
  piecesRead = 0
  private readonly table: StateTable
  private readonly pieceElements: number
  private readonly composed: CompositeKeys
  private readonly slots = new Int32Array(PIECES_AHEAD)
  private segment!: StateSegment

  /** Declares a table. */
  constructor(keyed: KeyedState, { name, codec, pieceElements = PIECE_ELEMENTS }: ElementPiecesOptions) {
    this.pieceElements = pieceElements
    const layout = { kind: 'object', codec: listPieceCodec(codec) } as const
    this.table = keyed.table({ name, version: 1, composite: true, layout })
    this.composed = new CompositeKeys(keyed.keyGroups.total)
  }

  /** True when the next element is to come after `spill`. */
  isFull({ tail }: WindowElements): boolean {
    return tail.length >= this.pieceElements
  }

  /** The calls up to the next one are about windows of key `row` of `keys`. */
  select(namespace: number, keys: KeyColumn, row: number): void {
    this.segment = this.table.segment(namespace)
    this.composed.begin(keys, row)
  }

  /** The tail becomes pieces but for what does not fill one; `freeStream` belongs to no window of the key. */
  spill(elements: WindowElements, freeStream: number): void {
    const { pieceElements } = this
    const { tail } = elements
    let from = 0
    for (; tail.length - from >= pieceElements; from += pieceElements) {
      this.append(elements, freeStream, tail.slice(from, from + pieceElements))
    }
    elements.tail = tail.slice(from)
  }

  private append({ runs }: WindowElements, freeStream: number, values: unknown[]): void {
    let last = runs.at(-1)
    if (last === undefined) {
      last = { stream: freeStream, from: 0, to: 0 }
      runs.push(last)
    }
    this.write(last.stream, last.to++, values)
  }

  private write(stream: number, number: number, values: unknown[]): void {
    const { composed, segment, slots } = this
    composed.restart()
    composed.add([stream, number])
    segment.overwrite(composed.keys, null, 1, slots)
    segment.objects[slots[0]] = values
  }

  /** All elements; without pieces the very tail. */
  read(elements: WindowElements): unknown[] {
    if (elements.runs.length === 0) return elements.tail
    const all: unknown[] = []
    for (const { elements: own } of this.pieces(elements)) for (const element of own) all.push(element)
    for (const element of elements.tail) all.push(element)
    return all
  }

  private *pieces({ runs }: WindowElements): Generator<Piece> {
    for (const { stream, from, to } of runs) {
      for (let first = from; first < to; first += PIECES_AHEAD) {
        const found = this.find(stream, first, Math.min(to, first + PIECES_AHEAD))
        for (const [i, elements] of found.entries()) yield { stream, number: first + i, elements }
      }
    }
  }

  private find(stream: number, from: number, to: number): unknown[][] {
    const { composed, segment, slots } = this
    this.compose(stream, from, to)
    segment.find(composed.keys, null, to - from, slots)
    this.piecesRead += to - from
    return Array.from({ length: to - from }, (_, i) => {
      assert(slots[i] >= 0, 'a piece that a window names is there')
      return segment.objects[slots[i]] as unknown[]
    })
  }

  private compose(stream: number, from: number, to: number): void {
    this.composed.restart()
    for (let number = from; number < to; number++) this.composed.add([stream, number])
  }

  /** The elements of `a`, then those of `b`; either may be changed and returned. */
  concat(a: WindowElements, b: WindowElements, freeStream: number): WindowElements {
    if (b.runs.length > 0) {
      // Before pieces there is no tail: it becomes a piece, however short.
      this.spill(a, freeStream)
      if (a.tail.length > 0) this.append(a, freeStream, a.tail)
      a.runs.push(...b.runs)
      a.tail = b.tail
    } else {
      for (const element of b.tail) a.tail.push(element)
    }
    return a
  }

  /** Of the elements those in `left` stay, which is what an evictor left of what `read` gave. */
  retain(elements: WindowElements, left: readonly unknown[], freeStream: number): void {
    let at = 0
    const stays = (element: unknown): boolean => {
      if (at === left.length || left[at] !== element) return false
      at++
      return true
    }
    const runs: PieceRun[] = []
    for (const { stream, number, elements: own } of [...this.pieces(elements)]) {
      const rest = own.filter(stays)
      if (rest.length === 0) this.remove(stream, number, number + 1)
      else {
        if (rest.length < own.length) this.write(stream, number, rest)
        const last = runs.at(-1)
        if (last?.stream === stream && last.to === number) last.to++
        else runs.push({ stream, from: number, to: number + 1 })
      }
    }
    elements.runs = runs
    elements.tail = elements.tail.filter(stays)
    if (at === left.length) return
    // It put elements in, or into another order.
    this.clear(elements)
    elements.runs = []
    elements.tail = [...left]
    this.spill(elements, freeStream)
  }

  /** Removes the pieces. */
  clear({ runs }: WindowElements): void {
    for (const { stream, from, to } of runs) this.remove(stream, from, to)
  }

  private remove(stream: number, from: number, to: number): void {
    const { segment, slots } = this
    for (let first = from; first < to; first += PIECES_AHEAD) {
      const end = Math.min(to, first + PIECES_AHEAD)
      this.compose(stream, first, end)
      segment.overwrite(this.composed.keys, null, end - first, slots)
      for (let i = 0; i < end - first; i++) segment.remove(slots[i])
    }
  }

  /** Removes all pieces of a namespace. */
  drop(namespace: number): void {
    this.table.drop(namespace)
  }
}
