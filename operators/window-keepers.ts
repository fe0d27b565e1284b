/**
 * How the triggered window operator keeps the contents of its records: one object for accumulators and reduced rows, or
 * elements in pieces.
 *
 * Made for window-triggered.ts, which selects a key before it calls. Contents that are undefined are those of a window
 * without elements.
 */
import type { EarlierLayout, KeyedState, ValueCodec } from '../engine/contract/keyed-state.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import type { ElementContents, WindowContents } from './window-contents.ts'
import { ElementPieces, WindowElements, windowElementsCodec } from './window-elements.ts'
import type { WindowRecord } from './window-records.ts'

/** What a window keeps, and how it is stored. */
export type KeptContents =
  | { readonly kind: 'accumulated'; readonly contents: WindowContents; readonly codec: ValueCodec }
  | {
      readonly kind: 'elements'
      readonly contents: ElementContents
      /** Of an element as it is kept. */
      readonly codec: ValueCodec
      readonly earlier?: readonly EarlierLayout[]
      readonly pieceElements?: number
    }

export interface ContentsKeeper {
  /** Of a record's contents. */
  readonly codec: ValueCodec
  readonly signature: string
  /** `add` makes the first row itself the contents. */
  readonly keepsFirstRow: boolean
  open(keyed: KeyedState): void
  /** The key that calls are about, and its records. */
  select(keys: KeyColumn, row: number, records: readonly WindowRecord[]): void
  /** Returns what the record's contents are then: whoever calls looks at it first. */
  add(record: WindowRecord, row: unknown, timeMs: number): unknown
  /** Takes over the contents of `source`, whose window came before; there are some. */
  merge(record: WindowRecord, source: WindowRecord): void
  /** What the window's function gets; values of its own unless `isFree`. */
  results(record: WindowRecord, isFree: boolean): Iterable<unknown>
  clear(record: WindowRecord): void
}

export function keeperOf(kept: KeptContents, rowCodec: ValueCodec): ContentsKeeper {
  return kept.kind === 'accumulated' ? new AccumulatedKeeper(kept) : new ElementsKeeper(kept, rowCodec)
}

class AccumulatedKeeper implements ContentsKeeper {
  readonly codec: ValueCodec
  readonly signature: string
  readonly keepsFirstRow: boolean
  private readonly contents: WindowContents

  constructor({ contents, codec }: Extract<KeptContents, { kind: 'accumulated' }>) {
    this.contents = contents
    this.codec = codec
    this.signature = contents.signature
    this.keepsFirstRow = contents.keepsFirstRow
  }

  open(): void {}

  select(): void {}

  add(record: WindowRecord, row: unknown, timeMs: number): unknown {
    return this.contents.add(row, record.contents, timeMs)
  }

  merge(record: WindowRecord, source: WindowRecord): void {
    record.contents =
      record.contents === undefined ? source.contents : this.contents.merge(record.contents, source.contents)
  }

  results({ contents }: WindowRecord, isFree: boolean): Iterable<unknown> {
    return this.contents.results(isFree ? contents : copyOf(this.codec, contents))
  }

  clear(record: WindowRecord): void {
    record.contents = undefined
  }
}

export class ElementsKeeper implements ContentsKeeper {
  readonly codec: ValueCodec
  readonly signature: string
  readonly keepsFirstRow = false
  private readonly kept: Extract<KeptContents, { kind: 'elements' }>
  private readonly rowCodec: ValueCodec
  private pieces!: ElementPieces
  private keys!: KeyColumn
  private row = 0
  private records: readonly WindowRecord[] = []

  constructor(kept: Extract<KeptContents, { kind: 'elements' }>, rowCodec: ValueCodec) {
    this.kept = kept
    this.rowCodec = rowCodec
    this.codec = windowElementsCodec(kept.codec, kept.earlier)
    this.signature = kept.contents.signature
  }

  open(keyed: KeyedState): void {
    const { codec, pieceElements } = this.kept
    this.pieces = new ElementPieces(keyed, { name: '$windows$pieces', codec, pieceElements })
  }

  select(keys: KeyColumn, row: number, records: readonly WindowRecord[]): void {
    this.keys = keys
    this.row = row
    this.records = records
  }

  /** The pieces of the key's windows; most rows need none of them. */
  private ofKey(): ElementPieces {
    this.pieces.select(0, this.keys, this.row)
    return this.pieces
  }

  /** A stream that no window of the key has, `more` included. */
  private freeStream(...more: readonly WindowElements[]): number {
    let free = 0
    const pass = ({ runs }: WindowElements): void => {
      for (const { stream } of runs) free = Math.max(free, stream + 1)
    }
    for (const { contents } of this.records) if (contents !== undefined) pass(contents as WindowElements)
    more.forEach(pass)
    return free
  }

  add(record: WindowRecord, row: unknown, timeMs: number): unknown {
    const elements = (record.contents as WindowElements | undefined) ?? new WindowElements()
    if (this.pieces.isFull(elements)) this.ofKey().spill(elements, this.freeStream())
    elements.tail.push(this.kept.contents.keep(row, timeMs))
    return elements
  }

  merge(record: WindowRecord, source: WindowRecord): void {
    const theirs = source.contents as WindowElements
    const ours = record.contents as WindowElements | undefined
    record.contents = ours === undefined ? theirs : this.ofKey().concat(ours, theirs, this.freeStream(ours, theirs))
  }

  results(record: WindowRecord, isFree: boolean): Iterable<unknown> {
    const elements = this.ofKey().read(record.contents as WindowElements)
    return this.kept.contents.results(isFree ? elements : elements.map((element) => copyOf(this.kept.codec, element)))
  }

  /** For an evictor, which takes out of the array what is to go. */
  elements(record: WindowRecord): unknown[] {
    return [...this.ofKey().read(record.contents as WindowElements)]
  }

  /** What the window's function gets of elements that an evictor left. */
  resultsOf(elements: readonly { readonly value: unknown; readonly timestamp: number }[], isFree: boolean) {
    const seen = elements.map(({ value, timestamp }) => ({
      value: isFree ? value : copyOf(this.rowCodec, value),
      timestamp,
    }))
    return this.kept.contents.results(seen)
  }

  /** Only `left`, of what `elements` gave, stays. */
  retain(record: WindowRecord, left: readonly unknown[]): void {
    this.ofKey().retain(record.contents as WindowElements, left, this.freeStream())
    if (left.length === 0) record.contents = undefined
  }

  clear(record: WindowRecord): void {
    const elements = record.contents as WindowElements | undefined
    if (elements !== undefined && elements.runs.length > 0) this.ofKey().clear(elements)
    record.contents = undefined
  }
}

/** A value that shares nothing with `value`. */
export function copyOf(codec: ValueCodec, value: unknown): unknown {
  if (value === null || typeof value !== 'object') return value
  const encoded = codec.encode(value)
  return codec.decode(encoded, 0, encoded.length)
}
