/**
 * What a window keeps of its elements: an accumulator, a reduced row, or the elements themselves.
 *
 * Used by the window operators. Accumulators and rows are one object for each key and window, and undefined for a window
 * without elements; elements are kept in pieces (window-elements.ts).
 */
import type { AggregateFunction, ReduceFunction } from '../engine/contract/functions.ts'
import type { ValueCodec } from '../engine/contract/keyed-state.ts'
import type { TimestampedValue } from '../engine/contract/windows.ts'
import { ByteArena } from '../engine/core/strings.ts'

export interface WindowContents {
  /** Part of the state's signature: another text means that stored contents mean something else. */
  readonly signature: string
  /** `add` returns the row itself for the first one, so it must belong to one window only. */
  readonly keepsFirstRow: boolean
  /** Merging contents in any order gives what adding all rows to one gives. */
  readonly mergesInAnyOrder: boolean
  /** May change and return `contents`. */
  add(row: unknown, contents: unknown, timeMs: number): unknown
  /** May change and return either. */
  merge(a: unknown, b: unknown): unknown
  /** What a window's function gets, or the result where there is none; `undefined` is a window without elements. */
  results(contents: unknown): Iterable<unknown>
}

/** Contents that are the elements themselves (window-elements.ts). */
export interface ElementContents {
  /** As that of `WindowContents`. */
  readonly signature: string
  /** What is kept of a row. */
  keep(row: unknown, timeMs: number): unknown
  /** What a window's function gets for what was kept, in the order in which it came. */
  results(elements: readonly unknown[]): Iterable<unknown>
}

export function aggregateContents<In, Acc, Out>(aggregate: AggregateFunction<In, Acc, Out>): WindowContents {
  const fn = aggregate as AggregateFunction<unknown, unknown, unknown>
  return {
    signature: 'aggregate',
    keepsFirstRow: false,
    mergesInAnyOrder: fn.mergesInAnyOrder === true,
    add: (row, contents) => fn.add(row, contents === undefined ? fn.createAccumulator() : contents),
    merge: (a, b) => fn.merge(a, b),
    results: (contents) => [fn.getResult(contents === undefined ? fn.createAccumulator() : contents)],
  }
}

export function reduceContents<T>(reduce: ReduceFunction<T>): WindowContents {
  const fn = reduce as ReduceFunction<unknown>
  return {
    signature: 'reduce',
    keepsFirstRow: true,
    mergesInAnyOrder: false,
    add: (row, contents) => (contents === undefined ? row : fn(contents, row)),
    merge: (a, b) => fn(a, b),
    results: (contents) => (contents === undefined ? [] : [contents]),
  }
}

/** All elements in arrival order. */
export function listContents(): ElementContents {
  return { signature: 'process', keep: (row) => row, results: (elements) => elements }
}

/**
 * All elements with their event times, for evictors. What they leave is finished as `finish` does it when the window
 * fires.
 */
export function evictableContents(finish: WindowContents | ElementContents): ElementContents {
  return {
    signature: `evictable ${finish.signature}`,
    keep: (value, timestamp): TimestampedValue<unknown> => ({ value, timestamp }),
    results(elements) {
      const kept = elements as readonly TimestampedValue<unknown>[]
      if (!('add' in finish)) return finish.results(kept.map(({ value }) => value))
      let finished: unknown
      for (const { value, timestamp } of kept) finished = finish.add(value, finished, timestamp)
      return finish.results(finished)
    },
  }
}

/** Arrays of elements: a 32-bit count, then a 32-bit length and the element's encoding for each. */
export function listCodec(element: ValueCodec): ValueCodec {
  const arena = new ByteArena(1_024)
  return {
    description: `list(${element.description})`,
    encode(value) {
      const elements = value as readonly unknown[]
      arena.clear()
      writeLength(arena, elements.length)
      for (const one of elements) writeEncoded(arena, element.encode(one))
      return arena.view()
    },
    decode(bytes, start) {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      const elements = new Array<unknown>(view.getUint32(start, true))
      let at = start + 4
      for (let i = 0; i < elements.length; i++) {
        const end = at + 4 + view.getUint32(at, true)
        elements[i] = element.decode(bytes, at + 4, end)
        at = end
      }
      return elements
    },
  }
}

/** An element of `evictableContents`: its event time, then its encoding. */
export function timestampedCodec(value: ValueCodec): ValueCodec {
  const arena = new ByteArena(256)
  return {
    description: `timestamped(${value.description})`,
    encode(element) {
      const { value: plain, timestamp } = element as TimestampedValue<unknown>
      arena.clear()
      arena.reserve(8)
      arena.length = arena.bytes.writeDoubleLE(timestamp, 0)
      const encoded = value.encode(plain)
      arena.writeBytes(encoded, 0, encoded.length)
      return arena.view()
    },
    decode(bytes, start, end) {
      const timestamp = new DataView(bytes.buffer, bytes.byteOffset + start, 8).getFloat64(0, true)
      return { value: value.decode(bytes, start + 8, end), timestamp }
    },
  }
}

export function writeLength(arena: ByteArena, length: number): void {
  arena.reserve(4)
  arena.length = arena.bytes.writeUInt32LE(length, arena.length)
}

/** A 32-bit length and the bytes. */
export function writeEncoded(arena: ByteArena, bytes: Uint8Array): void {
  writeLength(arena, bytes.length)
  arena.writeBytes(bytes, 0, bytes.length)
}
